"""`audit export`: the only audit command that opens the gateway's store; the others work on what it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.clock import Instant
from mailgate.errors import ConflictError
from mailgate.store import stamps, tenants
from mailgate.store.log_reading import SignedCheckpoint, not_whole
from mailgate.store.tenants import Tenant
from retention.ledger.export import DirectoryExport, ExportError, OtherLogError, TableExport

if TYPE_CHECKING:
    from mailgate.app.core import Core

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

Note: TypeAlias = Callable[[], Awaitable[None]]

_BATCH = 500
_SINCE = "csv and ndjson: entries at or after then (RFC 3339)."


class Format(StrEnum):
    """In which form the log is handed out."""

    TLOG = "tlog"
    CSV = "csv"
    NDJSON = "ndjson"


def export(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; must not be there yet, or be empty.")],
    format_: Annotated[
        Format, typer.Option("--format", help="tlog: to be verified; csv and ndjson: for spreadsheets and programs.")
    ] = Format.TLOG,
    since: Annotated[Instant | None, typer.Option(metavar="TIME", parser=session.instant, help=_SINCE)] = None,
    until: Annotated[
        Instant | None,
        typer.Option(metavar="TIME", parser=session.instant, help="csv and ndjson: entries before then (RFC 3339)."),
    ] = None,
    *,
    certificates: Annotated[
        bool, typer.Option(help="tlog: with a certificate of every run, as JSON and as a page to be printed.")
    ] = True,
    json: Json = False,
) -> None:
    """Write a tenant's purge log to a folder: tiles, signed checkpoint, verifier key, certificates, SHA256SUMS."""
    if format_ is Format.TLOG and (since, until) != (None, None):
        raise typer.BadParameter("--since and --until need --format csv or ndjson: a log is verified as a whole")

    async def work() -> dict[str, Any]:
        async with session.opened(writes=True) as core:
            found = await tenants.get(core.db, tenant, erased=True)
            signed = await core.log_reader.checkpoint(found, core.clock())
            entries = signed.size

            async def note() -> None:
                """Before the folder stands in its place: nobody has a log of which the log does not tell."""
                now, root = core.clock(), signed.root
                await core.log.note_export(core.db, found, format_.value, signed.size, root, at=now, actor=COMMAND)

            try:
                if format_ is Format.TLOG:
                    await _tlog(core, found, signed, folder, note, certificates=certificates)
                else:
                    leaves = core.log_reader.between(found, signed.size, since, until)
                    entries = await _table(leaves, folder, format_, note)
            except OtherLogError as error:
                raise not_whole(found, error) from None
            except ExportError as error:
                raise ConflictError(str(error), slug="export_failed") from None
            except OSError as error:
                raise ConflictError(f"{folder} can't be written: {error.strerror}", slug="export_failed") from None
            key = core.log_reader.verifier(found)
            return {"tenant": tenant, "folder": str(folder), "entries": entries, "vkey": key.vkey}

    done = session.run(work())
    if json:
        session.show_json(done)
    else:
        session.say(f"{done['entries']} entries in {done['folder']}")
        if format_ is Format.TLOG:
            session.say(f"check it: mailgate audit verify {quote(done['folder'])} --vkey '{done['vkey']}'")


async def _tlog(
    core: Core, tenant: Tenant, signed: SignedCheckpoint, folder: Path, note: Note, *, certificates: bool
) -> None:
    batch: list[bytes] = []
    signer = core.log_reader.signer(tenant)
    with DirectoryExport(folder, signer.verifier, certifier=signer if certificates else None) as writing:
        async for body in core.log_reader.entries(tenant, 0, signed.size):
            batch.append(body)
            if len(batch) == _BATCH:
                await asyncio.to_thread(writing.add, batch)
                batch.clear()
        await asyncio.to_thread(writing.add, batch)
        stamped = await stamps.newest(core.db, tenant.id, signed.size)
        both = None if stamped is None else (stamped.note, stamped.stamp)
        await asyncio.to_thread(writing.complete, signed.note, both)
        await note()
        writing.put()


async def _table(leaves: AsyncIterator[tuple[int, bytes]], folder: Path, format_: Format, note: Note) -> int:
    """Write the leaves to one file; how many there were."""
    batch: list[tuple[int, bytes]] = []
    count = 0
    with TableExport(folder, format_) as writing:
        async for leaf in leaves:
            batch.append(leaf)
            count += 1
            if len(batch) == _BATCH:
                await asyncio.to_thread(writing.add, batch)
                batch.clear()
        await asyncio.to_thread(writing.add, batch)
        await asyncio.to_thread(writing.complete)
        await note()
        writing.put()
    return count
