"""`audit export`: the only audit command that opens the gateway's store; the others work on what it wrote."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.errors import ConflictError
from mailgate.store import stamps, tenants
from retention.ledger.export import DirectoryExport, ExportError

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

_BATCH = 500


def export(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; must not be there yet, or be empty.")],
    *,
    certificates: Annotated[
        bool, typer.Option(help="With a certificate of every run, as JSON and as a page to be printed.")
    ] = True,
    json: Json = False,
) -> None:
    """Write a tenant's purge log to a folder: tiles, signed checkpoint, verifier key, certificates, SHA256SUMS."""

    async def work() -> dict[str, Any]:
        async with session.opened() as core:
            found = await tenants.get(core.db, tenant, erased=True)
            signed = await core.log_reader.checkpoint(found, core.clock())
            key = core.log_reader.verifier(found)
            batch: list[bytes] = []
            try:
                with DirectoryExport(folder, key, certificates=certificates) as writing:
                    async for body in core.log_reader.entries(found, 0, signed.size):
                        batch.append(body)
                        if len(batch) == _BATCH:
                            await asyncio.to_thread(writing.add, batch)
                            batch.clear()
                    await asyncio.to_thread(writing.add, batch)
                    stamped = await stamps.newest(core.db, found.id, signed.size)
                    await asyncio.to_thread(
                        writing.finish, signed.note, None if stamped is None else (stamped.note, stamped.stamp)
                    )
            except ExportError as error:
                raise ConflictError(str(error), slug="export_failed") from None
            except OSError as error:
                raise ConflictError(f"{folder} can't be written: {error.strerror}", slug="export_failed") from None
            await core.log.note_export(core.db, found, "tlog", signed.size, signed.root, at=core.clock(), actor=COMMAND)
            return {"tenant": tenant, "folder": str(folder), "entries": signed.size, "vkey": key.vkey}

    done = session.run(work())
    if json:
        session.show_json(done)
    else:
        session.say(f"{done['entries']} entries in {done['folder']}")
        session.say(f"check it: mailgate audit verify {done['folder']} --vkey '{done['vkey']}'")
