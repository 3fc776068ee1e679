"""The purge log: prove it. Entries by what they are about, each explained and with its proof; verify; take it away."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from mailgate.admin.access import day
from mailgate.admin.page import Page, Route
from mailgate.admin.purge_words import FIELDS, REASONS, TYPES
from mailgate.clock import DAY
from mailgate.errors import MailgateError, NotFoundError
from mailgate.store import tenant_overview
from mailgate.store.log_search import Entry
from mailgate.usecases import purge_log
from mailgate.usecases.cursors import Cursors
from retention.ledger.report import Verdict

ON_A_PAGE = 50
_TENANTS_SHOWN = 50
_FILTERS = ("since", "until", "type", "reason", "run", "item")
_FORMS = ("tlog", "csv", "ndjson")


@dataclass(frozen=True, slots=True)
class Line:
    """An entry as the list shows it: what happened, why, to what."""

    entry: Entry
    leaf: dict[str, Any]

    @property
    def about(self) -> str:
        """What it is about, in a word."""
        return str(self.leaf.get("item_ref") or self.leaf.get("matter") or self.leaf.get("plan") or "")


async def show_tenants(page: Page) -> Response:
    """Whose log? Each tenant has one; an erased tenant's stays and is found by its id."""
    if page.who.tenant_id is not None:
        return page.go(f"/admin/purge-log/{page.who.tenant_id}")
    text = page.query("q")
    found = await tenant_overview.list_page(
        page.parts.db, page.now, text=text or None, plan=None, only=None, after=None, limit=_TENANTS_SHOWN
    )
    return page.render("purge_logs.html", q=text, rows=found.items, more=found.next_key is not None)


async def show(page: Page) -> Response:
    """The entries, newest first, and what can be done with the log."""
    return await _render(page)


async def verify(page: Page) -> Response:
    """What the gateway itself finds: its own word, which the page says."""
    try:
        signed, report = await purge_log.verify(page.parts, page.of)
    except MailgateError as error:
        return await _render(page, status=error.status, fault=page.why(error))
    return await _render(page, signed=signed, report=report)


async def show_entry(page: Page) -> Response:
    """One entry, its fields explained, and its proof under a checkpoint that is signed now."""
    entry = await purge_log.entry(page.parts, page.of, _index(page))
    signed, proof, fault = None, None, None
    try:
        signed, (proof,) = await purge_log.prove(page.parts, page.of, [entry.index])
    except MailgateError as error:
        fault = page.why(error)
    leaf = entry.leaf
    named = [name for name in FIELDS if name in leaf] + sorted(set(leaf) - set(FIELDS) - {"v", "type", "id"})
    return page.render(
        "purge_log_entry.html",
        tenant=page.of,
        entry=entry,
        types=TYPES,
        reasons=REASONS,
        fields=[(FIELDS.get(name, name), _shown(leaf[name])) for name in named],
        leaf=entry.body.decode(errors="replace"),
        signed=signed,
        proof=proof,
        fault=fault,
        run=entry.run_id,
        key=page.parts.log_reader.verifier(page.of).vkey,
    )


async def take_proof(page: Page) -> Response:
    """The proof as a file, for `mailgate audit check-proof`."""
    index = _index(page)
    _, (proof,) = await purge_log.prove(page.parts, page.of, [index])
    return _file(proof, f"purge-log-{page.of.ref}-{index}.tlog-proof")


async def take_key(page: Page) -> Response:
    """The log's verifier key as a file."""
    return _file(page.parts.log_reader.verifier(page.of).vkey + "\n", f"purge-log-{page.of.ref}.vkey")


class _Sent(FileResponse):
    """A log that is sent; its file goes however the sending ends."""

    def __init__(self, made: purge_log.Export) -> None:
        super().__init__(made.path, media_type=made.media_type, headers=made.headers)
        self._forget = made.forget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._forget()


async def export(page: Page) -> Response:
    """The log as a file. Handing it out is an entry of it, so it is asked for by a form."""
    form = page.given("format")
    if form not in _FORMS:
        form = _FORMS[0]
    try:
        made = await purge_log.export(page.parts, page.of, form, page.who.actor)
    except MailgateError as error:
        return await _render(page, status=error.status, fault=page.why(error))
    return _Sent(made)


async def _render(page: Page, *, status: int = 200, **more: Any) -> Response:
    tenant = page.of
    filters = {name: page.query(name) for name in _FILTERS}
    cursors = Cursors("pages/purge-log", (int,), tenant.id, *filters.values())
    key = cursors.read(page.query("cursor", 2_000) or None)
    until = day(filters["until"])
    wanted = purge_log.Wanted(
        since=day(filters["since"]),
        until=None if until is None else until + DAY,
        type=filters["type"] or None,
        reason=filters["reason"] or None,
        run_id=filters["run"] or None,
        item=filters["item"] or None,
    )
    found = await purge_log.list_page(
        page.parts, tenant, wanted, before=None if key is None else int(key[0]), limit=ON_A_PAGE
    )
    following = cursors.write(found.next_key)
    query = {name: value for name, value in {**filters, "cursor": following or ""}.items() if value}
    at = f"/admin/purge-log/{tenant.id}"
    return page.render(
        "purge_log.html",
        status=status,
        tenant=tenant,
        at=at,
        filters=filters,
        filtered=any(filters.values()),
        lines=[Line(entry, entry.leaf) for entry in found.items],
        types=TYPES,
        reasons=REASONS,
        bundle=f"purge-log-{tenant.ref}",
        most=purge_log.MOST_VERIFIED,
        ok=Verdict.OK,
        full=len(found.items) == ON_A_PAGE,
        next=None if following is None else f"{at}?{urlencode(query)}",
        **({"fault": None, "signed": None, "report": None} | more),
    )


def _index(page: Page) -> int:
    text = page.param("index")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFoundError("there is no such entry", slug="leaf_not_found")
    return int(text)


def _shown(value: Any) -> str:
    """A field's value for people: as it is, or, when it has parts, as JSON."""
    if isinstance(value, dict) and all(isinstance(part, str | int) for part in value.values()):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _file(text: str, name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)


ROUTES = (
    Route("GET", "/purge-log", show_tenants),
    Route("GET", "/purge-log/{tenant_id}", show, erased=True),
    Route("POST", "/purge-log/{tenant_id}/verify", verify, erased=True),
    Route("POST", "/purge-log/{tenant_id}/export", export, erased=True),
    Route("GET", "/purge-log/{tenant_id}/key", take_key, erased=True),
    Route("GET", "/purge-log/{tenant_id}/{index}", show_entry, erased=True),
    Route("GET", "/purge-log/{tenant_id}/{index}/proof", take_proof, erased=True),
)
