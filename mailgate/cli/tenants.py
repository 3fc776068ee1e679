"""`tenant add`, `tenant list`, `tenant plan`, `tenant erase`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.cli.purge import finish
from mailgate.clock import Instant, to_rfc3339
from mailgate.store import tenants
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.tenant_erasure import Reason
from mailgate.store.tenants import Tenant
from mailgate.tenants.entitlements import Entitlements

app = typer.Typer(help="Customers of the CRM, and the plans they are on.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

_PAGE = 200


def _tenant_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) or text in (".", ".."):
        raise typer.BadParameter(
            "a tenant id has 1 to 64 letters, digits, dots, underscores and hyphens, and is not `.` or `..`"
        )
    return text


TenantId = Annotated[str, typer.Argument(metavar="TENANT", parser=_tenant_id)]


@app.command()
def add(
    tenant: TenantId,
    name: Annotated[str | None, typer.Option(help="For people; the id by default.")] = None,
    *,
    json: Json = False,
) -> None:
    """Make a tenant, or rename it. New tenants are on plan free."""

    async def work() -> dict[str, Any]:
        async with session.opened(writes=True) as core:
            found, made = await tenants.put(core.db, core.ring, core.log, tenant, name or tenant, core.clock(), COMMAND)
            return {"id": found.id, "name": found.name, "made": made}

    found = session.run(work())
    if json:
        session.show_json(found)
    else:
        session.say(f"tenant {found['id']} {'made, on plan free' if found['made'] else 'renamed'}")


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """All tenants with their plans."""

    async def work() -> list[dict[str, Any]]:
        async with session.opened() as core:
            found = await session.every(lambda after: tenants.list_page(core.db, after=after, limit=_PAGE))
            holds = await core.subscriptions.all_entitlements(core.clock())  # last: it knows who came meanwhile
            return [_show(tenant, holds[tenant.id]) for tenant in found]

    found = session.run(work())
    if json:
        session.show_json(found)
        return
    rows = [
        [item["id"], item["name"], item["plan"], item["status"], str(item["retention_days"]), item["period_end"] or "-"]
        for item in found
    ]
    session.show_table("Tenants", ["id", "name", "plan", "status", "days", "until"], rows)


@app.command()
def plan(
    tenant: TenantId,
    plan: Annotated[str, typer.Argument(metavar="PLAN")],
    until: Annotated[
        Instant | None, typer.Option(metavar="TIME", parser=session.instant, help="End of the period (RFC 3339).")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Put the tenant on a plan from now on. On free, connections end and unattached copies become due."""

    async def work() -> dict[str, Any]:
        async with session.opened(writes=True) as core:
            change = SubscriptionChange(plan, period_end=until)
            holds = await core.subscriptions.set_outright(tenant, change, core.clock(), COMMAND)
            return {"tenant": tenant, "plan": holds.plan, "sync": holds.sync, "retention_days": holds.retention_days}

    holds = session.run(work())
    if json:
        session.show_json(holds)
    else:
        sync = "synchronized" if holds["sync"] else "not synchronized"
        session.say(f"tenant {tenant} is on plan {holds['plan']}: {sync}, {holds['retention_days']} days")


@app.command()
def erase(
    tenant: TenantId,
    reason: Annotated[Reason, typer.Option(help="Why; it stands in the purge log.")] = Reason.OFFBOARDING,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Erase a tenant: mail, pins, settings, subscription, keys. Only its purge log stays. There is no way back.

    Refused while a hold stands. Cut, it is finished by running it again, or by a gateway that runs. Exit code 1 when
    something could not be erased yet.
    """
    if not yes:
        typed = typer.prompt(f"Everything of tenant {tenant} will be gone for good. Type its id to go on", err=True)
        if typed.strip() != tenant:
            session.fail("this is another id: nothing was done", session.USAGE)

    async def work() -> dict[str, Any]:
        async with session.opened(writes=True) as core:
            await core.tenant_erasures.begin(tenant, reason, COMMAND)
            with session.err.status("erasing"):
                await core.tenant_erasures.work()
                await finish(core)
                await core.tenant_erasures.work()
                await finish(core)
            found = await core.tenant_erasures.begin(tenant, reason, COMMAND)
            return {
                "tenant": tenant,
                "state": "erasing" if found.erased_at is None else "erased",
                "reason": found.reason.value,
                "run": found.run_id,
                "purged": found.purged,
                "bytes": found.bytes,
            }

    done = session.run(work())
    if json:
        session.show_json(done)
    else:
        session.say(
            f"tenant {tenant} is {'erased' if done['state'] == 'erased' else 'being erased'}: "
            f"{done['purged']} copies purged ({done['bytes']} bytes), run {done['run']}"
        )
        if done["state"] != "erased":
            session.say("some of its bytes could not be erased yet: the gateway tries again, or run this again")
    raise typer.Exit(0 if done["state"] == "erased" else session.FAILED)


def _show(tenant: Tenant, holds: Entitlements) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "name": tenant.name,
        "plan": holds.plan,
        "status": holds.status.value,
        "sync": holds.sync,
        "retention_days": holds.retention_days,
        "period_end": None if holds.period_end is None else to_rfc3339(holds.period_end),
    }
