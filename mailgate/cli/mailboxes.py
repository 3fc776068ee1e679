"""`mailbox add|list|verify|enable|disable|backfill` and `sync`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connectors.model import BearerAuth, Endpoint, PasswordAuth, Security
from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.clock import SECOND, to_rfc3339
from mailgate.consents.model import Consented, auth_of
from mailgate.errors import ConflictError, MailgateError, NotFoundError
from mailgate.settings import MAILBOX_PASSWORD_VARIABLE
from mailgate.store import overview, runs, tenants
from mailgate.store.mailboxes import Mailbox, MailboxPatch, MailboxSpec

if TYPE_CHECKING:
    from rich.progress import Progress

    from mailgate.app.core import Core
    from mailgate.sync.supervisor import Supervisor
    from mailgate.usecases.accounts import MailboxBody

app = typer.Typer(help="Connected accounts.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
Which = Annotated[str, typer.Argument(metavar="MAILBOX", help="Its id, or its address.")]

_PORTS = {Security.TLS: 993, Security.STARTTLS: 143, Security.NONE: 143}
_PAGE = 200
_LOOK_S = 0.25
_PATIENCE = 10 * SECOND


@app.command()
def add(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    host: Annotated[str, typer.Option(help="IMAP server.")],
    port: Annotated[int | None, typer.Option(help="993 with tls, else 143.", min=1, max=65_535)] = None,
    security: Annotated[Security, typer.Option(help="How the connection is protected.")] = Security.TLS,
    username: Annotated[str | None, typer.Option(help="The address by default.")] = None,
    owner: Annotated[str | None, typer.Option(help="The user of the CRM whose mailbox it is.")] = None,
    *,
    password_stdin: Annotated[bool, typer.Option(help="Read the password from standard input.")] = False,
    json: Json = False,
) -> None:
    """Connect an account. The password is asked for, or read from MAILGATE_MAILBOX_PASSWORD or standard input."""
    password = _password(from_stdin=password_stdin)
    account = _checked(
        {
            "address": address,
            "owner": owner,
            "imap": {
                "host": host,
                "port": port or _PORTS[security],
                "security": security.value,
                "username": address if username is None else username,
                "auth": {"password": password},
            },
        }
    )
    spec = MailboxSpec(
        address=account.address,
        owner=account.owner,
        imap={**account.imap.model_dump(exclude={"auth"}), "host": account.imap.host.lower()},
        secrets={"imap": {"password": password}},
    )

    async def work() -> Mailbox:
        async with session.opened(writes=True) as core:
            return await core.mailboxes.create(tenant, spec, core.clock(), COMMAND)

    mailbox = session.run(work())
    if json:
        session.show_json(_show(mailbox))
    else:
        session.say(f"mailbox {mailbox.id} ({mailbox.address}) is {mailbox.state}; a running gateway imports it now")


@app.command(name="list")
def list_(tenant: Annotated[str, typer.Argument(metavar="TENANT")], *, json: Json = False) -> None:
    """A tenant's accounts and how they are."""

    async def work() -> list[Mailbox]:
        async with session.opened() as core:
            await tenants.get(core.db, tenant)
            found = await session.every(lambda after: core.mailboxes.list_page(tenant, after=after, limit=_PAGE))
            return [mailbox.as_of(core.clock()) for mailbox in found]

    found = session.run(work())
    if json:
        session.show_json([_show(mailbox) for mailbox in found])
        return
    rows = [
        [box.id, box.address, box.state, box.state_reason or "", f"{box.progress_done}/{box.progress_total}"]
        for box in found
    ]
    session.show_table("Mailboxes", ["id", "address", "state", "reason", "imported"], rows)


