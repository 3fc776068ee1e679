"""Mailboxes: connecting accounts, switching them on and off, seeing how they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.routes.folders import show_folder
from mailgate.api.routes.mailbox_models import (
    AccountAnswer,
    BackfillBody,
    ConsentAnswer,
    MailboxAnswer,
    ProgressAnswer,
    SyncRunAnswer,
    VerifyAnswer,
    VerifyStep,
)
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.clock import SECOND, Instant
from mailgate.errors import NotFoundError
from mailgate.store import consents, overview, runs
from mailgate.store.consents import ConsentState
from mailgate.store.mailboxes import Mailbox
from mailgate.store.overview import FolderRow, Waiting
from mailgate.store.runs import RunRecord
from mailgate.store.tokens import Scope
from mailgate.sync.state import MailboxState
from mailgate.usecases import connecting
from mailgate.usecases.accounts import FolderRules, MailboxBody, MailboxPatchBody, VerifyBody
from mailgate.usecases.parts import Services, Step
from mailgate.usecases.remedies import remedy_of
from mailgate.usecases.types import ObjectId

router = APIRouter(tags=["mailboxes"])

_IN_TENANT = "/v1/tenants/{tenant_id}/mailboxes"


@router.post(_IN_TENANT, status_code=201, dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def create_mailbox(
    tenant: TenantOf, body: MailboxBody, parts: Parts, who: Who, response: Response
) -> MailboxAnswer:
    """Connect an account. Answers at once with state `connecting`; a plan without sync answers 409 `not_entitled`."""
    mailbox = await connecting.connect(parts, tenant.id, body, who.actor)
    response.headers["location"] = f"/v1/tenants/{tenant.id}/mailboxes/{mailbox.id}"
    consent = (await consents.states(parts.db, [mailbox.id])).get(mailbox.id)
    return _show(mailbox, [], overview.Waiting(), consent, parts.clock())


@router.get(_IN_TENANT, dependencies=[only(Scope.CRM)], responses=problems(400, 404))
async def list_mailboxes(tenant: TenantOf, query: Annotated[PageQuery, Query()], parts: Parts) -> Items[MailboxAnswer]:
    """The tenant's connected accounts."""
    cursors = Cursors("mailboxes", (str,), tenant.id)
    page = await parts.mailboxes.list_page(tenant.id, after=cursors.after(query.cursor), limit=query.limit)
    ids = [mailbox.id for mailbox in page.items]
    folders = await overview.folders_of(parts.db, ids)
    waiting = await overview.waiting(parts.db, ids)
    given = await consents.states(parts.db, ids)
    now = parts.clock()
    return cursors.page(
        page,
        lambda mailbox: _show(mailbox, folders.get(mailbox.id, []), waiting[mailbox.id], given.get(mailbox.id), now),
    )


@router.get(_IN_TENANT + "/{mailbox_id}", dependencies=[only(Scope.CRM)], responses=problems(404))
async def get_mailbox(tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts) -> MailboxAnswer:
    """One mailbox, its state and its folders."""
    return await _get(parts, tenant.id, mailbox_id)


@router.patch(_IN_TENANT + "/{mailbox_id}", dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def patch_mailbox(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], body: MailboxPatchBody, parts: Parts, who: Who
) -> MailboxAnswer:
    """Change settings, or switch the mailbox off and on. Switched off, its connections are closed and all is kept."""
    await connecting.change(parts, tenant.id, mailbox_id, body, who.actor)
    return await _get(parts, tenant.id, mailbox_id)


@router.delete(_IN_TENANT + "/{mailbox_id}", status_code=204, dependencies=[only(Scope.CRM)], responses=problems(404))
async def delete_mailbox(tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts, who: Who) -> None:
    """Disconnect the account: credentials are destroyed; copies that are neither pinned nor held will be purged."""
    await connecting.remove(parts, tenant.id, mailbox_id, who.actor)


@router.post(
    _IN_TENANT + "/{mailbox_id}/sync", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409)
)
async def start_sync(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts, who: Who
) -> SyncRunAnswer:
    """Ask for one pass over the mailbox now; the run says when it is done. One that waits already is answered again."""
    run_id = await connecting.sync_now(parts, tenant.id, mailbox_id, who.actor)
    return _show_run(await runs.get(parts.db, run_id))


@router.post(
    _IN_TENANT + "/{mailbox_id}/backfill", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409)
)
async def start_backfill(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], body: BackfillBody, parts: Parts, who: Who
) -> SyncRunAnswer:
    """Fetch the mail of so many days again, older mail and purged mail included; nothing else brings purged mail back.
    More days than the plan keeps: 422 `days_beyond_plan`.
    """
    run_id = await parts.wishes.backfills.ask(tenant.id, mailbox_id, body.days, parts.clock(), who.actor)
    parts.sync.changed(mailbox_id)
    return _show_run(await runs.get(parts.db, run_id))


