"""Keys outside the database: the master key, tenants' keys by epoch, keyed tokens, sealed secrets, the log's signing
seed.

Everything the gateway keeps is readable only with these, so losing the key store loses the copies: back it up apart
from the
database. Nothing here speaks SQL or knows what a message is.
"""

from mailgate.keys.errors import KeyMissingError, KeyStoreError, KeyUnwrapError, MasterKeyError
from mailgate.keys.master import master_from_text
from mailgate.keys.ring import KeyRing
from mailgate.keys.rotate import rotate_master
from mailgate.keys.tenant import DataKey, KeyMaterial, TenantKeys, epoch_at, epoch_end

__all__ = [
    "DataKey",
    "KeyMaterial",
    "KeyMissingError",
    "KeyRing",
    "KeyStoreError",
    "KeyUnwrapError",
    "MasterKeyError",
    "TenantKeys",
    "epoch_at",
    "epoch_end",
    "master_from_text",
    "rotate_master",
]