@app.command()
def verify(mailbox: Which, *, json: Json = False) -> None:
    """Try the account's stored settings, step by step, for reading and for sending; says what to do. Exit code 1 when
    one fails.
    """
    from mailgate.app.verify import SmtpVerifier, Verifier, tls_context
    from mailgate.usecases.remedies import remedy_of

    async def work() -> tuple[bool, list[dict[str, Any]]]:
        async with session.opened() as core:
            box = await _find(core, mailbox)
            await _require_sync(core, box)
            secrets = await core.mailboxes.secrets(box.id)
            tried = [
                await Verifier(core.settings, tls_context())(*await _account(core, box.id, box.imap, secrets["imap"]))
            ]
            if box.smtp is not None:
                sending = SmtpVerifier(core.settings, tls_context())
                account = await _account(core, box.id, box.smtp, secrets["smtp"])
                tried.append(await sending(*account, sender=box.address))
            steps = [step._asdict() | {"remedy": remedy_of(step.reason)} for found in tried for step in found.steps]
            return all(found.ok for found in tried), steps

    ok, steps = session.run(work())
    if json:
        session.show_json({"ok": ok, "steps": steps})
    else:
        for step in steps:
            session.say(f"{'ok    ' if step['ok'] else 'failed'}  {step['step']:<12} {step['detail']}".rstrip())
            if step["remedy"]:
                session.say(f"{'':<21}{step['remedy']}")
    raise typer.Exit(0 if ok else session.FAILED)


@app.command()
def enable(mailbox: Which, *, json: Json = False) -> None:
    """Switch an account on again; nothing needs to be set up anew."""
    _switch(mailbox, enabled=True, as_json=json)


@app.command()
def disable(mailbox: Which, *, json: Json = False) -> None:
    """Switch an account off: its connections are closed within a second, everything is kept."""
    _switch(mailbox, enabled=False, as_json=json)


@app.command()
def backfill(
    mailbox: Which,
    *,
    days: Annotated[int, typer.Option(help="How far back; at most the days that the plan keeps mail.", min=1)],
    json: Json = False,
) -> None:
    """Fetch older mail again, purged mail included. A running gateway does it; `sync --once` does it here."""

    async def work() -> dict[str, Any]:
        async with session.opened(writes=True) as core:
            box = await _find(core, mailbox)
            run_id = await core.wishes.backfills.ask(box.tenant_id, box.id, days, core.clock(), COMMAND)
            run = await runs.get(core.db, run_id)
            return {"run": run.id, "state": run.state, "days": run.days}

    result = session.run(work())
    if json:
        session.show_json(result)
    else:
        session.say(f"backfill of {result['days']} days is {result['state']}: run {result['run']}")


def sync(
    mailbox: Which,
    *,
    once: Annotated[bool, typer.Option(help="Make the pass here, without a running gateway.")] = False,
    json: Json = False,
) -> None:
    """One pass over an account now, with its progress. Exit code 1 when it fails."""
    from mailgate.app.outside import imap_connector, supervisor_of
    from mailgate.app.verify import tls_context

    async def work() -> dict[str, Any]:
        async with session.opened(writes=True) as core:
            box = await _find(core, mailbox)
            if not box.enabled:
                raise ConflictError("this mailbox is switched off; `mailgate mailbox enable` switches it on")
            await _require_sync(core, box)
            supervisor = supervisor_of(core, imap_connector(core, tls_context()))
            run_id = await supervisor.sync_now(box.id, box.tenant_id, str(COMMAND))
            here = _here(core, supervisor, box.id, run_id) if once else _ended(core, run_id)
            passing = asyncio.create_task(here)
            with _bar(shown=not json) as bar:
                task = bar.add_task(box.address, total=None)
                while not passing.done():
                    await asyncio.wait({passing}, timeout=_LOOK_S)
                    box = await core.mailboxes.get(box.tenant_id, box.id)
                    bar.update(task, completed=box.progress_done, total=box.progress_total or None)
            await passing
            run = await runs.get(core.db, run_id)
            return {"run": run.id, "state": run.state, "counts": dict(run.counts), "detail": run.detail}

    result = session.run(work())
    if json:
        session.show_json(result)
    else:
        counts = ", ".join(f"{count} {name}" for name, count in result["counts"].items())
        session.say(f"{result['state']}: {counts or result['detail'] or 'nothing changed'}")
    raise typer.Exit(session.FAILED if result["state"] == runs.FAILED else 0)


