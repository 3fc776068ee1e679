"""What /readyz looks at, with the parts broken for real."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailgate.app import health
from mailgate.app.core import Core
from mailgate.app.health import checks
from mailgate.clock import SECOND, Instant
from mailgate.settings import Settings
from mailgate.usecases.parts import HealthCheck

NOW = 1_800_000_000 * SECOND


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    """An installation whose clock takes ten seconds from one look to the next, so that no answer is an old one."""
    ticks = iter(range(NOW, NOW + 10_000 * SECOND, 10 * SECOND))

    def clock() -> Instant:
        return next(ticks)

    made = await Core.open(Settings(data_dir=tmp_path / "data"))
    yield replace(made, clock=clock)
    await made.close()


@pytest.fixture
def parts(core: Core) -> dict[str, HealthCheck]:
    return checks(core, lambda: {"sync": True})


async def test_all_is_well(parts: dict[str, HealthCheck]) -> None:
    assert {name: (await check()).ok for name, check in parts.items()} == dict.fromkeys(parts, True)


async def test_the_directory_of_blobs_is_gone_and_comes_back(core: Core, parts: dict[str, HealthCheck]) -> None:
    blobs = core.settings.data_dir / "blobs"
    blobs.rename(blobs.with_name("elsewhere"))
    gone = await parts["blobs"]()
    assert not gone.ok
    assert gone.detail is not None
    assert str(blobs) in gone.detail
    blobs.mkdir()
    replaced = await parts["blobs"]()
    assert not replaced.ok
    assert replaced.detail is not None
    assert "another directory" in replaced.detail
    blobs.rmdir()
    blobs.with_name("elsewhere").rename(blobs)
    assert (await parts["blobs"]()).ok
    assert not list(blobs.glob("00/*"))


async def test_a_directory_of_blobs_that_takes_no_file(core: Core, parts: dict[str, HealthCheck]) -> None:
    folder = core.settings.data_dir / "blobs" / "00"
    folder.rmdir()
    folder.write_text("")  # permissions would not stop root
    assert not (await parts["blobs"]()).ok


async def test_who_asks_while_it_is_looked_at_gets_the_new_answer(core: Core) -> None:
    steady = replace(core, clock=lambda: NOW)
    folder = core.settings.data_dir / "blobs"
    folder.rename(folder.with_name("elsewhere"))
    blobs = checks(steady, dict)["blobs"]
    answers = await asyncio.gather(*(blobs() for _ in range(5)))
    assert [answer.ok for answer in answers] == [False] * 5
    folder.with_name("elsewhere").rename(folder)
    assert not (await blobs()).ok  # remembered for two seconds


async def test_a_program_that_holds_the_database_is_guessed_at(
    core: Core, parts: dict[str, HealthCheck], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_PATIENCE_S", 0.2)
    path = core.settings.data_dir / "mailgate.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        held = await parts["log"]()
        shell.execute("ROLLBACK")
    assert not held.ok
    assert held.detail is not None
    assert "a program that holds the database" in held.detail
    monkeypatch.undo()
    assert (await parts["log"]()).ok
