"""Copies of mail: listing and searching, one message, its bytes, its parts, its thread."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query
from pydantic import Field, StringConstraints
from starlette.responses import Response, StreamingResponse

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.routes.pins import PinAnswer, show_pin
from mailgate.api.security import Parts, Principal, TenantOf, Who, only
from mailgate.errors import ForbiddenError, NotFoundError
from mailgate.messages.model import Address, Part
from mailgate.store.listing import MessageFilter
from mailgate.store.reading import MessageView
from mailgate.store.tokens import Scope
from mailgate.usecases.types import Answer, ObjectId, Time, TimeIn, text

router = APIRouter(tags=["messages"], prefix="/v1/tenants/{tenant_id}")

PartId = Annotated[str, StringConstraints(max_length=255, pattern=r"^[0-9]{1,5}(\.[0-9]{1,5})*$")]
Words = Annotated[str, text(500)]

_SAFE_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
# A part is somebody else's content on our host: it may be stored by a browser, never run.
_PART_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}


class AddressAnswer(Answer):
    """An address of a header, decoded; either part may be empty."""

    name: str
    address: str


class PartAnswer(Answer):
    """A leaf of the MIME tree; `part_id` is IMAP's section number, `size` in decoded bytes."""

    part_id: str
    filename: str | None
    content_type: str
    size: int
    inline: bool
    content_id: str | None


class FolderOf(Answer):
    """A folder that the message is in. A move shows at once, before the mail server made it."""

    id: str
    name: str
    special_use: str | None


class Location(Answer):
    """The original's address at the server."""

    folder_id: str
    uidvalidity: int
    uid: int
    present: bool


class OriginAnswer(Answer):
    """Whether the original is at the server, for all that is believed yet, and where it stands or stood: an address may
    be gone at once, and whether the message went from it or moved is known a little later.
    """

    present: bool
    locations: list[Location]


class MessageAnswer(Answer):
    """A copy. `rfc_message_id` is the header; `message_id` in this interface is always our id. `flags`, `labels` and
    `folders` are as the CRM changed them, at once; `origin` is how the mail server has it.
    """

    id: str
    mailbox_id: str
    folders: list[FolderOf]
    thread_id: str
    in_reply_to: list[str]
    references: list[str]
    from_: list[AddressAnswer] = Field(serialization_alias="from")
    to: list[AddressAnswer]
    cc: list[AddressAnswer]
    bcc: list[AddressAnswer]
    reply_to: list[AddressAnswer]
    subject: str
    date: Time | None = Field(description="the Date: header, as the sender claims")
    rfc_message_id: str | None
    anchor_at: Time = Field(description="from when the copy's age counts")
    anchor_source: str
    received_at: Time | None = Field(description="when the server received it (INTERNALDATE)")
    stored_at: Time
    expires_at: Time | None = Field(description="null while pinned or held, or while the plan is not known")
    size: int = Field(description="bytes of the original")
    flags: list[str]
    labels: list[str] = Field(description="of providers that have labels beside folders")
    pending_operations: int = Field(description="changes of this message that the mail server does not know yet")
    deleted_at: Time | None = Field(
        description="when a user deleted it; such messages are shown to scope compliance only"
    )
    snippet: str | None = Field(description="null for a token without scope crm")
    has_files: bool
    parts: list[PartAnswer]
    pins: list[PinAnswer]
    held: bool
    origin: OriginAnswer


class FullMessageAnswer(MessageAnswer):
    """A copy with its body. `html` is sanitised: no scripts, remote images parked in `data-remote-src`."""

    text: str | None = Field(
        description="null when too large to be taken apart, when it can't be read, or for a token without scope crm"
    )
    html: str | None = Field(description="as `text`; empty when the message has none")