async def _here(core: Core, supervisor: Supervisor, mailbox_id: str, run_id: str) -> None:
    """The pass in this process; by the gateway that runs beside this command when that has the mailbox."""
    try:
        await supervisor.sync_once(mailbox_id, [run_id])
    except MailgateError as error:
        if error.slug != "lease_busy":
            raise
        await _ended(core, run_id)


async def _ended(core: Core, run_id: str) -> None:
    """Until the gateway that runs beside this command has made the pass."""
    told = False
    began = core.clock()
    while (await runs.get(core.db, run_id)).state in (runs.QUEUED, runs.RUNNING):
        if not told and core.clock() - began > _PATIENCE:
            told = True
            session.err.print("waiting for a running gateway; with --once the pass is made here")
        await asyncio.sleep(_LOOK_S)


def _bar(*, shown: bool) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=session.err,
        disable=not shown or not session.err.is_terminal,
        transient=True,
    )


def _switch(which: str, *, enabled: bool, as_json: bool) -> None:
    async def work() -> Mailbox:
        async with session.opened(writes=True) as core:
            box = await _find(core, which)
            return await core.mailboxes.update(
                box.tenant_id, box.id, MailboxPatch(enabled=enabled), core.clock(), COMMAND
            )

    mailbox = session.run(work())
    if as_json:
        session.show_json(_show(mailbox))
    else:
        session.say(f"mailbox {mailbox.id} ({mailbox.address}) is {mailbox.state}")


async def _find(core: Core, which: str) -> Mailbox:
    """By id, or by an address that only one connected account has."""
    found = await overview.find_mailboxes(core.db, which)
    if not found:
        raise NotFoundError(f"there is no mailbox {which!r}", slug="mailbox_not_found")
    if len(found) > 1:
        ids = ", ".join(f"{mailbox_id} of tenant {tenant_id}" for tenant_id, mailbox_id in found)
        raise ConflictError(f"several accounts have this address: {ids}; give the id", slug="mailbox_ambiguous")
    return await core.mailboxes.get(*found[0])


async def _require_sync(core: Core, box: Mailbox) -> None:
    holds = await core.subscriptions.allowed(box.tenant_id, core.clock())
    if not holds.sync:
        raise ConflictError(f"plan {holds.plan} has no synchronization", slug="not_entitled")


async def _account(
    core: Core, mailbox_id: str, settings: Mapping[str, Any], secret: Mapping[str, Any]
) -> tuple[Endpoint, PasswordAuth | BearerAuth]:
    endpoint = Endpoint(settings["host"], settings["port"], Security(settings["security"]))
    auth = auth_of(settings["username"], secret)
    if isinstance(auth, Consented):
        return endpoint, await core.tokens.bearer(mailbox_id, auth.username)
    return endpoint, auth


def _checked(values: dict[str, Any]) -> MailboxBody:
    """What the HTTP interface would accept, and nothing else."""
    from pydantic import ValidationError

    from mailgate.usecases.accounts import MailboxBody

    try:
        return MailboxBody.model_validate(values)
    except ValidationError as error:
        faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise typer.BadParameter("; ".join(faults)) from None


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = os.environ.get(MAILBOX_PASSWORD_VARIABLE) or ""
        if not password and sys.stdin.isatty():
            password = typer.prompt("Password", hide_input=True, err=True)
    if not password:
        raise typer.BadParameter(f"no password: use --password-stdin, or set {MAILBOX_PASSWORD_VARIABLE}")
    return password


def _show(box: Mailbox) -> dict[str, Any]:
    return {
        "id": box.id,
        "tenant_id": box.tenant_id,
        "address": box.address,
        "enabled": box.enabled,
        "state": box.state,
        "state_reason": box.state_reason,
        "progress": {"done": box.progress_done, "total": box.progress_total},
        "last_checked_at": None if box.last_checked_at is None else to_rfc3339(box.last_checked_at),
        "imap": dict(box.imap),
    }
