"""Changing mail: flags, labels, folder, deleting, new messages. The near side changes at once; operations say what
became of it at the mail server.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field, WithJsonSchema
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.errors import BadRequestError
from mailgate.store import operations
from mailgate.store.operations import OperationRecord
from mailgate.store.pins import MAX_NOTE
from mailgate.store.tokens import Scope
from mailgate.store.wishes import words as wishes_words
from mailgate.store.wishes.append import Target
from mailgate.store.wishes.messages import Asked, MessageChange
from mailgate.store.wishes.rehydrate import PinWanted
from mailgate.store.wishes.words import FLAG_PATTERN, FLAGS_MOST, FLAGS_PATTERN, LABEL_PATTERN
from mailgate.sync.operations import OperationKind, OperationState
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, Body, EntityId, EntityType, ObjectId, Parameters, Time, TimeIn, text

router = APIRouter(tags=["changes"], prefix="/v1/tenants/{tenant_id}")

PINS_MOST = 100
"""Pins in one request."""

# The store checks them, and says what is wrong with which.
Flag = Annotated[str, WithJsonSchema({"type": "string", "pattern": FLAG_PATTERN, "examples": ["\\Seen", "$Forwarded"]})]
Label = Annotated[str, WithJsonSchema({"type": "string", "pattern": LABEL_PATTERN, "examples": ["Customers"]})]
FlagList = Annotated[str, WithJsonSchema({"type": "string", "pattern": FLAGS_PATTERN, "maxLength": 2_000})]


class FlagsBody(Body):
    """A change of flags: system flags (\\Seen, \\Answered, \\Flagged, \\Draft) and keywords."""

    add: list[Flag] = Field(default=[], max_length=FLAGS_MOST)
    remove: list[Flag] = Field(default=[], max_length=FLAGS_MOST)


class LabelsBody(Body):
    """A change of labels, where the mail server has them (Gmail)."""

    add: list[Label] = Field(default=[], max_length=FLAGS_MOST)
    remove: list[Label] = Field(default=[], max_length=FLAGS_MOST)


class MessagePatchBody(Body):
    """What to change of a message; what is absent or null stays. All of it, or nothing."""

    flags: FlagsBody | None = None
    labels: LabelsBody | None = None
    folder_id: ObjectId | None = Field(default=None, description="move it there")


class ChangeAnswer(Answer):
    """What was asked of a message. `operation_ids` in the order in which they are brought to the mail server,
    `operation_id` the last of them: null when there is nothing to bring.
    """

    message_id: str
    scope: Literal["both", "copy"] = Field(description="copy: the original at the mail server stays as it is")
    operation_id: str | None
    operation_ids: list[str]


class DeleteQuery(Parameters):
    """How to delete a message."""

    permanent: bool = Field(default=False, description="for ever, instead of into Trash")


class AppendQuery(Parameters):
    """Where a message is to go, and as what."""

    folder_id: ObjectId
    flags: FlagList = Field(default="", description="flags, with a blank between them")
    received_at: TimeIn | None = Field(
        default=None, description="when it was received; from then on its copy's age counts"
    )


class AppendAnswer(Answer):
    """A new message, and the operation that brings it to the mail server."""

    message_id: str
    operation_id: str


class WantedPin(Body):
    """A record that the message is to be pinned to."""

    entity_type: EntityType
    entity_id: EntityId
    note: Annotated[str, text(MAX_NOTE)] | None = None


class RehydrateBody(Body):
    """What a message is brought back for."""

    pins: list[WantedPin] = Field(
        default=[], max_length=PINS_MOST, description="made with the copy; without any it stays for a few days"
    )


class RehydrateAnswer(Answer):
    """A purged message that is asked for, and the operation that brings it from the mail server."""

    message_id: str
    operation_id: str


class OperationAnswer(Answer):
    """A change on its way to the mail server. `failed`: it was refused, or had become impossible, and what it changed
    here was taken back; `reason` is for a person, `code` for a program.
    """

    id: str
    mailbox_id: str
    kind: OperationKind
    state: Literal["pending", "applied", "failed"]
    message_id: str | None
    folder_id: str | None
    attempts: int = Field(description="how many times it was begun")
    reason: str | None = Field(description="why it failed, or what it waits for")
    code: str | None
    requested_at: Time
    requested_by: str
    finished_at: Time | None


class OperationQuery(PageQuery):
    """Which operations to list; all conditions must hold."""

    mailbox: ObjectId | None = None
    message: ObjectId | None = None
    state: Literal["pending", "applied", "failed"] | None = None


_DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": ChangeAnswer, "description": "Done; there is nothing to bring to the mail server"}
}
_MESSAGE = {"message/rfc822": {"schema": {"type": "string", "format": "binary", "pattern": "^[A-Za-z-]+: "}}}


@router.patch(
    "/messages/{message_id}",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    responses={**_DONE, **problems(404, 409, 410)},
)
async def patch_message(
    tenant: TenantOf,
    message_id: Annotated[ObjectId, Path()],
    body: MessagePatchBody,
    parts: Parts,
    who: Who,
    response: Response,
) -> ChangeAnswer:
    """Change flags, labels or folder of a message. It shows at once; the operations bring it to the mail server."""
    wanted = MessageChange(
        flags=None if body.flags is None else wishes_words.flags(body.flags.add, body.flags.remove),
        labels=None if body.labels is None else wishes_words.labels(body.labels.add, body.labels.remove),
        folder_id=body.folder_id,
    )
    asked = await parts.wishes.messages.change(tenant.id, message_id, wanted, parts.clock(), who.actor)
    return _answer(parts, message_id, asked, response)


@router.delete(
    "/messages/{message_id}",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    responses={**_DONE, **problems(404, 409, 410)},
)
async def delete_message(
    tenant: TenantOf,
    message_id: Annotated[ObjectId, Path()],
    query: Annotated[DeleteQuery, Query()],
    parts: Parts,
    who: Who,
    response: Response,
) -> ChangeAnswer:
    """Delete a message: into Trash, or for ever when it is there or `permanent=true`. Pinned: 409 `pinned`. Without
    synchronization only the copy goes (`scope` is `copy`), now and for good.
    """
    asked = await parts.wishes.messages.delete(
        tenant.id, message_id, permanent=query.permanent, now=parts.clock(), actor=who.actor
    )
    return _answer(parts, message_id, asked, response)


@router.post(
    "/messages/{message_id}/rehydrate",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    responses=problems(404, 409, 410),
)
async def rehydrate_message(
    tenant: TenantOf,
    message_id: Annotated[ObjectId, Path()],
    parts: Parts,
    who: Who,
    body: RehydrateBody | None = None,
) -> RehydrateAnswer:
    """Bring a purged copy back from the mail server, under its old id. The operation says when it is here; it fails
    with `gone_at_server` when the original is gone. With `pins` it is kept for them; without it stays for
    `retention.rehydrate_days`. A copy that is here answers 409 `not_purged`.
    """
    wanted = [] if body is None else body.pins
    pins = [PinWanted(pin.entity_type, pin.entity_id, pin.note) for pin in wanted]
    asked = await parts.wishes.rehydrations.ask(tenant.id, message_id, pins, parts.clock(), who.actor)
    parts.sync.changed(asked.mailbox_id)
    return RehydrateAnswer(message_id=message_id, operation_id=asked.operation_ids[-1])


@router.post(
    "/mailboxes/{mailbox_id}/messages",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    response_model=AppendAnswer,
    responses=problems(404, 409, 429),
    openapi_extra={"requestBody": {"required": True, "content": _MESSAGE}},
)
async def append_message(
    tenant: TenantOf,
    mailbox_id: Annotated[ObjectId, Path()],
    query: Annotated[AppendQuery, Query()],
    parts: Parts,
    who: Who,
    request: Request,
) -> Response:
    """Put a message (the body, `message/rfc822`) into a folder. It is there at once; the mail server follows.

    Lines may end in CRLF or LF and are kept with CRLF, as mail servers do; NUL is refused. More than
    `limits.uploads_at_once` at a time are answered 429 `too_many_uploads`, with Retry-After.
    """
    flags = wishes_words.flags(query.flags.split(" ") if query.flags else ()).add
    target = Target(mailbox_id, query.folder_id, flags, query.received_at)
    length = request.headers.get("content-length")
    now = parts.clock()
    await parts.wishes.appends.check(tenant.id, target, None if length is None else int(length), now)
    with parts.wishes.appends.coming():
        try:
            taken = await parts.wishes.appends.take(tenant.id, request.stream(), now)
        except ClientDisconnect:
            raise BadRequestError("the message was not sent to its end") from None
        try:
            claim = request.scope.get("claim")
            kept: Response | None = None if claim is None else await claim.make(taken.digest)
        except BaseException:
            taken.abandon()
            raise
        if kept is not None:
            taken.abandon()
            return kept
        made = await parts.wishes.appends.put(tenant.id, target, taken, parts.clock(), who.actor)
    parts.sync.changed(mailbox_id)
    answer = AppendAnswer(message_id=made.message_id, operation_id=made.operation_id)
    location = f"/v1/tenants/{tenant.id}/messages/{made.message_id}"
    headers = {"location": location}
    return Response(answer.model_dump_json(), 202, headers, media_type="application/json")


@router.get("/operations", dependencies=[only(Scope.CRM)], responses=problems(400, 404))
async def list_operations(
    tenant: TenantOf, query: Annotated[OperationQuery, Query()], parts: Parts
) -> Items[OperationAnswer]:
    """Changes that were asked for, newest first."""
    cursors = Cursors("operations", (str,), tenant.id, query.mailbox, query.message, query.state)
    page = await operations.list_page(
        parts.db,
        tenant.id,
        mailbox_id=query.mailbox,
        message_id=query.message,
        state=None if query.state is None else OperationState(query.state),
        after=cursors.after(query.cursor),
        limit=query.limit,
    )
    return cursors.page(page, _show)


@router.get("/operations/{operation_id}", dependencies=[only(Scope.CRM)], responses=problems(404))
async def get_operation(tenant: TenantOf, operation_id: Annotated[ObjectId, Path()], parts: Parts) -> OperationAnswer:
    """One change, and what became of it at the mail server."""
    return _show(await operations.get(parts.db, tenant.id, operation_id))


def _answer(parts: Services, message_id: str, asked: Asked, response: Response) -> ChangeAnswer:
    ids = list(asked.operation_ids)
    if ids:
        parts.sync.changed(asked.mailbox_id)
    else:
        response.status_code = 200
    scope: Literal["both", "copy"] = "copy" if asked.scope == "copy" else "both"
    return ChangeAnswer(message_id=message_id, scope=scope, operation_id=ids[-1] if ids else None, operation_ids=ids)


def _show(record: OperationRecord) -> OperationAnswer:
    state: Literal["pending", "applied", "failed"] = "pending"
    if record.state is OperationState.APPLIED:
        state = "applied"
    elif record.state is OperationState.FAILED:
        state = "failed"
    return OperationAnswer(
        id=record.id,
        mailbox_id=record.mailbox_id,
        kind=record.kind,
        state=state,
        message_id=record.message_id,
        folder_id=record.folder_id,
        attempts=record.attempts,
        reason=record.reason,
        code=record.code,
        requested_at=record.requested_at,
        requested_by=record.requested_by,
        finished_at=record.finished_at,
    )
