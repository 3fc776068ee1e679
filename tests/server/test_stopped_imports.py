"""`mailgate serve` that is told to stop while another process prepares an import: it ends in order and in time, none of
its processes stays, nothing is set aside, and the next start goes on. So does an import where no process can be had.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailgate.clock import SECOND, system_clock
from tests.crash.test_deadly_mail import Served
from tests.dovecot import Account, Dovecot
from tests.sync.engine import mail
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.server

COUNT = 200

HOOK = """
import subprocess, sys, time
from pathlib import Path
folder = Path(__file__).parent
if (folder / "no processes").exists():
    def refused(*arguments):
        (folder / "refused").touch()
        raise BlockingIOError(11, "Resource temporarily unavailable")
    subprocess._fork_exec = refused
import fast_mail_parser
beside, parse = "mailgate.sync.preparing" in sys.orig_argv, fast_mail_parser.parse_email_tree
def parse_email_tree(raw, **how):
    while beside and (folder / "slow").exists():
        (folder / "reading").touch()
        time.sleep(0.01)
    if (folder / "slow").exists() and not (folder / "reading").exists():
        time.sleep(0.1)  # until the process beside has started
    return parse(raw, **how)
fast_mail_parser.parse_email_tree = parse_email_tree
"""


def family(pid: int) -> list[int]:
    """The process, and all that it and those started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path, HOOK)
    yield served
    await served.close()


@pytest.fixture
def account(plain_dovecot: Dovecot) -> Account:
    account = plain_dovecot.account()
    now = system_clock() // SECOND * SECOND
    for n in range(COUNT):
        account.add(mail(n, body=f"word{n} " * 50), received_at=now - n * SECOND)
    return account


async def all_there(served: Served, box: str, account: Account) -> None:
    """Every message once, byte for byte, and none set aside."""
    await served.until_live(box)
    found, cursor = list[bytes](), ""
    while cursor is not None:
        page = await served.get("/v1/tenants/ann/messages", limit="200", **({"cursor": cursor} if cursor else {}))
        for item in page["items"]:
            found.append((await served.request("GET", f"/v1/tenants/ann/messages/{item['id']}/raw")).content)
        cursor = page["next_cursor"]
    assert sorted(found) == sorted(raw for _, raw in account.originals("INBOX").values())
    assert (await served.get(f"{box}/quarantine"))["items"] == []


@pytest.mark.parametrize("told", ["the gateway", "all its processes"])
async def test_it_ends_and_goes_on(served: Served, account: Account, told: str) -> None:
    (served.hook / "slow").touch()
    box = await served.connect("ann", account)

    async def reading() -> bool:
        return (served.hook / "reading").exists()

    await served.until(reading)
    pids = family(served.gateway.pid)
    assert len(pids) > 2
    for pid in reversed(pids) if told == "all its processes" else pids[:1]:
        os.kill(pid, signal.SIGTERM)
    assert served.gateway.wait(PATIENCE_S) == 0, served.gateway.log()

    async def gone() -> bool:
        return not any(map(runs, pids))

    await served.until(gone)
    (served.hook / "slow").unlink()
    await all_there(served, box, account)
    assert served.deaths == [0]


async def test_it_goes_on_where_no_process_can_be_started(served: Served, account: Account) -> None:
    """A limit of processes (RLIMIT_NPROC, a container's pids.max) is met by fork."""
    served.gateway.kill()
    (served.hook / "no processes").touch()
    box = await served.connect("ann", account)
    await all_there(served, box, account)
    assert (served.hook / "refused").exists()
    assert served.deaths == [-signal.SIGKILL]
