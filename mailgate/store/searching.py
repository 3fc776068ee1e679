"""Searching: which messages have all of some words, the newest first, by their numbers in the text index.

Theory. The newest fifty of the messages with some words are found in one of two ways. *Listing* takes from the index
all that have the words, and of those the newest; *walking* reads messages from the newest back, and looks whether each
has the words. SQLite's index is in the order of numbers: listing stops when it has enough, whatever the words.
PostgreSQL's (GIN) has no order: listing costs a microsecond for each message that has the words, walking twenty and
more for each that is passed. A common word wants the one and a rare word the other, and in the place of the other each
takes a hundred times as long. Its planner can't tell: it knows how common the thousand most common tokens of all
tenants are, and nothing of where they stand. So the words of some messages are looked at first: they show how near the
next fifty are. Both ways give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import SECOND, Instant
from mailgate.keys import TenantKeys
from mailgate.messages.tokens import query_terms
from mailgate.store.search import SPREAD, prefix_tokens, tokens_of

SAMPLE: Final = 200
"""Messages whose words are looked at before anything is known of them."""
WALK: Final = 1_000
"""Messages that are walked at once, at most."""
COMMON: Final = 20
"""Words that one in so many of the newest messages has are walked for: among a million, either way takes 40 ms then."""
LISTED: Final = 10_000
"""As many are taken of a list that is made a second time, for later: PostgreSQL makes it as a whole each time."""

_OLDEST, _NEWEST = -(1 << 63), (1 << 63) - 1
"""The numbers that there are."""
_SETTINGS = text(
    # Listing takes the index of words, except where the span has few messages. Not to be thought over for long: a plan
    # that is made once for all words is right for none, and other processes take longer to start than this takes.
    "SELECT set_config('cpu_operator_cost', '0.5', true), set_config('jit', 'off', true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true),"
    " set_config('max_parallel_workers_per_gather', '0', true)"
)
_WALK = text(
    "SELECT count(*) AS looked, min(doc) AS last,"
    " array_agg(doc ORDER BY doc DESC) FILTER (WHERE terms @@ CAST(:match AS tsquery)) AS found"
    " FROM (SELECT doc, terms FROM search_index WHERE tenant_id = :tenant AND doc >= :first AND doc < :end"
    " ORDER BY doc DESC LIMIT :most) AS newest"
)
_LIST = text(
    # OFFSET 0: what is outside, the order and the limit, shall not make it walk.
    "SELECT doc FROM (SELECT doc FROM search_index WHERE tenant_id = :tenant AND terms @@ CAST(:match AS tsquery)"
    " AND doc >= :first AND doc < :end OFFSET 0) AS listed ORDER BY doc DESC LIMIT :most"
)
_LIST_SQLITE = text(
    "SELECT rowid FROM search_index WHERE search_index MATCH :match AND rowid >= :first AND rowid < :end"
    " ORDER BY rowid DESC LIMIT :most"
)
_AMONG = text(
    "SELECT message_id FROM search_docs WHERE message_id = ANY(CAST(:ids AS varchar[])) AND EXISTS (SELECT 1"
    " FROM search_index WHERE search_index.doc = search_docs.doc AND terms @@ CAST(:match AS tsquery) OFFSET 0)"
)
_AMONG_SQLITE = text(
    "SELECT message_id FROM search_index CROSS JOIN search_docs ON doc = search_index.rowid"
    " WHERE search_index MATCH :match AND search_index.rowid IN"
    " (SELECT doc FROM search_docs WHERE message_id IN (SELECT value FROM json_each(:ids)))"
)
_ALL = (1 << 63) - 1


def query_tokens(keys: TenantKeys, wanted: Mapping[str, str]) -> list[str] | None:
    """Tokens that a message must all have, for words wanted by field. None when one of the texts has no word at all:
    then nothing matches. Raises PreconditionError as `query_terms` does.
    """
    found: list[str] = []
    for field, words in wanted.items():
        terms = query_terms(words)
        if not terms:
            return None
        found += tokens_of(keys, field, terms.words) + prefix_tokens(keys, field, terms.prefixes)
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers from `first` up to, and without, `end`."""

    first: int
    end: int

    @classmethod
    def of(cls, *, since: Instant | None, before: Instant | None) -> Span:
        """A span that has every message with since ≤ anchor < before, and others of the same seconds."""
        return cls(
            _OLDEST if since is None else since // SECOND << SPREAD,
            _NEWEST if before is None else min(_NEWEST, (before - 1) // SECOND + 1 << SPREAD),
        )

    @property
    def ends_at(self) -> Instant:
        """Every message of it is older than this."""
        return (self.end >> SPREAD) * SECOND


class Search:
    """The messages of a span that have all these tokens, by number, the newest first."""

    def __init__(
        self, conn: AsyncConnection, tenant_id: str, tokens: Sequence[str], span: Span, *, sqlite: bool
    ) -> None:
        self._conn = conn
        self._sqlite = sqlite
        # A literal of the type tsquery: the text search parser would take some hex words for numbers.
        match = " ".join(f'"{token}"' for token in tokens) if sqlite else " & ".join(f"'{token}'" for token in tokens)
        self._values: dict[str, Any] = {"match": match} if sqlite else {"match": match, "tenant": tenant_id}
        self._had = self._walked = self._listed = 0
        self._first = span.first
        self.rest: Span | None = span
        """What was not looked at yet, up to a whole second."""
        self._ahead: list[int] = []  # what was listed of it already, and what is left beyond that
        self._beyond: Span | None = None

    @property
    def looked(self) -> int:
        """How many messages were looked at so far, or taken from a list."""
        return self._walked + self._listed

    async def piece(self, most: int) -> list[int]:
        """The next numbers, the largest first, none of them twice: `most`, or fewer where those are far, and all others
        of the second in which they end. There are no more when `rest` is None.
        """
        if self.rest is None:
            return []
        if not self._sqlite and not self.looked:
            await self._conn.execute(_SETTINGS)
        if not self._sqlite and not self._ahead and self._near():
            return await self._walk(self.rest, self._rows(most))
        if not self._ahead:
            ahead = LISTED if self._listed and not self._sqlite else most
            self._ahead = await self._list(self.rest, ahead)
            self._beyond = self.rest
        return self._take(most)

    def _take(self, most: int) -> list[int]:
        """Of what was listed."""
        found = self._ahead[:most]
        while len(found) < len(self._ahead) and self._ahead[len(found)] >> SPREAD == found[-1] >> SPREAD:
            found.append(self._ahead[len(found)])
        del self._ahead[: len(found)]
        self._listed += len(found)
        if self._ahead:
            self._end_at_second(found[-1])
        else:
            self.rest = self._beyond
        return found

    async def among(self, ids: Sequence[str]) -> set[str]:
        """Those of these messages that have the tokens, wherever they are."""
        if self._sqlite:
            values = {"match": self._values["match"], "ids": json.dumps(ids)}
            return set((await self._conn.execute(_AMONG_SQLITE, values)).scalars())
        values = {"match": self._values["match"], "ids": list(ids)}
        return set((await self._conn.execute(_AMONG, values)).scalars())

    def _near(self) -> bool:
        return self._had * COMMON >= self._walked

    def _rows(self, most: int) -> int:
        return min(WALK, most * self._walked // self._had + 1) if self._had else SAMPLE

    async def _walk(self, span: Span, rows: int) -> list[int]:
        looked = (await self._execute(_WALK, span, rows)).one()
        found: list[int] = looked.found or []
        if looked.looked < rows:
            self.rest = None
        else:
            same = self._end_at_second(looked.last)
            found += (await self._execute(_WALK, same, _ALL)).one().found or []
        self._walked += looked.looked
        self._had += len(found)
        return found

    async def _list(self, span: Span, most: int) -> list[int]:
        statement = _LIST_SQLITE if self._sqlite else _LIST
        found = list((await self._execute(statement, span, most)).scalars())
        if len(found) < most:
            self.rest = None
        else:
            same = self._end_at_second(found[-1])
            found += (await self._execute(statement, same, _ALL)).scalars()
        return found

    def _end_at_second(self, last: int) -> Span:
        """What is missing of the second in which `last` is; it is no longer in the rest."""
        second = last >> SPREAD << SPREAD
        self.rest = Span(self._first, second) if second > self._first else None
        return Span(max(second, self._first), last)

    async def _execute(self, statement: Any, span: Span, most: int) -> Any:
        values = {**self._values, "first": span.first, "end": span.end, "most": most}
        return await self._conn.execute(statement, values)
