"""`key rotate`: new wrapping for what survives, the end of keys that nothing needs, another master key."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated, Any

import typer

from mailgate.actors import COMMAND
from mailgate.cli import session
from mailgate.clock import to_rfc3339
from mailgate.errors import ConfigurationError, ConflictError
from mailgate.keys import KeyStoreError, MasterKeyError, master_from_text, rotate_master
from mailgate.settings import MASTER_KEY_VARIABLE, NEW_MASTER_KEY_VARIABLE
from mailgate.store.key_epochs import Epoch, Rotated

app = typer.Typer(help="The keys that everything is encrypted under.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@app.command()
def rotate(
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant's.")] = None,
    *,
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once", help="Destroy what nothing needs now: backups of the database of before become noise."
        ),
    ] = False,
    master: Annotated[
        bool,
        typer.Option("--master", help="Change the master key instead. No gateway may use the key store meanwhile."),
    ] = False,
    json: Json = False,
) -> None:
    """Wrap what survived past months under this month's keys, and destroy old keys that nothing needs any more.

    Old keys stay for keys.keep_epochs_days, so that backups that young can be restored. A gateway that runs does all
    this by itself (keys.rotate). Cut, it is finished by running it again. With --master every key file is wrapped under
    a new master key, which is made, or given in MAILGATE_NEW_MASTER_KEY where the old one is in MAILGATE_MASTER_KEY.
    """
    if master and (tenant is not None or at_once):
        raise typer.BadParameter("--master stands alone")

    async def work() -> dict[str, Any]:
        if master:
            return await _change_master()
        async with session.opened(writes=True) as core:
            # As the gateway does by itself: a clock that is wrong must not end the time in which backups can be read.
            if (fault := await core.retention.time.anomaly(core.clock())) is not None:
                raise ConflictError(
                    f"no key is destroyed: {fault}. Set the clock right, or run `mailgate purge --approve-clock`",
                    slug="clock_anomaly",
                )
            with session.err.status("wrapping anew"):
                return _shown(await core.keys.rotate(COMMAND, tenant_id=tenant, at_once=at_once))

    done = session.run(work())
    if json:
        session.show_json(done)
    elif master:
        session.say(f"{done['files']} key files are wrapped under master key {done['master']} now; back the keys up")
    else:
        _say(done)


async def _change_master() -> dict[str, Any]:
    with contextlib.suppress(KeyStoreError, MasterKeyError):  # a change that was cut is finished
        async with session.opened(writes=True) as core:
            await core.keys.announce_master(COMMAND)  # so that the logs can say which one it was
    files = _wrap_under_new_master()
    async with session.opened(writes=True) as core:
        return {"master": core.ring.master_name, "files": files, "logs": await core.keys.announce_master(COMMAND)}


def _wrap_under_new_master() -> int:
    from mailgate.app.core import Secrets

    settings, secrets = session.settings(), Secrets.from_environment()
    given = os.environ.get(NEW_MASTER_KEY_VARIABLE)
    if (secrets.master_key is None) != (given is None):
        raise ConfigurationError(
            f"{MASTER_KEY_VARIABLE} and {NEW_MASTER_KEY_VARIABLE} are given together: the master key of now and the "
            "one to come; without both, the key store keeps its master key itself"
        )
    count = rotate_master(
        settings.keys_url, master=secrets.master_key, new_master=None if given is None else master_from_text(given)
    )
    if given is not None:
        os.environ[MASTER_KEY_VARIABLE] = given  # for the rest of this command
    return count


def _shown(done: Rotated) -> dict[str, Any]:
    return {
        "tenants": done.tenants,
        "unreadable": done.unreadable,
        "wrapped": {kind: done.wrapped[kind] for kind in ("messages", "blobs", "submissions")},
        "destroyed": [_epoch(epoch) for epoch in done.destroyed],
        "kept": [_epoch(epoch) for epoch in done.kept],
    }


def _epoch(epoch: Epoch) -> dict[str, Any]:
    until = None if epoch.until is None else to_rfc3339(epoch.until)
    return {"tenant": epoch.tenant_id, "month": f"{epoch.epoch // 100}-{epoch.epoch % 100:02}", "until": until}


def _say(done: dict[str, Any]) -> None:
    wrapped = ", ".join(f"{count} {kind}" for kind, count in done["wrapped"].items())
    session.say(f"{done['tenants']} tenants; wrapped anew: {wrapped}")
    if done["unreadable"]:
        session.say(f"{done['unreadable']} data keys don't open and stay as they are: run `mailgate doctor`")
    for gone in done["destroyed"]:
        session.say(f"destroyed: the key of {gone['month']} of tenant {gone['tenant']}")
    for kept in done["kept"]:
        why = "something needs it" if kept["until"] is None else f"until {kept['until']}, for backups"
        session.say(f"kept: the key of {kept['month']} of tenant {kept['tenant']}, {why}")
