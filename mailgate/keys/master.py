"""The master key: where it stands, and how key files are bound to their names under it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailgate.keys.directory import RESTORE, KeyDirectory
from mailgate.keys.errors import KeyMissingError, KeyStoreError, KeyUnwrapError, MasterKeyError
from mailgate.keys.wrap import KEY_SIZE, unwrap, wrap

MASTER = "master"
NEXT = "master-next"
SERVICE = "service-1"
LEDGER = "ledger"
TENANTS = "tenants"


def master_from_text(text: str) -> bytes:
    """The master key from its base64 form (`MAILGATE_MASTER_KEY`).

    Raises MasterKeyError that says what is wanted, never the text.
    """
    key = _decoded(text.encode("utf-8", "replace"))
    if key is None:
        raise MasterKeyError(
            "MAILGATE_MASTER_KEY must be base64 of exactly 32 bytes; make one with `openssl rand -base64 32`"
        )
    return key


def name_of(master: bytes) -> str:
    """What a master key is called where it must not be shown: the beginning of a hash, from which nobody comes back to
    32 random bytes.
    """
    return hashlib.sha256(b"mailgate master key\0" + master).hexdigest()[:16]


def read_master(directory: KeyDirectory, *, create: bool = False) -> bytes:
    """The master key that the key store keeps itself; made in an empty one with `create`. Raises MasterKeyError."""
    text = directory.read(MASTER)
    if text is None:
        if directory.exists(SERVICE):
            raise MasterKeyError(
                "this key store was made with a master key that is not kept in it: "
                "set MAILGATE_MASTER_KEY to that key, or put its base64 form back into the file `master`"
            )
        if not create:
            raise MasterKeyError(f"the key store is empty: {RESTORE}")
        text = directory.create(MASTER, base64.b64encode(os.urandom(KEY_SIZE)) + b"\n")
    return decode_master(text, MASTER)


def decode_master(text: bytes, name: str) -> bytes:
    """The key in a master key file. Raises MasterKeyError when the file is damaged."""
    key = _decoded(text)
    if key is None:
        raise MasterKeyError(
            f"the file `{name}` of the key store is damaged: restore it from the backup of the keys, "
            "or set MAILGATE_MASTER_KEY"
        )
    return key


def open_or_make(directory: KeyDirectory, master: AESGCM, name: str, *, create: bool) -> bytes:
    """The key in the key file `name`; a missing one is made with `create`.

    Raises KeyMissingError (a tenant's), KeyStoreError, or MasterKeyError when the master key is the wrong one.
    """
    stored = directory.read(name)
    if stored is None:
        if not create:
            if name.startswith(f"{TENANTS}/"):
                raise KeyMissingError(f"the key file {name} is missing: destroyed, or never made")
            raise KeyStoreError(f"the key file {name} is missing: {RESTORE}")
        stored = directory.create(name, wrap(master, os.urandom(KEY_SIZE), context_of(name)))
    try:
        key = unwrap(master, stored, context_of(name))
    except KeyUnwrapError:
        if name == SERVICE:
            raise MasterKeyError(
                "the master key does not open this key store: give the key it was made with "
                "(MAILGATE_MASTER_KEY or the file `master`), or set keys.url to the key store that belongs to this key"
            ) from None
        raise KeyStoreError(f"the key file {name} is damaged: restore it from the backup of the keys") from None
    if len(key) != KEY_SIZE:
        raise KeyStoreError(f"the key file {name} holds no key of {KEY_SIZE} bytes")
    return key


def context_of(name: str) -> bytes:
    """What a wrapped key file is bound to: a file under another name does not open."""
    return b"mailgate key file\0" + name.encode()


def wrapped_names(directory: KeyDirectory) -> Iterator[str]:
    """The names of all key files that are wrapped under the master key."""
    yield from (name for name in (SERVICE, LEDGER) if directory.exists(name))
    for tenant in directory.list(TENANTS):
        yield from (f"{TENANTS}/{tenant}/{name}" for name in directory.list(f"{TENANTS}/{tenant}"))


def _decoded(text: bytes) -> bytes | None:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_SIZE else None
