"""`mailgate serve` on a disk that becomes full and has room again: little is logged, and it goes on by itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.dovecot import Dovecot
from tests.server.two_hands import FOLDERS, Crm, Gateway, Login, Numbers, serving
from tests.smalldisk import Disk
from tests.smalldisk import disk as disk


def _said(folder: Path) -> list[dict[str, object]]:
    whole = (folder / "serve.log").read_text().rpartition("\n")[0]  # it may be in the middle of a line
    return [json.loads(line) for line in whole.splitlines() if line[:1] == "{"]


def _outages(said: list[dict[str, object]]) -> list[tuple[int, int]]:
    """Of each time that the supervisor could do nothing: how often it tried, and how often it said so."""
    found, lines = [], 0
    for entry in said:
        lines += entry["event"] == "supervisor_failed"
        if entry["event"] == "supervisor_resumed":
            found.append((int(str(entry["times"])), lines))
            lines = 0
    return found


def _fault(entry: dict[str, object]) -> tuple[object, ...]:
    """What is wrong with what; when it is tried again is said behind a semicolon."""
    reason = str(entry.get("why") or entry.get("reason")).partition(";")[0]
    return entry["event"], entry.get("worker"), entry.get("mailbox_id"), reason


@pytest.mark.server
@pytest.mark.timeout(900)
async def test_it_goes_on_when_the_disk_is_well_again(dovecot: Dovecot, disk: Disk, tmp_path: Path) -> None:
    account, numbers = dovecot.account(), Numbers()
    login = Login(dovecot.port, account.name, account.password)

    def arrive() -> None:
        with login.imap() as line:
            assert line.append("INBOX", "", None, numbers.new()[1])[0] == "OK"

    def furnish() -> None:
        with login.imap() as line:
            for folder in FOLDERS[1:]:
                line.create(folder)
        arrive()

    await asyncio.to_thread(furnish)
    gateway = Gateway(tmp_path, MAILGATE_DATA_DIR=str(disk.folder / "data"))
    crm = Crm(gateway, numbers, random.Random(1))

    async def failed(before: int) -> bool:
        return [entry["event"] for entry in _said(tmp_path)].count("supervisor_failed") > before

    async def resumed(before: int) -> bool:
        return len(_outages(_said(tmp_path))) > before

    looks = itertools.count(1)

    async def looked_often() -> bool:
        """For some attempts; how many there were, the log says."""
        return next(looks) % 40 == 0

    async with serving(gateway, crm):
        await crm.connect(login, login.port)
        while all(times < 3 for times, _ in _outages(_said(tmp_path))):
            before = len(_outages(_said(tmp_path)))
            disk.fill()
            await asyncio.to_thread(arrive)
            await crm._until(lambda before=before: failed(before))  # type: ignore[misc]
            await crm._until(looked_often)
            disk.free()
            await crm._until(lambda before=before: resumed(before))  # type: ignore[misc]
        await crm.settle()
        assert await crm.everything() == await asyncio.to_thread(login.everything)
        said = _said(tmp_path)
        assert {lines for _, lines in _outages(said)} == {1}, said
        faults = Counter(_fault(entry) for entry in said if entry["level"] in ("warning", "error"))
        assert max(faults.values()) <= len(_outages(said)), faults
        assert [entry for entry in said if "exception" in entry] == []
