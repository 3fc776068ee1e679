"""Is it alive, is it ready, and what is measured. Open without a token: they tell nothing about anybody's mail."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mailgate import __version__
from mailgate.alarms import Kind
from mailgate.api.shared import Shared
from mailgate.clock import SECOND
from mailgate.store import overview
from mailgate.store.hooks import deliveries
from mailgate.sync.state import MailboxState
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer
from mailgate.webhooks.model import EndpointState

router = APIRouter(tags=["health"])

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Part(Answer):
    """One part of the gateway; `detail` says what is wrong, or what an operator should know."""

    name: str
    ok: bool
    detail: str | None
    needed: bool = Field(description="false: the gateway is ready although something is wrong here")


class Ready(Answer):
    """Whether the gateway can do its work."""

    status: Literal["ready", "not_ready"]
    parts: list[Part]


class HealthDoor:
    """What the routes need, as `app.state.health_door`: no token is asked for, so that nothing bounds how often anybody
    asks, and both answers take a dozen looks into the database. All who ask at once are answered by the same.
    """

    def __init__(self, parts: Services) -> None:
        self.ready = Shared(lambda: _ready(parts))
        self.metrics = Shared(lambda: _exposition(parts))


def _door(request: Request) -> HealthDoor:
    door: HealthDoor = request.app.state.health_door
    return door


@router.get("/healthz")
async def healthz() -> Alive:
    """Alive: the process answers. Nothing else is looked at."""
    return Alive(status="ok", version=__version__)


@router.get("/readyz", responses={503: {"model": Ready, "description": "A part that is needed does not work"}})
async def readyz(request: Request) -> Response:
    """Ready: database, blobs, scheduler, purge log and event feed work. 503 otherwise, with what is wrong. Alarms that
    stand, and what only makes large imports slower, are named too, and leave it ready.
    """
    answer = await _door(request).ready.get()
    return JSONResponse(answer.model_dump(), 200 if answer.status == "ready" else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text form"}
    },
)
async def metrics(request: Request) -> Response:
    """What is measured, for Prometheus."""
    return Response(await _door(request).metrics.get(), headers={"content-type": _EXPOSITION})


async def _ready(parts: Services) -> Ready:
    found = []
    for name, check in parts.health.items():
        health = await check()
        found.append(Part(name=name, ok=health.ok, detail=health.detail, needed=health.needed))
    ready = all(part.ok or not part.needed for part in found)
    return Ready(status="ready" if ready else "not_ready", parts=found)


async def _exposition(parts: Services) -> bytes:
    found = await overview.gauges(parts.db)
    sink = parts.metrics
    for state in MailboxState:
        sink.set("mailboxes", found.mailboxes.get(state.value, 0), state=state.value)
    for word in overview.UNSETTLED:
        sink.set("submissions", found.submissions.get(word, 0), state=word)
    sink.set("messages", found.messages)
    sink.set("storage_bytes", found.storage_bytes)
    sink.set("messages_unindexed", found.messages_unindexed)
    sink.set("blob_erasures_queued", found.erasures_queued)
    sink.set("search_leftovers", found.search_leftovers)
    sink.set("blob_erasures_failing", found.erasures_failing)
    sink.set("purge_last_completed_timestamp_seconds", (found.last_purge_at or 0) / SECOND)
    sink.set("purge_runs_halted", found.halted)
    sink.set("log_entries", found.log_entries)
    sink.set("quarantined_messages", found.quarantined)
    sink.set("guards_open", found.guards_open)
    standing = Counter(alarm.kind for alarm in await parts.alarms.standing())
    for kind in Kind:
        sink.set("alarms", standing[kind], kind=kind)
    backlog = await parts.feed.reader.backlog()
    lag = 0 if backlog.oldest_at is None else max(0, parts.clock() - backlog.oldest_at)
    sink.set("feed_events_waiting", backlog.count)
    sink.set("feed_lag_seconds", lag / SECOND)
    sink.set("feed_readers", parts.readers.taken)
    hooks = await deliveries.figures(parts.db, parts.clock())
    for word in EndpointState:
        sink.set("webhooks", hooks[word.value], state=word.value)
    sink.set("webhook_deliveries_open", hooks["waiting"])
    sink.set("webhook_mailboxes_behind", hooks["behind"])
    sink.set("webhook_lag_seconds", hooks["lag"] / SECOND)
    return sink.exposition()
