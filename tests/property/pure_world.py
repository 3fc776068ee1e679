"""The gateway as plain values: what `World` does with a database and a line, done with dictionaries.

Every decision is the real planner's (`listing`, `recognise`, `reconcile`, `settle`, `push_plan`); what is done with a
decision is as short as can be. So the state machine tries the planner itself, thousands of stories in seconds, and a
story that fails here and not with the real executor tells of a wrong decision, not of a wrong write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import assert_never

from connectors.model import Folder, FolderStatus, SpecialUse
from mailgate.clock import DAY
from mailgate.sync import listing
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
    Return,
    Vanish,
)
from mailgate.sync.identity import Likeness
from mailgate.sync.incoming import Known
from mailgate.sync.operations import OperationKind, OperationState
from mailgate.sync.recognise import recognise
from mailgate.sync.reconcile import reconcile, settle
from mailgate.sync.views import (
    FAR_GONE,
    Base,
    Entry,
    FarPresent,
    Snapshot,
    Tombstoned,
    Window,
)
from tests.property.pure_pushes import FolderRefusedError, PurePushes
from tests.property.pure_rows import Shelf


class PureWorld(PurePushes):
    """What `reconcile_world.World` is, of values: the passes."""

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
        if self.mailbox.import_floor_at is None and self._may_sync():
            self.mailbox.import_floor_at = self.clock.now - self.days * DAY
        floor_at = self.mailbox.import_floor_at or 0
        return Window(self.clock.now, floor_at, self.days or None, entitled=self._may_sync())

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
                if not sent:
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

    def _apply(self, shelf: Shelf, uidvalidity: int, entries: Sequence[Entry]) -> list[int]:
        """Carry actions out; the UIDs of what is to be fetched."""
        pulls: list[int] = []
        actions: list[Action] = reconcile(Snapshot(self._window(), entries))
        for action in actions:
            at = (shelf.id, uidvalidity, action.uid)
            match action:
                case Pull(uid):
                    pulls.append(uid)
                case Return():
                    raise AssertionError("nobody asked for a backfill")
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
