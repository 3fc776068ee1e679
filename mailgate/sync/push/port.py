"""What bringing operations to the server needs of the database. Implemented by `mailgate.store.pushes`.

As in `mailgate.sync.port`: each method is one transaction or one read, fenced by the owner's lease, and none waits for
the network (S7). What a purge took meanwhile is skipped in silence: its operation fails when it is planned again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailgate.clock import Instant
from mailgate.sync.incoming import Aside, PreparedMessage
from mailgate.sync.operations import Operation
from mailgate.sync.push.model import Address, Facts, Failed, Original
from mailgate.sync.state import FolderState, Owner


@dataclass(frozen=True, slots=True)
class Asked:
    """An open operation with what is known of what it is about."""

    operation: Operation
    facts: Facts


@dataclass(frozen=True, slots=True)
class Delay:
    """Why an operation waits, and until when. `attempts`: how often the server has put it off."""

    operation: Operation
    reason: str
    until: Instant | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Marked:
    """An original whose flags or labels are these now. `ends`: the operation is done with it, or has `failed`."""

    operation: Operation
    original: Original
    ends: bool = True
    failed: Failed | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A message that the server has at a new address. `original`: where it stood before, None for a new one."""

    operation: Operation
    message_id: str
    original: Original | None
    to: FolderState
    at: Address
    flags: frozenset[str]
    labels: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Expunged:
    """An original that is no more; None: there was none."""

    operation: Operation
    message_id: str
    original: Original | None


@dataclass(frozen=True, slots=True)
class Returned:
    """The original of a purged copy, fetched again: where it stands, and its bytes in store under the copy's old id.
    `aside`: they can't be read, and why.
    """

    folder: FolderState
    uidvalidity: int
    message: PreparedMessage
    aside: Aside | None = None


def counted_out(gone: Iterable[Original]) -> Mapping[str, int]:
    """How many of these a checkpoint counted, by folder id: those below its UIDNEXT under its UIDVALIDITY."""
    return Counter(
        at.folder.id
        for at in gone
        if at.folder.uidnext is not None and at.uidvalidity == at.folder.uidvalidity and at.uid < at.folder.uidnext
    )


class PushStore(Protocol):
    """The whole port."""

    async def open(self, owner: Owner, limit: int, *, sent: bool = False) -> list[Asked]:
        """The mailbox's operations that are not finished, in order; with `sent` only those that were sent."""
        ...

    async def journal(self, owner: Owner, entries: Mapping[str, Mapping[str, Any]], now: Instant) -> None:
        """Before a command: these operations may have reached the server from now on, by these addresses."""
        ...

    async def again(self, owner: Owner, operations: Sequence[Operation], now: Instant) -> None:
        """They were not done: back to pending."""
        ...

    async def delay(self, owner: Owner, delays: Sequence[Delay], now: Instant) -> None:
        """They wait, visibly."""
        ...

    async def marked(self, owner: Owner, marks: Sequence[Marked], now: Instant) -> None:
        """Flags or labels of originals in one folder: base is what the server says, near what is still wished."""
        ...

    async def copied(self, owner: Owner, puts: Sequence[Put], now: Instant) -> None:
        """The first half of moves into one folder is done: the messages stand in both folders."""
        ...

    async def uncopied(self, owner: Owner, copies: Sequence[Original], now: Instant) -> None:
        """First halves of moves were taken back: the messages do not stand there any more."""
        ...

    async def put(self, owner: Owner, puts: Sequence[Put], now: Instant) -> None:
        """Moved or appended, into one folder: applied."""
        ...

    async def expunged(self, owner: Owner, gone: Sequence[Expunged], now: Instant) -> None:
        """Deleted for ever: a copy that has no other original ends, and its operation is applied."""
        ...

    async def applied(self, owner: Owner, operations: Sequence[Operation], now: Instant) -> None:
        """Both sides agree already."""
        ...

    async def fail(self, owner: Owner, failures: Sequence[tuple[Operation, Failed]], now: Instant) -> None:
        """They will not be done: the near side is rolled back."""
        ...

    async def brought_back(self, owner: Owner, operation: Operation, returned: Returned | None, now: Instant) -> None:
        """The copy is here again, with the pins that were asked for: logged, and applied. None: it was here already.

        Raises BatchRefusedError when the database refuses what the message says.
        """
        ...

    async def not_found(self, owner: Owner, failures: Sequence[tuple[Operation, Failed]], now: Instant) -> None:
        """The originals of purged copies stand nowhere: failed, and known to be gone."""
        ...

    async def folder_made(self, owner: Owner, operation: Operation, name: str, now: Instant) -> None:
        """The folder is there, under this name: applied."""
        ...

    async def folder_renamed(self, owner: Owner, operation: Operation, now: Instant) -> None:
        """The folder, with what is below it, is called as wanted: applied."""
        ...

    async def folder_deleted(self, owner: Owner, operation: Operation, limit: int, now: Instant) -> bool:
        """The folder is gone; ends so many of the copies that stood in it. True when none is left: applied."""
        ...
