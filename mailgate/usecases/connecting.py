"""Connecting accounts, changing them, the switch; approving guards, and trying again what was set aside."""

from __future__ import annotations

from typing import Any

from connectors.model import BearerAuth, Endpoint, PasswordAuth, Security
from mailgate.actors import Actor
from mailgate.consents.model import Given
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import guards, quarantine, tenants
from mailgate.store.guards import Guard
from mailgate.store.mailboxes import Along, Mailbox, MailboxPatch, MailboxSpec
from mailgate.store.quarantine import Entry
from mailgate.usecases import giving
from mailgate.usecases.accounts import Account, AccountPatch, MailboxBody, MailboxPatchBody
from mailgate.usecases.giving import Server
from mailgate.usecases.parts import Services, Told, Verification, untold


async def connect(
    parts: Services, tenant_id: str, body: MailboxBody, actor: Actor, *, along: Along | None = None
) -> Mailbox:
    """Keep an account's settings; the synchronization connects. Raises what `Mailboxes.create`, which does `along` as
    well, and `giving.given` raise.
    """
    return await keep(parts, tenant_id, body, giving.given(parts, servers_of(body)), actor, along=along)


async def keep(
    parts: Services,
    tenant_id: str,
    body: MailboxBody,
    given: Given | None,
    actor: Actor,
    *,
    along: Along | None = None,
) -> Mailbox:
    """The same, with a consent that was judged. Raises PreconditionError (`tokens_needed`) without one where the body
    wants one.
    """
    servers = servers_of(body)
    if given is None and any(server.auth.oauth2 is not None for server in servers):
        raise PreconditionError("oauth2 needs a refresh_token, or a person who consents", slug="tokens_needed")
    spec = MailboxSpec(
        address=body.address,
        owner=body.owner,
        shared=body.shared,
        enabled=body.enabled,
        imap=_settings(body.imap),
        smtp=None if body.smtp is None else _settings(body.smtp),
        folder_rules=body.folders.model_dump(),
        secrets={server.name: giving.secret(server.auth) for server in servers},
        given=given,
    )
    mailbox = await parts.mailboxes.create(tenant_id, spec, parts.clock(), actor, along=along)
    parts.sync.changed(mailbox.id)
    return mailbox


def servers_of(body: MailboxBody) -> list[Server]:
    """The servers of an account, and how each is logged in to."""
    accounts = [("imap", body.imap), *([] if body.smtp is None else [("smtp", body.smtp)])]
    return [Server(name, account.host.lower(), account.security, account.auth) for name, account in accounts]


async def change(
    parts: Services,
    tenant_id: str,
    mailbox_id: str,
    body: MailboxPatchBody,
    actor: Actor,
    *,
    given: Given | None = None,
) -> Mailbox:
    """Change settings, or the switch; `given`: a consent of the person's. Raises PreconditionError
    (`credentials_needed`) for a server without credentials for it, and what `giving.given` and `Mailboxes.update`
    raise.
    """
    old = await parts.mailboxes.get(tenant_id, mailbox_id)
    imap, smtp = _merged(old.imap, body.imap, "imap"), _merged(old.smtp, body.smtp, "smtp")
    servers = [
        Server(name, str(now["host"]), str(now["security"]), patch.auth)
        for name, now, patch in (("imap", imap or old.imap, body.imap), ("smtp", smtp or old.smtp, body.smtp))
        if patch is not None and patch.auth is not None and now
    ]
    given = giving.given(parts, servers) or given
    if given is None:
        await giving.require_consent(parts, mailbox_id, servers)
    patch = MailboxPatch(
        enabled=body.enabled,
        address=body.address,
        owner=body.owner,
        shared=body.shared,
        imap=imap,
        smtp=smtp,
        folder_rules=None if body.folders is None else body.folders.model_dump(),
        secrets={server.name: giving.secret(server.auth) for server in servers} or None,
        given=given,
    )
    changed = await parts.mailboxes.update(tenant_id, mailbox_id, patch, parts.clock(), actor)
    parts.sync.changed(mailbox_id)
    return changed


async def remove(parts: Services, tenant_id: str, mailbox_id: str, actor: Actor) -> None:
    """Disconnect the account for good. Raises NotFoundError."""
    await parts.mailboxes.remove(tenant_id, mailbox_id, parts.clock(), actor)
    parts.sync.changed(mailbox_id)


