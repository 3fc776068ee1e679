"""`mailgate serve` on a disk that becomes full and has room again: little is logged, and it goes on by itself."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.dovecot import Dovecot
from tests.server.two_hands import FOLDERS, Crm, Gateway, Login, Numbers
from tests.smalldisk import Disk
from tests.smalldisk import disk as disk


def _said(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "serve.log").read_text().splitlines() if line[:1] == "{"]


@pytest.mark.server
@pytest.mark.timeout(300)
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

    async def told(event: str) -> bool:
        return any(entry["event"] == event for entry in _said(tmp_path))

    gateway.start()
    try:
        await crm.connect(login, login.port)
        disk.fill()
        await asyncio.to_thread(arrive)
        await crm._until(lambda: told("supervisor_failed"))
        disk.free()
        await crm._until(lambda: told("supervisor_resumed"))
        await crm.settle()
        assert await crm.everything() == await asyncio.to_thread(login.everything)
        assert [entry for entry in _said(tmp_path) if "exception" in entry] == []
    except BaseException:
        print(gateway.log())
        raise
    finally:
        await crm.close()
        await asyncio.to_thread(gateway.stop)