class MessageQuery(PageQuery):
    """Which messages to list; all conditions must hold."""

    mailbox: ObjectId | None = None
    folder: ObjectId | None = None
    thread: ObjectId | None = None
    q: Words | None = Field(
        default=None, description="words, or beginnings (`rech*`), in subject, addresses, file names and text"
    )
    from_: Words | None = Field(
        default=None, alias="from", description="words, beginnings (`rech*`) or an address in From"
    )
    to: Words | None = Field(default=None, description="words, beginnings or an address in To, Cc and Bcc")
    subject: Words | None = Field(default=None, description="words or beginnings in the subject")
    since: TimeIn | None = Field(default=None, description="anchor at or after")
    before: TimeIn | None = Field(default=None, description="anchor before")
    unseen: bool | None = None
    flagged: bool | None = None
    pinned: bool | None = None
    has_files: bool | None = None

    def filter(self) -> MessageFilter:
        """The same for the store."""
        words = {"text": self.q, "from_": self.from_, "to": self.to, "subject": self.subject}
        return MessageFilter(
            mailbox_id=self.mailbox,
            folder_id=self.folder,
            thread_id=self.thread,
            words={field: wanted for field, wanted in words.items() if wanted is not None},
            since=self.since,
            before=self.before,
            unseen=self.unseen,
            flagged=self.flagged,
            pinned=self.pinned,
            has_files=self.has_files,
        )


class FoundAnswer(Items[MessageAnswer]):
    """A page of messages."""

    complete: bool = Field(
        description="false: words of some messages are not written yet, so some may be missing; look again later"
    )


@router.get("/messages", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(400, 404))
async def list_messages(
    tenant: TenantOf, query: Annotated[MessageQuery, Query()], parts: Parts, who: Who
) -> FoundAnswer:
    """Copies that are served, the newest anchor first; expired ones are left out, purged or not. What filters and words
    leave little of is looked for a stretch at a time: a page may hold fewer than `limit`, even none, and have a
    `next_cursor`. Only one without is the last.
    """
    if query.q is not None and not who.may(Scope.CRM):
        raise ForbiddenError("searching the text of messages needs a token of scope crm")
    wanted = query.filter()
    cursors = Cursors("messages", (int, str), tenant.id, query.model_dump(exclude={"limit", "cursor"}))
    key = cursors.read(query.cursor)
    page = await parts.reader.list_page(
        tenant,
        replace(wanted, deleted=_sees_deleted(who)),
        after=None if key is None else (int(key[0]), str(key[1])),
        limit=query.limit,
        now=parts.clock(),
    )
    answer = cursors.page(page, lambda view: MessageAnswer(**_fields(view, who)))
    return FoundAnswer(items=answer.items, next_cursor=answer.next_cursor, complete=page.complete)


@router.get("/messages/{message_id}", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404, 410))
async def get_message(
    tenant: TenantOf, message_id: Annotated[ObjectId, Path()], parts: Parts, who: Who
) -> FullMessageAnswer:
    """One copy with its text and sanitised HTML. 410 `expired` when its time is over, 410 `purged` afterwards."""
    view = await parts.reader.get(tenant, message_id, parts.clock(), deleted=_sees_deleted(who))
    readable = who.may(Scope.CRM) and view.deleted_at is None
    shown = await parts.reader.shown(tenant, message_id, parts.clock()) if readable else None
    return FullMessageAnswer(
        **_fields(view, who),
        text=None if shown is None else shown.text,
        html=None if shown is None else shown.html,
    )


