"""The gateway as plain values: bringing operations to the server, step by step as the planner says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from connectors.errors import NetworkError
from connectors.memory import MemoryFolder
from connectors.port import Abilities
from mailgate.sync.identity import Likeness
from mailgate.sync.operations import OperationKind, OperationState
from mailgate.sync.push import model as push_model
from mailgate.sync.push import plan as push_plan
from mailgate.sync.push.model import (
    Address,
    Evidence,
    Facts,
    Original,
    Place,
    Seen,
)
from tests.property.pure_rows import Shelf, Wish
from tests.property.pure_wishes import PureWishes

T = TypeVar("T")


class FolderRefusedError(Exception):
    """A folder can't be opened: the pass over it, or one that needs to look there, is for another time."""


class RefusedError(Exception):
    """The server, or the CRM's rules, say no."""


class LaterError(Exception):
    """The server says: not now."""


class PurePushes(PureWishes):
    """What is asked for reaches a server in memory, with its faults."""

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
                if target is not None and not searched and journal.get("halves"):
                    found, searched = self._copied(wish, target), True
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
        looked = all(shelf.looked_at > wish.sent_at for shelf in self._listed())
        return Evidence(source, found, searched, frozenset(account.folders), exists, looked)

    def _copied(self, wish: Wish, target: MemoryFolder) -> Address | None:
        """In a folder that was renumbered: one more such message than is known to have stood there."""
        raw = self.raw_of(wish.message_id)
        stood = [
            key for key, s in self.origins.items() if key[0] == wish.folder_id and self.raw_of(s.message_id) == raw
        ]
        alike = sorted(uid for uid, m in target.messages.items() if m.raw == raw)
        return Address(target.uidvalidity, alike[-1]) if len(alike) > len(stood) else None

    def _journal(self, wish: Wish, at: Original | None, to_uidvalidity: int | None = None, to_uidnext: int = 1) -> None:
        journal: dict[str, Any] = dict(wish.journal or {})
        if to_uidvalidity is not None:
            halves = not self.far.account.can_move
            journal |= {"to_uidvalidity": to_uidvalidity, "to_uidnext": to_uidnext, "halves": halves}
        if at is not None:
            journal |= {"folder_id": at.folder.id, "uidvalidity": at.uidvalidity, "uid": at.uid}
        wish.operation = replace(wish.operation, state=OperationState.SENT, journal=journal)
        wish.sent_at = self.clock()

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
