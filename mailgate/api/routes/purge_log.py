"""The purge log: leaves to read, and checkpoint and tiles as C2SP tlog-tiles has them, for tools that are not ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Send
from starlette.types import Scope as HttpScope

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import LogOf, Parts, Who, only
from mailgate.errors import NotFoundError
from mailgate.store import log_search
from mailgate.store.log_search import Entry, EntryFilter
from mailgate.store.tokens import Scope
from mailgate.usecases import purge_log
from mailgate.usecases.types import Answer, ObjectId, Parameters, TenantId, Time, TimeIn, text
from retention.ledger.tiles import TileError, parse_tile_path

router = APIRouter(tags=["purge log"], prefix="/v1/purge-log", dependencies=[only(Scope.COMPLIANCE)])


class LeafAnswer(Answer):
    """An entry; `leaf` is what was hashed, as JSON. One that is `damaged` is not: somebody changed it since, and what
    stands there now is not shown.
    """

    index: int
    type: str
    at: Time
    run: str | None
    item_ref: str | None
    leaf: dict[str, Any]
    damaged: bool


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


class _Sent(FileResponse):
    """A log that is sent; its file goes however the sending ends."""

    def __init__(self, made: purge_log.Export) -> None:
        super().__init__(made.path, media_type=made.media_type, headers=made.headers)
        self._forget = made.forget

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._forget()


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}


@router.get("", responses=problems(400, 404))
async def list_leaves(query: Annotated[LogQuery, Query()], parts: Parts, who: Who) -> Items[LeafAnswer]:
    """Leaves, newest first."""
    tenant = await purge_log.tenant_of_log(parts, who.tenant_id, query.tenant)
    cursors = Cursors("purge_log", (int,), query.model_dump(exclude={"limit", "cursor"}))
    key = cursors.read(query.cursor)
    before = None if key is None else int(key[0])
    wanted = purge_log.Wanted(query.since, query.until, query.type, query.reason, query.run, query.item)
    page = await purge_log.list_page(parts, tenant, wanted, before=before, limit=query.limit)
    return cursors.page(page, _show)


@router.get("/proof", responses=problems(400, 404, 409, 503))
async def prove(query: Annotated[ProofQuery, Query()], parts: Parts, who: Who) -> ProofsAnswer:
    """Prove that an item's entries stand in the log: each with its path to the root of a checkpoint that is signed now.
    Saved to a file, the answer is what `mailgate audit check-proof` checks offline.
    """
    tenant = await purge_log.tenant_of_log(parts, who.tenant_id, query.tenant)
    cursors = Cursors("purge_log_proof", (int,), query.model_dump(exclude={"limit", "cursor"}))
    key = cursors.read(query.cursor)
    reader = parts.log_reader
    signed = await reader.checkpoint(tenant, parts.clock())
    wanted = EntryFilter(item_ref=await reader.item_ref(tenant.id, query.item))
    before = signed.size if key is None else min(int(key[0]), signed.size)
    page = await log_search.page(parts.db, tenant.id, wanted, before=before, limit=query.limit)
    if not page.items and key is None:
        raise NotFoundError("the log has no entry about this item", slug="leaf_not_found")
    proofs = await reader.proofs(tenant, signed, [entry.index for entry in page.items])
    return ProofsAnswer(
        size=signed.size,
        root=signed.root.hex(),
        checkpoint=signed.note.decode(),
        items=[
            ProofAnswer(index=entry.index, type=entry.type, at=entry.at, leaf=entry.leaf, proof=proof)
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
    """Hand the log out: tiles to be verified offline, or leaves for a spreadsheet or a program. `Repr-Digest`
    (RFC 9530) is the SHA-256 of the whole.
    """
    tenant = await purge_log.tenant_of_log(parts, who.tenant_id, query.tenant)
    made = await purge_log.export(parts, tenant, query.format, who.actor, since=query.since, until=query.until)
    return _Sent(made)


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


def _show(entry: Entry) -> LeafAnswer:
    return LeafAnswer(
        index=entry.index,
        type=entry.type,
        at=entry.at,
        run=entry.run_id,
        item_ref=entry.item_ref,
        leaf=entry.leaf,
        damaged=entry.damaged,
    )