@router.get(
    "/messages/{message_id}/raw",
    dependencies=[only(Scope.CRM)],
    response_class=Response,
    responses={
        200: {"content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}}, "description": "OK"},
        304: {"description": "The bytes that `If-None-Match` names are the ones"},
        **problems(404, 410),
    },
)
async def get_raw(
    tenant: TenantOf,
    message_id: Annotated[ObjectId, Path()],
    parts: Parts,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The message as the server gave it, byte for byte."""
    raw = await parts.reader.raw(tenant, message_id, parts.clock())
    tag = f'"{raw.tag}"'
    headers = {**_PART_HEADERS, "etag": tag, "cache-control": "private, no-cache"}
    if if_none_match is not None and tag in [given.strip() for given in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    headers["content-length"] = str(raw.size)
    headers["content-disposition"] = disposition(f"{message_id}.eml")
    # The first chunk is read before the answer begins: a blob that is missing is then an error, not a cut answer.
    first = await anext(raw.chunks, b"")
    return StreamingResponse(_chunks(first, raw.chunks), media_type="message/rfc822", headers=headers)


@router.get(
    "/messages/{message_id}/parts/{part_id}",
    dependencies=[only(Scope.CRM)],
    response_class=Response,
    responses={
        200: {
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
            "description": "The decoded part",
        },
        **problems(404, 410),
    },
)
async def get_part(
    tenant: TenantOf, message_id: Annotated[ObjectId, Path()], part_id: Annotated[PartId, Path()], parts: Parts
) -> Response:
    """One part, decoded, to be saved: it is never shown or run in a page of this host."""
    part, content = await parts.reader.part(tenant, message_id, part_id, parts.clock())
    kind = part.content_type.lower()
    headers = {
        **_PART_HEADERS,
        "content-type": kind if _SAFE_TYPE.fullmatch(kind) else "application/octet-stream",
        "content-disposition": disposition(part.filename or f"part-{part_id}"),
    }
    return Response(content, headers=headers)


@router.get("/threads/{thread_id}", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(400, 404))
async def get_thread(
    tenant: TenantOf,
    thread_id: Annotated[ObjectId, Path()],
    query: Annotated[PageQuery, Query()],
    parts: Parts,
    who: Who,
) -> Items[MessageAnswer]:
    """The messages of a thread, the oldest first."""
    cursors = Cursors("thread", (int, str), tenant.id, thread_id)
    key = cursors.read(query.cursor)
    page = await parts.reader.thread_page(
        tenant,
        thread_id,
        after=None if key is None else (int(key[0]), str(key[1])),
        deleted=_sees_deleted(who),
        limit=query.limit,
        now=parts.clock(),
    )
    if not page.items and key is None:
        raise NotFoundError(f"there is no thread {thread_id!r}", slug="thread_not_found")
    return cursors.page(page, lambda view: MessageAnswer(**_fields(view, who)))


def disposition(filename: str) -> str:
    """`Content-Disposition: attachment` with the name in both forms (RFC 6266); nothing in it can end the header."""
    name = re.sub(r'[\x00-\x1f\x7f"\\/:*?<>|]', "_", filename).strip(" .") or "file"
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _chunks(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _fields(view: MessageView, who: Principal) -> dict[str, Any]:
    """What a message's answer holds, by the fields' Python names; text of the body only for who may read bodies."""
    summary = view.summary
    return {
        "id": view.id,
        "mailbox_id": view.mailbox_id,
        "folders": [FolderOf(id=at.id, name=at.name, special_use=at.special_use) for at in view.folders],
        "thread_id": view.thread_id,
        "in_reply_to": list(summary.in_reply_to),
        "references": list(summary.references),
        "from_": _addresses(summary.from_),
        "to": _addresses(summary.to),
        "cc": _addresses(summary.cc),
        "bcc": _addresses(summary.bcc),
        "reply_to": _addresses(summary.reply_to),
        "subject": summary.subject,
        "date": summary.date,
        "rfc_message_id": summary.rfc_message_id,
        "anchor_at": view.anchor_at,
        "anchor_source": view.anchor_source,
        "received_at": view.received_at,
        "stored_at": view.stored_at,
        "expires_at": view.expires_at,
        "size": view.size,
        "flags": list(view.flags),
        "labels": list(view.labels),
        "pending_operations": view.pending,
        "deleted_at": view.deleted_at,
        "snippet": summary.snippet if who.may(Scope.CRM) and view.deleted_at is None else None,
        "has_files": summary.has_files,
        "parts": [_part(part) for part in summary.parts],
        "pins": [show_pin(pin) for pin in view.pins],
        "held": view.held,
        "origin": OriginAnswer(
            present=view.origin_present,
            locations=[
                Location(
                    folder_id=origin.folder_id, uidvalidity=origin.uidvalidity, uid=origin.uid, present=origin.present
                )
                for origin in view.origins
            ],
        ),
    }


def _sees_deleted(who: Principal) -> bool:
    """What a user deleted is shown to compliance only: not even to admin, whose token the CRM itself may use."""
    return Scope.COMPLIANCE in who.scopes


def _addresses(addresses: tuple[Address, ...]) -> list[AddressAnswer]:
    return [AddressAnswer(name=entry.name, address=entry.address) for entry in addresses]


def _part(part: Part) -> PartAnswer:
    return PartAnswer(**part._asdict())
