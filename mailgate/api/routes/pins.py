"""Pins: a record or task of the CRM refers to a message, and its copy is kept."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from mailgate.api.convertors import TEXT
from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.errors import NotFoundError
from mailgate.store.pins import MAX_NOTE, Pin
from mailgate.store.tokens import Scope
from mailgate.usecases.types import Answer, Body, EntityId, EntityType, ObjectId, Time, text

router = APIRouter(tags=["pins"], prefix="/v1/tenants/{tenant_id}")

_PIN = f"/messages/{{message_id}}/pins/{{entity_type}}/{{entity_id:{TEXT}}}"
_RECORD = f"/pins/{{entity_type}}/{{entity_id:{TEXT}}}"


class PinBody(Body):
    """What may be said of a pin."""

    note: Annotated[str, text(MAX_NOTE)] | None = None


class PinAnswer(Answer):
    """A record's reference to a message."""

    message_id: str
    entity_type: str
    entity_id: str
    note: str | None
    created_at: Time
    created_by: str


class RemovedAnswer(Answer):
    """How many pins are gone."""

    removed: int


class PinQuery(PageQuery):
    """Which pins to list."""

    entity_type: EntityType | None = None
    entity_id: EntityId | None = None


@router.put(
    _PIN,
    dependencies=[only(Scope.CRM)],
    responses={201: {"model": PinAnswer, "description": "Pinned"}, **problems(404, 409)},
)
async def put_pin(
    tenant: TenantOf,
    message_id: Annotated[ObjectId, Path()],
    entity_type: Annotated[EntityType, Path()],
    entity_id: Annotated[EntityId, Path()],
    parts: Parts,
    who: Who,
    response: Response,
    body: PinBody | None = None,
) -> PinAnswer:
    """Pin a message to a record: its copy is kept as long as the pin stands. Too late, the answer is 409 `purged`."""
    note = None if body is None else body.note
    pin, made = await parts.pins.put(
        tenant.id, message_id, entity_type, entity_id, note=note, now=parts.clock(), actor=who.actor
    )
    response.status_code = 201 if made else 200
    return show_pin(pin)


@router.delete(_PIN, status_code=204, dependencies=[only(Scope.CRM)], responses=problems(404))
async def delete_pin(
    tenant: TenantOf,
    message_id: Annotated[ObjectId, Path()],
    entity_type: Annotated[EntityType, Path()],
    entity_id: Annotated[EntityId, Path()],
    parts: Parts,
    who: Who,
) -> None:
    """Unpin. With the last pin gone, the copy's age counts again from where it always counted."""
    if not await parts.pins.remove(tenant.id, message_id, entity_type, entity_id, now=parts.clock(), actor=who.actor):
        raise NotFoundError("there is no such pin", slug="pin_not_found")


@router.get("/pins", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(400, 404))
async def list_pins(tenant: TenantOf, query: Annotated[PinQuery, Query()], parts: Parts) -> Items[PinAnswer]:
    """The tenant's pins by record; of one record with `entity_type` and `entity_id`."""
    cursors = Cursors("pins", (str, str, str), tenant.id, query.entity_type, query.entity_id)
    key = cursors.read(query.cursor)
    page = await parts.pins.list_page(
        tenant.id,
        entity_type=query.entity_type,
        entity_id=query.entity_id,
        after=None if key is None else (str(key[0]), str(key[1]), str(key[2])),
        limit=query.limit,
    )
    return cursors.page(page, show_pin)


@router.delete(_RECORD, dependencies=[only(Scope.CRM)], responses=problems(404))
async def delete_record_pins(
    tenant: TenantOf,
    entity_type: Annotated[EntityType, Path()],
    entity_id: Annotated[EntityId, Path()],
    parts: Parts,
    who: Who,
) -> RemovedAnswer:
    """The record is gone: all its pins go."""
    removed = await parts.pins.remove_record(tenant.id, entity_type, entity_id, now=parts.clock(), actor=who.actor)
    return RemovedAnswer(removed=removed)


def show_pin(pin: Pin) -> PinAnswer:
    """A pin as clients see it."""
    return PinAnswer(
        message_id=pin.message_id,
        entity_type=pin.entity_type,
        entity_id=pin.entity_id,
        note=pin.note,
        created_at=pin.created_at,
        created_by=pin.created_by,
    )
