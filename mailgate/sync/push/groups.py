"""Operations that one command carries out, and what it brings. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias, assert_never

from connectors.port import Placed
from mailgate.clock import Instant
from mailgate.sync.operations import Operation, OperationKind
from mailgate.sync.push.model import (
    Address,
    Append,
    BringBack,
    CopyThenExpunge,
    CreateFolder,
    DeleteFolder,
    Expunge,
    Failed,
    Move,
    Original,
    RenameFolder,
    Store,
    StoreLabels,
    TakeBack,
)
from mailgate.sync.push.port import Asked, Put
from mailgate.sync.state import FolderState
from mailgate.sync.views import TO_BE_REMOVED

Mutation: TypeAlias = (
    Store
    | StoreLabels
    | Move
    | CopyThenExpunge
    | TakeBack
    | Expunge
    | Append
    | CreateFolder
    | RenameFolder
    | DeleteFolder
    | BringBack
)
OfMessage: TypeAlias = Store | StoreLabels | Move | CopyThenExpunge | TakeBack | Expunge


@dataclass(slots=True)
class Group:
    """Operations whose steps are alike. `sent`: the journal is written, the command may have reached the server."""

    items: list[tuple[Asked, Mutation]]
    sent: bool = False

    @property
    def operations(self) -> list[Operation]:
        """In order."""
        return [asked.operation for asked, _ in self.items]

    @property
    def originals(self) -> dict[str, Original]:
        """The original that each step is about, by operation id."""
        return {asked.operation.id: step.original for asked, step in self.items if isinstance(step, OfMessage)}

    @property
    def uids(self) -> list[int]:
        """Those of the originals."""
        return [at.uid for at in self.originals.values()]

    def without(self, there: Set[int]) -> list[tuple[Asked, Mutation]]:
        """Take those out whose originals are not there; they."""
        originals = self.originals
        gone = [item for item in self.items if originals[item[0].operation.id].uid not in there]
        self.items = [item for item in self.items if item not in gone]
        return gone

    def marking(self, now: Instant) -> dict[str, dict[str, Any]]:
        """What the journal says before originals are marked to be removed, with what it said before. `marks`: a mark
        that is met may be ours.
        """
        entries: dict[str, dict[str, Any]] = {}
        for operation in self.operations:
            journal, at = operation.journal or {}, self.originals[operation.id]
            marks = bool(journal.get("marks")) or not at.flags & TO_BE_REMOVED
            entries[operation.id] = {**journal, "at": now, "marks": marks}
        return entries


@dataclass(slots=True)
class Outcome:
    """`waits`: operations that are not done, and why; `failed`: those that will not be. `touched`: folders that changed
    at the server.
    """

    waits: list[tuple[Operation, str]] = field(default_factory=list)
    failed: list[tuple[Operation, Failed]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)


class WaitsError(Exception):
    """The group can't be done now; nothing was sent."""


def put(asked: Asked, at: Original | None, to: FolderState, address: Address) -> Put:
    """The message stands there now. Its flags there: those that a pass saw there, those of its original, or those that
    it was appended with.
    """
    operation, copy = asked.operation, asked.facts.copy
    known = [] if copy is None else [o for o in copy.originals if o.folder.id == to.id]
    seen = next((o for o in known if (o.uidvalidity, o.uid) == (address.uidvalidity, address.uid)), at)
    flags = frozenset(operation.detail["flags"]) if seen is None else seen.flags
    labels = None if seen is None else seen.labels
    return Put(operation, operation.message_id or "", at, to, address, flags, labels)


def believable(placed: Placed | None, target: Mapping[str, Any]) -> dict[int, Address]:
    """Where the server says that it put each UID, as far as that can be true (RFC 4315 §3): under the UIDVALIDITY that
    it told before, at UIDs that were not used yet, no two at the same.
    """
    if placed is None or target["to_uidvalidity"] not in (None, placed.uidvalidity):
        return {}
    if len(set(placed.uids.values())) != len(placed.uids):
        return {}
    return {
        uid: Address(placed.uidvalidity, there) for uid, there in placed.uids.items() if there >= target["to_uidnext"]
    }


def address(at: Original) -> dict[str, Any]:
    """As the journal names it."""
    return {"folder_id": at.folder.id, "uidvalidity": at.uidvalidity, "uid": at.uid}


def goes_on(asked: Asked, step: Mutation) -> bool:
    """Whether the step follows from what was sent: of moves in two halves all but the first."""
    unmarks = isinstance(step, Store) and asked.operation.kind is OperationKind.MOVE
    return unmarks or isinstance(step, CopyThenExpunge | TakeBack)


def folders_of(asked: Asked) -> set[str]:
    """The folders that an operation has to do with."""
    operation, copy = asked.operation, asked.facts.copy
    standing = {at.folder.id for at in copy.originals} if copy is not None else set()
    return standing | {id_ for id_ in (operation.folder_id, operation.from_folder_id) if id_ is not None}


def names_of(operation: Operation) -> set[str]:
    """The names that an operation gives folders, or takes from them."""
    return {name for name in (operation.detail.get("from"), operation.detail.get("name")) if name is not None}


def sent(asked: Asked) -> Original | None:
    """The original that the journal names, if it is still believed to stand."""
    copy, journal = asked.facts.copy, asked.operation.journal
    if copy is None or journal is None:
        return None
    named = journal.get("folder_id"), journal.get("uidvalidity"), journal.get("uid")
    return next((at for at in copy.originals if (at.folder.id, at.uidvalidity, at.uid) == named), None)


def alike(asked: Asked, step: Mutation) -> Hashable:
    """What steps have in common that one command can carry out."""
    match step:
        case Store() | StoreLabels():
            return type(step), step.original.folder.id, step.original.uidvalidity, step.add, step.remove
        case Move():
            return Move, step.original.folder.id, step.original.uidvalidity, step.to.id
        case CopyThenExpunge():
            half = step.copied is None
            return CopyThenExpunge, half, step.original.folder.id, step.original.uidvalidity, step.to.id
        case Expunge() | TakeBack():
            return type(step), step.original.folder.id, step.original.uidvalidity
        case BringBack():
            return BringBack
        case Append() | CreateFolder() | RenameFolder() | DeleteFolder():
            return asked.operation.id
        case _:  # pragma: no cover - unreachable, kept by mypy
            assert_never(step)


def keeps(permanent: frozenset[str] | None, flag: str) -> bool:
    """Whether the server may keep a flag for good (RFC 9051 §7.1 PERMANENTFLAGS; when it names none, all of them).

    One that names `\\*` alone means every flag (go-imap): it is asked, and what stands there afterwards counts.
    """
    if permanent is None or flag.lower() in {kept.lower() for kept in permanent}:
        return True
    return "\\*" in permanent and (not flag.startswith("\\") or permanent == {"\\*"})


def missing(flags: frozenset[str], among: frozenset[str]) -> frozenset[str]:
    """Those that are not among them; flags are equal whatever their case."""
    there = {flag.lower() for flag in among}
    return frozenset(flag for flag in flags if flag.lower() not in there)
