"""Users on both sides, purges, pins, holds, plans and faults, in any order: what sync promises holds after every step.

The same machine plays on the planner alone (`pure_world`: thousands of stories), on the real executor with a real store
over a server in memory, and on Dovecot (`tests/server/test_machine_dovecot.py`). What is checked, and after what:

after everything that is no pass
    S1, S6  not one command reaches the server: a purge, a plan, a pin, a wish of the CRM are no change there

after every pass, however it ended
    S1, S2, S9, R11  nothing is lost and nothing comes twice at the server: the messages there are those that were
            there, less what the CRM deleted, plus what it appended; nothing is announced more often than it was made
    S3, S5, S8  what stands at the server and had a copy has one still, whatever the server said meanwhile
    S10     a flag changes at the server only if the CRM asked for it
    a pinned copy stays, whatever happens to its original

after both sides stopped, and a quiet pass
    both sides are equal: folders, messages, flags, bytes; every operation has ended
    S2      what is neither here nor outside the window was purged, or deleted by the CRM while it was not entitled
    S9      every original is one message, and every message one original
    S4      one more pass writes nothing

Each rule tells in a note what it did, so a counterexample reads as a story.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from connectors.errors import ConnectorError
from mailgate.clock import DAY, SECOND, Instant
from mailgate.errors import MailgateError
from mailgate.settings import SyncSettings
from mailgate.store.migrate import upgrade
from tests.property.pure_world import PureWorld
from tests.property.reconcile_world import PLANS, Far, MemoryFar, Original, Seen, World
from tests.sync.engine import NOW, TestClock, mail

T = TypeVar("T")

_templates: list[Path] = []
FLAGS = ["\\Seen", "\\Flagged", "$Work"]
NAMES = ["Archive", "Other", "Projekte", "Trash"]

SOME_FLAGS = st.frozensets(st.sampled_from(FLAGS))

ANY = st.integers(0, 11)
"""Which of those that there are; wraps around."""


def template() -> Path:
    """A migrated database, made once."""
    if not _templates:
        folder = Path(tempfile.mkdtemp(prefix="mailgate-machine-"))
        atexit.register(shutil.rmtree, folder)
        upgrade(f"sqlite:///{folder / 'template.db'}")
        _templates.append(folder / "template.db")
    return _templates[0]


def letter(n: int, days: int) -> bytes:
    """A message: its number and its age are in its bytes, so equal bytes were received at the same time."""
    # The first four, which are there at the beginning, are threads of their own; each of the others joins two of them.
    answers = f"References: <{n - 4}@example.org> <{n - 3}@example.org>\r\n" if n >= 4 else ""
    return mail(n, extra=f"X-Age: {days}\r\n{answers}")


def name_of(raw: bytes) -> str:
    """Short, for stories."""
    lines = raw.split(b"\r\n")
    return f"{lines[4][9:].decode().lower()}/{lines[5][7:].decode()}d"


def pick(which: int, among: Sequence[T]) -> T | None:
    """One of these; None when there are none."""
    return among[which % len(among)] if among else None


class Machine(RuleBasedStateMachine):
    """The rules. `make_far` gives the server."""

    patience = 8

    def __init__(self) -> None:
        super().__init__()
        self.clock = TestClock()
        self.far: Far = self.make_far()
        self.world: World | PureWorld = self.make_world()
        self.days = 90
        self.on = True
        self.made: Counter[bytes] = Counter()  # originals that anybody ever made
        self.outside: set[bytes] = set()  # what a pass may have judged to be outside the window
        self.buried: Counter[bytes] = Counter()  # what the CRM deleted here only
        self.pinned: set[str] = set()
        self.asked_flags: dict[bytes, set[tuple[str, bool]]] = {}
        self.deleted: Counter[bytes] = Counter()  # what the CRM asked to be gone from the server
        self.appended: Counter[bytes] = Counter()
        self.halfway: Counter[bytes] = Counter()
        self.lied = False  # then a message that moved may be taken for a new one: nobody saw it go
        self.heard = self.far.commands()

    def make_far(self) -> Far:
        """The server."""
        return MemoryFar("qresync", NOW)

    def make_world(self) -> World | PureWorld:
        """The gateway and the CRM."""
        return World(self.far, template(), self.clock, SyncSettings(batch_messages=3))

    def teardown(self) -> None:
        try:
            self.both_stop()
        finally:
            self.world.close()

    @initialize()
    def begin(self) -> None:
        for n in range(4):
            self._make("INBOX", n, n, frozenset())
        self._heard()

    # What other mail programs do at the server.

    def _make(self, folder: str, n: int, days: int, flags: frozenset[str]) -> None:
        raw = letter(n, days)
        self.far.deliver(folder, raw, self._received(days), flags)
        self.made[raw] += 1

    @staticmethod
    def _received(days: int) -> Instant:
        return NOW - days * DAY

    def _original(self, which: int) -> Original | None:
        return pick(which, self.far.originals())

    def _tell(self, text: str) -> None:
        note(f"    {text}")

    def _heard(self) -> None:
        self.heard = self.far.commands()

    @rule(
        folder=ANY,
        n=st.integers(0, 6),
        days=st.sampled_from([0, 1, 29, 61]),
        flags=SOME_FLAGS,
    )
    def mail_arrives(self, folder: int, n: int, days: int, flags: frozenset[str]) -> None:
        name = pick(folder, self.far.names()) or "INBOX"
        self._tell(f"{name_of(letter(n, days))} arrives in {name} with {sorted(flags)}")
        self._make(name, n, days, flags)
        self._heard()

    @rule(which=ANY, flags=SOME_FLAGS)
    def user_flags_at_server(self, which: int, flags: frozenset[str]) -> None:
        if (at := self._original(which)) is not None:
            self._tell(f"at the server {name_of(at.raw)} in {at.folder} gets {sorted(flags)}")
            self.far.flag(at, flags)
            self._heard()

    @rule(which=ANY, folder=ANY)
    def user_moves_at_server(self, which: int, folder: int) -> None:
        at, to = self._original(which), pick(folder, self.far.names())
        if at is not None and to is not None and to != at.folder:
            self._tell(f"at the server {name_of(at.raw)} moves from {at.folder} to {to}")
            self.far.move(at, to)
            self._heard()

    @rule(which=ANY, folder=ANY)
    def user_copies_at_server(self, which: int, folder: int) -> None:
        at, to = self._original(which), pick(folder, self.far.names())
        if at is not None and to is not None:
            self._tell(f"at the server {name_of(at.raw)} is copied from {at.folder} to {to}")
            self.far.copy(at, to)
            self.made[at.raw] += 1
            self._heard()

    @rule(which=ANY)
    def user_deletes_at_server(self, which: int) -> None:
        if (at := self._original(which)) is not None:
            self._tell(f"at the server {name_of(at.raw)} in {at.folder} is expunged")
            self._goes_by_another_hand([at.raw])
            self.far.expunge(at)
            self._heard()

    @rule(name=st.sampled_from(NAMES))
    def user_creates_folder_at_server(self, name: str) -> None:
        if name not in self.far.names():
            self._tell(f"at the server there is {name} now")
            self.far.create(name)
            self._heard()

    @rule(name=st.sampled_from(NAMES))
    def user_deletes_folder_at_server(self, name: str) -> None:
        if name in self.far.names():
            self._tell(f"at the server {name} is deleted with all in it")
            self._goes_by_another_hand([at.raw for at in self.far.originals() if at.folder == name])
            self.far.delete(name)
            self._heard()

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def user_renames_folder_at_server(self, name: str, to: str) -> None:
        if name in self.far.names() and to not in self.far.names():
            self._tell(f"at the server {name} is called {to} now")
            self.far.rename(name, to)
            self._heard()

    # What the CRM's users do.

    def _message(self, which: int) -> Seen | None:
        return pick(which, self.world.visible())

    @rule(which=ANY, flag=st.sampled_from(FLAGS), on=st.booleans())
    def crm_flags(self, which: int, flag: str, on: bool) -> None:
        if (seen := self._message(which)) is not None:
            done = self.world.crm_flags(seen.id, [flag] if on else [], [] if on else [flag])
            self._tell(f"the CRM sets {flag} of {name_of(seen.raw)} in {seen.folder} to {on}: {_said(done)}")
            if done:
                self.asked_flags.setdefault(seen.raw, set()).add((flag, on))

    @rule(which=ANY, folder=ANY)
    def crm_moves(self, which: int, folder: int) -> None:
        seen, to = self._message(which), pick(folder, self.world.crm_folders())
        if seen is not None and to is not None:
            done = self.world.crm_move(seen.id, to[1])
            self._tell(f"the CRM moves {name_of(seen.raw)} from {seen.folder} to {to[0]}: {_said(done)}")

    @rule(which=ANY, permanent=st.booleans())
    def crm_deletes(self, which: int, permanent: bool) -> None:
        if (seen := self._message(which)) is not None:
            wants = len(self.world.operations())
            done = self.world.crm_delete(seen.id, permanent=permanent)
            asked = self.world.operations()[wants:]
            kinds = [row.kind for row in asked]
            self._tell(
                f"the CRM deletes {name_of(seen.raw)} from {seen.folder}, permanent={permanent}: {_said(done)} {kinds}"
            )
            if done and "delete" in kinds:
                self.deleted[seen.raw] += 1
            if done and not asked:
                self.buried[seen.raw] += 1

    @rule(folder=ANY, n=st.integers(7, 9), flags=SOME_FLAGS)
    def crm_appends(self, folder: int, n: int, flags: frozenset[str]) -> None:
        if (to := pick(folder, self.world.crm_folders())) is not None:
            raw = letter(n, 0)
            done = self.world.crm_append(to[1], raw, self._received(0), sorted(flags))
            self._tell(f"the CRM appends {name_of(raw)} to {to[0]} with {sorted(flags)}: {_said(done)}")
            if done:
                self.made[raw] += 1
                self.appended[raw] += 1
                self.asked_flags.setdefault(raw, set()).update((flag, on) for flag in FLAGS for on in (True, False))

    @rule(name=st.sampled_from(NAMES))
    def crm_creates_folder(self, name: str) -> None:
        self._tell(f"the CRM creates {name}: {_said(self.world.crm_create_folder(name))}")

    @rule(folder=ANY, name=st.sampled_from(NAMES))
    def crm_renames_folder(self, folder: int, name: str) -> None:
        if (at := pick(folder, self.world.crm_folders())) is not None:
            self._tell(f"the CRM calls {at[0]} {name}: {_said(self.world.crm_rename_folder(at[1], name))}")

    @rule(folder=ANY, permanent=st.booleans())
    def crm_deletes_folder(self, folder: int, permanent: bool) -> None:
        if (at := pick(folder, self.world.crm_folders())) is not None:
            inside = [seen.raw for seen in self.world.visible() if seen.folder == at[0]]
            done = self.world.crm_delete_folder(at[1], permanent=permanent)
            self._tell(f"the CRM deletes {at[0]}, permanent={permanent}: {_said(done)}")
            if done:
                self.deleted.update(inside)
                # And what the server has in it that the CRM never saw: outside the window, purged, set aside.
                self.deleted.update(at_.raw for at_ in self.far.originals() if at_.folder == at[0])

    @rule(which=ANY)
    def crm_pins(self, which: int) -> None:
        if (seen := self._message(which)) is not None and self.world.pin(seen.id):
            self._tell(f"the CRM pins {name_of(seen.raw)}")
            self.pinned.add(seen.id)

    # What happens here.

    @rule(days=st.integers(1, 20))
    def time_passes(self, days: int) -> None:
        self.clock.advance(days * 86_400)

    @rule(days=st.sampled_from(list(PLANS)))
    def plan_changes(self, days: int) -> None:
        self.world.set_plan(days)
        self.days = days

    @rule(on=st.booleans())
    def mailbox_is_switched(self, on: bool) -> None:
        self.world.switch(on=on)
        self.on = on

    @rule()
    def purge_runs(self) -> None:
        self.world.purge()

    @rule()
    def all_is_held(self) -> None:
        self.world.hold()

    @rule()
    def holds_end(self) -> None:
        self.world.release()

    @invariant()
    def nobody_but_a_pass_talks_to_the_server(self) -> None:
        """S1, S6."""
        assert self.far.commands() == self.heard

    # Passes.

    @rule()
    def sync(self) -> None:
        self.clock.advance(600)
        self._pass()

    def _pass(self) -> None:
        """One pass, and what must hold after it however it ends."""
        self._note_window()
        far, copies = self.far.originals(), self._visible()
        try:
            self.world.sync()
        except (ConnectorError, MailgateError) as error:
            self._tell(f"the pass ended: {error}")
        if not self.days or not self.on:
            assert self.far.commands() == self.heard  # S6
        self._heard()
        after = self.far.originals()
        self._nothing_lost_nothing_twice(Counter(at.raw for at in far), Counter(at.raw for at in after))
        self._flags_as_asked(far, after)
        now_there = Counter(at.raw for at in after if at.folder in self._followed())
        copies_after = self._visible()
        for raw, count in copies.items():
            wanted = min(count, now_there[raw])
            assert copies_after[raw] >= wanted, f"a copy of {name_of(raw)} went, and its original stands"
        self._counts()

    def _visible(self) -> Counter[bytes]:
        return Counter(seen.raw for seen in self.world.visible())

    def _followed(self) -> set[str]:
        return {row.name for row in self.world.rows("folders") if row.gone_at is None}

    def _on_their_way(self, kind: str) -> Counter[bytes]:
        return Counter(self.world.raw_of(row.message_id) for row in self.world.open_operations() if row.kind == kind)

    def _goes_by_another_hand(self, raws: Sequence[bytes]) -> None:
        """A user deletes these at the server, maybe the first half of a move, or what was appended and not told yet:
        then there is only one left, or it is appended again.
        """
        appending = self._on_their_way("append")
        for raw in raws:
            if self.halfway[raw]:
                self.halfway[raw] -= 1
            elif appending[raw] > self.appended[raw]:
                self.appended[raw] += 1

    def _nothing_lost_nothing_twice(self, before: Counter[bytes], after: Counter[bytes]) -> None:
        """What came or went is counted off. A move in two halves may be between them: then the message stands twice."""
        moving = Counter(
            self.world.raw_of(row.message_id) for row in self.world.open_operations() if row.kind == "move"
        )
        for raw in before | after:
            came, went = max(0, after[raw] - before[raw]), max(0, before[raw] - after[raw])
            self.halfway[raw] += max(0, came - self.appended[raw])
            self.appended[raw] -= min(came, self.appended[raw])
            undone = min(went, self.halfway[raw])
            self.halfway[raw] -= undone
            self.deleted[raw] -= went - undone
            assert self.halfway[raw] <= moving[raw], f"{name_of(raw)} came twice at the server"
            assert self.deleted[raw] >= 0, f"{name_of(raw)} is lost at the server"

    def _flags_as_asked(self, before: Sequence[Original], after: Sequence[Original]) -> None:
        """S10. Messages are compared by content: whatever moved, somewhere there is one with these flags."""

        def by_raw(originals: Sequence[Original]) -> dict[bytes, list[frozenset[str]]]:
            found: dict[bytes, list[frozenset[str]]] = {}
            for at in originals:
                found.setdefault(at.raw, []).append(at.flags)
            return found

        then, now = by_raw(before), by_raw(after)
        for raw, sets in now.items():
            asked = self.asked_flags.get(raw, set())
            known = then.get(raw, [])
            for flags in sets:
                if raw in then and flags not in known and len(known) == len(sets) == 1:
                    for flag in (flags ^ known[0]) - {"\\Deleted"}:  # a step of removing
                        assert (flag, flag in flags) in asked, f"nobody asked for {flag} of {name_of(raw)}"

    def _note_window(self) -> None:
        """Whatever is outside the window now may have been judged so, and is not fetched later."""
        mailbox = self.world.rows("mailboxes")[0]
        now, days = self.clock.now + 60 * SECOND, self.days
        floor = mailbox.import_floor_at if mailbox.import_floor_at is not None else now - days * DAY
        for at in self.far.originals():
            if at.received_at < floor or at.received_at + days * DAY <= now:
                self.outside.add(at.raw)

    def _counts(self) -> None:
        """Never announced more often than made; pinned copies are all there."""
        rows = {row.id: row for row in self.world.rows("messages")}
        assert self.pinned <= set(rows), "a pinned copy went"
        created = self.world.created()
        assert len(set(created)) == len(created)
        if self.lied:
            return
        assert len(created) <= sum(self.made.values()), "something was taken for new that is not"
        for raw, count in self.world.copies().items():
            assert count <= self.made[raw], f"there are more copies of {name_of(raw)} than originals ever were"

    # The end.

    def mend(self) -> None:
        """Nothing is wrong any more."""

    def both_stop(self) -> None:
        """Nobody does anything any more: both sides become equal."""
        self._tell("both sides stop")
        self.mend()
        self.plan_changes(90)
        self.mailbox_is_switched(on=True)
        for _ in range(self.patience):
            self.clock.advance(3600)
            self._pass()
            if not self.world.open_operations():
                break
        assert not self.world.open_operations(), [tuple(row) for row in self.world.open_operations()]
        self.clock.advance(600)
        self._pass()
        self._agree()
        written = self.world.written()
        self.clock.advance(600)
        self._pass()
        assert self.world.written() == written  # S4

    def _agree(self) -> None:
        folders = {row.id: row for row in self.world.rows("folders")}
        copies = {row.id: row for row in self.world.rows("messages")}
        there = {(at.folder, at.uid): at for at in self.far.originals()}
        here: dict[tuple[str, int], Any] = {}
        for origin in self.world.rows("origins"):
            folder = folders[origin.folder_id]
            if origin.vanished_at is not None:
                assert self.world.rows("mailboxes")[0].state == "needs_approval", (folder.name, origin.uid)
                continue
            at, copy = there[folder.name, origin.uid], copies[origin.message_id]
            assert self.world.raw(copy) == at.raw
            assert copy.moving_to is None
            assert sorted(at.flags) == copy.flags == origin.flags, name_of(at.raw)
            here[folder.name, origin.uid] = copy
        assert len({copy.id for copy in here.values()}) == len(here), "two originals are one message"  # S9
        names = {row.name for row in folders.values() if row.gone_at is None}
        assert names == set(self.far.names())
        assert not any(row.wanted_name or row.on_its_way for row in folders.values() if row.gone_at is None)
        graves = {(row.folder, row.uid) for row in self.world.rows("tombstones") if row.gone_at is None}
        for place, at in there.items():
            if place not in here and at.raw not in self.outside:
                assert place in graves, f"{name_of(at.raw)} in {at.folder} has no copy"  # S2


def _said(done: bool) -> str:
    return "yes" if done else "refused"
