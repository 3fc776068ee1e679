"""The gateway as plain values: what `World` does with a database and a line, done with dictionaries.

Every decision is the real planner's (`listing`, `recognise`, `reconcile`, `settle`, `push_plan`); what is done with a
decision is as short as can be. So the state machine tries the planner itself, thousands of stories in seconds, and a
story that fails here and not with the real executor tells of a wrong decision, not of a wrong write.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, assert_never

from connectors.errors import NetworkError
from connectors.model import Folder, FolderStatus, SpecialUse
from connectors.port import Abilities
from mailgate.clock import DAY, Instant
from mailgate.sync import listing, push_model, push_plan
from mailgate.sync.actions import (
    Action,
    Detach,
    Drop,
    Forget,
    Link,
    MarkGone,
    Merge,
    Pending,
    Pull,
    Reappear,
    Rebury,
    Remove,
    Vanish,
)
from mailgate.sync.identity import Likeness
from mailgate.sync.operations import Operation, OperationKind, OperationState
from mailgate.sync.port import FolderState, Known
from mailgate.sync.push_model import (
    Address,
    Evidence,
    Facts,
    Original,
    Place,
    Seen,
)
from mailgate.sync.recognise import recognise
from mailgate.sync.reconcile import reconcile, settle
from mailgate.sync.views import (
    FAR_GONE,
    Appending,
    Base,
    Deleting,
    Detached,
    Entry,
    FarPresent,
    Moving,
    Near,
    Present,
    Snapshot,
    Tombstoned,
    Window,
    wished,
)
from tests.property import reconcile_world
from tests.property.reconcile_world import MemoryFar

T = TypeVar("T")

_MARKS = (OperationKind.FLAGS,)
_MOVES = (OperationKind.MOVE, OperationKind.APPEND)
At = tuple[str, int, int]
"""Folder id, UIDVALIDITY, UID."""


class FolderRefusedError(Exception):
    """A folder can't be opened: the pass over it, or one that needs to look there, is for another time."""


class RefusedError(Exception):
    """The server, or the CRM's rules, say no."""


class LaterError(Exception):
    """The server says: not now."""


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

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operation, name)


@dataclass
class MailboxRow:
    """As much of the mailbox as anybody asks for."""

    import_floor_at: Instant | None = None
    state: str = "live"


