"""The gateway as plain values: its rows, and what both sides show of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.model import SpecialUse
from mailgate.clock import Instant
from mailgate.sync.operations import Operation, OperationKind
from mailgate.sync.state import FolderState
from mailgate.sync.views import (
    Appending,
    Deleting,
    Detached,
    Moving,
    Near,
    Present,
    wished,
)
from tests.property import reconcile_world
from tests.property.reconcile_world import MemoryFar

_MARKS = (OperationKind.FLAGS,)
_MOVES = (OperationKind.MOVE, OperationKind.APPEND)
At = tuple[str, int, int]
"""Folder id, UIDVALIDITY, UID."""


@dataclass
class Copy:
    """A row of messages."""

    id: str
    raw: bytes
    received_at: Instant
    flags: list[str]
    moving_to: str | None = None
    deleted_at: Instant | None = None
    pins: int = 0


@dataclass
class Stand:
    """A row of origins."""

    folder_id: str
    uidvalidity: int
    uid: int
    message_id: str
    flags: list[str]
    vanished_at: Instant | None = None


@dataclass
class Grave:
    """A row of tombstones."""

    id: str
    raw: bytes
    folder: str | None
    uidvalidity: int | None
    uid: int | None
    gone_at: Instant | None = None


@dataclass
class Shelf:
    """A row of folders."""

    id: str
    name: str
    special_use: SpecialUse | None
    uidvalidity: int | None = None
    uidnext: int | None = None
    exists: int = 0
    gone_at: Instant | None = None
    wanted_name: str | None = None
    on_its_way: str | None = None
    looked_at: Instant = 0


@dataclass
class Wish:
    """A row of operations."""

    operation: Operation
    finished_at: Instant | None = None
    code: str | None = None
    sent_at: Instant = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operation, name)


@dataclass
class MailboxRow:
    """As much of the mailbox as anybody asks for."""

    import_floor_at: Instant | None = None
    state: str = "live"


@dataclass
class PureRows:
    """The tables."""

    far: MemoryFar
    clock: Any
    days: int = 90
    enabled: bool = True
    held: bool = False
    mailbox: MailboxRow = field(default_factory=MailboxRow)
    messages: dict[str, Copy] = field(default_factory=dict)
    origins: dict[At, Stand] = field(default_factory=dict)
    tombstones: dict[str, Grave] = field(default_factory=dict)
    folders: dict[str, Shelf] = field(default_factory=dict)
    wishes: list[Wish] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    _numbers: int = 0
    _raws: dict[str, bytes] = field(default_factory=dict)
    _looked_again: set[str] = field(default_factory=set)

    # What the machine looks at.

    def close(self) -> None:
        """Nothing is left."""

    def rows(self, table: str) -> list[Any]:
        tables: Mapping[str, Iterable[Any]] = {
            "messages": self.messages.values(),
            "origins": self.origins.values(),
            "tombstones": self.tombstones.values(),
            "folders": self.folders.values(),
            "mailboxes": [self.mailbox],
        }
        return list(tables[table])

    def raw(self, row: Copy) -> bytes:
        return row.raw

    def raw_of(self, message_id: str) -> bytes:
        return self._raws[message_id]

    def created(self) -> list[str]:
        return self.announced

    def copies(self) -> Counter[bytes]:
        return Counter(copy.raw for copy in self.messages.values())

    def visible(self) -> list[reconcile_world.Seen]:
        found = []
        for copy in self.messages.values():
            if copy.deleted_at is None:
                at = self._near_folder(copy)
                name = None if at is None else self.folders[at].name
                found.append(reconcile_world.Seen(copy.id, copy.raw, name, frozenset(copy.flags)))
        return found

    def operations(self) -> list[Any]:
        return list(self.wishes)

    def open_operations(self) -> list[Any]:
        return [wish for wish in self.wishes if wish.finished_at is None]

    def crm_folders(self) -> list[tuple[str, str]]:
        listed = [f for f in self.folders.values() if f.gone_at is None and f.on_its_way != "delete"]
        return sorted((f.wanted_name or f.name, f.id) for f in listed)

    def written(self) -> list[Any]:
        return [repr(self.messages), repr(self.origins), repr(self.tombstones), len(self.announced)]

    # Rows.

    def _new(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}{self._numbers:04}"

    def _shelve(self, name: str, use: SpecialUse | None, *, on_its_way: str | None = None) -> Shelf:
        for other in self.folders.values():
            if other.name == name and other.gone_at is not None:
                other.name += " (gone)"
        shelf = Shelf(self._new("f"), name, use, on_its_way=on_its_way)
        self.folders[shelf.id] = shelf
        return shelf

    def _keep(self, raw: bytes, received_at: Instant, flags: Collection[str]) -> Copy:
        copy = Copy(self._new("m"), raw, received_at, sorted(flags))
        self.messages[copy.id] = copy
        self._raws[copy.id] = raw
        self.announced.append(copy.id)
        return copy

    def _place(self, message_id: str, at: At, flags: Collection[str], *, keep: bool = False) -> None:
        """The message stands there, with these flags: base; near follows."""
        before = self.origins.get(at)
        self.origins[at] = Stand(*at, message_id, sorted(flags), before.vanished_at if keep and before else None)
        self._refresh(self.messages[message_id])

    def _refresh(self, copy: Copy) -> None:
        base = next((s.flags for s in self.origins.values() if s.message_id == copy.id and s.vanished_at is None), None)
        if base is not None:
            marks = ((w.detail["add"], w.detail["remove"]) for w in self._open_of(copy.id) if w.kind in _MARKS)
            copy.flags = sorted(wished(frozenset(base), marks))

    def _leave(self, message_id: str) -> None:
        for key, stand in list(self.origins.items()):
            if stand.message_id == message_id:
                del self.origins[key]

    def _bury(self, copy: Copy) -> None:
        """The copy goes; what is at the server is not fetched again."""
        stands = [stand for stand in self.origins.values() if stand.message_id == copy.id] or [None]
        for number, stand in enumerate(stands):
            id_ = f"t-{copy.id}" + (f"-{number}" if number else "")
            if stand is None:
                self.tombstones[id_] = Grave(id_, copy.raw, None, None, None)
            else:
                name = self.folders[stand.folder_id].name
                gone_at = stand.vanished_at
                self.tombstones[id_] = Grave(id_, copy.raw, name, stand.uidvalidity, stand.uid, gone_at)
        self._leave(copy.id)
        del self.messages[copy.id]

    def _open_of(self, message_id: str) -> list[Wish]:
        return [wish for wish in self.wishes if wish.finished_at is None and wish.message_id == message_id]

    def _near_folder(self, copy: Copy) -> str | None:
        if copy.moving_to is not None:
            return copy.moving_to
        stands = [stand for stand in self.origins.values() if stand.message_id == copy.id]
        standing = [stand for stand in stands if stand.vanished_at is None] or stands
        return standing[0].folder_id if standing else None

    @staticmethod
    def _state(shelf: Shelf) -> FolderState:
        return FolderState(
            shelf.id,
            shelf.name,
            shelf.special_use,
            True,
            True,
            shelf.uidvalidity,
            shelf.uidnext,
            None,
            shelf.exists,
            "/",
        )

    def _near(self, copy: Copy) -> Near:
        stood = any(stand.message_id == copy.id for stand in self.origins.values())
        if copy.deleted_at is not None:
            return Deleting(copy.id)
        if copy.moving_to is not None:
            return Moving(copy.id, copy.moving_to) if stood else Appending(copy.id, copy.moving_to)
        return Present(copy.id) if stood else Detached(copy.id)

    def _finish(self, wish: Wish, code: str | None) -> None:
        """The end; the near side is what the operations that are still open wish."""
        wish.finished_at, wish.code = self.clock.now, code
        copy = self.messages.get(wish.message_id or "")
        if copy is not None:
            self._refresh(copy)
            moves = [w for w in self._open_of(copy.id) if w.kind in _MOVES]
            copy.moving_to = moves[-1].folder_id if moves else None
            if code is not None and wish.kind is OperationKind.DELETE:
                copy.deleted_at = None
            if code is not None and wish.kind is OperationKind.APPEND and not copy.pins and not self.held:
                del self.messages[copy.id]
        shelf = self.folders.get(wish.folder_id or "")
        if code is not None and shelf is not None:
            if wish.kind is OperationKind.FOLDER_CREATE and shelf.on_its_way == "create":
                shelf.gone_at, shelf.on_its_way = self.clock.now, None
            if wish.kind is OperationKind.FOLDER_RENAME:
                shelf.wanted_name = None
            if wish.kind is OperationKind.FOLDER_DELETE:
                shelf.on_its_way = None
