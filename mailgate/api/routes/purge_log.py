"""The purge log: leaves to read, and checkpoint and tiles as C2SP tlog-tiles has them, for tools that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response, StreamingResponse

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import LogOf, Parts, Principal, Who, only
from mailgate.errors import NotFoundError
from mailgate.store import stamps, tenants
from mailgate.store.log_reading import Entry, EntryFilter, LogDivergedError, LogReader
from mailgate.store.stamps import Stamped
from mailgate.store.tenants import Tenant
from mailgate.store.tokens import Scope
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, ObjectId, Parameters, TenantId, Time, TimeIn, text
from retention.ledger.export import DirectoryExport, ExportError, write_csv
from retention.ledger.tiles import TileError, parse_tile_path

router = APIRouter(tags=["purge log"], prefix="/v1/purge-log", dependencies=[only(Scope.COMPLIANCE)])

_SCANNED = 5_000
"""Leaves looked at for one page of a filter that the database can't answer; the cursor goes on from there."""
_BATCH = 500


class LeafAnswer(Answer):
    """An entry; `leaf` is what was hashed, as JSON."""

    index: int
    type: str
    at: Time
    run: str | None
    item_ref: str | None
    leaf: dict[str, Any]


class LogQuery(PageQuery):
    """Which leaves to list."""

    tenant: TenantId
    since: TimeIn | None = Field(default=None, description="at or after")
    until: TimeIn | None = Field(default=None, description="before")
    type: Annotated[str, text(64)] | None = Field(default=None, examples=["item.purge"])
    reason: Annotated[str, text(64)] | None = Field(default=None, examples=["age"])
    run: ObjectId | None = None
    item: Annotated[str, text(64)] | None = Field(default=None, description="a message's id, or its `item_ref`")


class ProofQuery(PageQuery):
    """What to prove: the entries of one item."""

    tenant: TenantId
    item: Annotated[str, text(64)] = Field(description="a message's id, or its `item_ref`")


class ProofAnswer(Answer):
    """An entry and its proof. `leaf` is for reading; `proof` holds it byte for byte, and proves it."""

    index: int
    type: str
    at: Time
    leaf: dict[str, Any]
    proof: str = Field(description="a text as c2sp.org/tlog-proof has it, the checkpoint included")


class ProofsAnswer(Answer):
    """Entries, newest first, proven under one checkpoint."""

    size: int = Field(description="entries that the checkpoint signs")
    root: str
    checkpoint: str
    items: list[ProofAnswer]
    next_cursor: str | None = Field(description="for the next page; null at the end")


class ExportQuery(Parameters):
    """What to hand out."""

    tenant: TenantId
    format: Literal["csv", "ndjson", "tlog"] = Field(
        default="tlog", description="tlog: the whole log as a tar of tiles, checkpoint and key, to be verified offline"
    )
    since: TimeIn | None = Field(default=None, description="csv and ndjson: at or after")
    until: TimeIn | None = Field(default=None, description="csv and ndjson: before")


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}


@router.get("", responses=problems(400, 404))
async def list_leaves(query: Annotated[LogQuery, Query()], parts: Parts, who: Who) -> Items[LeafAnswer]:
    """Leaves, newest first."""
    tenant = await _tenant(parts, who, query.tenant)
    cursors = Cursors("purge_log", (int,), query.model_dump(exclude={"limit", "cursor"}))
    key = cursors.read(query.cursor)
    before = None if key is None else int(key[0])
    wanted = EntryFilter(
        since=query.since,
        until=query.until,
        types=() if query.type is None else (query.type,),
        run_id=query.run,
        item_ref=None if query.item is None else await parts.log_reader.item_ref(tenant.id, query.item),
    )
    if query.reason is None:
        page = await parts.log_reader.page(tenant.id, wanted, before=before, limit=query.limit)
        return cursors.page(page, _show)
    found, before = await _by_reason(parts.log_reader, tenant.id, wanted, query.reason, before, query.limit)
    return Items[LeafAnswer](
        items=[_show(entry) for entry in found], next_cursor=cursors.write(None if before is None else (before,))
    )


@router.get("/proof", responses=problems(400, 404, 409, 503))
async def prove(query: Annotated[ProofQuery, Query()], parts: Parts, who: Who) -> ProofsAnswer:
    """Prove that an item's entries stand in the log: each with its path to the root of a checkpoint that is signed now.
    Saved to a file, the answer is what `mailgate audit check-proof` checks offline.
    """
    tenant = await _tenant(parts, who, query.tenant)
    cursors = Cursors("purge_log_proof", (int,), query.model_dump(exclude={"limit", "cursor"}))
    key = cursors.read(query.cursor)
    reader = parts.log_reader
    signed = await reader.checkpoint(tenant, parts.clock())
    wanted = EntryFilter(item_ref=await reader.item_ref(tenant.id, query.item))
    before = signed.size if key is None else min(int(key[0]), signed.size)
    page = await reader.page(tenant.id, wanted, before=before, limit=query.limit)
    if not page.items and key is None:
        raise NotFoundError("the log has no entry about this item", slug="leaf_not_found")
    proofs = await reader.proofs(tenant, signed, [entry.index for entry in page.items])
    return ProofsAnswer(
        size=signed.size,
        root=signed.root.hex(),
        checkpoint=signed.note.decode(),
        items=[
            ProofAnswer(index=entry.index, type=entry.type, at=entry.at, leaf=json.loads(entry.body), proof=proof)
            for entry, proof in zip(page.items, proofs, strict=True)
        ],
        next_cursor=cursors.write(page.next_key),
    )