@dataclass
class PureWorld:
    """What `reconcile_world.World` is, of values."""

    far: MemoryFar
    clock: Any
    days: int = 90
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

    # What happens to it.

    def set_plan(self, days: int) -> None:
        self.days = days

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False

    def pin(self, id_: str) -> bool:
        copy = self.messages.get(id_)
        if copy is None or (self._due(copy) and not copy.pins):
            return False
        copy.pins = 1
        return True

    def purge(self) -> None:
        for copy in list(self.messages.values()):
            if self._due(copy) and not copy.pins and not self.held:
                self._bury(copy)

    def _due(self, copy: Copy) -> bool:
        return bool(copy.received_at + self.days * DAY <= self.clock.now)

    # What the CRM's users ask for.

    def _ask(self, kind: OperationKind, message_id: str | None = None, **about: Any) -> None:
        detail = about.pop("detail", {})
        where = {"folder_id": None, "from_folder_id": None, **about}
        id_ = self._new("o")
        operation = Operation(
            id_, "mailbox", len(self.wishes), kind, OperationState.PENDING, message_id, detail=detail, **where
        )
        self.wishes.append(Wish(operation))

    def _served(self, id_: str) -> Copy | None:
        copy = self.messages.get(id_)
        if copy is None or copy.deleted_at is not None or (self._due(copy) and not copy.pins and not self.held):
            return None
        return copy

    def crm_flags(self, id_: str, add: Sequence[str], remove: Sequence[str]) -> bool:
        copy = self._served(id_)
        if copy is None or not self.days:
            return False
        wanted = sorted((set(copy.flags) - set(remove)) | set(add))
        if wanted != copy.flags and self._near_folder(copy) is not None:
            detail = {"add": sorted(set(wanted) - set(copy.flags)), "remove": sorted(set(copy.flags) - set(wanted))}
            self._ask(OperationKind.FLAGS, id_, detail=detail)
        copy.flags = wanted
        return True

    def crm_move(self, id_: str, folder_id: str) -> bool:
        copy = self._served(id_)
        at = None if copy is None else self._near_folder(copy)
        if copy is None or at is None or not self.days:
            return False
        if at != folder_id:
            self._ask(OperationKind.MOVE, id_, folder_id=folder_id, from_folder_id=at)
            copy.moving_to = folder_id
        return True

    def crm_delete(self, id_: str, *, permanent: bool) -> bool:
        copy = self._served(id_)
        if copy is None or copy.pins:
            return False
        at = self._near_folder(copy)
        if not self.days or at is None:
            for wish in self._open_of(id_):
                self._finish(wish, "deleted")
            if self.held:
                copy.deleted_at = self.clock.now
            else:
                self._bury(copy)
            return True
        trash = next(
            (f for f in self.folders.values() if f.special_use is SpecialUse.TRASH and f.gone_at is None), None
        )
        if not permanent and (trash is None or trash.id != at):
            if trash is None:
                trash = self._shelve("Trash", SpecialUse.TRASH, on_its_way="create")
                detail = {"name": "Trash", "special_use": "trash"}
                self._ask(OperationKind.FOLDER_CREATE, folder_id=trash.id, detail=detail)
            return self.crm_move(id_, trash.id)
        copy.deleted_at = self.clock.now
        self._ask(OperationKind.DELETE, id_, from_folder_id=at)
        return True

    def crm_append(self, folder_id: str, raw: bytes, received_at: Instant, flags: Sequence[str]) -> bool:
        if not self.days:
            return False
        copy = self._keep(raw, received_at, flags)
        copy.moving_to = folder_id
        detail = {"flags": sorted(flags), "received_at": received_at}
        self._ask(OperationKind.APPEND, copy.id, folder_id=folder_id, detail=detail)
        return True

    def crm_create_folder(self, name: str) -> bool:
        if not self.days or self._taken(name):
            return False
        shelf = self._shelve(name, None, on_its_way="create")
        self._ask(OperationKind.FOLDER_CREATE, folder_id=shelf.id, detail={"name": name, "special_use": None})
        return True

    def crm_rename_folder(self, folder_id: str, name: str) -> bool:
        shelf = self.folders[folder_id]
        if not self.days or self._taken(name) or shelf.special_use is not None:
            return False
        self._ask(
            OperationKind.FOLDER_RENAME,
            folder_id=folder_id,
            detail={"name": name, "from": shelf.wanted_name or shelf.name},
        )
        shelf.wanted_name = name
        return True

    def crm_delete_folder(self, folder_id: str, *, permanent: bool) -> bool:
        shelf = self.folders[folder_id]
        if not self.days or shelf.special_use is not None:
            return False
        inside = [c for c in self.messages.values() if c.deleted_at is None and self._near_folder(c) == folder_id]
        here = {stand.message_id for stand in self.origins.values() if stand.folder_id == folder_id}
        rest = max(0, shelf.exists - sum(copy.id in here for copy in inside))
        if (inside or rest) and (not permanent or any(copy.pins for copy in inside)):
            return False
        for copy in inside:
            copy.deleted_at = self.clock.now
            self._ask(OperationKind.DELETE, copy.id, from_folder_id=folder_id)
        shelf.on_its_way = "delete"
        detail = {"name": shelf.wanted_name or shelf.name, "exists": rest}
        self._ask(OperationKind.FOLDER_DELETE, folder_id=folder_id, detail=detail)
        return True

    def _taken(self, name: str) -> bool:
        return any(name in (f.name, f.wanted_name) for f in self.folders.values() if f.gone_at is None)

    # Passes.

    def sync(self) -> None:
        """One pass over everything. Raises NetworkError where the faults say so."""
        window = self._window()
        if not window.entitled:
            return
        self.clock()
        self._step()
        self._list()
        for _ in range(3):
            self._push()
            for shelf in sorted(self._listed(), key=lambda f: (f.special_use is SpecialUse.INBOX, f.name)):
                with contextlib.suppress(FolderRefusedError):
                    self._look(shelf)
            if not self._settle():
                break

    def _window(self) -> Window:
        if self.mailbox.import_floor_at is None and self.days:
            self.mailbox.import_floor_at = self.clock.now - self.days * DAY
        floor_at = self.mailbox.import_floor_at or 0
        return Window(self.clock.now, floor_at, self.days or None, entitled=self.days > 0)

    def _listed(self) -> list[Shelf]:
        return [f for f in self.folders.values() if f.gone_at is None and f.on_its_way != "create"]

    def _list(self) -> None:
        account = self.far.account
        listed = [Folder(f.name, "/", frozenset(), f.special_use, True) for f in account.folders.values()]
        known = [self._state(shelf) for shelf in self._listed()]
        difference = listing.compare(known, listed, listing.Rules())
        statuses: dict[str, FolderStatus | None] = {
            folder.name: account.status_of(account.folders[folder.name]) for folder in difference.appeared
        }
        renamed = {
            id_: folder
            for id_, folder in listing.renames(difference.gone, difference.appeared, statuses).items()
            if self._holds(id_, folder.name)
        }
        for id_, folder in renamed.items():
            shelf = self.folders[id_]
            for other in self.folders.values():
                if other.name == folder.name:
                    other.name += " (gone)"
            for grave in self.tombstones.values():
                if grave.folder == shelf.name:
                    grave.folder = folder.name
            shelf.name, shelf.special_use = folder.name, folder.special_use
            shelf.wanted_name = None if shelf.wanted_name == folder.name else shelf.wanted_name
        for state in difference.gone:
            if state.id not in renamed:
                self.folders[state.id].gone_at = self.clock()
                for stand in self.origins.values():
                    if stand.folder_id == state.id and stand.vanished_at is None:
                        stand.vanished_at = self.clock.now
        names = {folder.name for folder in renamed.values()}
        for folder in difference.appeared:
            if folder.name in names:
                continue
            revived = next((f for f in self.folders.values() if f.name == folder.name), None)
            if revived is None:
                self._shelve(folder.name, folder.special_use)
            else:
                revived.special_use, revived.gone_at, revived.on_its_way = folder.special_use, None, None
                revived.uidnext = None
        for id_, folder in difference.changed.items():
            self.folders[id_].special_use = folder.special_use

    def _holds(self, folder_id: str, name: str) -> bool:
        far = self.far.account.folders[name].messages
        mine = [s for s in self.origins.values() if s.folder_id == folder_id and s.vanished_at is None]
        newest = sorted(mine, key=lambda stand: -stand.uid)[:3]
        return all(s.uid in far and far[s.uid].raw == self.raw_of(s.message_id) for s in newest)

    def _look(self, shelf: Shelf, *, again: bool = False) -> None:
        """One pass over one folder; `again`: only what has gone."""
        self._step()
        account = self.far.account
        if shelf.name in account.faults.refuse:
            raise FolderRefusedError
        began_at, folder = self.clock(), account.folders[shelf.name]
        here = {key: stand for key, stand in self.origins.items() if stand.folder_id == shelf.id}
        graves = {
            grave.uid: grave
            for grave in self.tombstones.values()
            if (grave.folder, grave.uidvalidity) == (shelf.name, folder.uidvalidity)
            and (grave.gone_at is None or grave.uid in folder.messages)
        }
        evident = not account.faults.exists_lie.get(shelf.name)
        entries: list[Entry] = []
        new: list[int] = []
        for uid in sorted(
            {key[2] for key in here if key[1] == folder.uidvalidity} | set(folder.messages) | set(graves) - {None}
        ):
            stand = here.get((shelf.id, folder.uidvalidity, uid))
            message = folder.messages.get(uid)
            far = FarPresent(message.flags, message.internal_date) if message is not None else FAR_GONE
            if message is None and not evident:
                continue
            if stand is not None:
                base = Base(frozenset(stand.flags), stand.vanished_at is not None)
                entries.append(Entry(uid, base, self._near(self.messages[stand.message_id]), far))
            elif uid in graves:
                entries.append(Entry(uid, None, Tombstoned(graves[uid].id), far))
            else:
                new.append(uid)
        self._apply(shelf, folder.uidvalidity, entries)
        if again and shelf.uidvalidity is None:
            return
        while True:
            metas = {uid: folder.messages[uid] for uid in new}
            likes = [(uid, Likeness(m.raw, len(m.raw), m.internal_date)) for uid, m in metas.items()]
            found = recognise(likes, self._known(shelf, folder.uidvalidity), shelf.id, frozenset(self._looked_again))
            if not found.suspects or again:
                break
            for folder_id in frozenset().union(*found.suspects.values()):
                other = self.folders[folder_id]
                if other.gone_at is None and other.name in account.folders:
                    self._look(other, again=True)
                self._looked_again.add(folder_id)
        fresh = [
            Entry(uid, None, found.near.get(uid), FarPresent(m.flags, m.internal_date))
            for uid, m in metas.items()
            if uid not in found.suspects
        ]
        pulls = self._apply(shelf, folder.uidvalidity, fresh)
        if not again:
            self._looked_again.clear()
            for uid in pulls:
                self._step()
                message = metas[uid]
                copy = self._keep(message.raw, message.internal_date, message.flags)
                self._place(copy.id, (shelf.id, folder.uidvalidity, uid), message.flags)
        if evident:
            for stand in here.values():
                if stand.uidvalidity != folder.uidvalidity and stand.vanished_at is None:
                    stand.vanished_at = self.clock.now
            for grave in self.tombstones.values():
                if grave.folder == shelf.name and grave.uidvalidity != folder.uidvalidity and grave.gone_at is None:
                    grave.gone_at = self.clock.now
        if not again:
            shelf.uidvalidity, shelf.uidnext, shelf.exists = folder.uidvalidity, folder.uidnext, len(folder.messages)
            shelf.looked_at = began_at

    def _known(self, shelf: Shelf, uidvalidity: int) -> list[Known]:
        found: list[Known] = []
        for copy in self.messages.values():
            mine = [stand for stand in self.origins.values() if stand.message_id == copy.id]
            stands = [
                s
                for s in mine
                if s.vanished_at is None and not (s.folder_id == shelf.id and s.uidvalidity != uidvalidity)
            ]
            near = self._near(copy)
            if not mine and copy.deleted_at is not None:
                continue
            if not mine and copy.moving_to is not None:
                sent = any(
                    w.kind is OperationKind.APPEND and w.state is OperationState.SENT for w in self._open_of(copy.id)
                )
                if copy.moving_to != shelf.id or not sent:
                    continue
            likeness = Likeness(copy.raw, len(copy.raw), copy.received_at)
            found.append(Known(near, copy.id, likeness, not stands, tuple(sorted({s.folder_id for s in stands}))))
        current = {f.name: f for f in self._listed()}
        for grave in self.tombstones.values():
            at = current.get(grave.folder or "")
            valid = at is not None and grave.gone_at is None
            if at is not None and at.id == shelf.id:
                valid = valid and grave.uidvalidity == uidvalidity
            elif at is not None:
                valid = valid and at.uidvalidity in (None, grave.uidvalidity)
            places = (at.id,) if valid and at is not None else ()
            found.append(Known(Tombstoned(grave.id, elsewhere=True), grave.id, Likeness(grave.raw), not valid, places))
        return sorted(found, key=lambda item: (not item.free, isinstance(item.near, Tombstoned), item.key))

    def _near(self, copy: Copy) -> Near:
        stood = any(stand.message_id == copy.id for stand in self.origins.values())
        if copy.deleted_at is not None:
            return Deleting(copy.id)
        if copy.moving_to is not None:
            return Moving(copy.id, copy.moving_to) if stood else Appending(copy.id, copy.moving_to)
        return Present(copy.id) if stood else Detached(copy.id)

    def _apply(self, shelf: Shelf, uidvalidity: int, entries: Sequence[Entry]) -> list[int]:
        """Carry actions out; the UIDs of what is to be fetched."""
        pulls: list[int] = []
        actions: list[Action] = reconcile(Snapshot(self._window(), entries))
        for action in actions:
            at = (shelf.id, uidvalidity, action.uid)
            match action:
                case Pull(uid):
                    pulls.append(uid)
                case Link(_, message_id, flags):
                    for key, stand in list(self.origins.items()):
                        renumbered = stand.folder_id == shelf.id and stand.uidvalidity != uidvalidity
                        if stand.message_id == message_id and (stand.vanished_at is not None or renumbered):
                            del self.origins[key]
                    self._place(message_id, at, flags)
                case Merge(_, message_id, flags):
                    self._place(message_id, at, flags)
                case Vanish():
                    self.origins[at].vanished_at = self.clock()
                case Reappear():
                    self.origins[at].vanished_at = None
                case Forget():
                    self.origins.pop(at, None)
                case Rebury(uid, tombstone_id):
                    grave = self.tombstones[tombstone_id]
                    grave.folder, grave.uidvalidity, grave.uid, grave.gone_at = shelf.name, uidvalidity, uid, None
                case MarkGone(_, tombstone_id):
                    self.tombstones[tombstone_id].gone_at = self.clock.now
                case _:
                    assert_never(action)
        return pulls

    def _settle(self) -> bool:
        """Believe what may be believed; whether something waits."""
        looked_at = {shelf.id: shelf.looked_at for shelf in self._listed()}
        vanished = [(key, stand) for key, stand in self.origins.items() if stand.vanished_at is not None]
        pending = [
            Pending(
                stand.folder_id,
                stand.uid,
                stand.uidvalidity,
                stand.message_id,
                stand.vanished_at or 0,
                kept=self.messages[stand.message_id].pins > 0 or self.held,
                other_origin=any(
                    other.message_id == stand.message_id and other.vanished_at is None
                    for other in self.origins.values()
                ),
            )
            for _, stand in vanished
        ]
        for item in settle(pending, looked_at):
            match item:
                case Drop():
                    self.origins.pop((item.folder_id, item.uidvalidity, item.uid))
                case Detach(message_id):
                    self._leave(message_id)
                case Remove(message_id):
                    self._leave(message_id)
                    self.messages.pop(message_id, None)
                case _:
                    assert_never(item)
        return any(stand.vanished_at is not None for stand in self.origins.values())

    # Pushes.

    def _push(self) -> None:
        """Every operation as far as it goes, in order; what waits holds up what is about the same."""
        held_up: set[str | None] = set()
        for wish in self.open_operations():
            about = {wish.message_id or wish.folder_id}
            if about & held_up or not self._bring(wish):
                held_up |= about

    def _bring(self, wish: Wish) -> bool:
        evidence: Evidence | None = None
        for _ in range(8):
            step = push_plan.plan(
                wish.operation, self._facts(wish), self._abilities(), self.clock.now, entitled=True, evidence=evidence
            )
            match step:
                case push_plan.Wait():
                    return False
                case push_plan.Failed(code, _):
                    self._finish(wish, code)
                    return True
                case push_plan.Applied(at):
                    self._applied(wish, at)
                    return True
                case push_plan.LookUp():
                    evidence = self._evidence(wish, step)
                    continue
                case _:
                    evidence = None
            try:
                if not self._carry_out(wish, step):
                    return False
            except LaterError:
                return False
            except RefusedError as error:
                self._finish(wish, str(error))
                return True
        raise AssertionError(f"{wish} goes round in circles")

    def _abilities(self) -> Abilities:
        account = self.far.account
        return Abilities(move=account.can_move, expunge=account.uidplus, places=True, labels=False)

    def _facts(self, wish: Wish) -> Facts:
        copy = self.messages.get(wish.message_id or "")
        shelf = self.folders.get(wish.folder_id or "")
        place = None if shelf is None else Place(self._state(shelf), shelf.gone_at is not None, shelf.on_its_way)
        if copy is None:
            return Facts(None, wish.message_id in self._raws and self._purged(wish.message_id), place)
        mine = [stand for stand in self.origins.values() if stand.message_id == copy.id]
        originals = tuple(
            Original(self._state(self.folders[s.folder_id]), s.uidvalidity, s.uid, frozenset(s.flags))
            for s in mine
            if s.vanished_at is None
            and self.folders[s.folder_id].gone_at is None
            and self.folders[s.folder_id].uidvalidity in (None, s.uidvalidity)
        )
        stored = push_model.StoredBytes("", b"", 0, len(copy.raw))
        like = Likeness(copy.raw, len(copy.raw), copy.received_at)
        known = push_model.Copy(copy.id, originals, len(originals) < len(mine), copy.pins, like, None, stored)
        return Facts(known, False, place)

    def _purged(self, message_id: str) -> bool:
        return f"t-{message_id}" in self.tombstones

    def _carry_out(self, wish: Wish, step: push_plan.Step) -> bool:
        """One command; False when it has to wait for a pass."""
        account = self.far.account
        match step:
            case push_plan.Store(at, add, remove):
                folder = account.folders.get(at.folder.name)
                if folder is None or folder.uidvalidity != at.uidvalidity or at.uid not in folder.messages:
                    return False
                self._journal(wish, at)
                flags = (folder.messages[at.uid].flags | add) - remove
                self._mutate("STORE", lambda: account.store_flags(at.folder.name, at.uid, flags))
                self._place(wish.message_id, (at.folder.id, at.uidvalidity, at.uid), flags, keep=True)
            case push_plan.Move(at, to) | push_plan.CopyThenExpunge(at, to, None):
                source, target = account.folders.get(at.folder.name), account.folders.get(to.name)
                if source is None or target is None or to.uidvalidity not in (None, target.uidvalidity):
                    return False
                if source.uidvalidity != at.uidvalidity or at.uid not in source.messages:
                    return False
                self._journal(wish, at, target.uidvalidity, target.uidnext)
                flags = source.messages[at.uid].flags
                whole = isinstance(step, push_plan.Move)
                command = account.move if whole else account.copy
                uid = self._mutate("MOVE" if whole else "COPY", lambda: command(at.folder.name, at.uid, to.name))
                if whole:
                    self.origins.pop((at.folder.id, at.uidvalidity, at.uid))
                self._place(wish.message_id, (to.id, target.uidvalidity, uid), flags, keep=True)
            case push_plan.CopyThenExpunge(at, _, _) | push_plan.Expunge(at):
                if not self._expunge(wish, at):
                    return False
                if step.__class__ is push_plan.CopyThenExpunge and step.copied is not None:
                    key = (step.to.id, step.copied.uidvalidity, step.copied.uid)
                    if key not in self.origins:
                        self._place(wish.message_id, key, account.folders[step.to.name].messages[key[2]].flags)
            case push_plan.Append(to):
                target = account.folders.get(to.name)
                if target is None or to.uidvalidity not in (None, target.uidvalidity):
                    return False
                self._journal(wish, None, target.uidvalidity, target.uidnext)
                copy, flags = self.messages[wish.message_id], frozenset(wish.detail["flags"])
                uid = self._mutate(
                    "APPEND", lambda: account.append(to.name, copy.raw, internal_date=copy.received_at, flags=flags)
                )
                self._place(copy.id, (to.id, target.uidvalidity, uid), flags)
            case push_plan.CreateFolder(name, use):
                self._journal(wish, None)
                self._mutate(
                    "CREATE",
                    lambda: (
                        self._or_refuse(name not in account.folders) and account.create_folder(name, special_use=use)
                    ),
                )
                self.folders[wish.folder_id].on_its_way = None
            case push_plan.RenameFolder(name, to_name):
                self._journal(wish, None)
                self._mutate(
                    "RENAME",
                    lambda: (
                        self._or_refuse(name in account.folders and to_name not in account.folders)
                        and account.rename_folder(name, to_name)
                    ),
                )
            case push_plan.DeleteFolder(name):
                self._journal(wish, None)
                self._mutate("DELETE", lambda: account.delete_folder(name))
            case _:
                raise AssertionError(step)
        return True

    def _expunge(self, wish: Wish, at: Original) -> bool:
        account = self.far.account
        folder = account.folders.get(at.folder.name)
        if folder is None or folder.uidvalidity != at.uidvalidity or at.uid not in folder.messages:
            return False
        self._journal(wish, at)
        self._mutate("EXPUNGE", lambda: account.expunge(at.folder.name, at.uid))
        self.origins.pop((at.folder.id, at.uidvalidity, at.uid))
        return True

    @staticmethod
    def _or_refuse(possible: bool) -> bool:
        if not possible:
            raise RefusedError("refused")
        return True

    def _evidence(self, wish: Wish, step: push_plan.LookUp) -> Evidence:
        account = self.far.account
        source, found, searched = Seen.UNKNOWN, None, True
        if step.original is not None:
            folder = account.folders.get(step.original.folder.name)
            if folder is not None and folder.uidvalidity == step.original.uidvalidity:
                source = Seen.THERE if step.original.uid in folder.messages else Seen.GONE
        if step.target is not None:
            target, journal = account.folders.get(step.target.name), wish.journal
            if target is None or journal.get("to_uidvalidity") not in (None, target.uidvalidity):
                searched = target is not None and step.target.uidvalidity == target.uidvalidity
            else:
                raw = self.raw_of(wish.message_id)
                known = {key[2] for key in self.origins if key[:2] == (step.target.id, target.uidvalidity)}
                uids = [
                    u
                    for u, m in target.messages.items()
                    if u >= journal.get("to_uidnext", 1) and m.raw == raw and u not in known
                ]
                found = Address(target.uidvalidity, uids[0]) if uids else None
        exists = None
        if step.folder is not None and step.folder.name in account.folders:
            exists = len(account.folders[step.folder.name].messages)
        return Evidence(source, found, searched, frozenset(account.folders), exists)

    def _journal(self, wish: Wish, at: Original | None, to_uidvalidity: int | None = None, to_uidnext: int = 1) -> None:
        journal: dict[str, Any] = dict(wish.journal or {})
        if to_uidvalidity is not None:
            halves = not self.far.account.can_move
            journal |= {"to_uidvalidity": to_uidvalidity, "to_uidnext": to_uidnext, "halves": halves}
        if at is not None:
            journal |= {"folder_id": at.folder.id, "uidvalidity": at.uidvalidity, "uid": at.uid}
        wish.operation = replace(wish.operation, state=OperationState.SENT, journal=journal)

    def _mutate(self, word: str, effect: Callable[[], T]) -> T:
        """A command with the faults of the account; its effect, unless its answer is lost."""
        self._step()
        faults = self.far.account.faults
        if faults.cut_before is not None:
            faults.cut_before -= 1
            if faults.cut_before < 0:
                faults.cut_before = None
                raise NetworkError("connection reset")
        if word in faults.refusals:
            code = faults.refusals[word]
            raise LaterError if code == "INUSE" else RefusedError(str(code))
        done = effect()
        if faults.lose_answer is not None:
            faults.lose_answer -= 1
            if faults.lose_answer < 0:
                faults.lose_answer = None
                raise NetworkError("connection reset")
        return done

    def _step(self) -> None:
        faults = self.far.account.faults
        self.far.account.commands.append("step")
        if faults.cut_after is not None:
            faults.cut_after -= 1
            if faults.cut_after < 0:
                faults.cut_after = None
                raise NetworkError("connection reset")

    def _applied(self, wish: Wish, at: Address | None) -> None:
        copy = self.messages.get(wish.message_id or "")
        if copy is not None and at is not None:
            shelf = self.folders[wish.folder_id]
            for key, stand in list(self.origins.items()):
                if stand.message_id == copy.id and stand.folder_id == wish.from_folder_id:
                    del self.origins[key]
            self._place(
                copy.id, (shelf.id, at.uidvalidity, at.uid), self.far.account.folders[shelf.name].messages[at.uid].flags
            )
        if wish.kind is OperationKind.DELETE and copy is not None:
            self._leave(copy.id)
            if not self.held:
                del self.messages[copy.id]
        shelf_or_none = self.folders.get(wish.folder_id or "")
        if shelf_or_none is not None:
            if wish.kind is OperationKind.FOLDER_CREATE:
                shelf_or_none.on_its_way = None
            if wish.kind is OperationKind.FOLDER_RENAME:
                self._renamed(shelf_or_none, wish.detail["name"])
            if wish.kind is OperationKind.FOLDER_DELETE:
                self._deleted(shelf_or_none)
        self._finish(wish, None)

    def _renamed(self, shelf: Shelf, name: str) -> None:
        for grave in self.tombstones.values():
            if grave.folder == shelf.name:
                grave.folder = name
        for other in self.folders.values():
            if other.name == name and other is not shelf:
                other.name += " (gone)"
        shelf.name = name
        shelf.wanted_name = None if shelf.wanted_name == name else shelf.wanted_name

    def _deleted(self, shelf: Shelf) -> None:
        shelf.gone_at = shelf.gone_at or self.clock.now
        for stand in self.origins.values():
            if stand.folder_id == shelf.id and stand.vanished_at is None:
                stand.vanished_at = self.clock.now

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
