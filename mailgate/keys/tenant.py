"""The keys of one tenant: data keys wrapped under monthly epochs, keyed tokens, and the key of its purge log.

Files in the key store, each wrapped under the master key and bound to its own name:

    tenants/<ref>/mac       root of every keyed token (HMAC) of the tenant
    tenants/<ref>/ledger    root of the purge log's commitments; destroying it shreds the log's content
    tenants/<ref>/202611    wraps the data keys made in November 2026 (UTC)

An epoch's key is made when it is first needed. Objects may be used from several threads.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mailgate.clock import Instant, from_datetime, to_datetime
from mailgate.keys.errors import KeyMissingError
from mailgate.keys.wrap import unwrap, wrap

_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh key of 32 bytes, its wrapped form (to be stored) and the epoch it is wrapped under."""

    key: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)
    epoch: int


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """What another process of this program needs to encrypt for a tenant now. Never prints it."""

    ref: str
    mac_root: bytes = field(repr=False)
    ledger: bytes = field(repr=False)
    epoch: int
    epoch_key: bytes = field(repr=False)


def epoch_at(now: Instant) -> int:
    """The epoch of an instant: year and month in UTC as one number, 202611."""
    at = to_datetime(now)
    return at.year * 100 + at.month


def epoch_end(epoch: int) -> Instant:
    """The instant at which an epoch is over: the first of the next month."""
    year, month = divmod(epoch, 100)
    return from_datetime(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC))


