"""Sending mail: a letter as JSON or a whole message, what became of it, calling it back, trying again."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.errors import BadRequestError, PreconditionError
from mailgate.store.sending.accept import FileOf, LetterRequest, Wish
from mailgate.store.sending.records import Submission
from mailgate.store.tokens import Scope
from mailgate.submissions.compose import File
from mailgate.submissions.model import RecipientState, SubmissionState
from mailgate.tenants.limits import Purpose
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, Body, ObjectId, Parameters, Time, TimeIn, text

router = APIRouter(tags=["submissions"], prefix="/v1/tenants/{tenant_id}/mailboxes/{mailbox_id}/submissions")

MailboxId = Annotated[ObjectId, Path()]
SubmissionId = Annotated[ObjectId, Path()]
PartId = Annotated[str, StringConstraints(max_length=255, pattern=r"^[0-9]{1,5}(\.[0-9]{1,5})*$")]

Subject = Annotated[str, text(1_000, 0)]

_NAMED = re.compile(r"\s*(.*?)\s*<([^<>]*)>\s*", re.DOTALL)
_MANY = 10_000


class AddressBody(Body):
    """Somebody: an address and, perhaps, a name."""

    name: Annotated[str, text(300, 0)] = ""
    address: Annotated[str, text(320)] = Field(examples=["bob@other.example"])


AddressIn: TypeAlias = AddressBody | Annotated[str, text(700), Field(examples=["Bob <bob@other.example>"])]


class AttachmentBody(Body):
    """A file: its content, or a part of a message that is kept here."""

    filename: Annotated[str, text(255)] | None = None
    content_type: Annotated[str, text(255)] | None = None
    content_base64: str | None = Field(default=None, json_schema_extra={"contentEncoding": "base64"})
    message_id: ObjectId | None = None
    part_id: PartId | None = None


class SubmissionBody(Body):
    """A letter to send."""

    from_: AddressIn | None = Field(default=None, alias="from", description="the mailbox's own address if left out")
    to: list[AddressIn] = Field(default=[], max_length=_MANY)
    cc: list[AddressIn] = Field(default=[], max_length=_MANY)
    bcc: list[AddressIn] = Field(default=[], max_length=_MANY, description="get it; the message does not name them")
    subject: Subject = ""
    text: str | None = None
    html: str | None = None
    attachments: list[AttachmentBody] = Field(default=[], max_length=200)
    in_reply_to_message_id: ObjectId | None = Field(default=None, description="a message that is kept here")
    pin_to_parent: bool = Field(default=False, description="pin it to what the message that it answers is pinned to")
    purpose: Literal["user", "service"] = Field(default="user", description="service: the CRM's own mail")
    send_at: TimeIn | None = Field(default=None, description="not before")


class SubmissionQuery(Parameters):
    """How to send a whole message; JSON has the same fields in its body."""

    in_reply_to_message_id: ObjectId | None = None
    pin_to_parent: bool = False
    purpose: Literal["user", "service"] = "user"
    send_at: TimeIn | None = None


class RecipientAnswer(Answer):
    """One recipient, and what was said about it last."""

    address: str
    state: RecipientState
    code: str | None = Field(description="the server's code (RFC 3463, RFC 5321), or a slug")
    response: str | None


class SubmissionAnswer(Answer):
    """An outgoing message. `uncertain`: it was handed over and the answer was lost; it is not sent again by itself."""

    id: str
    mailbox_id: str
    state: SubmissionState
    purpose: Purpose
    attempts: int
    code: str | None = Field(description="why it waits, failed or is uncertain")
    last_response: str | None = Field(description="the server's last words")
    recipients: list[RecipientAnswer] | None = Field(description="null once the copy was purged")
    from_: str | None = Field(serialization_alias="from", description="the envelope's sender")
    rfc_message_id: str | None
    message_id: str | None = Field(description="the copy; null until the server took it")
    in_reply_to_message_id: str | None
    size: int
    requested_at: Time
    requested_by: str
    next_at: Time | None = Field(description="when it is sent, or tried again; null unless it is queued")
    sent_at: Time | None
    finished_at: Time | None


class SubmissionListQuery(PageQuery):
    """Which submissions to list."""

    state: SubmissionState | None = None


_LETTER = TypeAdapter(SubmissionBody)
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/SubmissionBody"}},
        "message/rfc822": {"schema": {"type": "string", "format": "binary", "pattern": "^[A-Za-z-]+: "}},
    },
}


@router.post(
    "",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    response_model=SubmissionAnswer,
    responses=problems(404, 409, 410, 413, 429),
    openapi_extra={"requestBody": _BODY},
)
async def create_submission(
    tenant: TenantOf,
    mailbox_id: MailboxId,
    query: Annotated[SubmissionQuery, Query()],
    parts: Parts,
    who: Who,
    request: Request,
) -> Response:
    """Send a letter (JSON), or a whole message (`message/rfc822`; then how to send it stands in the query). It is kept
    before the answer, and sent behind it.
    """
    now = parts.clock()
    if request.scope.get("streamed"):
        wish = _wish(mailbox_id, query)
        raw = await _read(parts, tenant, wish, request)
        claim = request.scope.get("claim")
        kept: Response | None = None if claim is None else await claim.make(hashlib.sha256(raw).digest())
        if kept is not None:
            return kept
        made = await parts.submissions.send_raw(tenant, wish, raw, now, who.actor)
    else:
        body = _letter(request.scope.get("json"))
        made = await parts.submissions.send_letter(tenant, _wish(mailbox_id, body), _request(body), now, who.actor)
    location = f"/v1/tenants/{tenant.id}/mailboxes/{mailbox_id}/submissions/{made.id}"
    content = _show(made).model_dump_json(by_alias=True)
    return Response(content, 202, {"location": location}, media_type="application/json")


@router.get("", dependencies=[only(Scope.CRM)], responses=problems(400, 404))
async def list_submissions(
    tenant: TenantOf, mailbox_id: MailboxId, query: Annotated[SubmissionListQuery, Query()], parts: Parts
) -> Items[SubmissionAnswer]:
    """What was sent through the mailbox, or is to be, newest first."""
    await parts.mailboxes.get(tenant.id, mailbox_id)
    cursors = Cursors("submissions", (str,), mailbox_id, query.state)
    page = await parts.submissions.list_page(
        tenant, mailbox_id, state=query.state, after=cursors.after(query.cursor), limit=query.limit
    )
    return cursors.page(page, _show)


@router.get("/{submission_id}", dependencies=[only(Scope.CRM)], responses=problems(404))
async def get_submission(
    tenant: TenantOf, mailbox_id: MailboxId, submission_id: SubmissionId, parts: Parts
) -> SubmissionAnswer:
    """One submission, and what became of it."""
    return _show(await parts.submissions.get(tenant, mailbox_id, submission_id))


@router.delete("/{submission_id}", dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def cancel_submission(
    tenant: TenantOf, mailbox_id: MailboxId, submission_id: SubmissionId, parts: Parts
) -> SubmissionAnswer:
    """Do not send it, or not to those who still wait. Only while it is queued: 409 `not_queued`."""
    return _show(await parts.submissions.cancel(tenant, mailbox_id, submission_id, parts.clock()))


@router.post(
    "/{submission_id}/retry", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409, 429)
)
async def retry_submission(
    tenant: TenantOf, mailbox_id: MailboxId, submission_id: SubmissionId, parts: Parts
) -> SubmissionAnswer:
    """Send again what is `failed` or `uncertain`, to everybody of whom it is not known that they got it. Of what is
    uncertain somebody may get it twice: that is for a person to decide.
    """
    return _show(await parts.submissions.retry(tenant, Wish(mailbox_id), submission_id, parts.clock()))


async def _read(parts: Services, tenant: Any, wish: Wish, request: Request) -> bytes:
    """The message, refused as early as can be. Raises what `check` does, BadRequestError."""
    length = request.headers.get("content-length")
    await parts.submissions.check(tenant, wish, None if length is None else int(length), parts.clock())
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > parts.submissions.max_bytes:
                raise parts.submissions.too_large()
    except ClientDisconnect:
        raise BadRequestError("the message was not sent to its end") from None
    return bytes(raw)


def _letter(given: object) -> SubmissionBody:
    """The letter. Raises RequestValidationError as any route with such a body does."""
    try:
        return _LETTER.validate_python(given)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from None


def _wish(mailbox_id: str, said: SubmissionBody | SubmissionQuery) -> Wish:
    return Wish(
        mailbox_id=mailbox_id,
        purpose=Purpose(said.purpose),
        send_at=said.send_at,
        parent_id=said.in_reply_to_message_id,
        pin_to_parent=said.pin_to_parent,
    )


def _request(body: SubmissionBody) -> LetterRequest:
    return LetterRequest(
        sender=None if body.from_ is None else _pair(body.from_),
        to=tuple(map(_pair, body.to)),
        cc=tuple(map(_pair, body.cc)),
        bcc=tuple(map(_pair, body.bcc)),
        subject=body.subject,
        text=body.text,
        html=body.html,
        files=tuple(_file(item, number) for number, item in enumerate(body.attachments)),
    )


def _pair(given: AddressIn) -> tuple[str, str]:
    if isinstance(given, AddressBody):
        return given.name, given.address
    named = _NAMED.fullmatch(given)
    return (named[1].strip('"'), named[2]) if named else ("", given.strip())


def _file(given: AttachmentBody, number: int) -> File | FileOf:
    where = f"attachments/{number}"
    if given.message_id is not None and given.part_id is not None and given.content_base64 is None:
        return FileOf(given.message_id, given.part_id, given.filename, given.content_type)
    if given.content_base64 is None or given.message_id is not None or given.part_id is not None:
        why = f"{where}: either content_base64, or message_id with part_id"
        raise PreconditionError(why, slug="attachment_invalid")
    if given.filename is None or given.content_type is None:
        raise PreconditionError(f"{where}: a content needs filename and content_type", slug="attachment_invalid")
    try:
        content = base64.b64decode(given.content_base64, validate=True)
    except (binascii.Error, ValueError):
        raise PreconditionError(f"{where}: content_base64 is no base64", slug="attachment_invalid") from None
    return File(given.filename, given.content_type, content)


def _show(found: Submission) -> SubmissionAnswer:
    envelope = found.envelope
    recipients = None
    if envelope is not None:
        recipients = [
            RecipientAnswer(address=item.address, state=item.state, code=item.code, response=item.text)
            for item in envelope.recipients
        ]
    return SubmissionAnswer(
        id=found.id,
        mailbox_id=found.mailbox_id,
        state=found.state,
        purpose=found.purpose,
        attempts=found.attempts,
        code=found.code,
        last_response=None if envelope is None else envelope.last_response,
        recipients=recipients,
        from_=None if envelope is None else envelope.sender,
        rfc_message_id=None if envelope is None else envelope.rfc_message_id,
        message_id=found.message_id,
        in_reply_to_message_id=found.parent_id,
        size=found.size,
        requested_at=found.requested_at,
        requested_by=found.requested_by,
        next_at=found.next_at,
        sent_at=found.sent_at,
        finished_at=found.finished_at,
    )
