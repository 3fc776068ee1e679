"""A person who uses the account between any two round trips of a pass, and the CRM beside: stories told by a seed.

Every message has content of its own, so whatever becomes of its address, it is known by its bytes. What must hold after
each story, once both sides have stopped:

* both sides are equal: folders, messages, flags, bytes; every operation has ended, one more pass writes nothing (S4);
* a message that nobody wished away stands at the server, once; what the CRM deleted for ever, and was told so, does not
  stand anywhere (S1, S8);
* a message had one id all the time, whoever moved it, and a pinned one is still here (S3, S5, S9);
* nothing is marked that neither side marked (S10).

A move in two halves (COPY, then UID EXPUNGE) can't always be told from two messages when somebody touches the original
between the halves: of these only the number is bounded, and what stands is shown.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from connectors.errors import ConnectorError
from connectors.memory.faults import Faults
from mailgate.clock import DAY
from mailgate.errors import MailgateError
from mailgate.settings import SyncSettings
from mailgate.sync.incoming import Applied, Batch
from mailgate.sync.state import Owner
from tests.property.reconcile_machine import letter, name_of, template
from tests.property.reconcile_world import Far, Original, World
from tests.sync.engine import NOW, TestClock

FLAGS = ("\\Seen", "\\Flagged", "$Work")
FOLDERS = ("INBOX", "Archive", "Trash")
Meddle = Callable[[Callable[[], None]], Any]
"""A context manager: while it is open, what it is given is called before each round trip."""


class Story:
    """One story over one account. `act` is what happens between two round trips; `faults` of the line, too, if given:
    it drops, with and without the answer to a change.
    """

    def __init__(self, far: Far, seed: int, *, halves: bool, faults: Faults | None = None) -> None:
        self.dice = random.Random(seed)
        self._faults = faults
        self.far = far
        self.halves = halves
        self.clock = TestClock()
        self.world = World(far, template(), self.clock, SyncSettings(batch_messages=3, poll_interval_s=1))
        self.told: list[str] = []
        self.made = 0
        self.ids: defaultdict[bytes, set[str]] = defaultdict(set)
        """By header token: each id that a message ever had."""
        self.contents: set[bytes] = set()
        self.expunged: set[bytes] = set()
        self.flags_asked: defaultdict[bytes, set[tuple[str, bool]]] = defaultdict(set)
        self.deleting: dict[str, bytes] = {}
        self.pinned: set[str] = set()
        self.torn: set[bytes] = set()
        """Moved by the CRM in two halves, and touched by the person meanwhile."""
        self._busy = 0.3
        self._back: tuple[bytes, str] | None = None
        self._moving: set[bytes] = set()
        self._record()

    def _record(self) -> None:
        """Take down every id that is given."""
        store: Any = self.world.engine.store
        commit = store.commit

        async def recorded(owner: Owner, batch: Batch) -> Applied:
            for message in batch.messages:
                self.ids[message.header_token].add(message.id)
            done: Applied = await commit(owner, batch)
            return done

        store.commit = recorded

    # What the person does.

    def deliver(self, folder: str, *, days: int = 0) -> None:
        raw = letter(100 + self.made, days)
        self.made += 1
        self.contents.add(raw)
        self.far.deliver(folder, raw, NOW - days * DAY, frozenset())

    def act(self) -> None:
        """Maybe one thing, before a round trip."""
        if self._faults is not None and self.dice.random() < 0.08:
            fault = self.dice.choice(("lose_answer", "lose_answer", "cut_before", "cut_after", "move_only"))
            left = self.dice.randrange(12 if fault == "cut_after" else 2)
            self.told.append(f"      the line: {fault} = {left}")
            setattr(self._faults, fault, left)
        if self.dice.random() < self._busy:
            self._act()

    def _act(self) -> None:
        standing = self.far.originals()
        if self._back is not None and self.dice.random() < 0.7:
            raw, to = self._back
            self._back = None
            for at in standing:
                if at.raw == raw and at.folder != to:
                    self._move(at, to)
                    return
        deed = self.dice.random()
        at = self.dice.choice(standing) if standing else None
        if at is None or deed < 0.08:
            self.told.append("      one comes")
            self.deliver(self.dice.choice(FOLDERS[:2]))
        elif deed < 0.75:
            to = self.dice.choice([name for name in FOLDERS if name != at.folder])
            if self.dice.random() < 0.5:
                self._back = at.raw, at.folder
            self._move(at, to)
        elif deed < 0.96:
            flag = self.dice.choice(FLAGS)
            self.flags_asked[at.raw] |= {(flag, flag not in at.flags)}
            self.told.append(f"      the person toggles {flag} of {name_of(at.raw)}")
            self.far.flag(at, at.flags ^ {flag})
        else:
            self.told.append(f"      the person expunges {name_of(at.raw)} from {at.folder}")
            self._touch(at.raw)
            self.expunged.add(at.raw)
            self.far.expunge(at)

    def _move(self, at: Original, to: str) -> None:
        self.told.append(f"      the person moves {name_of(at.raw)} from {at.folder} to {to}")
        self._touch(at.raw)
        self.far.move(at, to)

    def _touch(self, raw: bytes) -> None:
        if self.halves and raw in self._moving:
            self.torn.add(raw)

    # What the CRM asks for.

    def ask(self) -> None:
        """A few wishes."""
        for _ in range(self.dice.randrange(4)):
            self._wish()
        moves = [row for row in self.world.open_operations() if row.kind == "move"]
        self._moving = {self.world.raw_of(row.message_id) for row in moves}
        self._note()

    def _wish(self) -> None:
        world, folders = self.world, dict(self.world.crm_folders())
        seen = self.dice.choice(found) if (found := world.visible()) else None
        wish = self.dice.random()
        if seen is None or wish < 0.15:
            raw = letter(100 + self.made, 0)
            to = self.dice.choice(FOLDERS)
            if world.crm_append(folders[to], raw, NOW, []):
                self.told.append(f"the CRM appends {name_of(raw)} to {to}")
                self.made += 1
                self.contents.add(raw)
                return
        if seen is None:
            return
        if wish < 0.45:
            to = self.dice.choice(FOLDERS)
            done = world.crm_move(seen.id, folders[to])
            self.told.append(f"the CRM moves {name_of(seen.raw)} from {seen.folder} to {to}: {done}")
        elif wish < 0.75:
            flag, on = self.dice.choice(FLAGS), self.dice.random() < 0.5
            if world.crm_flags(seen.id, [flag] if on else [], [] if on else [flag]):
                self.told.append(f"the CRM sets {flag} of {name_of(seen.raw)} to {on}")
                self.flags_asked[seen.raw].add((flag, on))
        elif wish < 0.9:
            before = {row.id for row in world.operations()}
            permanent = self.dice.random() < 0.7
            done = world.crm_delete(seen.id, permanent=permanent)
            self.told.append(f"the CRM deletes {name_of(seen.raw)} from {seen.folder}, permanent={permanent}: {done}")
            for row in world.operations():
                if row.id not in before and row.kind == "delete":
                    self.deleting[row.id] = seen.raw
        elif world.pin(seen.id):
            self.told.append(f"the CRM pins {name_of(seen.raw)}")
            self.pinned.add(seen.id)

    def _note(self) -> None:
        for row in self.world.rows("messages"):
            self.ids[row.header_token].add(row.id)
            self.world.raw(row)

    # Passes.

    def sync(self) -> None:
        """One pass, however it ends."""
        self.clock.advance(600)
        self.told.append("a pass")
        try:
            self.world.sync()
        except (ConnectorError, MailgateError) as error:
            self.told.append(f"it ended: {error}")
        self._note()

    def tell(self, meddle: Meddle, rounds: int) -> None:
        """The whole story."""
        for n in range(6):
            self.deliver(FOLDERS[n % 2], days=n)
        self.sync()
        for _ in range(rounds):
            self._busy = self.dice.choice((0.1, 0.3, 0.8))
            self.ask()
            with meddle(self.act):
                self.sync()
                if self._faults is not None and self.dice.random() < 0.5:
                    self.sync()
        if self._faults is not None:
            self._faults.lose_answer = self._faults.cut_before = self._faults.cut_after = self._faults.move_only = None
        for _ in range(8):
            self.clock.advance(3000)
            self.sync()
            if not self.world.open_operations():
                break
        self.sync()
        self.check()

    # What must hold.

    def check(self) -> None:
        world = self.world
        assert not world.open_operations(), [(row.kind, row.state, row.reason) for row in world.open_operations()]
        there = self.far.originals()
        here = world.visible()
        shown = Counter((s.folder, s.raw, s.flags) for s in here if s.folder is not None)
        stands = Counter((at.folder, at.raw, at.flags) for at in there)
        # Both halves of a torn one may be known as one message that stands in two places.
        assert shown <= stands, [(name_of(raw), folder, sorted(flags)) for folder, raw, flags in shown - stands]
        left = stands - shown
        missed = [name_of(raw) for _, raw, _ in left if raw not in self.torn or not any(s[1] == raw for s in shown)]
        assert not missed, missed
        standing = Counter(at.raw for at in there)
        deleted = self._deleted()
        for raw in self.contents:
            often = standing[raw]
            if raw in self.torn:
                assert often <= 3, f"{name_of(raw)} stands {often} times"
                continue
            assert often <= 1, f"{name_of(raw)} stands {often} times"
            if raw in deleted:
                assert not often, f"{name_of(raw)} was deleted, as the CRM was told, and is there"
            elif raw not in self.expunged:
                assert often, f"{name_of(raw)} is lost"
        assert self.pinned <= {seen.id for seen in here}, "a pinned copy went"
        torn = {token for raw in self.torn for token in self._tokens(raw)}
        several = {token: ids for token, ids in self.ids.items() if len(ids) > 1 and token not in torn}
        assert not several, [
            name_of(world.raw_of(id_)) for ids in several.values() for id_ in ids if id_ in world._raws
        ]
        for at in there:
            asked = {flag for flag, _ in self.flags_asked[at.raw]}
            assert at.flags <= asked, f"nobody asked for {sorted(at.flags - asked)} of {name_of(at.raw)}"
        written = world.written()
        self.sync()
        assert world.written() == written

    def _deleted(self) -> set[bytes]:
        """What the CRM was told to be gone for ever."""
        states = {row.id: row.state for row in self.world.operations()}
        return {raw for id_, raw in self.deleting.items() if states[id_] == "applied"}

    def _tokens(self, raw: bytes) -> set[bytes]:
        known = {id_ for id_, content in self.world._raws.items() if content == raw}
        return {token for token, ids in self.ids.items() if ids & known}


@contextmanager
def told(story: Story) -> Iterator[Story]:
    """Close it; a story that fails is printed."""
    try:
        yield story
    except BaseException:
        print("\n".join(story.told))
        raise
    finally:
        story.world.close()
