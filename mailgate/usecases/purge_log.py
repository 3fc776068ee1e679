"""The purge log for whoever asks: entries by what they are about, their proofs, the log to take away, and what this
gateway itself finds when it verifies.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tarfile
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Final

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import NotFoundError, UnavailableError
from mailgate.store import log_search, stamps, tenants
from mailgate.store.log_reading import LogReader, SignedCheckpoint, not_whole
from mailgate.store.log_search import Entry, EntryFilter
from mailgate.store.paging import Page
from mailgate.store.stamps import Stamped
from mailgate.store.tenants import Tenant
from mailgate.usecases.parts import Services
from mailgate.usecases.staging import staged
from retention.ledger.checkpoint import open_checkpoint
from retention.ledger.export import DirectoryExport, OtherLogError, TableExport
from retention.ledger.note import NoteError
from retention.ledger.replay import Replay
from retention.ledger.report import Findings, Report, Verdict
from retention.ledger.tree import Frontier, leaf_hash

MOST_VERIFIED: Final = 20_000
"""Entries that a gateway replays while somebody waits; a longer log is for the command."""

_BATCH = 500
_MEDIA_TYPES = {"tlog": "application/x-tar", "csv": "text/csv", "ndjson": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries; None means any. `item` is a message's id, or its `item_ref`."""

    since: Instant | None = None
    until: Instant | None = None
    type: str | None = None
    reason: str | None = None
    run_id: str | None = None
    item: str | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A log to send: a file that goes afterwards, and its SHA-256."""

    name: str
    media_type: str
    path: Path
    digest: bytes
    forget: Callable[[], None]
    """Remove the file; blocking."""

    @property
    def headers(self) -> dict[str, str]:
        """What it is called, and the digest of the whole of it (RFC 9530 section 3)."""
        return {
            "content-disposition": f'attachment; filename="{self.name}"',
            "repr-digest": f"sha-256=:{b64encode(self.digest).decode()}:",
        }


async def tenant_of_log(parts: Services, bound: str | None, tenant_id: str) -> Tenant:
    """The tenant whose log is asked for; one that was erased as well: its log stays. Raises NotFoundError, also for
    another tenant than the one that the asker is bound to.
    """
    found = await tenants.find(parts.db, tenant_id, erased=True) if bound in (None, tenant_id) else None
    if found is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return found


async def list_page(parts: Services, tenant: Tenant, wanted: Wanted, *, before: int | None, limit: int) -> Page[Entry]:
    """Entries, newest first; those before an index. The page's key is (index,)."""
    item = None if wanted.item is None else await parts.log_reader.item_ref(tenant.id, wanted.item)
    known = EntryFilter(
        since=wanted.since,
        until=wanted.until,
        types=() if wanted.type is None else (wanted.type,),
        run_id=wanted.run_id,
        item_ref=item,
        reason=wanted.reason,
    )
    page = await log_search.page(parts.db, tenant.id, known, before=before, limit=limit)
    _tell_damage(parts, tenant, page.items)
    return page


def _tell_damage(parts: Services, tenant: Tenant, entries: Iterable[Entry]) -> None:
    """Whoever looks at an entry that is not what was hashed raises the alarm."""
    for each in entries:
        if each.damaged:
            parts.log_reader.on_damage(tenant.id, each.index)


async def entry(parts: Services, tenant: Tenant, index: int) -> Entry:
    """One entry. Raises NotFoundError."""
    found = await log_search.page(parts.db, tenant.id, EntryFilter(), before=index + 1, limit=1) if index >= 0 else None
    if found is None or not found.items or found.items[0].index != index:
        raise NotFoundError(f"the log has no entry {index}", slug="leaf_not_found")
    _tell_damage(parts, tenant, found.items)
    return found.items[0]


async def prove(parts: Services, tenant: Tenant, indices: Sequence[int]) -> tuple[SignedCheckpoint, list[str]]:
    """A checkpoint signed now, and of each entry a text that proves it under that. Raises as `LogReader` does."""
    signed = await parts.log_reader.checkpoint(tenant, parts.clock())
    return signed, await parts.log_reader.proofs(tenant, signed, indices)


