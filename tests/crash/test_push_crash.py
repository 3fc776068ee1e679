"""Bringing operations to the server, killed with kill -9 at every step of the journal: nothing is done twice, nothing
is lost, and both sides end as after an undisturbed run.

Each child dies at the next step, so that every state of the journal is met by a child that knows nothing but it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import DAY, SECOND, system_clock
from tests.dovecot import Account, Dovecot
from tests.forks import Forked, fork
from tests.sync.crm import Crm
from tests.sync.engine import Engine, mail

pytestmark = [pytest.mark.crash, pytest.mark.server, pytest.mark.timeout(600)]

JOURNAL = (
    ("flags", "store_flags"),
    ("move", "move"),
    ("folder_create", "create_folder"),
    ("folder_rename", "rename_folder"),
    ("folder_delete", "delete_folder"),
    ("append", "append"),
)
STEPS = [
    step
    for kind, command in JOURNAL
    for step in (f"intend:{kind}", f"sent:{kind}", f"done:{command}", f"confirmed:{kind}")
]
DELETION = ["intend:delete", "sent:delete", "done:expunge"]
HALVES = ["intend:move", "sent:move", "done:copy", "confirmed:move", "done:expunge"]


STARTS = itertools.count()
"""Each process begins so late that no answer to the one before could come any more."""


def received(n: int) -> int:
    return (system_clock() - n * DAY) // SECOND * SECOND


def start(account: Account, url: str, folder: Path, step: str = "") -> Forked:
    return fork(
        "tests.crash.push_process",
        url=url,
        folder=str(folder),
        port=account.server.port,
        user=account.name,
        password=account.password,
        step=step,
        ahead_s=next(STARTS) * 120,
    )


def ended(process: Forked) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=240)
    return process.wait(), output, errors


async def opened(url: str, folder: Path) -> Engine:
    return await Engine.open(url, folder, MemoryAccount(), clock=system_clock)  # type: ignore[arg-type]


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    return filled(dovecot)


def filled(dovecot: Dovecot) -> Account:
    account = dovecot.account()
    for n in range(6):
        # Equal ones too: what recognition may confuse.
        account.add(mail(n % 5), received_at=received(n % 5))
    client = account.imap()
    for name in ("Work", "Work/Old", "Empty"):
        client.create(name)
    client.logout()
    account.add(mail(50), folder="Archive", received_at=received(1))
    return account


async def near_and_far(engine: Engine, account: Account) -> tuple[Any, Any]:
    near = await engine.near()
    names = [row.name for row in await engine.rows("folders") if row.gone_at is None]
    far = {name: await asyncio.to_thread(account.originals, name) for name in names}
    return near, {
        name: sorted((raw, tuple(sorted(flags))) for flags, raw in originals.values())
        for name, originals in far.items()
        if originals
    }


async def begun(account: Account, url: str, folder: Path) -> Crm:
    code, _, errors = ended(await asyncio.to_thread(start, account, url, folder))
    assert code == 0, errors
    engine = await opened(url, folder)
    return Crm(engine)


async def test_killed_at_every_step(database_url: str, tmp_path: Path, account: Account) -> None:
    crm = await begun(account, database_url, tmp_path)
    moved = await crm.id(1)
    await crm.flags(2, add=["\\Flagged", "$Deal"])
    await crm.move(1, "Archive")
    await crm.create("Deals")
    await crm.rename("Work", "Jobs")
    await crm.remove("Empty")
    # The last, for what may have been appended is looked for in all folders, and what comes behind it need not wait.
    appended = await crm.append(60, "Archive", flags=["\\Seen"], received_at=received(0))
    before = len(await crm.engine.events())

    async def killed(steps: Sequence[str]) -> None:
        for step in steps:
            code, output, errors = ended(await asyncio.to_thread(start, account, database_url, tmp_path, step))
            assert code == -9, (step, output, errors)

    await killed(STEPS)
    await crm.delete(3)
    await killed(DELETION)  # the passes find out that it went
    await crm.delete(4)
    await killed(["confirmed:delete"])
    code, output, errors = ended(await asyncio.to_thread(start, account, database_url, tmp_path))
    assert code == 0, errors
    assert json.loads(output) == []  # nothing was left to do

    assert await crm.states() == ["applied"] * 8
    near, far = await near_and_far(crm.engine, account)
    assert near == far
    assert sorted(raw for raw, _ in far["Archive"]) == sorted([mail(50), mail(1), mail(60)])
    assert sorted(raw for raw, _ in far["INBOX"]) == sorted([mail(0), mail(0), mail(2)])
    assert {row.name for row in await crm.engine.rows("folders") if row.gone_at is None} >= {
        "Deals",
        "Jobs",
        "Jobs/Old",
    }
    assert "Empty" not in far
    assert (await crm.id(1), await crm.id(60)) == (moved, appended)
    events = (await crm.engine.events())[before:]
    assert sorted(e.type for e in events if e.type.startswith(("message.", "folder."))) == []
    assert [e.type for e in events].count("operation.applied") == 8
    assert len(await crm.removals()) == 2
    await crm.engine.close()


async def test_killed_between_the_halves_of_a_move(database_url: str, tmp_path: Path, plain_dovecot: Dovecot) -> None:
    """Without MOVE: after COPY, after what is known of it, after UID EXPUNGE."""
    account = filled(plain_dovecot)
    crm = await begun(account, database_url, tmp_path)
    moved = await crm.id(1)
    await crm.move(1, "Archive")
    for step in HALVES:
        code, output, errors = ended(await asyncio.to_thread(start, account, database_url, tmp_path, step))
        assert code == -9, (step, output, errors)
    code, _, errors = ended(await asyncio.to_thread(start, account, database_url, tmp_path))
    assert code == 0, errors
    assert await crm.states() == ["applied"]
    near, far = await near_and_far(crm.engine, account)
    assert near == far
    assert sorted(raw for raw, _ in far["Archive"]) == sorted([mail(50), mail(1)])
    assert await crm.id(1) == moved
    assert len(await crm.engine.rows("messages")) == 7
    assert not await crm.engine.events("message.deleted", "message.moved")
    await crm.engine.close()