async def sync_now(parts: Services, tenant_id: str, mailbox_id: str, actor: Actor) -> str:
    """Queue one pass; the id of its run. Raises ConflictError: mailbox_removed, mailbox_disabled, not_entitled."""
    await _require_running(parts, tenant_id, mailbox_id)
    return await parts.sync.request_run(mailbox_id, tenant_id, str(actor), parts.clock())


async def verify(
    parts: Services,
    tenant_id: str,
    imap: Account,
    smtp: Account | None,
    *,
    sender: str | None = None,
    told: Told = untold,
) -> Verification:
    """Try settings without keeping them, for reading and, if they are given, for sending (as the address `sender`).
    Raises ConflictError (not_entitled): a tenant without synchronization has no connection at all; UnavailableError
    (too_many_checks).
    """
    await tenants.get(parts.db, tenant_id)
    await require_sync(parts, tenant_id)
    with parts.checks.place(tenant_id):
        tried = [await parts.verify(*_account(parts, "imap", imap), told=told)]
        if smtp is not None:
            tried.append(await parts.verify_smtp(*_account(parts, "smtp", smtp), sender=sender, told=told))
    return Verification(all(found.ok for found in tried), tuple(step for found in tried for step in found.steps))


async def approve_guard(parts: Services, tenant_id: str, mailbox_id: str, guard_id: str, actor: Actor) -> Guard:
    """Believe exactly the deletions that the guard names. Raises ConflictError: mailbox_removed, guard_changed."""
    mailbox = await parts.mailboxes.get(tenant_id, mailbox_id)
    if mailbox.removed_at is not None:
        raise ConflictError("this mailbox was removed; its guards are void", slug="mailbox_removed")
    now = parts.clock()
    guard = await guards.approve(parts.db, tenant_id, mailbox_id, guard_id, now=now, actor=actor)
    holds = await parts.subscriptions.allowed(tenant_id, now)
    if guard.closed_at is None and mailbox.enabled and holds.sync:
        await parts.sync.request_run(mailbox_id, tenant_id, str(actor), now)
    return guard


async def try_again(parts: Services, tenant_id: str, mailbox_id: str, entry_id: str, actor: Actor) -> tuple[Entry, str]:
    """Ask for what was set aside to be tried again; the entry, and the run that tries. Raises what `sync_now` raises,
    and NotFoundError.
    """
    await _require_running(parts, tenant_id, mailbox_id)
    now = parts.clock()
    entry = await quarantine.ask(parts.db, tenant_id, mailbox_id, entry_id, now)
    return entry, await parts.sync.request_run(mailbox_id, tenant_id, str(actor), now)


async def require_sync(parts: Services, tenant_id: str) -> None:
    """Raise ConflictError (not_entitled) when the plan has no synchronization."""
    holds = await parts.subscriptions.allowed(tenant_id, parts.clock())
    if not holds.sync:
        raise ConflictError(f"plan {holds.plan} has no synchronization", slug="not_entitled", plan=holds.plan)


async def _require_running(parts: Services, tenant_id: str, mailbox_id: str) -> None:
    mailbox = await parts.mailboxes.get(tenant_id, mailbox_id)
    if mailbox.removed_at is not None:
        raise ConflictError("this mailbox was removed; connect the account again", slug="mailbox_removed")
    if not mailbox.enabled:
        raise ConflictError("this mailbox is switched off; switch it on with PATCH", slug="mailbox_disabled")
    await require_sync(parts, tenant_id)


def _account(parts: Services, name: str, account: Account) -> tuple[Endpoint, PasswordAuth | BearerAuth]:
    endpoint = Endpoint(account.host, account.port, Security(account.security))
    auth = account.auth
    if auth.oauth2 is None:
        return endpoint, PasswordAuth(account.username, auth.password or "")
    giving.judge(parts, [Server(name, account.host.lower(), account.security, auth)])
    if auth.oauth2.access_token is None:
        # A refresh token is not tried: what its provider gives in its place would be lost.
        raise PreconditionError("trying oauth2 needs an access_token", slug="tokens_needed")
    return endpoint, BearerAuth(account.username, auth.oauth2.access_token)


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
