"""`user add|list|password|disable|enable`: who may sign in to the pages. Passwords are asked for or read from standard
input, never taken from the command line, which others on the machine can see.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailgate.cli import session
from mailgate.clock import to_rfc3339
from mailgate.store import users
from mailgate.store.users import Role, User

if TYPE_CHECKING:
    from mailgate.app.core import Core

app = typer.Typer(help="People who sign in to the pages.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
FromStdin = Annotated[bool, typer.Option(help="Read the password from standard input.")]


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="admin: everything; compliance: look, place and release holds.")],
    tenant: Annotated[str | None, typer.Option(help="Only for this tenant.")] = None,
    *,
    password_stdin: FromStdin = False,
    json: Json = False,
) -> None:
    """Add a person."""
    password = new_password(name, from_stdin=password_stdin)

    async def work() -> User:
        async with session.opened() as core:
            return await add_user(core, name, role, tenant, password)

    user = session.run(work())
    if json:
        session.show_json(_show(user))
    else:
        session.say(f"{user.name} can sign in as {user.role} at /admin")


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """Everybody, by name."""

    async def work() -> list[User]:
        async with session.opened() as core:
            return await users.every(core.db)

    found = [_show(user) for user in session.run(work())]
    if json:
        session.show_json(found)
        return
    rows = [
        [
            item["name"],
            item["role"],
            item["tenant_id"] or "all",
            "yes" if item["one_time_codes"] else "no",
            item["signed_in_at"] or "never",
            "disabled" if item["disabled_at"] else "",
        ]
        for item in found
    ]
    session.show_table("Users", ["name", "role", "tenant", "codes", "signed in", ""], rows)


@app.command()
def password(
    name: Name,
    *,
    password_stdin: FromStdin = False,
    forget_codes: Annotated[
        bool, typer.Option(help="Also stop asking for one-time codes, for who lost the device.")
    ] = False,
    json: Json = False,
) -> None:
    """Give a person a new password; every session ends."""
    from mailgate.keys.passwords import Passwords

    given = new_password(name, from_stdin=password_stdin)

    async def work() -> User:
        async with session.opened() as core:
            user = await users.named(core.db, name)
            kept = await Passwords().hash(given)
            await users.set_password(core.db, user.id, kept, core.clock(), keep=None)
            if forget_codes:
                await users.forget_codes(core.db, user.id)
            return (await users.get(core.db, user.id))[0]

    _said(session.run(work()), "has a new password, and is signed out everywhere", json=json)


@app.command()
def disable(name: Name, *, json: Json = False) -> None:
    """Let a person sign in no more; every session ends at once."""

    async def work() -> User:
        async with session.opened() as core:
            user = await users.named(core.db, name)
            await users.disable(core.db, user.id, core.clock())
            return await users.named(core.db, name)

    _said(session.run(work()), "can't sign in any more", json=json)


@app.command()
def enable(name: Name, *, json: Json = False) -> None:
    """Let a person who was disabled sign in again."""

    async def work() -> User:
        async with session.opened() as core:
            user = await users.named(core.db, name)
            await users.enable(core.db, user.id)
            return await users.named(core.db, name)

    _said(session.run(work()), "can sign in again", json=json)


def new_password(name: str, *, from_stdin: bool) -> str:
    """A password for somebody, asked for twice on a terminal, else a line of standard input. Ends the process for one
    that can't be.
    """
    from mailgate.usecases.signing_in import refuse_weak

    if from_stdin or not sys.stdin.isatty():
        given = sys.stdin.readline().rstrip("\r\n")
    else:
        given = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    with session.faults():
        refuse_weak(given, users.plain_name(name))
    return given


async def add_user(core: Core, name: str, role: Role, tenant_id: str | None, password: str) -> User:
    """Add a person to the store. Raises ConflictError (user_exists), NotFoundError, PreconditionError."""
    from mailgate.keys.passwords import Passwords

    kept = await Passwords().hash(password)
    return await users.create(core.db, name=name, role=role, tenant_id=tenant_id, password_hash=kept, now=core.clock())


def _said(user: User, what: str, *, json: bool) -> None:
    if json:
        session.show_json(_show(user))
    else:
        session.say(f"{user.name} {what}")


def _show(user: User) -> dict[str, Any]:
    times = {name: getattr(user, name) for name in ("created_at", "signed_in_at", "disabled_at")}
    return {
        "id": user.id,
        "name": user.name,
        "role": user.role.value,
        "tenant_id": user.tenant_id,
        "one_time_codes": user.totp,
        **{name: None if at is None else to_rfc3339(at) for name, at in times.items()},
    }
