"""The key ring: one master key outside the database, everything else wrapped under it.

    <keys.url>/
        master              base64 of 32 bytes; absent when the operator gives the key in the environment
        service-1           wraps the secrets of mailboxes (passwords, OAuth tokens)
        ledger              seed of the Ed25519 key that signs log checkpoints
        tenants/<ref>/…     see mailgate.keys.tenant

Why outside the database: a dump, a replica or a stolen disk of the database alone reads nothing; destroying a key file
makes
what it protected unreadable in every backup of the database.

Two processes that open an empty key store at the same time end with the same keys (see mailgate.keys.directory).
"""

from __future__ import annotations

import hmac
import re
import threading

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailgate.clock import Instant
from mailgate.keys.directory import DirectoryLock, KeyDirectory
from mailgate.keys.errors import KeyMissingError, KeyStoreError, MasterKeyError
from mailgate.keys.master import LEDGER, NEXT, SERVICE, TENANTS, name_of, open_or_make, read_master
from mailgate.keys.tenant import TenantKeys
from mailgate.keys.wrap import KEY_SIZE, unwrap, wrap

_REF = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_EPOCH_NAME = re.compile(r"[0-9]{6}")


class KeyRing:
    """An opened key store. Objects may be used from several threads."""

    def __init__(
        self,
        directory: KeyDirectory,
        lock: DirectoryLock,
        master: AESGCM,
        service: AESGCM,
        ledger_seed: bytes,
        master_name: str,
    ) -> None:
        self._directory = directory
        self._master_name = master_name
        self._in_use = lock  # held as long as this object lives, so that no rotation runs beside it
        self._master = master
        self._service = service
        self._ledger_seed = ledger_seed
        self._tenants: dict[str, TenantKeys] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str, *, master: bytes | None = None, create: bool) -> KeyRing:
        """Open the key store at `url` (`file:///path`).

        `master`: the 32 bytes given by the operator; otherwise the file `master` is read. With `create`, what is
        missing in a new
        key store is made. Raises MasterKeyError or KeyStoreError, each with the remedy.
        """
        if master is not None and len(master) != KEY_SIZE:
            raise MasterKeyError("the master key must be exactly 32 bytes")
        directory = KeyDirectory.open(url, create=create)
        lock = directory.lock()
        if directory.exists(NEXT):
            raise KeyStoreError(
                "a change of the master key was cut: run `mailgate key rotate --master` again to finish it"
            )
        key = master if master is not None else read_master(directory, create=create)
        aead = AESGCM(key)
        service = open_or_make(directory, aead, SERVICE, create=create)
        seed = open_or_make(directory, aead, LEDGER, create=create)
        return cls(directory, lock, aead, AESGCM(service), seed, name_of(key))

    def __repr__(self) -> str:
        return f"KeyRing({self._directory!r})"

    def tenant(self, tenant_ref: str) -> TenantKeys:
        """The keys of a tenant. Raises KeyMissingError when they were destroyed (by any process) or never made."""
        folder = _folder(tenant_ref)
        if not self._directory.exists(f"{folder}/mac"):
            with self._lock:
                stale = self._tenants.pop(tenant_ref, None)
            if stale is not None:
                stale.forget()
            raise KeyMissingError(f"there are no keys of tenant {tenant_ref}: destroyed, or never made")
        known = self._tenants.get(tenant_ref)
        return known if known is not None else self._load(tenant_ref, create=False)

    def create_tenant(self, tenant_ref: str, now: Instant) -> TenantKeys:
        """Make the keys of a new tenant; those that are there are kept.

        Raises KeyMissingError for a tenant whose keys were destroyed.
        """
        if self._directory.exists(f"destroyed/{tenant_ref}"):
            raise KeyMissingError(f"the keys of tenant {tenant_ref} were destroyed; a new tenant needs a new reference")
        self._directory.make_folder(_folder(tenant_ref))
        keys = self._load(tenant_ref, create=True)
        keys.new_data_key(now)  # makes the current epoch's key before the first import needs it
        return keys

    def destroy_tenant(self, tenant_ref: str) -> bool:
        """Destroy every key of the tenant, durably: all that was kept of it becomes noise. False when there were none.

        A marker is written first, so that a cut in the middle is finished by the next call and no process makes the
        keys anew.
        """
        folder = _folder(tenant_ref)
        with self._lock:
            keys = self._tenants.pop(tenant_ref, None)
        if keys is not None:
            keys.forget()
        if not self._directory.exists(folder):
            return False
        self._directory.make_folder("destroyed")
        self._directory.create(f"destroyed/{tenant_ref}", b"")
        self._directory.erase(f"{folder}/mac")  # first: other processes look for this file before they use cached keys
        return self._directory.erase(folder)

    def epochs(self, tenant_ref: str) -> list[int]:
        """The epochs whose keys exist, oldest first."""
        return [int(name) for name in self._directory.list(_folder(tenant_ref)) if _EPOCH_NAME.fullmatch(name)]

    def destroy_epoch(self, tenant_ref: str, epoch: int) -> bool:
        """Destroy one epoch's key once no data key under it is in use. False when there was none."""
        keys = self._tenants.get(tenant_ref)
        if keys is not None:
            keys.forget_epoch(epoch)
        return self._directory.erase(f"{_folder(tenant_ref)}/{epoch:06d}")

    def seal(self, secret: bytes, context: str) -> bytes:
        """Encrypt a secret under the service key, bound to `context` (e.g. `mailbox/<id>/imap`)."""
        return wrap(self._service, secret, b"mailgate secret\0" + context.encode())

    def open_sealed(self, sealed: bytes, context: str) -> bytes:
        """What `seal` took. Raises KeyUnwrapError when the bytes were changed or belong to another context."""
        return unwrap(self._service, sealed, b"mailgate secret\0" + context.encode())

    def fingerprint(self, data: bytes, context: str) -> bytes:
        """HMAC-SHA256 under a key of this installation: equal data is recognised, and what it was can't be found by
        trying, as it could with a plain hash of something that holds a password.
        """
        key = hmac.digest(self._ledger_seed, b"mailgate fingerprint\0" + context.encode(), "sha256")
        return hmac.digest(key, data, "sha256")

    @property
    def ledger_seed(self) -> bytes:
        """The 32 bytes from which the Ed25519 key of log checkpoints is made (RFC 8032 §5.1.5)."""
        return self._ledger_seed

    @property
    def master_name(self) -> str:
        """What logs call the master key: of two keys it tells which, and nothing about either."""
        return self._master_name

    def close(self) -> None:
        """Stop using the key store: the master key may be changed now."""
        self._in_use.release()

    def sweep(self) -> int:
        """Remove what killed processes left half-written; returns how many files."""
        return self._directory.sweep()

    def _load(self, ref: str, *, create: bool) -> TenantKeys:
        folder = _folder(ref)
        mac = open_or_make(self._directory, self._master, f"{folder}/mac", create=create)
        ledger = open_or_make(self._directory, self._master, f"{folder}/ledger", create=create)

        def load(epoch: int) -> bytes | None:
            name = f"{folder}/{epoch:06d}"
            if not self._directory.exists(name):
                return None
            return open_or_make(self._directory, self._master, name, create=False)

        def make(epoch: int) -> bytes:
            if not self._directory.exists(f"{folder}/mac"):
                raise KeyMissingError(f"the keys of tenant {ref} were destroyed")
            return open_or_make(self._directory, self._master, f"{folder}/{epoch:06d}", create=True)

        with self._lock:
            return self._tenants.setdefault(ref, TenantKeys(ref, mac_root=mac, ledger=ledger, load=load, make=make))


def _folder(ref: str) -> str:
    if not _REF.fullmatch(ref):
        raise ValueError("not a tenant reference")
    return f"{TENANTS}/{ref}"
