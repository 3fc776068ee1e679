"""Quarantine: messages that could not be fetched, read or stored, and trying them again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from pydantic import Field
from starlette.responses import Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.routes import messages
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.errors import NotFoundError
from mailgate.store import quarantine
from mailgate.store.quarantine import Entry
from mailgate.store.tokens import Scope
from mailgate.sync.incoming import Cause
from mailgate.usecases import connecting
from mailgate.usecases.types import Answer, ObjectId, Time

router = APIRouter(tags=["quarantine"], prefix="/v1/tenants/{tenant_id}/mailboxes/{mailbox_id}/quarantine")


class QuarantineAnswer(Answer):
    """A message that is set aside."""

    id: str
    mailbox_id: str
    folder_id: str
    folder: str = Field(description="the folder's name")
    uidvalidity: int
    uid: int
    cause: Cause
    reason: str = Field(description="what went wrong, for a person")
    size: int | None = Field(description="in bytes, as the server said; null while not known")
    message_id: str | None = Field(
        description="the copy that keeps its bytes, without anything read from them; null: the bytes are not kept"
    )
    attempts: int
    first_seen_at: Time
    last_seen_at: Time
    retry_at: Time | None = Field(description="a retry was asked for then and has not been made")


class RetryAnswer(QuarantineAnswer):
    """A message that will be tried again. When it succeeds it is no longer listed."""

    run_id: str = Field(description="the pass that tries it")


@router.get("", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(400, 404))
async def list_quarantine(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], query: Annotated[PageQuery, Query()], parts: Parts
) -> Items[QuarantineAnswer]:
    """What of the mailbox is set aside, newest first. The folders of these messages go on without them."""
    await parts.mailboxes.get(tenant.id, mailbox_id)
    cursors = Cursors("quarantine", (str,), mailbox_id)
    page = await quarantine.list_page(
        parts.db, tenant.id, mailbox_id, after=cursors.after(query.cursor), limit=query.limit
    )
    return cursors.page(page, lambda entry: QuarantineAnswer(**_fields(entry)))


@router.post("/{n}/retry", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def retry_quarantine(
    tenant: TenantOf,
    mailbox_id: Annotated[ObjectId, Path()],
    n: Annotated[ObjectId, Path()],
    parts: Parts,
    who: Who,
) -> RetryAnswer:
    """Try it again now. If its bytes are kept they are read again, else the message is fetched once more."""
    entry, run_id = await connecting.try_again(parts, tenant.id, mailbox_id, n, who.actor)
    return RetryAnswer(**_fields(entry), run_id=run_id)


@router.get(
    "/{n}/raw",
    dependencies=[only(Scope.CRM)],
    response_class=Response,
    responses={
        200: {"content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}}, "description": "OK"},
        304: {"description": "The bytes that `If-None-Match` names are the ones"},
        **problems(404, 410),
    },
)
async def get_quarantine_raw(
    tenant: TenantOf,
    mailbox_id: Annotated[ObjectId, Path()],
    n: Annotated[ObjectId, Path()],
    parts: Parts,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The message as the server gave it, if its bytes are kept: the same as of the copy `message_id`."""
    entry = await quarantine.get(parts.db, tenant.id, mailbox_id, n)
    if entry.message_id is None or entry.cause is Cause.LOST:
        raise NotFoundError(f"its bytes are not kept: {entry.reason}", slug="bytes_not_kept")
    return await messages.get_raw(tenant, entry.message_id, parts, if_none_match)


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in QuarantineAnswer.model_fields}
