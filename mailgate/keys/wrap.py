"""Wrapping keys and secrets: AES-256-GCM with a random nonce, bound to what it belongs to by associated data.

    wrapped = version (1 byte) ‖ nonce (12 bytes) ‖ ciphertext ‖ tag (16 bytes)

A 32-byte key becomes 61 bytes. A key wraps far fewer than 2^32 values (NIST SP 800-38D §8.3's bound for random nonces):
epochs change monthly.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailgate.keys.errors import KeyUnwrapError

_VERSION = b"\x01"
KEY_SIZE = 32


def wrap(aead: AESGCM, plain: bytes, context: bytes) -> bytes:
    """Encrypt `plain` bound to `context` (what it is and whose)."""
    nonce = os.urandom(12)
    return _VERSION + nonce + aead.encrypt(nonce, plain, context)


def unwrap(aead: AESGCM, wrapped: bytes, context: bytes) -> bytes:
    """The plain bytes. Raises KeyUnwrapError when the bytes were changed or the context is another."""
    if len(wrapped) < 29 or wrapped[:1] != _VERSION:
        raise KeyUnwrapError("wrapped bytes are cut or of an unknown version")
    try:
        return aead.decrypt(wrapped[1:13], wrapped[13:], context)
    except InvalidTag:
        raise KeyUnwrapError("wrapped bytes do not open: they were changed or belong to another key") from None
