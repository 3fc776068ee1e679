"""`init`, `serve`, `migrate`, `doctor`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from mailgate import logs
from mailgate.cli import session
from mailgate.cli.users import add_user, new_password
from mailgate.configuration import example
from mailgate.settings import ADMIN_TOKEN_VARIABLE
from mailgate.store import installation, migrate, tokens, users
from mailgate.store.tokens import Scope
from mailgate.store.users import Role
from retention.ledger.report import counted

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def init(
    *,
    print_config: Annotated[bool, typer.Option(help="Print every setting with its default, and do nothing.")] = False,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also add the first admin of the pages; asks for a password.")
    ] = None,
    password_stdin: Annotated[bool, typer.Option(help="Read that password from standard input.")] = False,
    json: Json = False,
) -> None:
    """Make what a new installation needs: folders, keys, database, the name of its purge log, the first admin token."""
    if print_config:
        sys.stdout.write(example())
        return
    from mailgate.app.core import Secrets

    password = None if user is None else new_password(user, from_stdin=password_stdin)

    async def work() -> dict[str, Any]:
        async with session.opened(create=True) as core:
            async with core.db.read() as conn:
                origin = await installation.read(conn, installation.LEDGER_ORIGIN)
            made: dict[str, Any] = {
                "data_dir": str(core.settings.data_dir.absolute()),
                "ledger_origin": origin,
                "token": None,
                "user": None,
            }
            if Secrets.from_environment().admin_token is None and not await tokens.any_admin(core.db):
                _, secret = await tokens.create(core.db, name="first admin", scopes=[Scope.ADMIN], now=core.clock())
                made["token"] = secret
            if user is not None and password is not None:
                made["user"] = (await add_user(core, user, Role.ADMIN, None, password)).name
            made["pages_have_admin"] = await users.any_admin(core.db)
            return made

    made = session.run(work())
    if json:
        session.show_json(made)
        return
    session.say(f"ready: state in {made['data_dir']}, purge log {made['ledger_origin']}")
    if made["token"]:
        session.say(f"the first admin token, shown only now: {made['token']}")
    else:
        session.say(f"an admin token is there already (or {ADMIN_TOKEN_VARIABLE} gives one)")
    if not made["pages_have_admin"]:
        session.say("nobody can sign in to the pages yet: mailgate user add NAME --role admin")
    session.say("next: mailgate serve")


def serve() -> None:
    """Run the gateway until SIGTERM or Ctrl-C; a second signal ends it at once."""
    from mailgate.app.core import Secrets
    from mailgate.app.serve import serve as serve_until_stopped

    with session.faults():
        settings = session.settings()
        logs.configure(settings.log)
        secrets = Secrets.from_environment()
    session.run(serve_until_stopped(settings, secrets))


def migrate_command(*, json: Json = False) -> None:
    """Bring the database to the schema of this program. Cut, it leaves the old one."""
    with session.faults():
        settings = session.settings()
        before = migrate.current(settings.database_url)
        migrate.upgrade(settings.database_url)
    after = migrate.newest()
    if json:
        session.show_json({"before": before, "after": after})
    elif before == after:
        session.say(f"the schema is {after} already")
    else:
        session.say(f"the schema was {before or 'not there'} and is {after} now")


def doctor(
    *,
    deep: Annotated[bool, typer.Option(help="Also read, decrypt and compare every stored message.")] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Have bytes that were found missing or damaged fetched from the mail servers."),
    ] = False,
    json: Json = False,
) -> None:
    """Check every invariant of the store, and what would raise an alarm. Changes nothing without --repair; exit code 1
    when something is wrong.
    """
    from mailgate.store import lost
    from mailgate.store.check import KEY_IS_THERE
    from mailgate.store.check import doctor as check_store

    async def work() -> dict[str, Any]:
        async with session.opened() as core:
            report = await check_store(core.db, core.blobs, core.ring, deep=deep)
            copies, coming = await lost.set_aside_of(core.db, report.lost, core.clock()) if repair else (0, 0)
            alarms, _ = await core.alarms.judge(core.clock())
            if unwritable := await core.alarms.unwritable(core.clock()):
                alarms = [unwritable, *alarms]
            return {
                "healthy": report.healthy,
                "checks": report.checks,
                "orphans": report.orphans,
                "blobs_read": report.blobs_read,
                "lost": len(report.lost),
                "fetched_again": coming,
                "without_original": copies - coming,
                "unreadable": [
                    {"file": pack.path, "detail": pack.why, "remedy": _remedy(pack.damaged)}
                    for pack in report.unreadable
                ],
                "findings": [
                    {"check": found.check, "tenant_id": found.tenant_id, "detail": found.detail}
                    for found in report.findings
                ],
                "alarms": [
                    {"kind": a.kind, "tenant_id": a.tenant_id, "detail": a.detail, "remedy": a.remedy} for a in alarms
                ],
            }

    report = session.run(work())
    if json:
        session.show_json(report)
    else:
        for found in report["findings"]:
            session.say(f"{found['check']}: tenant {found['tenant_id'] or '-'}: {found['detail']}")
        if any(found["check"] == KEY_IS_THERE for found in report["findings"]):
            session.say(
                "  Put back a backup of the key store (keys.url) that has it. Nothing fetches these copies again, "
                "with --repair neither; they go when their time has come"
            )
        for left in report["unreadable"]:
            session.say(f"file {left['file']} of blobs.url can't be read: {left['detail']}; nothing refers to it")
            session.say(f"  {left['remedy']}")
        if report["lost"] and not repair:
            session.say(f"lost blobs: {report['lost']}; `mailgate doctor --repair` has their copies fetched again")
            session.say("  Look first whether blobs.url is all there: what is only not mounted need not be fetched")
        if repair:
            session.say(
                f"copies to be fetched again with the next passes of their mailboxes: {report['fetched_again']}"
            )
        if report["without_original"]:
            session.say(f"copies without an original from which their bytes could come: {report['without_original']}")
        for alarm in report["alarms"]:
            whose = "" if alarm["tenant_id"] is None else f" of tenant {alarm['tenant_id']}"
            session.say(f"alarm {alarm['kind']}{whose}: {alarm['detail']}")
            session.say(f"  {alarm['remedy']}")
        verdict = "healthy" if report["healthy"] else counted(len(report["findings"]), "contradiction")
        verdict += f"; alarms: {len(report['alarms'])}" if report["alarms"] else ""
        session.say(f"{report['checks']} checks, {counted(report['blobs_read'], 'message')} read: {verdict}")
    raise typer.Exit(0 if report["healthy"] and not report["alarms"] else session.FAILED)


def _remedy(damaged: bool) -> str:
    """What to do about a file of blobs to which nothing refers."""
    if damaged:
        return "Nothing is lost, and nothing is to be done: it is removed by itself within two days"
    return "Nothing is lost. Look at the disk, and at who may read the file; it stays until its table can be read"
