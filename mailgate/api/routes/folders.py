"""Folders of a mailbox: which there are, new ones, other names, deleting them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field, StringConstraints

from mailgate.api.paging import Items
from mailgate.api.problems import problems
from mailgate.api.routes.mailbox_models import FolderAnswer, ProgressAnswer
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.store import overview
from mailgate.store.overview import FolderRow
from mailgate.store.tokens import Scope
from mailgate.store.wishes.words import NAME_LENGTH
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, Body, ObjectId, Parameters

router = APIRouter(tags=["folders"], prefix="/v1/tenants/{tenant_id}/mailboxes/{mailbox_id}/folders")

FolderName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f*%]+$"),
    Field(description="levels are separated as in the account's other folders", examples=["Projects/Roof"]),
]


class FolderBody(Body):
    """What a folder is called."""

    name: FolderName


class FolderChangeAnswer(Answer):
    """What was asked of a folder. `operation_id` null: there is nothing to bring to the mail server."""

    folder_id: str
    operation_id: str | None


class FolderDeleteQuery(Parameters):
    """How to delete a folder."""

    permanent: bool = Field(default=False, description="with all messages in it, for ever")


@router.get("", dependencies=[only(Scope.CRM)], responses=problems(404))
async def list_folders(tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts) -> Items[FolderAnswer]:
    """The account's folders, INBOX first."""
    await parts.mailboxes.get(tenant.id, mailbox_id)
    rows = (await overview.folders_of(parts.db, [mailbox_id])).get(mailbox_id, [])
    return Items[FolderAnswer](items=[show_folder(row) for row in rows], next_cursor=None)


@router.post("", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def create_folder(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], body: FolderBody, parts: Parts, who: Who
) -> FolderChangeAnswer:
    """A new folder. It is there at once; the mail server follows."""
    asked = await parts.wishes.folders.create(tenant.id, mailbox_id, body.name, parts.clock(), who.actor)
    return _answer(parts, mailbox_id, *asked)


@router.patch(
    "/{folder_id}",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    responses={200: {"model": FolderChangeAnswer, "description": "It is called so already"}, **problems(404, 409)},
)
async def rename_folder(
    tenant: TenantOf,
    mailbox_id: Annotated[ObjectId, Path()],
    folder_id: Annotated[ObjectId, Path()],
    body: FolderBody,
    parts: Parts,
    who: Who,
    response: Response,
) -> FolderChangeAnswer:
    """Call a folder otherwise; the folders below it go along. INBOX and folders with a special use keep their names."""
    asked = await parts.wishes.folders.rename(tenant.id, mailbox_id, folder_id, body.name, parts.clock(), who.actor)
    response.status_code = 202 if asked[1] else 200
    return _answer(parts, mailbox_id, *asked)


@router.delete("/{folder_id}", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def delete_folder(
    tenant: TenantOf,
    mailbox_id: Annotated[ObjectId, Path()],
    folder_id: Annotated[ObjectId, Path()],
    query: Annotated[FolderDeleteQuery, Query()],
    parts: Parts,
    who: Who,
) -> FolderChangeAnswer:
    """Delete a folder: an empty one, or with `permanent=true` one with messages, of which none may be pinned. If the
    mail server has other messages in it by then than were seen here, it stays.
    """
    asked = await parts.wishes.folders.delete(
        tenant.id, mailbox_id, folder_id, permanent=query.permanent, now=parts.clock(), actor=who.actor
    )
    return _answer(parts, mailbox_id, *asked)


def show_folder(row: FolderRow) -> FolderAnswer:
    """A folder as clients see it."""
    return FolderAnswer(
        id=row.id,
        name=row.name,
        special_use=row.special_use,
        followed=row.followed,
        exists=row.exists,
        progress=ProgressAnswer(done=row.progress_done, total=row.progress_total, rate=None, eta_s=None),
        imported_at=row.imported_at,
        last_pass_at=row.last_pass_at,
        last_error=row.last_error,
        pending=row.pending,
    )


def _answer(parts: Services, mailbox_id: str, folder_id: str, operation_id: str | None) -> FolderChangeAnswer:
    if operation_id is not None:
        parts.sync.changed(mailbox_id)
    return FolderChangeAnswer(folder_id=folder_id, operation_id=operation_id)
