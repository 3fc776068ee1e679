"""Carrying out steps at the server: each group of operations that are alike by one command.

    own the mailbox for the command's time → journal → command → write what the server answered

What the answer does not tell (where a message went, or whether it was there) stays `sent`, and is looked up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, assert_never

from connectors.errors import FolderGoneError, NetworkError, Retry, ServerError
from connectors.model import Selected
from mailgate.clock import SECOND, Instant
from mailgate.sync.context import Context
from mailgate.sync.operations import Operation, OperationKind
from mailgate.sync.push.bring import Bringer
from mailgate.sync.push.groups import (
    Group,
    Mutation,
    Outcome,
    WaitsError,
    address,
    believable,
    keeps,
    missing,
    put,
)
from mailgate.sync.push.lookup import Search
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
    Place,
    RenameFolder,
    Store,
    StoreLabels,
    TakeBack,
)
from mailgate.sync.push.plan import LOOKED_FOR, RENAMED, RENUMBERED
from mailgate.sync.push.port import Asked, Expunged, Marked, PushStore, Put, counted_out
from mailgate.sync.state import UNSURE, FolderState

AT_ONCE: Final = 500
"""Copies of a deleted folder that end in one transaction."""


class Steps:
    """Carries out groups."""

    def __init__(self, context: Context, pushes: PushStore, search: Search) -> None:
        self._context = context
        self._pushes = pushes
        self._search = search
        self._bringer = Bringer(context, pushes)

    async def carry_out(self, group: Group) -> Outcome:
        """One command and what it brought. Raises ServerError and ThrottledError when the server does not do it."""
        step = group.items[0][1]
        outcome = Outcome()
        try:
            match step:
                case Store():
                    await self._store(group, step, outcome)
                case StoreLabels():
                    await self._store_labels(group, step, outcome)
                case Move():
                    await self._move(group, step, outcome)
                case CopyThenExpunge():
                    await (self._copy if step.copied is None else self._leave)(group, step, outcome)
                case TakeBack():
                    await self._take_back(group, outcome)
                case Expunge():
                    await self._expunge(group, step, outcome)
                case Append():
                    await self._append(group, step, outcome)
                case CreateFolder():
                    await self._create(group, step)
                case RenameFolder():
                    await self._rename(group, step)
                case DeleteFolder():
                    await self._delete(group, step)
                case BringBack():
                    asked = [(item, found.buried) for item, found in group.items if isinstance(found, BringBack)]
                    outcome.waits, outcome.failed = await self._bringer.bring(asked)
                case _:  # pragma: no cover - unreachable, kept by mypy
                    assert_never(step)
        except WaitsError as reason:
            outcome.waits += [(operation, str(reason)) for operation in group.operations]
        return outcome

    # Flags and labels.

    async def _store(self, group: Group, step: Store, outcome: Outcome) -> None:
        selected = await self._select(step.original)
        kept = frozenset(flag for flag in step.add if keeps(selected.permanent_flags, flag))
        originals = group.originals
        answers: Mapping[int, frozenset[str]] = {at.uid: at.flags for at in originals.values()}
        if kept or step.remove:
            longest_s = self._context.source.longest_s(len(originals))
            entries = {op.id: {**(op.journal or {}), **address(originals[op.id])} for op in group.operations}
            await self._journal(group, entries, longest_s)
            answers = await self._context.source.store_flags(
                [at.uid for at in originals.values()], add=kept, remove=step.remove
            )
        marks: list[Marked] = []
        for asked, _ in group.items:
            operation, at = asked.operation, originals[asked.operation.id]
            flags = answers.get(at.uid)
            if flags is None:
                outcome.waits.append((operation, LOOKED_FOR))
                continue
            lost = sorted(missing(step.add, flags) | (step.remove - missing(step.remove, flags)))
            failed = Failed("flag_not_kept", f"the server does not keep {' '.join(lost)}") if lost else None
            ends = operation.kind is OperationKind.FLAGS and self._is_all(asked)
            marks.append(Marked(operation, replace(at, flags=flags), ends, failed))
        await self._marked(marks)
        outcome.touched.add(step.original.folder.id)

    async def _store_labels(self, group: Group, step: StoreLabels, outcome: Outcome) -> None:
        await self._select(step.original)
        originals = group.originals
        entries = {id_: address(at) for id_, at in originals.items()}
        await self._journal(group, entries, self._context.source.longest_s(len(originals)))
        uids = [at.uid for at in originals.values()]
        await self._context.source.store_labels(uids, add=step.add, remove=step.remove)
        marks = []
        for asked, _ in group.items:
            at = originals[asked.operation.id]
            labels = ((at.labels or frozenset()) - step.remove) | step.add
            marks.append(Marked(asked.operation, replace(at, labels=labels), self._is_all(asked)))
        await self._marked(marks)
        outcome.touched.add(step.original.folder.id)

    @staticmethod
    def _is_all(asked: Asked) -> bool:
        """Whether this was the only original; else it is planned again."""
        return asked.facts.copy is None or len(asked.facts.copy.originals) == 1

    async def _marked(self, marks: Sequence[Marked]) -> None:
        if marks:
            await self._pushes.marked(self._context.owner, marks, self._context.clock())

    # Moves, deletions, appends.

    async def _move(self, group: Group, step: Move, outcome: Outcome) -> None:
        originals, placed = await self._transfer(group, step)
        puts = self._placed(group, originals, step.to, placed)
        if puts:
            await self.put(puts)
        outcome.touched |= {step.original.folder.id, step.to.id}

    async def _transfer(
        self, group: Group, step: Move | CopyThenExpunge
    ) -> tuple[dict[str, Original], dict[int, Address]]:
        source = self._context.source
        target = await self._target(step.to)
        await self._select(step.original)
        originals = group.originals
        halves = isinstance(step, CopyThenExpunge)
        longest_s = source.longest_s(len(originals))
        sent = {**target, "halves": halves, **self._times(longest_s)}
        marks = {op.id: bool((op.journal or {}).get("marks")) for op in group.operations}  # of a half that was undone
        entries = {id_: {**address(at), **sent, "marks": marks[id_]} for id_, at in originals.items()}
        await self._journal(group, entries, longest_s)
        uids = [at.uid for at in originals.values()]
        command = source.copy if halves else source.move
        return originals, believable(await command(uids, step.to.name), target)

    async def _copy(self, group: Group, step: CopyThenExpunge, outcome: Outcome) -> None:
        originals, placed = await self._transfer(group, step)
        puts = self._placed(group, originals, step.to, placed)
        if puts:
            await self._pushes.copied(self._context.owner, puts, self._context.clock())
        outcome.touched.add(step.to.id)

    @staticmethod
    def _placed(
        group: Group, originals: Mapping[str, Original], to: FolderState, placed: Mapping[int, Address]
    ) -> list[Put]:
        found = []
        for asked, _ in group.items:
            at = originals[asked.operation.id]
            if at.uid in placed:
                found.append(put(asked, at, to, placed[at.uid]))
        return found

    async def _leave(self, group: Group, step: CopyThenExpunge, outcome: Outcome) -> None:
        """The second half of a move: the copy is there, the original goes. Looks before whether it is there, and after
        whether anything came to any folder: it may be this, moved on with the mark. Then the passes tell.
        """
        outcome.touched |= {step.original.folder.id, step.to.id}
        before = await self._uidnexts(step.original.folder, await self._select(step.original))
        there = await self._search.present([at.uid for at in group.originals.values()])
        torn = group.without(there)
        if group.items:
            # Where the first half went stays in the journal: cut here, it is looked up again and not done again.
            entries = group.marking(self._context.clock())
            entries = {id_: {**entries[id_], **address(at), "leaving": True} for id_, at in group.originals.items()}
            await self._journal(group, entries, self._context.source.longest_s(2 * len(group.items)))
            await self._context.source.expunge(group.uids)
            if await self._nothing_came(step.original.folder, before):
                await self._left(group)
            else:
                outcome.waits += [(operation, LOOKED_FOR) for operation in group.operations]
        if torn:
            # What somebody took away between the halves counts, so what was copied goes again. Not where the second
            # half was begun before: it was that, maybe.
            fresh = [item for item in torn if not (item[0].operation.journal or {}).get("leaving")]
            await self.undo_copies(Group(fresh))
            outcome.waits += [(asked.operation, LOOKED_FOR) for asked, _ in torn]

    async def _left(self, group: Group) -> None:
        originals = group.originals
        await self.put(
            [
                put(asked, originals[asked.operation.id], item.to, item.copied)
                for asked, item in group.items
                if isinstance(item, CopyThenExpunge) and item.copied is not None
            ]
        )

    async def _take_back(self, group: Group, outcome: Outcome) -> None:
        """Copies that are not wanted any more go. One that somebody moves on under that is met with our mark."""
        first = next(iter(group.originals.values()))
        await self._select(first)
        await self._journal(
            group, group.marking(self._context.clock()), self._context.source.longest_s(2 * len(group.items))
        )
        await self._context.source.expunge(group.uids)
        await self._pushes.uncopied(self._context.owner, list(group.originals.values()), self._context.clock())
        outcome.touched.add(first.folder.id)

    async def undo_copies(self, group: Group) -> None:
        """The originals are not to be had: what was copied goes again, if the server lets that go."""
        copies: list[tuple[Asked, Mutation]] = []
        for asked, item in group.items:
            if isinstance(item, CopyThenExpunge) and item.copied is not None:
                copies.append((asked, TakeBack(Original(item.to, item.copied.uidvalidity, item.copied.uid))))
        if copies:
            with suppress(ServerError, WaitsError):  # else it stands in both folders, and is shown so
                await self._take_back(Group(copies), Outcome())

    async def _expunge(self, group: Group, step: Expunge, outcome: Outcome) -> None:
        """Looks before: what was moved away meanwhile is deleted where it stands then. Looks after: where something
        came to any folder in between, it may be this, moved away from under the command. Then the passes tell.
        """
        before = await self._uidnexts(step.original.folder, await self._select(step.original))
        originals = group.originals
        there = await self._search.present([at.uid for at in originals.values()])
        moved = [operation for operation in group.operations if originals[operation.id].uid not in there]
        outcome.waits += [(operation, LOOKED_FOR) for operation in moved]
        outcome.touched.add(step.original.folder.id)
        group.items = [item for item in group.items if item[0].operation not in moved]
        if not group.items:
            return
        originals = group.originals
        entries = {id_: address(at) for id_, at in originals.items()}
        await self._journal(group, entries, self._context.source.longest_s(2 * len(originals)))
        await self._context.source.expunge([at.uid for at in originals.values()])
        if await self._nothing_came(step.original.folder, before):
            await self.expunged([(asked, originals[asked.operation.id]) for asked, _ in group.items])
        else:
            outcome.waits += [(operation, LOOKED_FOR) for operation in group.operations]

    async def _nothing_came(self, here: FolderState, before: Mapping[str, tuple[int, int | None]]) -> bool:
        """Whether no followed folder has got a message since."""
        try:
            return await self._uidnexts(here, await self._context.source.open(here.name)) == before
        except ServerError:
            return False  # the command was carried out all the same

    async def _uidnexts(self, here: FolderState, opened: Selected) -> dict[str, tuple[int, int | None]]:
        """UIDVALIDITY and UIDNEXT of all followed folders; of the one that is open as it told when it was opened, for
        STATUS need not be true of that (RFC 9051 §6.3.11).
        """
        others = [folder.name for folder in self._context.followed() if folder.id != here.id]
        found = await self._context.source.status(others) if others else {}
        known = {name: (status.uidvalidity, status.uidnext) for name, status in found.items() if status is not None}
        return {here.name: (opened.status.uidvalidity, opened.status.uidnext), **known}

    async def _append(self, group: Group, step: Append, outcome: Outcome) -> None:
        """One message; its bytes stream from the blob store to the server."""
        context = self._context
        asked = group.items[0][0]
        copy, detail = asked.facts.copy, asked.operation.detail
        if copy is None:
            return
        target = await self._target(step.to)
        size = copy.stored.size
        longest_s = context.source.longest_s(1, size)
        entry = {**target, **self._times(longest_s)}
        await self._journal(group, {asked.operation.id: entry}, longest_s)
        context.getting_on(size)
        stored = copy.stored
        whole: list[Instant] = []

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in context.preparer.read(stored.blob_id, stored.data_key, stored.key_epoch, size):
                yield chunk
            await context.own_for(longest_s)  # nothing takes effect before the last octet, which goes now
            whole.append(context.clock())

        flags, received_at = frozenset(detail["flags"]), detail["received_at"]
        try:
            placed = await context.source.append(step.to.name, size, chunks(), flags=flags, internal_date=received_at)
        except NetworkError:
            if whole:  # sending alone may have taken longer than any answer: it counts from the last octet
                over = {**entry, "over_at": whole[0] + round(longest_s * SECOND)}
                await self._pushes.journal(context.owner, {asked.operation.id: over}, context.clock())
            raise
        at = believable(placed, target).get(0)
        if at is not None:
            await self.put([put(asked, None, step.to, at)])
        else:  # it is looked for, and not sent again: a server that does not show it would get it for ever
            taken = {asked.operation.id: {**entry, "taken": True}}
            await self._pushes.journal(context.owner, taken, context.clock())
        outcome.touched.add(step.to.id)

    async def put(self, puts: Sequence[Put]) -> None:
        """They stand at their new addresses."""
        context = self._context
        await self._pushes.put(context.owner, puts, context.clock())
        self._count_out([item.original for item in puts if item.original is not None])

    async def expunged(self, gone: Sequence[tuple[Asked, Original | None]]) -> None:
        """They are no more."""
        context = self._context
        items = [Expunged(asked.operation, asked.operation.message_id or "", at) for asked, at in gone]
        await self._pushes.expunged(context.owner, items, context.clock())
        self._count_out([at for _, at in gone if at is not None])

    def _count_out(self, gone: Sequence[Original]) -> None:
        folders = self._context.folders
        for folder_id, count in counted_out(gone).items():
            if folder_id in folders:
                folder = folders[folder_id]
                exists = folder.exists if folder.exists == UNSURE else max(0, folder.exists - count)
                folders[folder_id] = replace(folder, exists=exists)

    # Folders.

    async def _create(self, group: Group, step: CreateFolder) -> None:
        """Where the account's own folders stand (RFC 2342): a plain name gets what their names begin with."""
        context, operation = self._context, group.operations[0]
        name = (await context.source.namespace()).full(step.name)
        if any(known.name == name and known.id != operation.folder_id for known in context.folders.values()):
            raise ServerError(f"there is a folder {name!r}", code="ALREADYEXISTS", retry=Retry.NEVER)
        await self._journal(group, {operation.id: {"name": name}}, context.source.longest_s(None))
        try:
            await context.source.create_folder(name, step.special_use)
        except ServerError as error:
            if error.code != "ALREADYEXISTS" or not await self._holds_messages(name):
                raise
            await context.source.resubscribe(None, name)
        await self.folder_applied(operation, name)

    async def _holds_messages(self, name: str) -> bool:
        """Whether it is a folder, and does not only hold others."""
        return any(folder.name == name and folder.selectable for folder in await self._context.source.list_folders())

    async def _rename(self, group: Group, step: RenameFolder) -> None:
        await self._is_still(group)
        await self._journal(group, {group.operations[0].id: {}}, self._context.source.longest_s(None))
        await self._context.source.rename_folder(step.name, step.to)
        await self.folder_applied(group.operations[0])

    async def _delete(self, group: Group, step: DeleteFolder) -> None:
        await self._is_still(group)
        await self._journal(group, {group.operations[0].id: {}}, self._context.source.longest_s(None))
        await self._context.source.delete_folder(step.name)
        await self.folder_applied(group.operations[0])

    async def _is_still(self, group: Group) -> None:
        """Raises WaitsError when the folder's name is another's by now: that one is not meant."""
        place = group.items[0][0].facts.place
        if place is not None:
            await self._look_at(place.folder)

    async def resubscribe(self, operation: Operation, place: Place | None) -> None:
        """It was found to be done, but the line dropped before mail programs were to see it."""
        source, detail = self._context.source, operation.detail
        await self._context.own_for(source.longest_s(None))
        match operation.kind:
            case OperationKind.FOLDER_CREATE:
                await source.resubscribe(None, (operation.journal or {}).get("name") or detail["name"])
            case OperationKind.FOLDER_RENAME:
                listed = detail["name"] if place is None else place.folder.name
                await source.resubscribe(listed if listed != detail["name"] else detail["from"], detail["name"])
            case _:
                await source.resubscribe(detail["name"], None)

    async def folder_applied(self, operation: Operation, name: str | None = None) -> None:
        """The server's folders are as this operation wanted them. `name`: what a new one is called there."""
        context, pushes = self._context, self._pushes
        match operation.kind:
            case OperationKind.FOLDER_CREATE:
                made = name or (operation.journal or {}).get("name") or operation.detail["name"]
                await pushes.folder_made(context.owner, operation, made, context.clock())
            case OperationKind.FOLDER_RENAME:
                await pushes.folder_renamed(context.owner, operation, context.clock())
            case _:
                while not await pushes.folder_deleted(context.owner, operation, AT_ONCE, context.clock()):
                    context.getting_on()
        known = await context.store.folders(context.config.id)
        context.folders = {folder.id: context.folders.get(folder.id, folder) for folder in known}
        names = {folder.id: folder.name for folder in known}
        context.folders = {id_: replace(folder, name=names[id_]) for id_, folder in context.folders.items()}
        context.looked_at = {id_: at for id_, at in context.looked_at.items() if id_ in context.folders}

    # What these have in common.

    async def _select(self, at: Original) -> Selected:
        """Open the original's folder for writing. Raises WaitsError when it is not the one that it was."""
        try:
            selected = await self._context.source.select(at.folder.name)
        except FolderGoneError:
            raise WaitsError(LOOKED_FOR) from None
        if self._context.is_another(at.folder, selected.object_id):
            raise WaitsError(RENAMED)
        if selected.status.uidvalidity != at.uidvalidity:
            raise WaitsError(RENUMBERED)
        if selected.read_only:
            raise ServerError("the server lets this folder be read only", code="READ-ONLY", retry=Retry.NEVER)
        return selected

    async def _target(self, to: FolderState) -> dict[str, Any]:
        """What the journal says of where messages go: their UIDs there will be these or higher. A folder that was
        renumbered is passed over first: else what is put there would not be known to stand there.
        """
        if self._context.is_like_another(to):
            await self._look_at(to)
        status = (await self._context.source.status([to.name])).get(to.name)
        if status is not None and to.uidvalidity not in (None, status.uidvalidity) and (status.exists or to.exists):
            raise WaitsError(RENUMBERED)  # an empty mbox has another number each second, until something is put there
        return {
            "to_uidvalidity": None if status is None else status.uidvalidity,
            "to_uidnext": (to.uidnext if status is None else status.uidnext) or 1,
        }

    async def _look_at(self, folder: FolderState) -> None:
        """Raises WaitsError when the folder has another name now. Where folders have identities, opening tells."""
        if folder.object_id is None:
            return
        with suppress(ServerError):  # what is asked for will tell
            opened = await self._context.source.open(folder.name)
            if self._context.is_another(folder, opened.object_id):
                raise WaitsError(RENAMED)

    def _times(self, longest_s: float) -> dict[str, Instant]:
        """When a command is sent, and when its answer can't come any more."""
        now = self._context.clock()
        return {"at": now, "over_at": now + round(longest_s * SECOND)}

    async def _journal(self, group: Group, entries: Mapping[str, Mapping[str, Any]], longest_s: float) -> None:
        """What is to be sent. The mailbox is ours until the command is over, or the line is."""
        context = self._context
        await context.own_for(longest_s)
        await self._pushes.journal(context.owner, entries, context.clock())
        group.sent = True
