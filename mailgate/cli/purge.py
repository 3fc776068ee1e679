"""`purge`: one purge now, or what one would do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.clock import Instant, to_rfc3339
from mailgate.store import leftovers, overview, runs, tenants
from mailgate.store.erasures import Erasures
from retention.ledger.report import counted

if TYPE_CHECKING:
    from mailgate.app.core import Core
    from retention.engine import Preview

_WARNED = 20
"""Tenants that are named at which the brake would halt a purge."""

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def purge(
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; nothing is changed.")] = False,
    at: Annotated[
        Instant | None,
        typer.Option(metavar="TIME", parser=session.instant, help="With --dry-run: as if it were then (RFC 3339)."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="PLAN", help="With --dry-run: as if this plan began then.")
    ] = None,
    approve_brake: Annotated[
        bool, typer.Option(help="Purge although it takes improbably many copies; named in the log.")
    ] = False,
    approve_up_to: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="COPIES",
            help="With --approve-brake: of a tenant's copies at most so many; else those the last purge halted at.",
        ),
    ] = None,
    approve_clock: Annotated[bool, typer.Option(help="Purge although the clock jumped; named in the log.")] = False,
    json: Json = False,
) -> None:
    """Purge every copy that is due, unpinned and unheld. Reaches no mail server. Exit code 1 when it was halted."""
    if at is not None and not dry_run:
        raise typer.BadParameter("--at needs --dry-run: a purge judges by the time it runs")
    if plan is not None and not dry_run:
        raise typer.BadParameter("--plan needs --dry-run: a purge judges by the plan that holds")
    if approve_up_to is not None and not approve_brake:
        raise typer.BadParameter("--approve-up-to needs --approve-brake: it says of how many copies that is")

    async def work() -> dict[str, Any]:
        async with session.opened(writes=not dry_run) as core:
            with session.err.status("counting" if dry_run else "purging"):
                if dry_run:
                    return _previewed(await core.retention.preview(tenant, at, plan))
                cut = await runs.unfinished(core.db)
                run = await core.retention.run(
                    actor=COMMAND,
                    tenant_id=tenant,
                    trigger=runs.COMMAND,
                    approve_clock=approve_clock,
                    approve_brake=approve_brake,
                    approve_up_to=approve_up_to,
                )
                await finish(core)
                left, why = await Erasures(core.db, core.log).failed(tenant)
                ended = [await core.retention.get(id_) for id_ in cut]
            return {
                "run": run.id,
                "state": run.state,
                "now": to_rfc3339(run.now_at),
                "dry_run": False,
                **run.counts,
                "detail": run.detail,
                "ended_before": [
                    {"run": each.id, "state": each.state, "purged": each.counts["purged"]} for each in ended
                ],
                "not_erased": left,
                "erase_error": why,
            }

    result = session.run(work())
    if json:
        session.show_json(result)
    else:
        for each in result["ended_before"]:
            session.say(f"run {each['run']}, which had been cut off: {each['state']}, {each['purged']} purged in all")
        verb = "would go" if dry_run else "purged"
        session.say(f"{result['state']} at {result['now']}: {result['purged']} {verb} ({result['bytes']} bytes)")
        session.say(f"of age but kept: {_listed(result['kept'])}; failed: {result['failed']}")
        if left := result["not_erased"]:
            session.say(not_erased(left, result["erase_error"]))
        if dry_run:
            session.say(f"why they would go: {_listed(_copies(result['due']))}")
            session.say(f"what stays of all copies: {_listed(_copies(result['stays']))}")
            _warn(result["halted_at"])
        if result["detail"]:
            session.say(result["detail"])
        if approval := _approval(result, tenant):
            session.say(approval)
    raise typer.Exit(session.FAILED if result["state"] in (runs.HALTED, runs.FAILED) or result["failed"] else 0)


def _approval(result: dict[str, Any], tenant: str | None) -> str | None:
    """What to type to approve what stopped the purge, if something did that can be approved."""
    if result["state"] != runs.HALTED:
        return None
    command = "mailgate purge" if tenant is None else f"mailgate purge --tenant {tenant}"
    detail = str(result["detail"])
    if "approve_brake" in detail:
        return f"to approve as many as that: {command} --approve-brake; another number: --approve-up-to N as well"
    return f"to approve it: {command} --approve-clock" if "approve_clock" in detail else None


def _warn(halted_at: dict[str, int]) -> None:
    """That the brake would stop the purge which was looked at."""
    for tenant_id, going in [*halted_at.items()][:_WARNED]:
        session.say(f"the brake would halt it for tenant {tenant_id}: {going} would go at once, so none of them do")
    if len(halted_at) > _WARNED:
        session.say(f"and for {len(halted_at) - _WARNED} tenants more (--json names them)")
    if halted_at:
        session.say("if it is meant, the purge takes them with --approve-brake")


def _previewed(preview: Preview) -> dict[str, Any]:
    return {
        "run": None,
        "state": runs.COMPLETED,
        "now": to_rfc3339(preview.now_at),
        "dry_run": True,
        **preview.counts.to_json(),
        "due": {str(reason): asdict(sum_) for reason, sum_ in preview.due.items()},
        "halted_at": dict(preview.halted_at),
        "stays": {str(kept_by): asdict(sum_) for kept_by, sum_ in preview.kept.items()},
        "detail": None,
        "ended_before": [],
        "not_erased": 0,
        "erase_error": None,
    }


def _copies(sums: dict[str, dict[str, int]]) -> dict[str, int]:
    return {fate: sum_["copies"] for fate, sum_ in sums.items()}


def not_erased(count: int, why: str | None) -> str:
    """What is said of bytes that could not be erased yet."""
    return (
        f"bytes of {counted(count, 'blob')} could not be erased yet: {why}; no key opens them any more, and the "
        "gateway tries again"
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {fate}" for fate, count in counts.items()) or "none"


async def finish(core: Core) -> None:
    """What follows a purge, also when no gateway runs beside: bytes and words are erased, the logs signed."""
    from mailgate.jobs.erase import EraseWorker

    await EraseWorker(Erasures(core.db, core.log), core.blobs, core.clock, core.owner).work()
    await leftovers.sweep(core.db)
    for tenant_id in await overview.unsigned_logs(core.db):
        await core.log_reader.checkpoint(await tenants.get(core.db, tenant_id, erased=True), core.clock())
