"""An import killed with kill -9, at each of its steps and at random moments, ends after a restart as an uncut one does:
every message once, byte for byte, one event each, the counts right.
"""

from __future__ import annotations

import random
import select
from pathlib import Path

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import DAY, SECOND, system_clock
from tests.crash.import_process import STEPS
from tests.dovecot import Account, Dovecot
from tests.forks import Forked, fork
from tests.sync.engine import Engine, mail

pytestmark = [pytest.mark.crash, pytest.mark.server]

MESSAGES = 30


@pytest.fixture(scope="module")
def account(plain_dovecot: Dovecot) -> Account:
    account = plain_dovecot.account()
    now = system_clock() // SECOND * SECOND
    for n in range(MESSAGES):
        # Some equal within a folder, some equal in two folders: what dedup and recognition may confuse.
        folder = "INBOX" if n % 3 else "Archive"
        account.add(mail(n % 25, body=f"x{n % 25}" * 5_000), folder=folder, received_at=now - n % 25 * DAY)
    return account


def start(account: Account, url: str, folder: Path, step: str = "", nth: int = 0) -> Forked:
    return fork(
        "tests.crash.import_process",
        url=url,
        folder=str(folder),
        port=account.server.port,
        user=account.name,
        password=account.password,
        step=step,
        nth=nth,
    )


def finish(process: Forked) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


async def verify(account: Account, url: str, folder: Path) -> None:
    """The state is that of an uncut import."""
    engine = await Engine.open(url, folder, MemoryAccount(), clock=system_clock)  # type: ignore[arg-type]
    near = await engine.near()
    for name in ("INBOX", "Archive"):
        originals = sorted((raw, tuple(sorted(flags))) for flags, raw in account.originals(name).values())
        assert near[name] == originals
    assert len(await engine.events("message.created")) == len(await engine.rows("messages")) == MESSAGES
    assert len(await engine.events("mailbox.import_finished")) == 1
    assert (await engine.rows("mailboxes"))[0].imported_at is not None
    await engine.close()


@pytest.mark.parametrize(
    ("step", "nth"), [*((step, 1) for step in STEPS), ("put", 11), ("write", 2), ("commit", 6), ("committed", 8)]
)
async def test_killed_at_a_step(database_url: str, tmp_path: Path, account: Account, step: str, nth: int) -> None:
    cut = start(account, database_url, tmp_path, step, nth)
    cut.communicate(timeout=240)
    assert cut.returncode in (-9, 0)
    if nth == 1:
        assert cut.returncode == -9
    finish(start(account, database_url, tmp_path))
    await verify(account, database_url, tmp_path)


async def test_killed_at_random_again_and_again(database_url: str, tmp_path: Path, account: Account) -> None:
    rng = random.Random(7)
    kills = 0
    for _ in range(8):
        process = start(account, database_url, tmp_path)
        assert process.stdout.readline() == "ready\n"
        select.select([process.stdout], [], [], rng.uniform(0, 0.25))  # until it ends, or its time is over
        process.kill()
        process.communicate(timeout=240)
        kills += process.returncode == -9
    assert kills
    finish(start(account, database_url, tmp_path))
    await verify(account, database_url, tmp_path)