async def export(
    parts: Services,
    tenant: Tenant,
    form: str,
    actor: Actor,
    *,
    since: Instant | None = None,
    until: Instant | None = None,
) -> Export:
    """Hand the log out, which is an entry of it too: `tlog` (the whole, a tar to be verified offline), `csv` or
    `ndjson` (entries of a time). It is made as a whole before it is sent, so that it can still be refused, and comes
    with its digest.

    Raises as `LogReader.checkpoint` does, LogDivergedError where an entry is not what was hashed, UnavailableError
    where too many are handed out at once (too_many_exports) or the disk takes no more (export_failed).
    """
    reader, now = parts.log_reader, parts.clock()
    signed = await reader.checkpoint(tenant, now)
    if form != "tlog":
        await reader.check(tenant, signed.size)
    with contextlib.ExitStack() as stack:
        stack.enter_context(parts.exports.place(tenant.id))
        await parts.log.note_export(parts.db, tenant, form, signed.size, signed.root, at=now, actor=actor)
        try:
            folder = await asyncio.to_thread(stack.enter_context, staged(parts.settings.exports_dir))
            if form == "tlog":
                stamped = await stamps.newest(parts.db, tenant.id, signed.size)
                path = await _tar(reader, tenant, signed.size, signed.note, stamped, folder)
            else:
                path = await _table(reader.between(tenant, signed.size, since, until), folder / "table", form)
            digest = await asyncio.to_thread(_digest, path)
        except OtherLogError as error:
            raise not_whole(tenant, error) from None
        except OSError as error:
            why = f"the log can't be made ready in {parts.settings.exports_dir}: {error.strerror}"
            raise UnavailableError(why, slug="export_failed") from error
        suffix = "tar" if form == "tlog" else form
        forget = stack.pop_all().close
    return Export(f"purge-log-{tenant.ref}.{suffix}", _MEDIA_TYPES[form], path, digest, forget)


async def verify(parts: Services, tenant: Tenant) -> tuple[SignedCheckpoint, Report | None]:
    """Hash every entry again, compare with the signed root, and replay the rules, as the offline verifier does; None
    for a log of more than `MOST_VERIFIED` entries. It is this gateway's word about itself. Raises as
    `LogReader.checkpoint` does.
    """
    signed = await parts.log_reader.checkpoint(tenant, parts.clock())
    if signed.size > MOST_VERIFIED:
        return signed, None
    replay, frontier = Replay(), Frontier()

    def feed(bodies: Sequence[bytes]) -> None:
        for body in bodies:
            frontier.append(leaf_hash(body))
            replay.feed(body)

    batch: list[bytes] = []
    async for body in parts.log_reader.entries(tenant, 0, signed.size):
        batch.append(body)
        if len(batch) == _BATCH:
            await asyncio.to_thread(feed, batch)
            batch = []
    await asyncio.to_thread(feed, batch)
    report = await asyncio.to_thread(replay.finish)
    found = Findings()
    try:
        checkpoint = open_checkpoint(signed.note, parts.log_reader.verifier(tenant))
        if (checkpoint.size, checkpoint.root) != (frontier.size, frontier.root()):
            found.add(Verdict.INVALID, "the entries do not give the root that was signed")
    except NoteError as error:
        found.add(Verdict.INVALID, str(error))
    found.extend(report.findings)
    return signed, Report(report.subject, found, report.facts)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()


async def _table(leaves: AsyncIterator[tuple[int, bytes]], folder: Path, form: str) -> Path:
    """Entries as one file. Memory does not grow with them."""
    with TableExport(folder, form) as writing:
        batch: list[tuple[int, bytes]] = []
        async for leaf in leaves:
            batch.append(leaf)
            if len(batch) == _BATCH:
                await asyncio.to_thread(writing.add, batch)
                batch.clear()
        await asyncio.to_thread(writing.add, batch)
        await asyncio.to_thread(writing.finish)
    return folder / f"entries.{form}"


async def _tar(
    reader: LogReader, tenant: Tenant, size: int, note: bytes, stamped: Stamped | None, folder: Path
) -> Path:
    """The exported log as one file. Memory does not grow with the log; the disk does, until it is sent."""
    with contextlib.ExitStack() as stack:
        writing = DirectoryExport(folder / "log", reader.verifier(tenant), certifier=reader.signer(tenant))
        made = await asyncio.to_thread(stack.enter_context, writing)
        batch: list[bytes] = []
        async for body in reader.entries(tenant, 0, size):
            batch.append(body)
            if len(batch) == _BATCH:
                await asyncio.to_thread(made.add, batch)
                batch.clear()
        await asyncio.to_thread(made.add, batch)
        await asyncio.to_thread(made.finish, note, None if stamped is None else (stamped.note, stamped.stamp))
    archive = folder / "log.tar"

    def pack() -> None:
        with tarfile.open(archive, "w") as tar:
            tar.add(folder / "log", arcname=f"purge-log-{tenant.ref}")
        shutil.rmtree(folder / "log")

    await asyncio.to_thread(pack)
    return archive
