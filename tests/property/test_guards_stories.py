"""Stories about mail that goes from folders, comes back, is moved, is approved or not, with cuts: whatever happens,

* what stands at the server stands here;
* no pass removes more of a folder than is believed without a question, but for exactly what was approved;
* pinned copies stay; a guard is open exactly while the mailbox says so; in the end both sides are equal.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, Instant
from mailgate.errors import ConflictError
from mailgate.store import guards as guard_rows
from mailgate.store.migrate import upgrade
from mailgate.sync import guards
from tests.soak import examples
from tests.sync.engine import NOW, Engine, mail

FEW = 4
FOLDERS = ("INBOX", "A", "B")
SIZE = 14


class Story:
    """One gateway and one account; `happen` is a step, `end` brings both sides together."""

    def __init__(self, engine: Engine, account: MemoryAccount) -> None:
        self.engine = engine
        self.account = account
        self.number = 1000
        self.lost: list[tuple[str, bytes, int]] = []
        self.approved: set[str] = set()
        self.pinned: set[str] = set()
        self.detached: set[str] = set()
        self.believed: dict[str, list[tuple[Instant, int]]] = {}

    async def happen(self, what: str, folder: str, count: int) -> None:
        account = self.account
        uids = sorted(account.folders[folder].messages)[:count]
        match what:
            case "expunge":
                for uid in uids:
                    message = account.folders[folder].messages[uid]
                    self.lost.append((folder, message.raw, message.internal_date))
                    account.expunge(folder, uid)
            case "restore":
                back, self.lost = self.lost[-count:], self.lost[:-count]
                for name, raw, at in back:
                    account.append(name, raw, internal_date=at)
            case "move":
                for uid in uids:
                    account.move(folder, uid, FOLDERS[(FOLDERS.index(folder) + 1) % len(FOLDERS)])
            case "arrive":
                for _ in range(count):
                    self.number += 1
                    account.append(folder, mail(self.number), internal_date=NOW - HOUR)
            case "wait":
                self.engine.clock.advance(600 * count)
            case "approve":
                await self.approve(count)
            case "pin":
                rows = sorted(await self.engine.rows("messages"), key=lambda row: row.id)
                if rows:
                    chosen = rows[count % len(rows)].id
                    await self.engine.pin(chosen)
                    self.pinned.add(chosen)
            case "cut":
                account.faults.cut_after = 3 * count
        await self.sync()

    async def approve(self, which: int, *, open_: bool | None = None) -> None:
        """Some guard, open or not."""
        page = await guard_rows.list_page(self.engine.db, "acme", self.engine.mailbox_id, open_=open_, limit=100)
        if not page.items:
            return
        guard = page.items[which % len(page.items)]
        gone = await self.engine.rows("origins", lambda c: c.vanished_at.is_not(None))
        try:
            found = await guard_rows.approve(
                self.engine.db, "acme", self.engine.mailbox_id, guard.id, now=self.engine.clock(), actor=SYSTEM
            )
        except ConflictError:  # other messages are gone by now
            return
        if found.closed_at is None:
            self.approved |= {row.message_id for row in gone if row.folder_id == guard.folder_id}

    async def sync(self) -> None:
        engine = self.engine
        before = await self.state()
        engine.clock.advance(60)
        whole = True
        try:
            await engine.sync()
        except NetworkError:
            whole = False
        self.account.faults.cut_after = None
        after = await self.state()
        self.judge(before, after)
        if whole:
            near, far = await engine.near(), engine.far()
            for folder, originals in far.items():
                assert not Counter(raw for raw, _ in originals) - Counter(raw for raw, _ in near.get(folder, []))
            mailbox = (await engine.rows("mailboxes"))[0]
            page = await guard_rows.list_page(engine.db, "acme", engine.mailbox_id, open_=True, limit=100)
            assert (mailbox.state == "needs_approval") is bool(page.items)
            assert len({guard.folder_id for guard in page.items}) == len(page.items)

    async def state(self) -> dict[str, set[str]]:
        """Folder id → copies that stand there, or stood there until it is decided."""
        found: dict[str, set[str]] = {}
        for row in await self.engine.rows("origins"):
            found.setdefault(row.folder_id, set()).add(row.message_id)
        return found

    def judge(self, before: dict[str, set[str]], after: dict[str, set[str]]) -> None:
        now = self.engine.clock.now
        left = set().union(*after.values())
        assert self.pinned <= left | set().union(*before.values()) | self.detached
        for folder, copies in before.items():
            gone = copies - left - self.approved
            if not gone:
                continue
            slices = self.believed.setdefault(folder, [])
            recent = sum(count for at, count in slices if now - at < guards.WINDOW)
            stood = len(copies) + recent
            assert len(gone) + recent <= max(FEW, stood * guards.SHARE_PERCENT // 100)
            slices.append((now, len(gone)))
        self.detached |= set().union(*before.values()) - left

    async def end(self) -> None:
        """Everything is approved until nothing is left to ask for, and one more pass changes nothing."""
        settled = 0
        for _ in range(12):
            self.engine.clock.advance(HOUR / 1e6)
            await self.sync()
            settled = settled + 1 if await self.near() == self.far() and await self.mailbox() == "live" else 0
            if settled == 2:
                break
            for which in range(len(FOLDERS)):
                await self.approve(which, open_=True)
        assert await self.near() == self.far()
        assert await self.mailbox() == "live"
        assert self.pinned <= {row.id for row in await self.engine.rows("messages")}

    async def near(self) -> dict[str, list[bytes]]:
        return {name: sorted(raw for raw, _ in entries) for name, entries in (await self.engine.near()).items()}

    def far(self) -> dict[str, list[bytes]]:
        return {name: sorted(raw for raw, _ in entries) for name, entries in self.engine.far().items()}

    async def mailbox(self) -> str:
        state: str = (await self.engine.rows("mailboxes"))[0].state
        return state


STEPS = st.tuples(
    st.sampled_from(["expunge", "expunge", "expunge", "restore", "move", "arrive", "wait", "approve", "pin", "cut"]),
    st.sampled_from(FOLDERS),
    st.integers(1, SIZE),
)


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="guards-stories-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


async def play(folder: Path, steps: list[tuple[str, str, int]], qresync: bool) -> None:
    account = MemoryAccount(condstore=qresync, qresync=qresync)
    for name in FOLDERS[1:]:
        account.create_folder(name)
    for n in range(SIZE * len(FOLDERS)):
        account.append(FOLDERS[n % len(FOLDERS)], mail(n), internal_date=NOW - DAY)
    engine = await Engine.open(f"sqlite:///{folder}/mailgate.db", folder, account)
    story = Story(engine, account)
    try:
        await engine.sync()
        for what, name, count in steps:
            await story.happen(what, name, count)
        await story.end()
    finally:
        await engine.close()


@examples(8)
@given(steps=st.lists(STEPS, min_size=3, max_size=8), qresync=st.booleans())
def test_whatever_goes_from_folders(steps: list[tuple[str, str, int]], qresync: bool) -> None:
    with mock.patch.object(guards, "FEW", FEW), tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(_template(), Path(folder) / "mailgate.db")
        asyncio.run(play(Path(folder), steps, qresync))
