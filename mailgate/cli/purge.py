"""`purge`: one purge now, or what one would do."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.app.core import Core
from mailgate.cli import session
from mailgate.clock import Instant, to_rfc3339
from mailgate.jobs.erase import EraseWorker
from mailgate.store import overview, runs, tenants
from mailgate.store.erasures import Erasures

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def purge(
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; nothing is changed.")] = False,
    at: Annotated[
        Instant | None,
        typer.Option(metavar="TIME", parser=session.instant, help="With --dry-run: as if it were then (RFC 3339)."),
    ] = None,
    approve_clock: Annotated[bool, typer.Option(help="Purge although the clock jumped; named in the log.")] = False,
    json: Json = False,
) -> None:
    """Purge every copy that is due, unpinned and unheld. Reaches no mail server. Exit code 1 when it was halted."""
    if at is not None and not dry_run:
        raise typer.BadParameter("--at needs --dry-run: a purge judges by the time it runs")

    async def work() -> dict[str, Any]:
        async with session.opened() as core:
            with session.err.status("counting" if dry_run else "purging"):
                run = await core.retention.run(
                    actor=COMMAND,
                    tenant_id=tenant,
                    dry_run=dry_run,
                    at=at,
                    trigger="command",
                    approve_clock=approve_clock,
                )
                if not dry_run:
                    await _finish(core)
            return {
                "run": None if dry_run else run.id,
                "state": run.state,
                "now": to_rfc3339(run.now_at),
                "dry_run": dry_run,
                **run.counts,
                "detail": run.detail,
            }

    result = session.run(work())
    if json:
        session.show_json(result)
    else:
        kept = ", ".join(f"{count} {reason}" for reason, count in result["kept"].items()) or "none"
        verb = "would go" if dry_run else "purged"
        session.say(f"{result['state']} at {result['now']}: {result['purged']} {verb} ({result['bytes']} bytes)")
        session.say(f"of age but kept: {kept}; failed: {result['failed']}")
        if result["detail"]:
            session.say(result["detail"])
    raise typer.Exit(session.FAILED if result["state"] in (runs.HALTED, runs.FAILED) or result["failed"] else 0)


async def _finish(core: Core) -> None:
    """What follows a purge, also when no gateway runs beside: the bytes are erased, the logs signed."""
    await EraseWorker(Erasures(core.db, core.log), core.blobs, core.clock, core.owner).work()
    for tenant_id in await overview.unsigned_logs(core.db):
        await core.log_reader.checkpoint(await tenants.get(core.db, tenant_id), core.clock())
