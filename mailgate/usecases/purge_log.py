"""The purge log for whoever asks: entries by what they are about, their proofs, the log to take away, and what this
gateway itself finds when it verifies.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import NotFoundError
from mailgate.store import log_search, stamps, tenants
from mailgate.store.log_reading import LogReader, SignedCheckpoint, not_whole
from mailgate.store.log_search import Entry, EntryFilter
from mailgate.store.paging import Page
from mailgate.store.stamps import Stamped
from mailgate.store.tenants import Tenant
from mailgate.usecases.parts import Services
from retention.ledger.checkpoint import open_checkpoint
from retention.ledger.export import DirectoryExport, OtherLogError, write_csv
from retention.ledger.note import NoteError
from retention.ledger.replay import Replay
from retention.ledger.report import Findings, Report, Verdict
from retention.ledger.tree import Frontier, leaf_hash

MOST_VERIFIED: Final = 20_000
"""Entries that a gateway replays while somebody waits; a longer log is for the command."""

_BATCH = 500


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
    """A log to send: a file whose folder goes afterwards, or chunks as they are made."""

    name: str
    media_type: str
    body: Path | AsyncIterator[bytes]
    folder: Path | None = None

    def forget(self) -> None:
        """Remove the file."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


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
    `ndjson` (entries of a time). Raises as `LogReader.checkpoint` does.
    """
    reader, now = parts.log_reader, parts.clock()
    signed = await reader.checkpoint(tenant, now)
    if form != "tlog":  # that one is made before it is sent; what is sent as it is read can't be refused any more
        await reader.check(tenant, signed.size)
    await parts.log.note_export(parts.db, tenant, form, signed.size, signed.root, at=now, actor=actor)
    name = f"purge-log-{tenant.ref}"
    if form == "tlog":
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="mailgate-export-"))
        try:
            stamped = await stamps.newest(parts.db, tenant.id, signed.size)
            archive = await _tar(reader, tenant, signed.size, signed.note, stamped, folder)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OtherLogError):
                raise not_whole(tenant, error) from None
            raise
        return Export(f"{name}.tar", "application/x-tar", archive, folder)
    wanted = reader.between(tenant, signed.size, since, until)
    if form == "csv":
        return Export(f"{name}.csv", "text/csv", _csv(wanted))
    return Export(f"{name}.ndjson", "application/x-ndjson", _ndjson(wanted))


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


async def _ndjson(leaves: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    async for _, body in leaves:
        yield body + b"\n"


async def _csv(leaves: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    yield _rows((), header=True)
    batch: list[tuple[int, bytes]] = []
    async for leaf in leaves:
        batch.append(leaf)
        if len(batch) == _BATCH:
            yield _rows(batch)
            batch.clear()
    if batch:
        yield _rows(batch)


def _rows(batch: Iterable[tuple[int, bytes]], *, header: bool = False) -> bytes:
    out = io.StringIO()
    write_csv(batch, out, header=header)
    return out.getvalue().encode()


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
