"""What to do next about one change that the CRM asked for, as a pure function of what is known of it.

    asked for       known                                               next step
    any             the tenant has no sync                              Wait (S6: decided here, and nothing is sent)
    any             a pause is not over                                 Wait; what was sent is looked up all the same
    of a message    its copy was purged                                 Failed purged: nothing is sent (S1)
    delete          copy and original are gone                          Applied
    others          copy and original are gone                          Failed gone_at_server
    any             the original is not where it was (pending)          Wait: the passes find where it stands now
    flags, labels   no original any more                                Failed gone_at_server
    flags           base says so already                                Applied
    flags           base differs                                        Store; again when it was sent
    labels          base says so already                                Applied
    labels          base differs; the server has no labels              Failed no_labels
    labels          base differs                                        StoreLabels; again when it was sent
    move, append    the folder is gone                                  Failed folder_gone
    move, append    the folder is not made yet                          Wait
    move            it stands there already                             Applied
    move            it stands there, and in its source too              CopyThenExpunge, its second half
    move            it stands elsewhere                                 Failed moved_at_server: the server's wins
    move            somebody moved it on, with our mark, and its        TakeBack
                    first half stands
    move            it stands where somebody moved it, with our mark    Store: without the mark; then as above
    move            no original any more                                Failed gone_at_server
    move            it stands in its source, but not where it was       Wait for a look at all folders, for what was
                    when its second half was sent                       moved on with our mark
    move            in its source; MOVE                                 Move
    move            in its source; UID EXPUNGE only                     CopyThenExpunge
    move            in its source; neither                              Failed no_move: never a bare EXPUNGE
    delete          pinned by now                                       Failed pinned
    delete          no original                                         Applied
    delete          an original; UID EXPUNGE                            Expunge
    delete          an original; no UID EXPUNGE                         Failed no_uidplus
    append          it has, or had, an original                         Applied
    append          none                                                Append
    folder_create   the folder is there                                 Applied
    folder_create   not yet                                             CreateFolder
    folder_rename   it is called so                                     Applied
    folder_rename   not yet                                             RenameFolder
    folder_rename   the folder is gone                                  Failed folder_gone
    folder_delete   the folder is gone                                  Applied
    folder_delete   it stands                                           LookUp; as many messages as the user saw:
                                                                        DeleteFolder, else Failed folder_changed
    rehydrate       the copy is here                                    Applied: it gets the pins
    rehydrate       a tombstone, of a purge                             BringBack
    rehydrate       a tombstone, since a user deleted it                Failed deleted
    rehydrate       neither                                             Failed gone_at_server

What was sent and not answered is looked up first, and done again only when the server shows that it was not done:

    sent            at the server                                       next step
    move            not in its source, found in the target              Applied there
    move, one step  in its source                                       as if it was not sent
    move, halves    found in the target, not known to be gone           CopyThenExpunge, its second half
    move, halves    in its source, not found in the target              as if it was not sent
    move            neither                                             Wait: the passes say moved or gone
    move, 2nd half  not in its source, as the passes saw                Wait for a look at all folders, for what was
                                                                        moved on with our mark; then as if not sent
    delete          not in its folder                                   Applied
    delete          in its folder                                       Expunge
    move, delete    the folder was renumbered                           Wait: the passes recognise it
    append          found in the folder                                 Applied there
    append          not found                                           Append
    move, append    not done, and its answer could still have come,     Wait until then: the server may be at it
                    had the line not been lost
    append          not found, though the server said that it took it   Wait, as above; then Failed not_kept
    append          the folder was renumbered, and not passed over      Wait
    folder_create   listed                                              Applied
    folder_create   not listed, or only to hold others                  CreateFolder
    folder_rename   only the new name is listed                         Applied
    folder_rename   neither is listed                                   Failed folder_gone
    folder_rename   the old name is listed                              RenameFolder
    folder_delete   not listed                                          Applied

An original that the passes met under another address than the one that was sent was not touched: S5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, assert_never

from connectors.model import SpecialUse
from connectors.port import Abilities
from mailgate.clock import Instant, is_over
from mailgate.sync.operations import LONGEST_PAUSE, Operation, OperationKind, OperationState
from mailgate.sync.push.model import (
    Address,
    Append,
    Applied,
    BringBack,
    Copy,
    CopyThenExpunge,
    CreateFolder,
    DeleteFolder,
    Evidence,
    Expunge,
    Facts,
    Failed,
    LookUp,
    Move,
    Original,
    Place,
    RenameFolder,
    Seen,
    Step,
    Store,
    StoreLabels,
    TakeBack,
    Wait,
)
from mailgate.sync.views import NO_FLAGS, TO_BE_REMOVED, wished

LOOKED_FOR: Final = "it is not where it was; the other folders are looked at first"
PAUSED: Final = "it is tried again later"
RENAMED: Final = "its folder's name is another folder's now; what each is called is found out first"
RENUMBERED: Final = "the server renumbered the folder, or does not open it; what is in it is found out first"
UNDER_WAY: Final = "nothing is to be seen of it yet; the server may still be at it"

_ADDS: Final = (Append, Move, CopyThenExpunge)
"""What may leave a message too many when it is done twice at the same time."""


def plan(
    operation: Operation,
    facts: Facts,
    abilities: Abilities,
    now: Instant,
    *,
    entitled: bool,
    evidence: Evidence | None = None,
) -> Step:
    """The next step. `evidence` is what a LookUp brought, None when there was none since it was sent."""
    if not entitled:
        return Wait("the plan has no synchronization")
    paused = operation.next_at is not None and not is_over(operation.next_at, now, LONGEST_PAUSE)
    if paused and operation.state is not OperationState.SENT:
        return Wait(PAUSED, operation.next_at)
    step = _step(operation, facts, abilities, evidence)
    found = evidence is not None and isinstance(step, CopyThenExpunge) and step.copied is not None
    if evidence is not None and isinstance(step, _ADDS) and not found:
        journal = operation.journal or {}
        taken, over_at = bool(journal.get("taken")), journal.get("over_at")
        if (taken or evidence.unanswered) and over_at is not None and not is_over(over_at, now, LONGEST_PAUSE):
            return Wait(UNDER_WAY, over_at)
        if taken:
            return Failed("not_kept", "the server said that it took the message, and has it nowhere")
    if not paused or found or isinstance(step, LookUp | Applied | Failed | Wait):
        return step
    return Wait(PAUSED, operation.next_at)


def _step(operation: Operation, facts: Facts, abilities: Abilities, evidence: Evidence | None) -> Step:
    match operation.kind:
        case (
            OperationKind.FLAGS
            | OperationKind.LABELS
            | OperationKind.MOVE
            | OperationKind.DELETE
            | OperationKind.APPEND
        ):
            if facts.copy is None:
                return _without_copy(operation, facts)
            return _of_message(operation, facts.copy, facts.place, abilities, evidence)
        case OperationKind.FOLDER_CREATE:
            return _create(operation, facts.place, evidence)
        case OperationKind.FOLDER_RENAME:
            return _rename(operation, facts.place, evidence)
        case OperationKind.FOLDER_DELETE:
            return _delete_folder(operation, facts.place, evidence)
        case OperationKind.REHYDRATE:
            return _rehydrate(facts)
        case _:  # pragma: no cover - unreachable, kept by mypy
            assert_never(operation.kind)


def _without_copy(operation: Operation, facts: Facts) -> Step:
    if facts.purged:
        return Failed("purged", "the copy was purged; its original is left as it is")
    return Applied() if operation.kind is OperationKind.DELETE else _gone()


def _rehydrate(facts: Facts) -> Step:
    if facts.copy is not None:
        return Applied()
    if facts.buried is None:
        return Failed("gone_at_server", "nothing is known of it any more")
    if facts.buried.deleted:
        return Failed("deleted", "a user deleted it")
    return BringBack(facts.buried)


def _gone() -> Failed:
    return Failed("gone_at_server", "the original is gone at the server")


def _of_message(
    operation: Operation, copy: Copy, place: Place | None, abilities: Abilities, evidence: Evidence | None
) -> Step:
    match operation.kind:
        case OperationKind.FLAGS:
            return _flags(operation, copy)
        case OperationKind.LABELS:
            return _labels(operation, copy, abilities)
        case OperationKind.DELETE:
            return _delete(operation, copy, abilities, evidence)
        case OperationKind.MOVE:
            return _into(place) or _move(operation, copy, place, abilities, evidence)
        case _:
            return _into(place) or _append(operation, copy, place, evidence)


def change(detail: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """What a flags or labels operation adds and removes."""
    return frozenset(detail["add"]), frozenset(detail["remove"])


def _flags(operation: Operation, copy: Copy) -> Step:
    add, remove = change(operation.detail)
    if not copy.originals:
        return _lost(copy)
    differing = [at for at in copy.originals if wished(at.flags, [(add, remove)]) != at.flags]
    return Store(differing[0], add, remove) if differing else Applied()


def _labels(operation: Operation, copy: Copy, abilities: Abilities) -> Step:
    add, remove = change(operation.detail)
    if not copy.originals:
        return _lost(copy)
    has = {at: at.labels or frozenset() for at in copy.originals}
    differing = [at for at, labels in has.items() if wished(labels, [(add, remove)]) != labels]
    if not differing:
        return Applied()
    if not abilities.labels:
        return Failed("no_labels", "the server has no labels")
    return StoreLabels(differing[0], add, remove)


def _lost(copy: Copy) -> Step:
    return Wait(LOOKED_FOR) if copy.missing else _gone()


def _into(place: Place | None) -> Step | None:
    """What stands in the way of putting something into this folder."""
    if place is None or place.void:
        return Failed("folder_gone", "the folder is gone at the server")
    return Wait("the folder is not made yet") if place.on_its_way == "create" else None


def _move(
    operation: Operation, copy: Copy, place: Place | None, abilities: Abilities, evidence: Evidence | None
) -> Step:
    assert place is not None  # noqa: S101 - `_into` saw to it
    to = place.folder
    there = next((at for at in copy.originals if at.folder.id == to.id), None)
    here = next((at for at in copy.originals if at.folder.id == operation.from_folder_id), None)
    under = _under_our_mark(operation, copy, here, there, evidence)
    if under is not None:
        return under
    if here is None or here is there:
        if there is not None:
            return Applied()
        if copy.originals:
            return Failed("moved_at_server", "it was moved at the server meanwhile, and stays there")
        return _lost(copy)
    copied = None if there is None else Address(there.uidvalidity, there.uid)
    if copied is None and _was_sent(operation, here):
        if evidence is None:
            return LookUp(original=here, target=to)
        if evidence.source is Seen.GONE:
            return Wait(LOOKED_FOR) if evidence.found is None else Applied(evidence.found)
        copied = evidence.found if _in_halves(operation) else None
        if copied is None and (evidence.source is Seen.UNKNOWN or not evidence.searched):
            return Wait(RENUMBERED)
    if copied is None and abilities.move:
        return Move(here, to)
    if abilities.expunge:
        return CopyThenExpunge(here, to, copied)
    return Failed("no_move", "the server has neither MOVE nor UID EXPUNGE, so it can't move single messages safely")


def _under_our_mark(
    operation: Operation, copy: Copy, here: Original | None, there: Original | None, evidence: Evidence | None
) -> Step | None:
    """What its second half may have left of a move: the original, moved on by somebody when it was marked already."""
    if operation.journal is None or not operation.journal.get("marks"):
        return None
    marked = next((at for at in copy.originals if at.flags & TO_BE_REMOVED), None)
    if marked is None:
        if here is not None and here is not there and _is_named(operation, here):
            return None
        if evidence is None:
            return LookUp()
        return None if evidence.looked else Wait(LOOKED_FOR)
    if there is None or there is marked:
        return Store(marked, NO_FLAGS, TO_BE_REMOVED)
    return None if marked is here else TakeBack(there)


def _was_sent(operation: Operation, at: Original) -> bool:
    """Whether the command that may have reached the server named this address."""
    return operation.state is OperationState.SENT and _is_named(operation, at)


def _is_named(operation: Operation, at: Original) -> bool:
    """Whether the journal names this address."""
    journal = operation.journal or {}
    named = journal.get("folder_id"), journal.get("uidvalidity"), journal.get("uid")
    return named == (at.folder.id, at.uidvalidity, at.uid)


def _in_halves(operation: Operation) -> bool:
    """Whether COPY was sent; MOVE does a message at once or not at all (RFC 6851 §3.3)."""
    return operation.journal is not None and bool(operation.journal.get("halves"))


def _delete(operation: Operation, copy: Copy, abilities: Abilities, evidence: Evidence | None) -> Step:
    if copy.pins:
        return Failed("pinned", "a record of the CRM refers to it by now")
    if not copy.originals:
        return Wait(LOOKED_FOR) if copy.missing else Applied()
    sent = next((at for at in copy.originals if _was_sent(operation, at)), None)
    if sent is not None:
        if evidence is None:
            return LookUp(original=sent)
        if evidence.source is Seen.UNKNOWN:
            return Wait(RENUMBERED)
        if evidence.source is Seen.GONE:
            return Wait(LOOKED_FOR)  # removed, or moved by somebody: where it stands then, it is deleted
    if not abilities.expunge:
        return Failed("no_uidplus", "the server has no UID EXPUNGE, so it can't remove single messages safely")
    return Expunge(sent or copy.originals[0])


def _append(operation: Operation, copy: Copy, place: Place | None, evidence: Evidence | None) -> Step:
    assert place is not None  # noqa: S101 - `_into` saw to it
    if copy.originals or copy.missing:
        return Applied()
    if operation.state is OperationState.SENT:
        if evidence is None:
            return LookUp(target=place.folder)
        if evidence.found is not None:
            return Applied(evidence.found)
        if not evidence.searched:
            return Wait(RENUMBERED)
        if not evidence.looked:
            return Wait(LOOKED_FOR)
    return Append(place.folder)


def _create(operation: Operation, place: Place | None, evidence: Evidence | None) -> Step:
    if place is None or place.gone:
        return Failed("folder_gone", "the folder was deleted meanwhile")
    name = operation.detail["name"]  # its row may be called otherwise, while another has the name
    if place.on_its_way != "create":
        return Applied()
    if operation.state is OperationState.SENT:
        if evidence is None:
            return LookUp(folder=place.folder)
        made = evidence.listed - evidence.containers
        if not made.isdisjoint({name, (operation.journal or {}).get("name", name)}):
            return Applied()
    use = operation.detail["special_use"]
    return CreateFolder(name, None if use is None else SpecialUse(use))


def _rename(operation: Operation, place: Place | None, evidence: Evidence | None) -> Step:
    gone = Failed("folder_gone", "the folder is gone at the server")
    if place is None or place.gone:
        return gone
    name, to = place.folder.name, operation.detail["name"]
    if name == to:
        return Applied()
    if operation.state is OperationState.SENT:
        if evidence is None:
            return LookUp(folder=place.folder)
        if name not in evidence.listed:
            return Applied() if to in evidence.listed else gone
    return RenameFolder(name, to)


def _delete_folder(operation: Operation, place: Place | None, evidence: Evidence | None) -> Step:
    if place is None or place.gone:
        return Applied()
    if evidence is None:
        return LookUp(folder=place.folder)
    if place.folder.name not in evidence.listed:
        return Applied()
    exists = evidence.exists if place.folder.selectable else 0
    if exists is None:
        return Failed("folder_refused", "the server does not say what is in the folder")
    if exists != operation.detail["exists"]:
        return Failed(
            "folder_changed",
            f"the folder has {exists} messages by now, not {operation.detail['exists']}; it was not deleted",
        )
    return DeleteFolder(place.folder.name)
