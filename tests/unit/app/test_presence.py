"""Processes see which of the others were killed; who lives, or took leave, is left alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from mailgate.app.application import Application
from mailgate.app.core import Core, Secrets
from mailgate.app.presence import Presence
from mailgate.clock import DAY, HOUR, SECOND
from mailgate.settings import Settings
from mailgate.store import leases

_ANNOUNCES = """
import sys, pathlib
from mailgate.app.presence import Presence
presence = Presence(pathlib.Path(sys.argv[1]), sys.argv[2])
presence.announce()
print("here", flush=True)
sys.stdin.read()
presence.leave()
"""


def start(folder: Path, owner: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCES, str(folder), owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_who_was_killed_is_seen_once_and_who_lives_is_not(tmp_path: Path) -> None:
    ours = Presence(tmp_path, "host:1:ours")
    ours.announce()
    killed, living = start(tmp_path, "host:2:killed"), start(tmp_path, "host:3:living")
    assert ours.ended() == []
    kill(killed)
    assert ours.ended() == ["host:2:killed"]
    assert ours.ended() == []
    living.communicate("")
    assert living.returncode == 0
    assert ours.ended() == []
    assert [file.name for file in tmp_path.iterdir()] == ["ours.lock"]
    ours.leave()
    ours.leave()
    assert list(tmp_path.iterdir()) == []


def test_what_the_file_system_refuses_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    presence = Presence(tmp_path / "file", "host:1:ours")
    presence.announce()
    assert presence.ended() == []
    presence.leave()
    assert Presence(tmp_path / "missing", "host:1:ours").ended() == []


def test_a_file_without_a_name_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "cut.lock").touch()
    assert Presence(tmp_path, "host:1:ours").ended() == []
    assert list(tmp_path.iterdir()) == []


async def test_a_start_frees_what_the_killed_one_owned(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    core = await Core.open(settings, secrets=Secrets())
    now = core.clock()
    folder = tmp_path / "data" / "processes"
    killed, living = start(folder, "host:2:killed"), start(folder, "host:3:living")
    assert await leases.acquire(core.db, "mailbox:1", "host:2:killed", HOUR, now) == 1
    assert await leases.acquire(core.db, "mailbox:2", "host:3:living", HOUR, now) == 1
    kill(killed)
    again = await Core.open(settings, secrets=Secrets())
    assert await leases.acquire(again.db, "mailbox:1", again.owner, SECOND, now) == 2
    assert await leases.acquire(again.db, "mailbox:2", again.owner, SECOND, now) is None
    await again.close()
    await core.close()
    living.communicate("")
    assert list(folder.iterdir()) == []


async def test_the_living_free_it_though_the_clock_was_set_back(tmp_path: Path) -> None:
    """A command was killed beside the gateway, whose clock is a day behind what that one took its lease by."""
    core = await Core.open(Settings(data_dir=tmp_path / "data"), secrets=Secrets())
    application = Application(core)
    application.jobs.start()
    try:
        killed = start(tmp_path / "data" / "processes", "host:2:killed")
        now = core.clock()
        assert await leases.acquire(core.db, "mailbox:1", "host:2:killed", HOUR, now + DAY) == 1
        application.jobs.wake("ended")
        assert await leases.acquire(core.db, "mailbox:1", core.owner, SECOND, now) is None
        kill(killed)
        application.jobs.wake("ended")
        async with asyncio.timeout(60):
            fence = None
            while fence is None:
                await asyncio.sleep(0.01)
                fence = await leases.acquire(core.db, "mailbox:1", core.owner, SECOND, now)
        assert fence == 2
    finally:
        await application.jobs.stop()
        await core.close()