@router.get(_IN_TENANT + "/{mailbox_id}/runs", dependencies=[only(Scope.CRM)], responses=problems(400, 404))
async def list_sync_runs(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], query: Annotated[PageQuery, Query()], parts: Parts
) -> Items[SyncRunAnswer]:
    """The mailbox's recorded passes and backfills, newest first."""
    await parts.mailboxes.get(tenant.id, mailbox_id)
    cursors = Cursors("sync_runs", (str,), mailbox_id)
    page = await runs.list_page(
        parts.db,
        kind=(runs.SYNC, runs.BACKFILL),
        mailbox_id=mailbox_id,
        after=cursors.after(query.cursor),
        limit=query.limit,
    )
    return cursors.page(page, _show_run)


@router.post("/v1/mailboxes/verify", dependencies=[only(Scope.CRM)], responses=problems(404, 409, 503))
async def verify_mailbox(body: VerifyBody, parts: Parts, who: Who) -> VerifyAnswer:
    """Try settings without keeping them, for reading and, if they are given, for sending; says which step failed, why,
    and what to do. Nothing is stored, nothing is sent.
    """
    if not who.reaches(body.tenant_id):
        raise NotFoundError(f"there is no tenant {body.tenant_id!r}", slug="tenant_not_found")
    found = await connecting.verify(parts, body.tenant_id, body.imap, body.smtp, sender=body.address)
    return VerifyAnswer(ok=found.ok, steps=[_step(step) for step in found.steps])


def _step(step: Step) -> VerifyStep:
    return VerifyStep(**step._asdict(), remedy=remedy_of(step.reason))


async def _get(parts: Services, tenant_id: str, mailbox_id: str) -> MailboxAnswer:
    mailbox = await parts.mailboxes.get(tenant_id, mailbox_id)
    folders = await overview.folders_of(parts.db, [mailbox_id])
    waiting = await overview.waiting(parts.db, [mailbox_id])
    given = await consents.states(parts.db, [mailbox_id])
    return _show(mailbox, folders.get(mailbox_id, []), waiting[mailbox_id], given.get(mailbox_id), parts.clock())


def _progress(done: int, total: int, started_at: Instant | None, now: Instant) -> ProgressAnswer:
    elapsed = 0 if started_at is None else (now - started_at) / SECOND
    rate = round(done / elapsed, 1) if elapsed > 0 and done > 0 else None
    eta = int((total - done) / rate) if rate and total >= done else None
    return ProgressAnswer(done=done, total=total, rate=rate, eta_s=eta)


def _show(
    mailbox: Mailbox, folders: list[FolderRow], waiting: Waiting, consent: ConsentState | None, now: Instant
) -> MailboxAnswer:
    mailbox = mailbox.as_of(now)
    checked = mailbox.last_checked_at
    importing = mailbox.imported_at is None or mailbox.state == MailboxState.IMPORTING
    return MailboxAnswer(
        id=mailbox.id,
        tenant_id=mailbox.tenant_id,
        address=mailbox.address,
        owner=mailbox.owner,
        shared=mailbox.shared,
        enabled=mailbox.enabled,
        imap=AccountAnswer.model_validate(dict(mailbox.imap)),
        smtp=None if mailbox.smtp is None else AccountAnswer.model_validate(dict(mailbox.smtp)),
        folder_rules=FolderRules.model_validate(dict(mailbox.folder_rules)),
        consent=None if consent is None else ConsentAnswer.model_validate(asdict(consent)),
        state=MailboxState(mailbox.state),
        state_reason=mailbox.state_reason,
        state_changed_at=mailbox.state_changed_at,
        progress=_progress(
            mailbox.progress_done, mailbox.progress_total, mailbox.progress_started_at if importing else None, now
        ),
        imported_at=mailbox.imported_at,
        last_checked_at=checked,
        lag_s=None if checked is None else round(max(0, now - checked) / SECOND, 3),
        pending_operations=waiting.operations,
        guards_open=waiting.guards,
        quarantined=waiting.quarantined,
        folders=[show_folder(row) for row in folders],
        created_at=mailbox.created_at,
        removed_at=mailbox.removed_at,
    )


def _show_run(run: RunRecord) -> SyncRunAnswer:
    return SyncRunAnswer(
        id=run.id,
        kind="backfill" if run.kind == runs.BACKFILL else "sync",
        mailbox_id=run.mailbox_id or "",
        state=run.state,
        trigger=run.trigger,
        actor=str(run.actor),
        requested_at=run.started_at,
        finished_at=run.finished_at,
        counts={name: count for name, count in run.counts.items() if isinstance(count, int)},
        detail=run.detail,
        days=run.days,
    )
