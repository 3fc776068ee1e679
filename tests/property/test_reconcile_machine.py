"""Anything that users, servers, purges and faults can do to a mailbox, in any order; the engine runs on a real store.

After every pass that was not cut:
S1 the server is as it was before · S2, R11 what was purged is not fetched again · S3, S4 another pass changes nothing ·
S5 a new UIDVALIDITY costs no message its id · S9 every original is one message, and every message one original ·
a pinned copy stays, whatever happens to its original · what stands here stands there, byte for byte, with its flags ·
what is inside the window there is here.

The model counts originals by content: a message that is announced more often than originals of it were ever made was
taken for a new one somewhere.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.clock import DAY, SECOND
from mailgate.settings import SyncSettings
from mailgate.store.migrate import upgrade
from tests.sync.engine import Engine, mail

T = TypeVar("T")

_templates: list[Path] = []
DAYS = {"free": 0, "crm_plus": 30, "standard": 60, "professional": 90}
FLAGS = ["\\Seen", "\\Flagged", "$Work"]
NAMES = ["Archive", "Trash", "Projekte", "Other"]


def template() -> Path:
    """A migrated database, made once."""
    if not _templates:
        folder = Path(tempfile.mkdtemp(prefix="mailgate-machine-"))
        atexit.register(shutil.rmtree, folder)
        upgrade(f"sqlite:///{folder / 'template.db'}")
        _templates.append(folder / "template.db")
    return _templates[0]


class SyncMachine(RuleBasedStateMachine):
    kind = "qresync"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="mailgate-machine-"))
        shutil.copyfile(template(), self.folder / "mailgate.db")
        self.account = MemoryAccount(condstore=self.kind != "plain", qresync=self.kind == "qresync")
        self.account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
        self.account.create_folder("Trash", special_use=SpecialUse.TRASH)
        self.engine = self.run(
            Engine.open(
                f"sqlite:///{self.folder / 'mailgate.db'}",
                self.folder,
                self.account,
                settings=SyncSettings(batch_messages=3),
            )
        )
        self.days = 90
        self.originals: Counter[bytes] = Counter()
        self.outside: set[int] = set()  # ids of server messages that a pass may have judged to be outside
        self.pinned: set[str] = set()

    def run(self, work: Awaitable[T]) -> T:
        async def call() -> T:
            return await work

        return self.runner.run(call())

    def teardown(self) -> None:
        try:
            self.run(self.engine.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        for n in range(4):
            self._make("INBOX", n, n)

    # What people and servers do.

    def _make(self, folder: str, n: int, days_ago: int, flags: frozenset[str] = frozenset()) -> None:
        raw = mail(n)
        self.account.append(folder, raw, internal_date=self.engine.clock.now - days_ago * DAY, flags=flags)
        self.originals[raw] += 1

    def _any(self, data: Any) -> tuple[str, int] | None:
        every = [(name, uid) for name, folder in self.account.folders.items() for uid in folder.messages]
        return data.draw(st.sampled_from(sorted(every))) if every else None

    def _folder(self, data: Any) -> str:
        chosen: str = data.draw(st.sampled_from(sorted(self.account.folders)))
        return chosen

    @rule(
        data=st.data(),
        n=st.integers(0, 6),
        days_ago=st.sampled_from([0, 1, 29, 31, 61, 95]),
        flags=st.frozensets(st.sampled_from(FLAGS)),
    )
    def append(self, data: Any, n: int, days_ago: int, flags: frozenset[str]) -> None:
        self._make(self._folder(data), n, days_ago, flags)

    @rule(data=st.data(), flags=st.frozensets(st.sampled_from(FLAGS)))
    def store_flags(self, data: Any, flags: frozenset[str]) -> None:
        if (at := self._any(data)) is not None:
            self.account.store_flags(*at, flags)

    @rule(data=st.data())
    def move(self, data: Any) -> None:
        if (at := self._any(data)) is not None:
            target = self._folder(data)
            if target != at[0]:
                moved = self.account.folders[at[0]].messages[at[1]]
                uid = self.account.move(*at, target)
                self._follow(moved, target, uid)

    @rule(data=st.data())
    def copy(self, data: Any) -> None:
        if (at := self._any(data)) is not None:
            target = self._folder(data)
            original = self.account.folders[at[0]].messages[at[1]]
            self.account.copy(*at, target)
            self.originals[original.raw] += 1

    @rule(data=st.data())
    def expunge(self, data: Any) -> None:
        if (at := self._any(data)) is not None:
            self.account.expunge(*at)

    @rule(data=st.data())
    def change_uidvalidity(self, data: Any) -> None:
        name = self._folder(data)
        before = dict(self.account.folders[name].messages)
        for old, new in self.account.change_uidvalidity(name).items():
            self._follow(before[old], name, new)

    def _follow(self, before: Any, folder: str, uid: int) -> None:
        """A message that was outside the window stays so, wherever it goes."""
        if id(before) in self.outside:
            self.outside.add(id(self.account.folders[folder].messages[uid]))
        self._kept_alive.append(before)

    @property
    def _kept_alive(self) -> list[Any]:
        return self.__dict__.setdefault("_alive", [])

    @rule(name=st.sampled_from(NAMES))
    def create_folder(self, name: str) -> None:
        if name not in self.account.folders:
            self.account.create_folder(name)

    @rule(name=st.sampled_from(NAMES))
    def delete_folder(self, name: str) -> None:
        if name in self.account.folders:
            self._kept_alive.append(self.account.folders[name])
            self.account.delete_folder(name)

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename_folder(self, old: str, new: str) -> None:
        if old in self.account.folders and new not in self.account.folders:
            self.account.rename_folder(old, new)

    # What happens here.

    @rule(days=st.integers(1, 20))
    def time_passes(self, days: int) -> None:
        self.engine.clock.advance(days * 86_400)

    @rule(plan=st.sampled_from(["crm_plus", "standard", "professional"]))
    def change_plan(self, plan: str) -> None:
        self.run(self.engine.plan(plan))
        self.days = DAYS[plan]

    @rule(data=st.data())
    def pin(self, data: Any) -> None:
        copies = {row.id: row for row in self.run(self.engine.rows("messages"))}
        order = [event.message_id for event in self.run(self.engine.events("message.created"))]  # ids are random
        rows = [copies[message_id] for message_id in order if message_id in copies]
        if rows:
            row = rows[data.draw(st.integers(0, len(rows) - 1))]
            self.run(self.engine.pin(row.id))
            self.pinned.add(row.id)

    @rule()
    def purge(self) -> None:
        self.run(self.engine.purge())

    @rule(steps=st.integers(0, 60))
    def sync_and_be_cut(self, steps: int) -> None:
        self._note_window()
        self.account.faults.cut_after = steps
        with contextlib.suppress(NetworkError):
            self.run(self.engine.sync())
        self.account.faults.cut_after = None
        self._counts()

    @rule()
    def sync(self) -> None:
        self.engine.clock.advance(600)
        self._note_window()
        far = self.engine.far()
        self.run(self.engine.sync())
        self._agree()
        assert self.engine.far() == far  # S1
        written = self._written()
        self.run(self.engine.sync())
        assert self._written() == written  # S4
        assert not any("STORE" in command or command.startswith("SELECT") for command in self.account.commands)

    # What must hold.

    def _note_window(self) -> None:
        """Whatever is outside the window now may have been judged so, and is not fetched later."""
        mailbox = self.run(self.engine.rows("mailboxes"))[0]
        now = self.engine.clock.now + 60 * SECOND
        floor = mailbox.import_floor_at if mailbox.import_floor_at is not None else now - self.days * DAY
        for folder in self.account.folders.values():
            for message in folder.messages.values():
                if message.internal_date < floor or message.internal_date + self.days * DAY <= now:
                    self.outside.add(id(message))

    def _agree(self) -> None:
        self._counts()
        folders = {row.id: row for row in self.run(self.engine.rows("folders"))}
        copies = {row.id: row for row in self.run(self.engine.rows("messages"))}
        here: dict[tuple[str, int], Any] = {}
        for origin in self.run(self.engine.rows("origins")):
            folder = folders[origin.folder_id]
            if origin.vanished_at is not None:
                assert self._guarded(), (folder.name, origin.uid)
                continue
            far = self.account.folders[folder.name]
            assert far.uidvalidity == origin.uidvalidity
            message = far.messages[origin.uid]
            copy = copies[origin.message_id]
            assert self.run(self.engine.raw(copy)) == message.raw
            assert sorted(message.flags) == copy.flags == origin.flags
            here[folder.name, origin.uid] = copy
        assert len({copy.id for copy in here.values()}) == len(here)  # S9
        graves = Counter(row.header_token for row in self.run(self.engine.rows("tombstones")))
        buried = {
            (row.folder, row.uidvalidity, row.uid)
            for row in self.run(self.engine.rows("tombstones"))
            if row.gone_at is None
        }
        for name, folder in self.account.folders.items():
            for uid, message in folder.messages.items():
                if (name, uid) in here or id(message) in self.outside:
                    continue
                assert (name, folder.uidvalidity, uid) in buried, (name, uid, message.raw[:40], graves)

    def _guarded(self) -> bool:
        return bool(self.run(self.engine.rows("mailboxes"))[0].state == "needs_approval")

    def _counts(self) -> None:
        """Never announced more often than made; pinned copies are all there."""
        copies = {row.id: row for row in self.run(self.engine.rows("messages"))}
        assert self.pinned <= set(copies)
        created = self.run(self.engine.events("message.created"))
        assert len({event.message_id for event in created}) == len(created)
        assert len(created) <= sum(self.originals.values())
        for raw, made in Counter(self.run(self.engine.raw(copy)) for copy in copies.values()).items():
            assert made <= self.originals[raw]

    def _written(self) -> list[Any]:
        tables = ["messages", "origins", "tombstones", "quarantine", "events", "blobs"]
        return [sorted(map(tuple, self.run(self.engine.rows(name))), key=repr) for name in tables]


class CondstoreMachine(SyncMachine):
    kind = "condstore"


class PlainMachine(SyncMachine):
    kind = "plain"


LIMITS = settings()
if os.environ.get("HYPOTHESIS_PROFILE") != "soak":
    LIMITS = settings(max_examples=10, stateful_step_count=20)

TestQresync = SyncMachine.TestCase
TestQresync.settings = LIMITS
TestCondstore = CondstoreMachine.TestCase
TestCondstore.settings = LIMITS
TestPlain = PlainMachine.TestCase
TestPlain.settings = LIMITS
