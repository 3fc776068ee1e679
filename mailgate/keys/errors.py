"""What can go wrong with keys. No text here ever holds key material.

MailgateError
├── ConfigurationError
│   ├── MasterKeyError      no master key, a malformed one, or one that does not open this key store
│   └── KeyStoreError       the key store itself can't be read or written
├── KeyMissingError         this key was destroyed or never made: what it protected can't be read
└── KeyUnwrapError          a wrapped key or secret does not open: changed bytes, or another tenant's or epoch's
"""

from __future__ import annotations

from mailgate.errors import ConfigurationError, MailgateError


class MasterKeyError(ConfigurationError):
    """The master key is absent, malformed or of another key store.

    Nothing can start until the operator gives the right one.
    """

    default_slug = "master_key"


class KeyStoreError(ConfigurationError):
    """The key store can't be used: missing, unreadable, not writable, or a file in it is damaged."""

    default_slug = "key_store"


class KeyMissingError(MailgateError):
    """The key is gone for good (destroyed) or never existed. Retrying does not help."""

    default_slug = "key_missing"


class KeyUnwrapError(MailgateError):
    """Wrapped bytes fail authentication: they were changed, cut, or belong elsewhere. Retrying does not help."""

    default_slug = "key_unwrap"