@router.get(
    "/export",
    response_class=Response,
    responses={
        200: {
            "content": {"text/csv": _TEXT, "application/x-ndjson": _TEXT, "application/x-tar": _BINARY},
            "description": "The log",
        },
        **problems(404, 409, 503),
    },
)
async def export_log(query: Annotated[ExportQuery, Query()], parts: Parts, who: Who) -> Response:
    """Hand the log out: tiles to be verified offline, or leaves for a spreadsheet or a program."""
    tenant = await _tenant(parts, who, query.tenant)
    signed = await parts.log_reader.checkpoint(tenant, parts.clock())
    now = parts.clock()
    await parts.log.note_export(parts.db, tenant, query.format, signed.size, signed.root, at=now, actor=who.actor)
    name = f'attachment; filename="purge-log-{tenant.ref}'
    if query.format == "tlog":
        folder = FilePath(await asyncio.to_thread(tempfile.mkdtemp, prefix="mailgate-export-"))
        try:
            stamped = await stamps.newest(parts.db, tenant.id, signed.size)
            archive = await _tar(parts.log_reader, tenant, signed.size, signed.note, stamped, folder)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, ExportError):
                raise LogDivergedError(
                    f"the entries of the purge log of tenant {tenant.id} are not those that were signed ({error})"
                ) from None
            raise
        return FileResponse(
            archive,
            media_type="application/x-tar",
            headers={"content-disposition": f'{name}.tar"'},
            background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
        )
    wanted = parts.log_reader.between(tenant, signed.size, query.since, query.until)
    if query.format == "csv":
        return StreamingResponse(_csv(wanted), media_type="text/csv", headers={"content-disposition": f'{name}.csv"'})
    return StreamingResponse(
        _ndjson(wanted), media_type="application/x-ndjson", headers={"content-disposition": f'{name}.ndjson"'}
    )


@router.get(
    "/{tenant_id}/checkpoint",
    response_class=Response,
    responses={200: {"content": {"text/plain": _TEXT}, "description": "A signed note"}, **problems(404, 409, 503)},
)
async def get_checkpoint(tenant: LogOf, parts: Parts) -> Response:
    """The log's newest checkpoint: a C2SP signed note."""
    signed = await parts.log_reader.checkpoint(tenant, parts.clock())
    return Response(signed.note, headers={"content-type": "text/plain; charset=utf-8"})


@router.get(
    "/{tenant_id}/key",
    response_class=Response,
    responses={200: {"content": {"text/plain": _TEXT}, "description": "A verifier key"}, **problems(404)},
)
async def get_key(tenant: LogOf, parts: Parts) -> Response:
    """The C2SP verifier key of the log. Get it another way as well: who can change a log could change this answer."""
    key = parts.log_reader.verifier(tenant).vkey
    return Response(key + "\n", headers={"content-type": "text/plain; charset=utf-8"})


@router.get(
    "/{tenant_id}/tile/{path:text}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": _BINARY}, "description": "Hashes, or entries"},
        **problems(404, 409, 503),
    },
)
async def get_tile(tenant: LogOf, path: Annotated[str, Path(), text(200)], parts: Parts) -> Response:
    """A tile of hashes (`tile/<level>/<n>`) or of entries (`tile/entries/<n>`), partial ones with `.p/<width>`."""
    try:
        tile = parse_tile_path(f"tile/{path}")
    except TileError:
        raise NotFoundError("this is no path of a tile", slug="tile_not_found") from None
    return Response(await parts.log_reader.tile(tenant, tile, parts.clock()), media_type="application/octet-stream")


async def _tenant(parts: Services, who: Principal, tenant_id: str) -> Tenant:
    found = await tenants.find(parts.db, tenant_id, erased=True) if who.reaches(tenant_id) else None
    if found is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return found


async def _by_reason(
    reader: LogReader, tenant_id: str, wanted: EntryFilter, reason: str, before: int | None, limit: int
) -> tuple[list[Entry], int | None]:
    """Leaves with this reason, and the index before which the next page goes on. The reason stands inside the leaf."""
    found: list[Entry] = []
    for _ in range(_SCANNED // _BATCH):
        page = await reader.page(tenant_id, wanted, before=before, limit=_BATCH)
        for entry in page.items:
            if json.loads(entry.body).get("reason") == reason:
                found.append(entry)
                if len(found) == limit:
                    return found, entry.index
        if page.next_key is None:
            return found, None
        before = page.items[-1].index
    return found, before


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
    reader: LogReader, tenant: Tenant, size: int, note: bytes, stamped: Stamped | None, folder: FilePath
) -> FilePath:
    """The exported log as one file. Memory does not grow with the log; the disk does, until it is sent."""
    with contextlib.ExitStack() as stack:
        writing = DirectoryExport(folder / "log", reader.verifier(tenant), certificates=True)
        export = await asyncio.to_thread(stack.enter_context, writing)
        batch: list[bytes] = []
        async for body in reader.entries(tenant, 0, size):
            batch.append(body)
            if len(batch) == _BATCH:
                await asyncio.to_thread(export.add, batch)
                batch.clear()
        await asyncio.to_thread(export.add, batch)
        await asyncio.to_thread(export.finish, note, None if stamped is None else (stamped.note, stamped.stamp))
    archive = folder / "log.tar"

    def pack() -> None:
        with tarfile.open(archive, "w") as tar:
            tar.add(folder / "log", arcname=f"purge-log-{tenant.ref}")
        shutil.rmtree(folder / "log")

    await asyncio.to_thread(pack)
    return archive


def _show(entry: Entry) -> LeafAnswer:
    return LeafAnswer(
        index=entry.index,
        type=entry.type,
        at=entry.at,
        run=entry.run_id,
        item_ref=entry.item_ref,
        leaf=json.loads(entry.body),
    )
