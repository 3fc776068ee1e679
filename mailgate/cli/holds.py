"""`hold place`, `hold list`, `hold release`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.clock import to_rfc3339
from mailgate.errors import UnavailableError
from mailgate.store import tenants
from mailgate.store.legal_holds import Hold, Scope
from mailgate.store.log_reading import LogDivergedError

if TYPE_CHECKING:
    from mailgate.app.core import Core

app = typer.Typer(help="Stops on purging for compliance matters.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
TenantId = Annotated[str, typer.Argument(metavar="TENANT")]

_PAGE = 200


@app.command()
def place(
    tenant: TenantId,
    matter: Annotated[str, typer.Option(help="The name of the matter; it stands in the purge log in clear.")],
    reason: Annotated[str, typer.Option(help="Why; the purge log has a commitment to it.")],
    mailbox: Annotated[str | None, typer.Option(metavar="ID", help="Only this mailbox.")] = None,
    message: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this message; repeat it.")] = None,
    *,
    json: Json = False,
) -> None:
    """Stop the purge of a tenant, of one mailbox, or of some messages."""
    if mailbox is not None and message:
        raise typer.BadParameter("a hold is on --mailbox or on --message, not on both")
    scope = Scope(mailbox, tuple(message or ()))

    async def work() -> Hold:
        async with session.opened(writes=True) as core:
            hold = await core.holds.place(tenant, scope, matter=matter, reason=reason, now=core.clock(), actor=COMMAND)
            await _sign(core, tenant)
            return hold

    _say(session.run(work()), json=json)


@app.command(name="list")
def list_(
    tenant: TenantId,
    *,
    standing: Annotated[bool, typer.Option("--standing", help="Without those that were released.")] = False,
    json: Json = False,
) -> None:
    """A tenant's holds, newest first."""

    async def work() -> list[dict[str, Any]]:
        async with session.opened() as core:
            await tenants.get(core.db, tenant)
            found = await session.every(
                lambda after: core.holds.list_page(tenant, standing=standing or None, after=after, limit=_PAGE)
            )
            return [_show(hold) for hold in found]

    found = session.run(work())
    if json:
        session.show_json(found)
    else:
        columns = ["id", "scope", "matter", "placed_at", "protects_until"]
        session.show_table("holds", columns, [[str(hold[name] or "") for name in columns] for hold in found])


@app.command()
def release(
    tenant: TenantId,
    hold: Annotated[str, typer.Argument(metavar="HOLD")],
    reason: Annotated[str, typer.Option(help="Why; the purge log has a commitment to it.")],
    *,
    json: Json = False,
) -> None:
    """End a hold. What it covered stays for `retention.hold_release_days` more."""

    async def work() -> Hold:
        async with session.opened(writes=True) as core:
            released = await core.holds.release(tenant, hold, reason=reason, now=core.clock(), actor=COMMAND)
            await _sign(core, tenant)
            return released

    _say(session.run(work()), json=json)


async def _sign(core: Core, tenant_id: str) -> None:
    """The log outside knows of it then, and a backup that is restored does not forget it."""
    try:
        await core.log_reader.checkpoint(await tenants.get(core.db, tenant_id), core.clock())
    except (LogDivergedError, UnavailableError) as error:
        session.warn(f"done, but the purge log can't be signed now: {error.detail}")


def _say(hold: Hold, *, json: bool) -> None:
    shown = _show(hold)
    if json:
        session.show_json(shown)
    elif hold.protects_until_at is None:
        session.say(f"hold {hold.id} stands on {shown['scope']}: {hold.matter}")
    else:
        session.say(f"hold {hold.id} was released and protects until {shown['protects_until']}")


def _show(hold: Hold) -> dict[str, Any]:
    of_what = {"tenant": "tenant", "mailbox": f"mailbox {hold.mailbox_id}", "messages": f"{hold.messages} messages"}
    return {
        "id": hold.id,
        "scope": of_what[hold.kind],
        "matter": hold.matter,
        "reason": hold.reason,
        "placed_at": to_rfc3339(hold.placed_at),
        "placed_by": hold.placed_by,
        "released_at": None if hold.released_at is None else to_rfc3339(hold.released_at),
        "protects_until": None if hold.protects_until_at is None else to_rfc3339(hold.protects_until_at),
    }
