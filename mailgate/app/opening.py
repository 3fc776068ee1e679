"""An installation opened: its database, keys, bytes and witness, made where it is new, and known to belong together."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailgate.app.presence import Presence
from mailgate.blobs import BlobStore
from mailgate.errors import ConfigurationError, UnavailableError
from mailgate.ids import new_ref
from mailgate.keys import KeyRing
from mailgate.settings import Settings
from mailgate.store import consents, installation, leases, migrate
from mailgate.store.database import Database
from mailgate.store.log_reading import anything_signed
from mailgate.store.outages import OUTAGES, first_line, outage
from mailgate.store.restore import Behind, behind, refusal
from mailgate.store.witness import Witness

_log = structlog.get_logger("mailgate.core")


@dataclass(frozen=True, slots=True)
class Opened:
    """What an installation is kept in. `owner` names this process in leases; `origin`: the installation in the purge
    log; `behind`: purge logs of which more was signed than the database has.
    """

    db: Database
    ring: KeyRing
    blobs: BlobStore
    witness: Witness
    presence: Presence
    owner: str
    origin: str
    behind: Sequence[Behind]


async def open_installation(settings: Settings, master: bytes | None, *, create: bool, restored: bool) -> Opened:
    """Open it, as `Core.open` says. `master`: the key that wraps the others, where the environment gives it."""
    if create:
        _make_private(settings.data_dir.absolute())
    # Without them a command has nothing to look for in a database, which looking could make.
    keys = None if create else await _open_keys(settings, master, create=False)
    blobs = await asyncio.to_thread(BlobStore.open, settings.blobs_url)
    try:
        await asyncio.to_thread(migrate.upgrade if create else _require_schema, settings.database_url)
    except OUTAGES as error:
        blobs.close()
        said = outage(error) or f"the database can't be used: {first_line(error)}"
        raise UnavailableError(said, slug="database") from None
    db = Database(
        settings.database_url,
        pool_size=settings.database.pool_size,
        busy_timeout_s=settings.database.busy_timeout_s,
    )
    try:
        ring = keys or await _keys_of(db, settings, master)
        await _recognise(db, ring)
        origin = await _origin(db, settings)
        owner = f"{socket.gethostname()}:{os.getpid()}:{new_ref()[:8]}"
        presence = Presence(settings.data_dir.absolute() / "processes", owner)
        await asyncio.to_thread(presence.announce)
        await free_ended(db, presence)
        witness = await _witness_of(db, ring, settings)
        late = await _behind(db, witness, allowed=restored)
    except BaseException:
        await db.close()
        blobs.close()
        raise
    return Opened(db, ring, blobs, witness, presence, owner, origin, late)


async def free_ended(db: Database, presence: Presence) -> None:
    """Free what processes owned that were killed: nobody needs to wait until their leases run out."""
    ended = await asyncio.to_thread(presence.ended)
    freed = await leases.release_ended(db, ended) + await consents.release_ended(db, ended)
    if freed:
        _log.info("leases_freed", processes=len(ended), leases=freed)


def _make_private(folder: Path) -> None:
    """A directory that only its owner reads: keys and mail lie in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _require_schema(url: str) -> None:
    found, needed = migrate.current(url), migrate.newest()
    if found != needed:
        has = "is empty" if found is None else f"has schema {found}"
        raise ConfigurationError(f"the database {has}, this program needs schema {needed}; run `mailgate migrate`")


async def _open_keys(settings: Settings, master: bytes | None, *, create: bool) -> KeyRing:
    return await asyncio.to_thread(KeyRing.open, settings.keys_url, master=master, create=create)


async def _keys_of(db: Database, settings: Settings, master: bytes | None) -> KeyRing:
    """The key store of the installation in `db`. It is made for a new one only: new keys beside an old database would
    open nothing, sign its logs with another key, and stand in the way of those that were not mounted or not restored.
    """
    async with db.read() as conn:
        begun = await installation.read(conn, installation.LEDGER_ORIGIN) is not None
    return await _open_keys(settings, master, create=not begun)


async def _witness_of(db: Database, ring: KeyRing, settings: Settings) -> Witness:
    """The witness; made for an installation that has signed nothing yet, and never again by itself."""
    begun = await anything_signed(db)
    return await asyncio.to_thread(
        lambda: Witness(
            settings.witness_dir, identity=_public_key(ring), begun=begun, keeps_entries=settings.ledger.keep_entries
        )
    )


async def _behind(db: Database, witness: Witness, *, allowed: bool) -> Sequence[Behind]:
    """Purge logs that the database is behind. Raises RestoredBackupError unless that is `allowed`."""
    found = await behind(db, witness)
    refused = refusal(found)
    if refused is None:
        return ()
    if not allowed:
        raise refused
    return found


async def _recognise(db: Database, ring: KeyRing) -> None:
    key = _public_key(ring)
    if await installation.fix(db, installation.LEDGER_KEY, key) != key:
        raise ConfigurationError(
            "the key store belongs to another installation: its purge logs are signed with another key (keys.url)"
        )


def _public_key(ring: KeyRing) -> str:
    return Ed25519PrivateKey.from_private_bytes(ring.ledger_seed).public_key().public_bytes_raw().hex()


async def _origin(db: Database, settings: Settings) -> str:
    """The purge log's name of this installation: what stands in every signed checkpoint can't change afterwards."""
    wanted = settings.ledger.origin
    fixed = await installation.fix(db, installation.LEDGER_ORIGIN, wanted or socket.gethostname())
    if wanted and wanted != fixed:
        raise ConfigurationError(
            f"ledger.origin is {wanted!r}, but this installation's purge log was begun as {fixed!r}; set it back"
        )
    return fixed