class TenantKeys:
    """All keys of one tenant. Never prints them."""

    __slots__ = (
        "_context",
        "_current",
        "_destroyed",
        "_epochs",
        "_ledger",
        "_load",
        "_lock",
        "_mac_root",
        "_macs",
        "_make",
        "ref",
    )

    def __init__(
        self,
        ref: str,
        *,
        mac_root: bytes,
        ledger: bytes,
        load: Callable[[int], bytes | None],
        make: Callable[[int], bytes],
    ) -> None:
        """`load` reads an epoch's key, None when there is none; `make` makes it, or returns the one another process
        made.
        """
        self.ref = ref
        self._mac_root = mac_root
        self._ledger = ledger
        self._load = load
        self._make = make
        self._epochs: dict[int, AESGCM] = {}
        self._macs: dict[str, tuple[hashlib._Hash, hashlib._Hash]] = {}
        self._current: tuple[Instant, int, AESGCM, bytes] = (-1, 0, AESGCM(bytes(32)), b"")
        self._context = b"mailgate data key\0" + ref.encode() + b"\0"
        self._lock = threading.Lock()
        self._destroyed = False

    @classmethod
    def of(cls, material: KeyMaterial) -> TenantKeys:
        """The keys as `share` gave them: they encrypt under that one epoch, and open nothing older."""

        def load(epoch: int) -> bytes | None:
            return material.epoch_key if epoch == material.epoch else None

        def make(epoch: int) -> bytes:
            if epoch != material.epoch:
                raise KeyMissingError(f"the key of epoch {epoch} of tenant {material.ref} was not shared")
            return material.epoch_key

        return cls(material.ref, mac_root=material.mac_root, ledger=material.ledger, load=load, make=make)

    def share(self, now: Instant) -> KeyMaterial:
        """The keys that new copies need at `now`, for a process of our own.

        Raises KeyMissingError when the tenant's keys were destroyed.
        """
        ledger, epoch = self.ledger_key, epoch_at(now)
        return KeyMaterial(self.ref, self._mac_root, ledger, epoch, self._make(epoch))

    def __repr__(self) -> str:
        return f"TenantKeys({self.ref!r})"

    def new_data_key(self, now: Instant) -> DataKey:
        """A fresh data key wrapped under the epoch of `now`.

        Raises KeyMissingError when the tenant's keys were destroyed.
        """
        day = now // 86_400_000_000
        current = self._current
        if current[0] != day:
            epoch = epoch_at(now)
            current = (day, epoch, self._epoch(epoch, make=True), self._context + str(epoch).encode())
            self._current = current
        if self._destroyed:
            raise self._gone()
        key = os.urandom(32)
        return DataKey(key, wrap(current[2], key, current[3]), current[1])

    def wrap_anew(self, wrapped: bytes, epoch: int, now: Instant) -> DataKey:
        """The same data key wrapped under the epoch of `now`, so that the old epoch's key is not needed for it any
        more. Raises as `unwrap` and `new_data_key` do.
        """
        key = self.unwrap(wrapped, epoch)
        new = epoch_at(now)
        return DataKey(key, wrap(self._epoch(new, make=True), key, self._context + str(new).encode()), new)

    def unwrap(self, wrapped: bytes, epoch: int) -> bytes:
        """The 32 bytes of a data key.

        Raises KeyMissingError when the epoch's key is gone, KeyUnwrapError when it does not open.
        """
        if self._destroyed:
            raise self._gone()
        aead = self._epochs.get(epoch) or self._epoch(epoch, make=False)
        return unwrap(aead, wrapped, self._context + str(epoch).encode())

    def seal(self, secret: bytes, context: str) -> bytes:
        """Encrypt a secret of the tenant's, bound to `context`: it becomes noise when the tenant's keys are destroyed.
        Raises KeyMissingError.
        """
        return wrap(self._sealing(), secret, self._context + b"secret\0" + context.encode())

    def open_sealed(self, sealed: bytes, context: str) -> bytes:
        """What `seal` took. Raises KeyMissingError, and KeyUnwrapError when the bytes were changed or belong to another
        context.
        """
        return unwrap(self._sealing(), sealed, self._context + b"secret\0" + context.encode())

    def _sealing(self) -> AESGCM:
        with self._lock:
            if self._destroyed:
                raise self._gone()
            return AESGCM(HKDFExpand(SHA256(), 32, b"mailgate tenant secrets").derive(self._mac_root))

    def mac(self, purpose: str, data: bytes | bytearray | memoryview) -> bytes:
        """HMAC-SHA256 (RFC 2104) of `data` under the key of this purpose: 32 bytes."""
        inner, outer = self._macs.get(purpose) or self._mac_pair(purpose)
        mac = inner.copy()
        mac.update(data)
        result = outer.copy()
        result.update(mac.digest())
        return result.digest()

    @property
    def ledger_key(self) -> bytes:
        """Root of the purge log's commitments (HKDF input), 32 bytes. Raises KeyMissingError when it was destroyed."""
        if self._destroyed:
            raise self._gone()
        return self._ledger

    def forget(self) -> None:
        """Drop every key from memory: the tenant was erased. Python keeps no promise about memory already freed."""
        with self._lock:
            self._destroyed = True
            self._mac_root = self._ledger = b""
            self._current = (-1, 0, AESGCM(bytes(32)), b"")
            self._epochs.clear()
            self._macs.clear()

    def forget_epoch(self, epoch: int) -> None:
        """Drop one epoch's key from memory."""
        with self._lock:
            self._epochs.pop(epoch, None)
            if self._current[1] == epoch:
                self._current = (-1, 0, AESGCM(bytes(32)), b"")

    def _gone(self) -> KeyMissingError:
        return KeyMissingError(f"the keys of tenant {self.ref} were destroyed")

    def _epoch(self, epoch: int, *, make: bool) -> AESGCM:
        with self._lock:
            if self._destroyed:
                raise self._gone()
            known = self._epochs.get(epoch)
            if known is None:
                key = self._make(epoch) if make else self._load(epoch)
                if key is None:
                    raise KeyMissingError(f"the key of epoch {epoch} of tenant {self.ref} was destroyed or never made")
                known = self._epochs[epoch] = AESGCM(key)
            return known

    def _mac_pair(self, purpose: str) -> tuple[hashlib._Hash, hashlib._Hash]:
        """SHA-256 states with the padded key already in: copying them costs a third of keying HMAC each time."""
        with self._lock:
            if self._destroyed:
                raise self._gone()
            key = HKDFExpand(SHA256(), 32, b"mailgate mac\0" + purpose.encode()).derive(self._mac_root)
            padded = key.ljust(_BLOCK, b"\0")
            pair = (hashlib.sha256(padded.translate(_INNER)), hashlib.sha256(padded.translate(_OUTER)))
            self._macs[purpose] = pair
            return pair
