"""The sync machine (`reconcile_machine`) on the planner alone, and on the real executor over a server in memory of each
kind. Against Dovecot: `tests/server/test_machine_dovecot.py`.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.property.pure_world import PureWorld
from tests.property.reconcile_machine import ANY, Machine, pick
from tests.property.reconcile_world import Far, MemoryFar, World
from tests.soak import SOAK
from tests.sync.engine import NOW


class MemoryMachine(Machine):
    """With what only a server in memory can be made to do."""

    kind = "qresync"
    far: MemoryFar

    def make_far(self) -> Far:
        return MemoryFar(self.kind, NOW)

    @property
    def _account(self) -> Any:
        return self.far.account

    @rule(folder=ANY)
    def server_renumbers(self, folder: int) -> None:
        name = pick(folder, self.far.names()) or "INBOX"
        self._tell(f"the server renumbers {name}")
        self._account.change_uidvalidity(name)

    @rule(steps=st.integers(0, 60))
    def sync_and_be_cut(self, steps: int) -> None:
        self._account.faults.cut_after = steps
        self._pass()
        self._account.faults.cut_after = None

    @rule(changes=st.integers(0, 3))
    def sync_and_lose_an_answer(self, changes: int) -> None:
        self.clock.advance(600)
        self._account.faults.lose_answer = changes
        self._pass()
        self._account.faults.lose_answer = None

    @rule(changes=st.integers(0, 3))
    def sync_and_be_cut_before_a_change(self, changes: int) -> None:
        self.clock.advance(600)
        self._account.faults.cut_before = changes
        self._pass()
        self._account.faults.cut_before = None

    @rule(
        command=st.sampled_from(["STORE", "MOVE", "COPY", "EXPUNGE", "APPEND", "CREATE", "RENAME", "DELETE"]),
        code=st.sampled_from([None, "NOPERM", "INUSE"]),
    )
    def sync_and_be_refused(self, command: str, code: str | None) -> None:
        if self.kind == "plain" and command in ("STORE", "EXPUNGE"):
            return  # a move is COPY and EXPUNGE there: one that may not expunge stays in both folders, and shows so
        self.clock.advance(600)
        self._account.faults.refusals[command] = code
        self._pass()
        self._account.faults.refusals.clear()

    @rule(folder=ANY, by=st.integers(-2, 2))
    def sync_with_a_count_that_lies(self, folder: int, by: int) -> None:
        self.clock.advance(600)
        self.lied |= by != 0
        self._account.faults.exists_lie[pick(folder, self.far.names()) or "INBOX"] = by
        self._pass()
        self._account.faults.exists_lie.clear()

    @rule(folder=ANY)
    def sync_with_a_folder_refused(self, folder: int) -> None:
        self.clock.advance(600)
        self._account.faults.refuse.add(pick(folder, self.far.names()) or "INBOX")
        self._pass()
        self._account.faults.refuse.clear()


class CondstoreMachine(MemoryMachine):
    kind = "condstore"


class PlainMachine(MemoryMachine):
    """Neither CONDSTORE nor MOVE."""

    kind = "plain"


class AlikeMachine(MemoryMachine):
    """Folders have one UIDVALIDITY, and swap their names: only the identities that they have tell them apart."""

    def make_far(self) -> Far:
        return MemoryFar(self.kind, NOW, folder_ids=True, alike=True)

    @rule(which=ANY, other=ANY)
    def user_swaps_folders_at_server(self, which: int, other: int) -> None:
        names = [name for name in self.far.names() if name != "INBOX"]
        one, two = pick(which, names), pick(other, names)
        if one is not None and two is not None and one != two:
            self._tell(f"at the server {one} and {two} swap their names")
            for name, to in ((one, "Spare"), (two, one), ("Spare", two)):
                self.far.rename(name, to)
            self._heard()


class PureMachine(MemoryMachine):
    """The planner alone: no database, no line."""

    def make_world(self) -> World | PureWorld:
        return PureWorld(self.far, self.clock)


class PurePlainMachine(PureMachine):
    """Without MOVE."""

    kind = "plain"


LIMITS = settings()
if not SOAK:
    LIMITS = settings(max_examples=8, stateful_step_count=20)

PURE_LIMITS = settings(LIMITS, max_examples=10 * LIMITS.max_examples, stateful_step_count=30)

TestPure = PureMachine.TestCase
TestPure.settings = PURE_LIMITS
TestPurePlain = PurePlainMachine.TestCase
TestPurePlain.settings = PURE_LIMITS
TestQresync = MemoryMachine.TestCase
TestQresync.settings = LIMITS
TestCondstore = CondstoreMachine.TestCase
TestCondstore.settings = LIMITS
TestPlain = PlainMachine.TestCase
TestPlain.settings = LIMITS
TestAlike = AlikeMachine.TestCase
TestAlike.settings = LIMITS
