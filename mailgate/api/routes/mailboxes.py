"""Mailboxes: connecting accounts, switching them on and off, seeing how they are."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from connectors.model import Endpoint, PasswordAuth, Security
from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.routes.folders import show_folder
from mailgate.api.routes.mailbox_models import (
    Account,
    AccountAnswer,
    AccountPatch,
    BackfillBody,
    FolderRules,
    MailboxAnswer,
    MailboxBody,
    MailboxPatchBody,
    ProgressAnswer,
    SyncRunAnswer,
    VerifyAnswer,
    VerifyBody,
    VerifyStep,
)
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.api.services import Services
from mailgate.api.types import ObjectId
from mailgate.clock import SECOND, Instant
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.store import overview, runs, tenants
from mailgate.store.mailboxes import Mailbox, MailboxPatch, MailboxSpec
from mailgate.store.overview import FolderRow, Waiting
from mailgate.store.runs import RunRecord
from mailgate.store.tokens import Scope
from mailgate.sync.port import MailboxState

router = APIRouter(tags=["mailboxes"])

_IN_TENANT = "/v1/tenants/{tenant_id}/mailboxes"


@router.post(_IN_TENANT, status_code=201, dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def create_mailbox(
    tenant: TenantOf, body: MailboxBody, parts: Parts, who: Who, response: Response
) -> MailboxAnswer:
    """Connect an account. Answers at once with state `connecting`; a plan without sync answers 409 `not_entitled`."""
    secrets: dict[str, Any] = {"imap": {"password": body.imap.auth.password}}
    if body.smtp is not None:
        secrets["smtp"] = {"password": body.smtp.auth.password}
    spec = MailboxSpec(
        address=body.address,
        owner=body.owner,
        shared=body.shared,
        enabled=body.enabled,
        imap=_settings(body.imap),
        smtp=None if body.smtp is None else _settings(body.smtp),
        folder_rules=body.folders.model_dump(),
        secrets=secrets,
    )
    mailbox = await parts.mailboxes.create(tenant.id, spec, parts.clock(), who.actor)
    parts.sync.changed(mailbox.id)
    response.headers["location"] = f"/v1/tenants/{tenant.id}/mailboxes/{mailbox.id}"
    return _show(mailbox, [], overview.Waiting(), parts.clock())


@router.get(_IN_TENANT, dependencies=[only(Scope.CRM)], responses=problems(400, 404))
async def list_mailboxes(tenant: TenantOf, query: Annotated[PageQuery, Query()], parts: Parts) -> Items[MailboxAnswer]:
    """The tenant's connected accounts."""
    cursors = Cursors("mailboxes", (str,), tenant.id)
    page = await parts.mailboxes.list_page(tenant.id, after=cursors.after(query.cursor), limit=query.limit)
    ids = [mailbox.id for mailbox in page.items]
    folders = await overview.folders_of(parts.db, ids)
    waiting = await overview.waiting(parts.db, ids)
    now = parts.clock()
    return cursors.page(page, lambda mailbox: _show(mailbox, folders.get(mailbox.id, []), waiting[mailbox.id], now))


@router.get(_IN_TENANT + "/{mailbox_id}", dependencies=[only(Scope.CRM)], responses=problems(404))
async def get_mailbox(tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts) -> MailboxAnswer:
    """One mailbox, its state and its folders."""
    return await _get(parts, tenant.id, mailbox_id)


@router.patch(_IN_TENANT + "/{mailbox_id}", dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def patch_mailbox(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], body: MailboxPatchBody, parts: Parts, who: Who
) -> MailboxAnswer:
    """Change settings, or switch the mailbox off and on. Switched off, its connections are closed and all is kept."""
    old = await parts.mailboxes.get(tenant.id, mailbox_id)
    secrets = {
        name: {"password": change.auth.password}
        for name, change in (("imap", body.imap), ("smtp", body.smtp))
        if change is not None and change.auth is not None
    }
    patch = MailboxPatch(
        enabled=body.enabled,
        address=body.address,
        owner=body.owner,
        shared=body.shared,
        imap=_merged(old.imap, body.imap, "imap"),
        smtp=_merged(old.smtp, body.smtp, "smtp"),
        folder_rules=None if body.folders is None else body.folders.model_dump(),
        secrets=secrets or None,
    )
    await parts.mailboxes.update(tenant.id, mailbox_id, patch, parts.clock(), who.actor)
    parts.sync.changed(mailbox_id)
    return await _get(parts, tenant.id, mailbox_id)


