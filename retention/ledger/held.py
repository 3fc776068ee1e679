"""Holds as a log told of them: what each covers, and what one that was released still protects. Pure."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import itemgetter

from .schema import Leaf

_UNTIL = itemgetter(0)


@dataclass(slots=True)
class _Hold:
    kind: str
    mailbox_ref: str | None
    items: int
    covered: set[str] = field(default_factory=set)

    def covers(self, item_ref: str, mailbox_ref: str) -> bool:
        if self.kind == "messages":
            return item_ref in self.covered
        return self.kind == "tenant" or self.mailbox_ref == mailbox_ref


class Holds:
    """Those that stand, and those that were released. What should not be is told to `broken`."""

    def __init__(self, broken: Callable[[str], None]) -> None:
        self._broken = broken
        self._standing: dict[str, _Hold] = {}
        self._graces: list[tuple[str, _Hold]] = []
        """Until when each released one protects, in that order. None is forgotten: a clock may go back."""

    def __len__(self) -> int:
        """How many stand."""
        return len(self._standing)

    def place(self, leaf: Leaf) -> None:
        """Take a `hold.place`."""
        scope = leaf["scope"]
        if leaf["hold_ref"] in self._standing:
            self._broken(f"hold {leaf['hold_ref']} was placed twice")
        self._standing[leaf["hold_ref"]] = _Hold(scope["kind"], scope.get("mailbox_ref"), scope.get("items", 0))

    def cover(self, leaf: Leaf, gone: Collection[str]) -> None:
        """Take a `hold.cover`; `gone` are the items that are not there."""
        hold = self._standing.get(leaf["hold_ref"])
        if hold is None or hold.kind != "messages":
            self._broken(f"items for {leaf['hold_ref']}, which is no hold on messages")
            return
        hold.covered.update(leaf["items"])
        for item_ref in leaf["items"]:
            if item_ref in gone:
                self._broken(f"hold {leaf['hold_ref']} is on {item_ref}, which was gone when its items were named")

    def release(self, leaf: Leaf, least: str) -> None:
        """Take a `hold.release`; by its policy it protects at least until `least`."""
        hold = self._standing.pop(leaf["hold_ref"], None)
        if hold is None:
            self._broken(f"hold {leaf['hold_ref']} was released but never placed")
            return
        insort(self._graces, (leaf["grace_until"], hold), key=_UNTIL)
        if leaf["grace_until"] < least:
            self._broken(f"hold {leaf['hold_ref']} protects until {leaf['grace_until']}, by its policy until {least}")

    def check_covers(self) -> None:
        """Whether holds on messages name as many as they say."""
        for ref, hold in self._standing.items():
            if hold.kind == "messages" and len(hold.covered) != hold.items:
                self._broken(f"hold {ref} names {len(hold.covered)} of its {hold.items} items")

    def count(self, item_ref: str, mailbox_ref: str, now: str) -> int:
        """How many protect this item at that time."""
        if not self._standing and not self._graces:
            return 0
        standing = sum(hold.covers(item_ref, mailbox_ref) for hold in self._standing.values())
        protecting = self._graces[bisect_right(self._graces, now, key=_UNTIL) :]
        return standing + sum(hold.covers(item_ref, mailbox_ref) for _, hold in protecting)
