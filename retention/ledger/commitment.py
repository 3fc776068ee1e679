"""Commitments: a leaf says something that only a disclosure can read. Pure.

For each reference (an item's `item_ref`, else the leaf's own id) a salt is derived from the tenant's ledger key with
HKDF-SHA256 (RFC 5869); a commitment is HMAC-SHA256 under that salt over the field's name and value. Who is told one
salt can check what it covers and nothing else; when the key is destroyed, no commitment of the log can be opened or
guessed any more.

An item's commitments depend on its item_ref and content only, so they are computed once, when the copy is stored, and
the purge merely repeats them.
"""

from __future__ import annotations

import hashlib
import hmac

KEY_SIZE = 32
_BLOCK = 64
_IPAD = bytes(byte ^ 0x36 for byte in range(256))
_OPAD = bytes(byte ^ 0x5C for byte in range(256))
_INFO = b"mailgate/ledger/commitment/v1\n"


class Committer:
    """Makes the commitments of one tenant. `ledger_key` is 32 random bytes."""

    __slots__ = ("_inner", "_last", "_outer")

    def __init__(self, ledger_key: bytes) -> None:
        if len(ledger_key) != KEY_SIZE:
            raise ValueError("a ledger key has 32 bytes")
        prk = hmac.digest(bytes(32), ledger_key, "sha256").ljust(_BLOCK, b"\0")
        self._inner, self._outer = hashlib.sha256(prk.translate(_IPAD)), hashlib.sha256(prk.translate(_OPAD))
        self._last: tuple[str | None, bytes] = (None, b"")

    def salt(self, ref: str) -> bytes:
        """The 32-byte salt of an `item_ref` or leaf id; what a disclosure gives away."""
        last = self._last
        if last[0] == ref:  # both commitments of an item are made one after the other
            return last[1]
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(_INFO + ref.encode() + b"\x01")
        outer.update(inner.digest())
        salt = outer.digest()
        self._last = (ref, salt)
        return salt

    def commit(self, ref: str, field: str, value: bytes) -> str:
        """The commitment to a value, 64 hex digits, for the leaf's field `<field>_commit`."""
        return commit(self.salt(ref), field, value)


def commit(salt: bytes, field: str, value: bytes) -> str:
    """The commitment under a known salt, 64 hex digits."""
    # hmac.digest takes three times as long, most of it to look up which hash is meant
    key = (salt if len(salt) <= _BLOCK else hashlib.sha256(salt).digest()).ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(key.translate(_IPAD) + field.encode() + b"\n" + value).digest()
    return hashlib.sha256(key.translate(_OPAD) + inner).hexdigest()


def opens(salt: bytes, field: str, value: bytes, commitment: str) -> bool:
    """Whether a disclosed salt and value are what a leaf committed to in `<field>_commit`."""
    return hmac.compare_digest(commit(salt, field, value), commitment)