@router.delete(_IN_TENANT + "/{mailbox_id}", status_code=204, dependencies=[only(Scope.CRM)], responses=problems(404))
async def delete_mailbox(tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts, who: Who) -> None:
    """Disconnect the account: credentials are destroyed; copies that are neither pinned nor held will be purged."""
    await parts.mailboxes.remove(tenant.id, mailbox_id, parts.clock(), who.actor)
    parts.sync.changed(mailbox_id)


@router.post(
    _IN_TENANT + "/{mailbox_id}/sync", status_code=202, dependencies=[only(Scope.CRM)], responses=problems(404, 409)
)
async def start_sync(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], parts: Parts, who: Who
) -> SyncRunAnswer:
    """Ask for one pass over the mailbox now; the run says when it is done. One that waits already is answered again."""
    mailbox = await parts.mailboxes.get(tenant.id, mailbox_id)
    if mailbox.removed_at is not None:
        raise ConflictError("this mailbox was removed; connect the account again", slug="mailbox_removed")
    if not mailbox.enabled:
        raise ConflictError("this mailbox is switched off; switch it on with PATCH", slug="mailbox_disabled")
    await _require_sync(parts, tenant.id)
    run_id = await parts.sync.request_run(mailbox_id, tenant.id, str(who.actor), parts.clock())
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


@router.post("/v1/mailboxes/verify", dependencies=[only(Scope.CRM)], responses=problems(404, 409))
async def verify_mailbox(body: VerifyBody, parts: Parts, who: Who) -> VerifyAnswer:
    """Try settings without keeping them, for reading and, if they are given, for sending; says which step failed."""
    if not who.reaches(body.tenant_id):
        raise NotFoundError(f"there is no tenant {body.tenant_id!r}", slug="tenant_not_found")
    await tenants.get(parts.db, body.tenant_id)
    await _require_sync(parts, body.tenant_id)
    tried = [await parts.verify(*_account(body.imap))]
    if body.smtp is not None:
        tried.append(await parts.verify_smtp(*_account(body.smtp)))
    steps = [step for found in tried for step in found.steps]
    return VerifyAnswer(
        ok=all(found.ok for found in tried),
        steps=[VerifyStep(step=step, ok=ok, detail=detail) for step, ok, detail in steps],
    )


async def _require_sync(parts: Services, tenant_id: str) -> None:
    holds = await parts.subscriptions.entitlements(tenant_id, parts.clock())
    if not holds.sync:
        raise ConflictError(f"plan {holds.plan} has no synchronization", slug="not_entitled", plan=holds.plan)


async def _get(parts: Services, tenant_id: str, mailbox_id: str) -> MailboxAnswer:
    mailbox = await parts.mailboxes.get(tenant_id, mailbox_id)
    folders = await overview.folders_of(parts.db, [mailbox_id])
    waiting = await overview.waiting(parts.db, [mailbox_id])
    return _show(mailbox, folders.get(mailbox_id, []), waiting[mailbox_id], parts.clock())


def _account(account: Account) -> tuple[Endpoint, PasswordAuth]:
    endpoint = Endpoint(account.host, account.port, Security(account.security))
    return endpoint, PasswordAuth(account.username, account.auth.password)


def _settings(account: Account) -> dict[str, Any]:
    return {
        "host": account.host.lower(),
        "port": account.port,
        "security": account.security,
        "username": account.username,
    }


def _merged(old: Any, change: AccountPatch | None, name: str) -> dict[str, Any] | None:
    """The account's settings after the change; None when only credentials changed, or nothing."""
    if change is None:
        return None
    given = change.model_dump(exclude={"auth"}, exclude_none=True)
    if not given:
        return None
    if change.auth is None:
        # A stored password must not be sent to a server that its owner did not name.
        raise PreconditionError(f"changing {name} needs {name}.auth too", slug="credentials_needed")
    merged = {**(old or {}), **given}
    missing = [key for key in ("host", "port", "username") if key not in merged]
    if missing:
        raise PreconditionError(f"{name} needs {', '.join(missing)}", slug="invalid")
    return {"security": "tls", **merged, "host": str(merged["host"]).lower()}


def _progress(done: int, total: int, started_at: Instant | None, now: Instant) -> ProgressAnswer:
    elapsed = 0 if started_at is None else (now - started_at) / SECOND
    rate = round(done / elapsed, 1) if elapsed > 0 and done > 0 else None
    eta = int((total - done) / rate) if rate and total >= done else None
    return ProgressAnswer(done=done, total=total, rate=rate, eta_s=eta)


def _show(mailbox: Mailbox, folders: list[FolderRow], waiting: Waiting, now: Instant) -> MailboxAnswer:
    mailbox = mailbox.as_of(now)
    checked = mailbox.last_checked_at
    importing = mailbox.imported_at is None
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
