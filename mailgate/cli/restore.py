"""`restore`: after a backup of the database was restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.cli.purge import finish, not_erased
from mailgate.clock import to_rfc3339
from mailgate.errors import ConfigurationError
from mailgate.store import kept_outside, overview, tenants
from mailgate.store.check import keys_missing
from mailgate.store.erasures import Erasures
from retention.ledger.report import counted

if TYPE_CHECKING:
    from mailgate.app.core import Core

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


_TOLD_APART = ("tenant", "entries", "missing", "not_brought_back", "bytes_lost", "holds_without_mailbox", "known_until")

_LISTED = 20
"""Ids of messages that are shown of one tenant."""


def restore(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which logs are behind.")] = False,
    new_witness: Annotated[
        bool,
        typer.Option(
            "--new-witness",
            help="ledger.witness is lost or moves: begin a new one there from what the database has.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """After a backup of the database was restored: purge again what was purged since, as the purge logs outside say.

    Pins, holds, plans and erasures since the backup are set again as well, and what waited to be sent is left to a
    person. Run it before anything else; a gateway serves nothing until it is done, and goes on by itself then. Cut, it
    is finished by running it again. Harmless where nothing is behind.
    """
    if dry_run and new_witness:
        raise typer.BadParameter("--new-witness begins a new one at once: there is no --dry-run of it")

    async def work() -> dict[str, Any]:
        async with session.opened(restored=True) as core:
            if new_witness:
                return {"new_witness": await _begin_witness(core)}
            found = await core.restore.behind()
            logs = [
                {"tenant": log.tenant_id, "ref": log.tenant_ref, "have": log.have, "signed": log.signed}
                for log in found
            ]
            if dry_run:
                return {"behind": logs, "replayed": [], "unreadable": await _unreadable(core)}
            with session.err.status("replaying"):
                done = await core.restore.run(COMMAND)
                # Not before: any entry of now, behind those of a backup, would make another log of it than was signed.
                await session.announce(core)
                await core.tenant_erasures.work()
                await finish(core)
                await core.tenant_erasures.work()
                left, why = await Erasures(core.db, core.log).failed()
            replayed = [
                {
                    "tenant": each.tenant_id,
                    "entries": each.entries,
                    **each.done,
                    "missing": each.missing,
                    "not_brought_back": each.not_brought_back,
                    "bytes_lost": each.bytes_lost,
                    "holds_without_mailbox": each.holds_without_mailbox,
                    "known_until": None if each.known_until is None else to_rfc3339(each.known_until),
                }
                for each in done
            ]
            return {
                "behind": logs,
                "replayed": replayed,
                "unreadable": await _unreadable(core),
                "not_erased": left,
                "erase_error": why,
            }

    done = session.run(work())
    if json:
        session.show_json(done)
    elif new_witness:
        session.say(f"a new witness keeps {counted(done['new_witness'], 'log')} from now on")
    else:
        _tell(done, dry_run=dry_run)
    raise typer.Exit(session.FAILED if done.get("unreadable") else 0)


def _tell(done: dict[str, Any], *, dry_run: bool) -> None:
    for log in done["behind"]:
        whose = (
            f"tenant {log['tenant']}" if log["tenant"] else f"{log['ref']}, a tenant that this database does not know"
        )
        session.say(f"{whose}: {_entries(log['have'])} here, {log['signed']} signed")
    for each in done["replayed"]:
        told = ", ".join(f"{count} {what}" for what, count in each.items() if what not in _TOLD_APART)
        session.say(f"tenant {each['tenant']}: {_entries(each['entries'])} replayed: {told or 'nothing to do again'}")
        if each["missing"]:
            session.say(
                "  pins, holds and returns of copies that this backup does not have, not done again: "
                f"{each['missing']}; that mail comes under new ids, or on request where it was purged before the backup"
            )
        if ids := each["not_brought_back"]:
            session.say(
                f"  copies that were purged before the backup and brought back since, purged here: {len(ids)}; bring "
                f"them back once more (rehydrate). {'All' if len(ids) <= _LISTED else f'The first {_LISTED}'} of them "
                "(--json has all):"
            )
            for id_ in ids[:_LISTED]:
                session.say(f"    {id_}")
        for hold_id in each["holds_without_mailbox"]:
            session.say(
                f"  hold {hold_id} is on a mailbox that was connected after the backup: "
                "place one on what is connected now"
            )
        if each["bytes_lost"]:
            session.say(
                f"  copies that were purged and brought back after the backup: {each['bytes_lost']}; their bytes are "
                "fetched from the mail servers again"
            )
        if each["known_until"] is not None:
            session.say(
                f"  what was pinned or held after {each['known_until']}, the last entry that was signed, is not known"
            )
    if left := done.get("not_erased"):
        session.say(not_erased(left, done["erase_error"]))
    for lost in done["unreadable"]:
        session.say(f"tenant {lost['tenant']}: {lost['detail']}")
    if done["unreadable"]:
        session.say(
            "  the backup is older than that key was kept: restore a newer one and run this again, or put back a "
            "backup of the key store that has it"
        )
    if dry_run and not done["behind"]:
        session.say("no log is behind: the database is as new as what was signed")
    if not dry_run:
        session.say("the database is up to date with its purge logs; let the CRM pin its records again")


async def _unreadable(core: Core) -> list[dict[str, str]]:
    """What no key opens any more, of which tenant."""
    async with core.db.read() as conn:
        return [{"tenant": whose, "detail": detail} async for whose, detail in keys_missing(conn, core.ring)]


def _entries(count: int) -> str:
    return f"{count} entry" if count == 1 else f"{count} entries"


async def _begin_witness(core: Core) -> int:
    fault = core.witness.fault
    if fault is not None and "another installation" in fault:
        raise ConfigurationError(fault)
    core.witness.begin()
    await kept_outside.begin_anew(core.db)
    ids = await overview.logs(core.db)
    for tenant_id in ids:
        await core.log_reader.checkpoint(await tenants.get(core.db, tenant_id, erased=True), core.clock())
    return len(ids)
