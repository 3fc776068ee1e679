"""Listing: the newest copies of a tenant under a filter, with words or without, in bounded time.

Theory. What an index has in order (all copies, those of a flag) is read until the page is full. A filter that no index
has (files, a folder) may leave nothing of a million copies: then no more are looked at than stand in `WINDOW` and
`search.looked`, and the page says where the next goes on, though it holds less than was asked for. What a filter leaves
few of (a thread, a folder, what is flagged) is looked at as a whole, since nobody should turn pages to find it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, desc, exists, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.keys import TenantKeys
from mailgate.store.schema import folders, messages, origins, search_docs
from mailgate.store.search import mailbox_token
from mailgate.store.searching import Search, Span, query_tokens
from mailgate.store.sets import among, among_numbers

_M = messages.c
_EVER: Instant = 1 << 62
SOON, WINDOW = 1_000, 20_000
"""Copies that are looked at for one page, when no index knows the filter: first, and then at most."""
ENOUGH: Final = 5_000
"""The same of copies whose words are looked for."""
FEW: Final = 1_000
"""So many are looked at as a whole, `CHECKED` at a time when it is for words."""
CHECKED: Final = 100


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """What to list; None or empty means any. `since` and `before` bound the anchor: since ≤ anchor < before."""

    mailbox_id: str | None = None
    folder_id: str | None = None
    thread_id: str | None = None
    words: Mapping[str, str] | None = None
    """Words that a message must have, by field of `search.FIELDS`."""
    since: Instant | None = None
    before: Instant | None = None
    unseen: bool | None = None
    flagged: bool | None = None
    pinned: bool | None = None
    has_files: bool | None = None
    deleted: bool = False
    """Also those that users deleted, which compliance sees as long as they are there."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of `messages` in order; `further`: those with anchors before it were not looked at, though there may be
    more. None: there are no more, or there are as many as were asked for.
    """

    rows: Sequence[Row[Any]]
    further: Instant | None = None


class Listing:
    """The copies of one tenant under a filter, the newest anchor first."""

    def __init__(
        self,
        conn: AsyncConnection,
        tenant_id: str,
        keys: TenantKeys,
        wanted: MessageFilter,
        visible: ColumnElement[bool],
        after: tuple[Instant, str] | None,
        *,
        sqlite: bool,
    ) -> None:
        self._conn, self._tenant_id, self._keys, self._wanted, self._sqlite = conn, tenant_id, keys, wanted, sqlite
        self._visible = visible if wanted.deleted else and_(visible, _M.deleted_at.is_(None))
        self._same: list[tuple[ColumnElement[str], str]] = [(_M.tenant_id, tenant_id)]
        self._within: list[ColumnElement[bool]] = []
        if wanted.since is not None:
            self._within.append(_M.anchor_at >= wanted.since)
        if wanted.before is not None:
            self._within.append(_M.anchor_at < wanted.before)
        if after is not None:
            self._within.append(tuple_(_M.anchor_at, _M.id) < tuple_(*after))
        key_before = None if after is None else after[0] + bool(after[1])  # nothing stands before an empty id
        self._before = min((at for at in (wanted.before, key_before) if at is not None), default=_EVER)

    async def newest(self, most: int) -> Stretch:
        """The newest `most` of them. Raises PreconditionError (`prefix_invalid`)."""
        mailboxes = {self._wanted.mailbox_id} - {None}
        if self._wanted.folder_id is not None:
            # A message moves among the folders of its mailbox, never out of it.
            of_folder = select(folders.c.mailbox_id).where(folders.c.id == self._wanted.folder_id)
            mailboxes |= set((await self._conn.execute(of_folder)).scalars())
        self._same += [(_M.mailbox_id, str(id_)) for id_ in mailboxes]
        if not self._wanted.words:
            return await self._without_words(most)
        tokens = query_tokens(self._keys, self._wanted.words)
        if tokens is None:
            return Stretch(())
        tokens += [mailbox_token(self._keys, str(id_)) for id_ in mailboxes]  # the index knows them too
        span = Span.of(since=self._wanted.since, before=self._before)
        search = Search(self._conn, self._tenant_id, tokens, span, sqlite=self._sqlite)
        few = await self._few(_of_flags(self._wanted))
        return await (self._with_words(search, most) if few is None else self._few_with_words(few, search, most))

    async def _without_words(self, most: int) -> Stretch:
        few = await self._few()
        if few is not None:
            return Stretch(await self._those(among(_M.id, few, sqlite=self._sqlite), most))
        if not self._is_sifted():
            return Stretch(await self._rows(self._of_tenant(), most))
        for window in (SOON, WINDOW):
            floor = await self._floor(window)
            rows = await self._rows([*self._of_tenant(), *(() if floor is None else (_M.anchor_at >= floor,))], most)
            if floor is None or len(rows) == most:
                return Stretch(rows)
        return Stretch(rows, floor)

    def _of_tenant(self) -> list[ColumnElement[bool]]:
        """Those within the tenant (and mailbox) and the bounds."""
        same = [column == value for column, value in self._same]
        if self._sqlite and len(same) > 1 and not _of_flags(self._wanted):
            same[0] = self._same[0][0].concat("") == self._same[0][1]  # by the mailbox's index, not the tenant's
        return [*same, *self._within]

    async def _few(self, conditions: Sequence[ColumnElement[bool]] = ()) -> list[str] | None:
        """All that an index knows of a thread, of a folder or under one of these conditions, if that is few."""
        folder_id, thread_id = self._wanted.folder_id, self._wanted.thread_id
        if folder_id is not None:
            standing = select(origins.c.message_id).where(origins.c.folder_id == folder_id)
            ids = await self._at_most_few(standing.order_by(origins.c.uid))  # as the index has them: no more are read
            if ids is not None:
                return ids + list((await self._conn.execute(select(_M.id).where(_M.moving_to == folder_id))).scalars())
        of_tenant = select(_M.id).where(*self._of_tenant())
        for condition in [*conditions, *([] if thread_id is None else [_M.thread_id == thread_id])]:
            ids = await self._at_most_few(of_tenant.where(condition))
            if ids is not None:
                return ids
        return None

    async def _at_most_few(self, query: Select[Any]) -> list[str] | None:
        ids = list((await self._conn.execute(query.limit(FEW + 1))).scalars())
        return ids if len(ids) <= FEW else None

    def _is_sifted(self) -> bool:
        """Whether no index has what is asked for in its order."""
        return self._wanted.thread_id is None and len(_sifting(self._wanted)) > len(_of_flags(self._wanted)[:1])

    async def _floor(self, window: int) -> Instant | None:
        """The anchor of the last of so many messages; None when there are fewer."""
        known = _of_flags(self._wanted)[:1]
        query = select(_M.anchor_at).where(*self._of_tenant(), *known).order_by(desc(_M.anchor_at), desc(_M.id))
        return (await self._conn.execute(query.offset(window).limit(1))).scalar_one_or_none()

    async def _with_words(self, search: Search, most: int) -> Stretch:
        """The index is read a piece at a time, from the newest back, until there are enough: what is looked for stands
        mostly at the front.
        """
        found: list[Row[Any]] = []
        piece = 4 * most if _sifting(self._wanted) else most
        looked_up = 0
        while search.rest is not None and len(found) < most and search.looked < ENOUGH:
            numbers = await search.piece(piece)
            if numbers:
                docs = among_numbers(search_docs.c.doc, numbers, sqlite=self._sqlite)
                found += await self._those(_M.id.in_(select(search_docs.c.message_id).where(docs)), most - len(found))
            looked_up += len(numbers)
            # Twice as many as would do if it goes on like that; four times as many as before while nothing was found.
            piece = min(4 * piece, ENOUGH, 1 + 2 * (most - len(found)) * looked_up // len(found) if found else ENOUGH)
        return Stretch(found, None if search.rest is None or len(found) >= most else search.rest.ends_at)

    async def _few_with_words(self, few: Collection[str], search: Search, most: int) -> Stretch:
        rows = await self._those(among(_M.id, few, sqlite=self._sqlite), FEW)
        found: list[Row[Any]] = []
        for first in range(0, len(rows), CHECKED):
            checked = {row.id: row for row in rows[first : first + CHECKED]}
            having = await search.among(list(checked))
            found += [row for id_, row in checked.items() if id_ in having]
            if len(found) >= most:
                break
        return Stretch(found[:most])

    async def _those(self, ids: ColumnElement[bool], most: int) -> Sequence[Row[Any]]:
        """Of the messages with these ids. A database may think it better to walk the tenant's index than to look at a
        thousand ids, and SQLite always does; it can't walk it for an expression.
        """
        same = [column.concat("") == value for column, value in self._same]
        return await self._rows([ids, *same, *self._within], most)

    async def _rows(self, which: Sequence[ColumnElement[bool]], most: int) -> Sequence[Row[Any]]:
        query = select(messages).where(*which, self._visible, *_sifting(self._wanted))
        query = query.order_by(desc(_M.anchor_at), desc(_M.id)).limit(most)
        rows: Sequence[Row[Any]] = (await self._conn.execute(query)).all()
        return rows


def _flags(wanted: MessageFilter) -> tuple[tuple[ColumnElement[bool], bool | None], ...]:
    pinned = _M.pins > literal_column("0")  # as the index says it: a database proves nothing of a parameter
    return ((pinned, wanted.pinned), (_M.flagged, wanted.flagged), (~_M.seen, wanted.unseen))


def _of_flags(wanted: MessageFilter) -> list[ColumnElement[bool]]:
    """What is wanted of which an index has the messages in order."""
    return [column for column, flag in _flags(wanted) if flag]


def _sifting(wanted: MessageFilter) -> list[ColumnElement[bool]]:
    """What is wanted that can only be seen by a look at a message's row."""
    found = [column if flag else ~column for column, flag in _flags(wanted) if flag is not None]
    if wanted.has_files is not None:
        found.append(_M.has_files if wanted.has_files else ~_M.has_files)
    if wanted.thread_id is not None:
        found.append(_M.thread_id == wanted.thread_id)
    if wanted.folder_id is not None:
        found.append(in_folder(wanted.folder_id))
    return found


def in_folder(folder_id: str) -> ColumnElement[bool]:
    """Whether the near side has a row of `messages` in this folder: a move that is on its way has been made here, and
    a disappearance that is not believed yet (it may be a move, or a guard refused it) has changed nothing.
    """
    other = origins.alias("other")
    elsewhere = exists().where(other.c.message_id == origins.c.message_id, other.c.vanished_at.is_(None))
    standing = and_(
        origins.c.message_id == _M.id,
        origins.c.folder_id == folder_id,
        or_(origins.c.vanished_at.is_(None), ~elsewhere.correlate(origins)),
    )
    # Looked at for one message after the other, not for the whole folder at once, which PostgreSQL can't with OFFSET.
    stands = exists(select(origins.c.uid).where(standing).offset(0))
    return or_(_M.moving_to == folder_id, and_(_M.moving_to.is_(None), stands))
