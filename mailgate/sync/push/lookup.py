"""Finding out at the server what became of commands whose answers were lost: what is there, and what is not.

An original: is its UID still in its folder? A message that was to be put somewhere: is one like it in that folder,
among those that came since the journal was written (UIDs from its UIDNEXT on) and of which nothing is known? Equal
messages are paired one to one (S9). A folder: is it listed?

What was appended may have been moved on by a person at once: passes meet it there (`mailgate.store.recognition`), so it
is not appended again before every folder had one since. What was copied into a folder that was renumbered since is
found among all that stands there, once everything else that is known to stand there has been found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Final

from connectors.errors import ServerError
from connectors.model import MessageMeta
from mailgate.messages.timed import untimed
from mailgate.sync.arriving import received
from mailgate.sync.context import Context
from mailgate.sync.identity import Candidate, Likeness, pair
from mailgate.sync.operations import OperationKind
from mailgate.sync.push.model import (
    Address,
    Evidence,
    LookUp,
    Original,
    Seen,
)
from mailgate.sync.push.port import Asked
from mailgate.sync.snapshot import LAST_UID, closing
from mailgate.sync.state import FolderState
from mailgate.sync.uids import ranges

CHUNK: Final = 500
"""Headers that are compared at a time."""

Question = tuple[Asked, LookUp]


class Search:
    """One look at the server for several operations."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def evidence(self, questions: Sequence[Question]) -> dict[str, Evidence]:
        """What there is to see, by operation id."""
        found = {asked.operation.id: Evidence(looked=self._looked_since(asked)) for asked, _ in questions}
        await self._folders([q for q in questions if q[1].folder is not None], found)
        await self._originals([q for q in questions if q[1].original is not None], found)
        await self._targets([q for q in questions if q[1].target is not None], found)
        return found

    def _looked_since(self, asked: Asked) -> bool:
        """Whether every followed folder had a pass since the command was sent, which nothing has overtaken."""
        sent_at = (asked.operation.journal or {}).get("at")
        looks = self._context.looks()  # empty before the session has a list of folders
        return sent_at is not None and bool(looks) and all(at > sent_at for at in looks.values())

    async def _folders(self, questions: Sequence[Question], found: dict[str, Evidence]) -> None:
        if not questions:
            return
        source = self._context.source
        folders = await source.list_folders()
        listed = frozenset(folder.name for folder in folders)
        containers = frozenset(folder.name for folder in folders if not folder.selectable)
        asked_for = {look.folder.name for _, look in questions if look.folder is not None}
        names = sorted(asked_for & listed - containers)
        statuses = await source.status(names) if names else {}
        for asked, look in questions:
            status = statuses.get(look.folder.name) if look.folder is not None else None
            exists = None if status is None else status.exists
            found[asked.operation.id] = Evidence(listed=listed, containers=containers, exists=exists)

    async def _originals(self, questions: Sequence[Question], found: dict[str, Evidence]) -> None:
        groups: dict[tuple[str, int], list[tuple[str, Original]]] = {}
        for asked, look in questions:
            if look.original is not None:
                where = look.original.folder.name, look.original.uidvalidity
                groups.setdefault(where, []).append((asked.operation.id, look.original))
        for (_, uidvalidity), group in groups.items():
            standing = await self._standing(group[0][1].folder, uidvalidity, [at.uid for _, at in group])
            for id_, at in group:
                seen = Seen.UNKNOWN if standing is None else Seen.THERE if at.uid in standing else Seen.GONE
                found[id_] = replace(found[id_], source=seen)

    async def _standing(self, folder: FolderState, uidvalidity: int, uids: Sequence[int]) -> set[int] | None:
        """Which of these UIDs are in the folder; None when it was renumbered or renamed, or can't be opened."""
        try:
            opened = await self._context.source.open(folder.name)
        except ServerError:
            return None  # gone, or not to be read now: the passes find out
        if opened.status.uidvalidity != uidvalidity or self._context.is_another(folder, opened.object_id):
            return None
        return await self.present(uids) if opened.status.exists else set()

    async def present(self, uids: Sequence[int]) -> set[int]:
        """Which of these UIDs are in the open folder."""
        there: set[int] = set()
        async with closing(self._context.source.fetch_flags(ranges(sorted(uids)))) as batches:
            async for batch in batches:
                self._context.getting_on()
                there.update(change.uid for change in batch)
        return there.intersection(uids)

    async def _targets(self, questions: Sequence[Question], found: dict[str, Evidence]) -> None:
        groups: dict[str, list[Asked]] = {}
        targets: dict[str, FolderState] = {}
        for asked, look in questions:
            if look.target is not None:
                targets[look.target.id] = look.target
                groups.setdefault(look.target.id, []).append(asked)
        for folder_id, group in groups.items():
            await self._target(targets[folder_id], group, found)

    async def _target(self, target: FolderState, group: Sequence[Asked], found: dict[str, Evidence]) -> None:
        source = self._context.source
        try:
            opened = await source.open(target.name)
        except ServerError:
            opened = None
        if opened is None or self._context.is_another(target, opened.object_id):
            for asked in group:
                found[asked.operation.id] = replace(found[asked.operation.id], searched=False)
            return
        uidvalidity = opened.status.uidvalidity
        current: dict[int, list[Asked]] = {}
        copied: list[Asked] = []
        for asked in group:
            journal = asked.operation.journal or {}
            if journal.get("to_uidvalidity") in (None, uidvalidity):
                current.setdefault(journal.get("to_uidnext") or 1, []).append(asked)
            elif target.uidvalidity != uidvalidity:
                # Renumbered, and not passed over since: the pass recognises what is there.
                found[asked.operation.id] = replace(found[asked.operation.id], searched=False)
                if journal.get("halves"):
                    copied.append(asked)
        if copied:
            await self._copied(target, uidvalidity, copied, found)
        if not current:
            return
        listing = [uid for uid in await source.list_uids() if uid >= min(current)]
        taken: set[int] = set()
        for uidnext in sorted(current, reverse=True):
            new = [uid for uid in listing if uid >= uidnext and uid not in taken]
            exact = {asked.operation.id for asked in current[uidnext] if self._needs_proof(asked, found)}
            for id_, uid in (await self._match(target, uidvalidity, new, current[uidnext], exact)).items():
                taken.add(uid)
                found[id_] = replace(found[id_], found=Address(uidvalidity, uid))

    async def _copied(
        self, target: FolderState, uidvalidity: int, group: Sequence[Asked], found: dict[str, Evidence]
    ) -> None:
        """Messages of which a copy may stand in this folder, open and renumbered since: found by all of their likeness,
        where nothing else that is known to have stood there is it. A pass would take the copy for another message.
        """
        context = self._context
        wanted = {a.operation.id: a.facts.copy.likeness for a in group if a.facts.copy is not None}
        traits = {(like.size, like.internal_date) for like in wanted.values()}
        alike: list[int] = []
        async with closing(context.source.fetch_meta([range(1, LAST_UID)])) as batches:
            async for batch in batches:
                context.getting_on()
                alike += [meta.uid for meta in batch if (meta.size, received(meta.internal_date)) in traits]
        known = await context.store.views(context.owner, target, uidvalidity, alike)
        metas, headers = await self._headers([uid for uid in alike if uid not in known])
        tokens = context.preparer.header_tokens(headers)
        far = [
            (m.uid, Likeness(untimed(t), m.size, received(m.internal_date))) for m, t in zip(metas, tokens, strict=True)
        ]
        stood = await context.store.recognisable(context.owner, target, uidvalidity, set(tokens))
        others = pair(far, [Candidate(item.key, item.likeness) for item in stood if item.free])
        left = {uid: like for uid, like in far if uid not in others}
        for id_, like in wanted.items():
            uid = next((uid for uid, other in left.items() if other == like), None)
            at = None
            if uid is not None:
                del left[uid]
                at = Address(uidvalidity, uid)
            found[id_] = replace(found[id_], found=at, searched=True)

    @staticmethod
    def _needs_proof(asked: Asked, found: Mapping[str, Evidence]) -> bool:
        """An original that may still be there would be expunged for what is found: that has to be its copy, so size
        and INTERNALDATE must be equal too, which COPY keeps (RFC 9051 §6.4.7).
        """
        return asked.operation.kind is OperationKind.MOVE and found[asked.operation.id].source is not Seen.GONE

    async def _match(
        self, target: FolderState, uidvalidity: int, uids: Sequence[int], group: Sequence[Asked], exact: Set[str]
    ) -> dict[str, int]:
        """The UID of each operation's message, where it is among these."""
        context = self._context
        left = {asked.operation.id: asked for asked in group}
        matched: dict[str, int] = {}
        for start in range(0, len(uids), CHUNK):
            chunk = uids[start : start + CHUNK]
            known = await context.store.views(context.owner, target, uidvalidity, chunk)
            metas, headers = await self._headers([uid for uid in chunk if uid not in known])
            tokens = context.preparer.header_tokens(headers)
            far = [
                (meta.uid, Likeness(untimed(token), meta.size, received(meta.internal_date)))
                for meta, token in zip(metas, tokens, strict=True)
            ]
            wanted = [
                Candidate(id_, asked.facts.copy.likeness) for id_, asked in left.items() if asked.facts.copy is not None
            ]
            pairs = pair(far, [item for item in wanted if item.key not in exact])
            likeness = dict(far)
            rest = pair([item for item in far if item[0] not in pairs], [item for item in wanted if item.key in exact])
            known_as = {item.key: item.likeness for item in wanted}
            pairs |= {uid: id_ for uid, id_ in rest.items() if likeness[uid] == known_as[id_]}
            by_msgid = self._by_msgid(metas, headers, pairs, left)
            for uid, id_ in {**pairs, **by_msgid}.items():
                matched[id_] = uid
                left.pop(id_, None)
        return matched

    async def _headers(self, uids: Sequence[int]) -> tuple[list[MessageMeta], list[bytes]]:
        metas: list[MessageMeta] = []
        headers: list[bytes] = []
        if uids:
            async with closing(self._context.source.fetch_headers(uids)) as messages:
                async for meta, header in messages:
                    self._context.getting_on()
                    metas.append(meta)
                    headers.append(header)
        return metas, headers

    def _by_msgid(
        self,
        metas: Sequence[MessageMeta],
        headers: Sequence[bytes],
        pairs: Mapping[int, str],
        left: Mapping[str, Asked],
    ) -> dict[int, str]:
        """What was appended and has another header by now: servers that write headers of their own leave the
        Message-ID as it was.
        """
        paired = set(pairs.values())
        waiting: dict[bytes, list[str]] = {}
        for id_, asked in left.items():
            msgid = None if asked.facts.copy is None else asked.facts.copy.msgid_token
            if msgid is not None and asked.operation.kind is OperationKind.APPEND and id_ not in paired:
                waiting.setdefault(msgid, []).append(id_)
        found: dict[int, str] = {}
        if waiting:
            for meta, token in zip(metas, self._context.preparer.msgid_tokens(headers), strict=True):
                ids = waiting.get(token, []) if token is not None and meta.uid not in pairs else []
                if ids:
                    found[meta.uid] = ids.pop(0)
        return found
