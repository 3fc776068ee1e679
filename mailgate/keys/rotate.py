"""Changing the master key: every key file is wrapped anew, one by one, and a cut at any point is finished by running
it again.

    1  take the lock alone: no gateway may be using the key store
    2  write the new master key as `master-next` (unless the operator keeps master keys elsewhere)
    3  wrap each file that still opens under the old key under the new one; each file is replaced as a whole
    4  put the new key in the old one's place, erase `master-next`

While `master-next` stands, the key store is between two keys and does not open; it says so. Copies are not touched:
their data keys are wrapped under tenants' keys, which stay what they are.
"""

from __future__ import annotations

import base64
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailgate.keys.directory import KeyDirectory
from mailgate.keys.errors import KeyStoreError, KeyUnwrapError, MasterKeyError
from mailgate.keys.master import MASTER, NEXT, context_of, decode_master, read_master, wrapped_names
from mailgate.keys.wrap import KEY_SIZE, unwrap, wrap


def rotate_master(url: str, *, master: bytes | None = None, new_master: bytes | None = None) -> int:
    """Wrap every key file under a new master key; returns how many files were wrapped anew.

    A key store that keeps its own master key makes a new one; `master` and `new_master` are given together where the
    operator keeps it. Raises KeyStoreError when the key store is in use, MasterKeyError when `master` does not open it.
    """
    if (master is None) != (new_master is None):
        raise MasterKeyError("give both the old and the new master key, or neither")
    if new_master is not None and len(new_master) != KEY_SIZE:
        raise MasterKeyError("the new master key must be exactly 32 bytes")
    directory = KeyDirectory.open(url, create=False)
    with directory.lock(alone=True):
        old = AESGCM(master if master is not None else read_master(directory))
        if new_master is None:
            text = directory.read(NEXT) or directory.create(NEXT, base64.b64encode(os.urandom(KEY_SIZE)) + b"\n")
            new = AESGCM(decode_master(text, NEXT))
        else:
            text, new = b"", AESGCM(new_master)
        count = sum(_wrap_anew(directory, name, old, new) for name in wrapped_names(directory))
        if text:
            directory.replace(MASTER, text)
            directory.erase(NEXT)
    return count


def _wrap_anew(directory: KeyDirectory, name: str, old: AESGCM, new: AESGCM) -> bool:
    stored = directory.read(name)
    if stored is None:
        return False
    context = context_of(name)
    try:
        key = unwrap(old, stored, context)
    except KeyUnwrapError:
        try:
            unwrap(new, stored, context)
        except KeyUnwrapError:
            raise KeyStoreError(
                f"the key file {name} opens under neither master key: what follows is as it was"
            ) from None
        return False
    directory.replace(name, wrap(new, key, context))
    return True
