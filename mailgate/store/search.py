"""The text index: which messages have all of some words. It holds keyed tokens only, never a word.

A token is the first 8 bytes of HMAC(tenant key of the field, term) in hex; two terms of a tenant meet once in 2^64, and
terms of two tenants never mean each other. Of a prefix it is the first 6 bytes, in base 32. The index is the database's
own (FTS5, tsvector with GIN).

Messages stand in it under numbers that follow their anchors, so that the newest with some words are found without a
look at all that have them, of which there may be half a million. It is written behind the import, so it costs the
import nothing. In the transaction that ends a copy its number loses its meaning; its words go behind that
(`mailgate.store.leftovers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from base64 import b32encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mailgate.blobs import BlobStore
from mailgate.blobs.errors import BlobStoreError
from mailgate.clock import MINUTE, SECOND, Clock, Instant
from mailgate.errors import MailgateError
from mailgate.keys import KeyRing, TenantKeys
from mailgate.messages.model import ParsedMessage, Summary
from mailgate.messages.parser import parse
from mailgate.messages.summary import decode_summary, open_summary
from mailgate.messages.tokens import MessageTerms, message_terms
from mailgate.reading.suspects import DeadlyError, Suspects
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.quarantine import unreadable
from mailgate.store.schema import blobs as blobs_table
from mailgate.store.schema import messages, search_docs, tenants
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction

FIELDS = ("text", "from_", "to", "subject")
PARSED_BYTES = 2 << 20
"""As much of a message's beginning is read for its words."""
BATCH = 20
_TOKEN_BYTES, _PREFIX_BYTES = 8, 6
_LEASE = "indexer"

_log = structlog.get_logger("mailgate.search")


def tokens_of(keys: TenantKeys, field: str, terms: Iterable[str]) -> list[str]:
    """The keyed tokens of terms of a field, sorted."""
    purpose = f"search:{field}"
    return sorted({keys.mac(purpose, term.encode())[:_TOKEN_BYTES].hex() for term in terms})


def prefix_tokens(keys: TenantKeys, field: str, prefixes: Iterable[str]) -> list[str]:
    """The keyed tokens of prefixes of a field's terms, sorted. Their key is their own, and their form is shorter, since
    a message has four times as many: none is ever that of a word.
    """
    purpose = f"search-prefix:{field}"
    macs = {keys.mac(purpose, prefix.encode())[:_PREFIX_BYTES] for prefix in prefixes}
    return sorted(b32encode(mac).decode().rstrip("=").lower() for mac in macs)


def mailbox_token(keys: TenantKeys, mailbox_id: str) -> str:
    """The token that all messages of a mailbox have. A message never changes its mailbox."""
    return tokens_of(keys, "mailbox", [mailbox_id])[0]


SPREAD: Final = 30
"""Bits of a message's number below the second of its anchor: chance, so that messages of one second rarely meet."""


def number(anchor: Instant) -> int:
    """A number in the index for a message with this anchor: newer messages have larger ones, to the second."""
    return anchor // SECOND << SPREAD | secrets.randbits(SPREAD)


@dataclass(frozen=True, slots=True)
class _Work:
    """A message whose words are not written yet, with what it takes to read it."""

    id: str
    tenant_id: str
    tenant_ref: str
    mailbox_id: str
    summary: bytes
    data_key: bytes
    key_epoch: int
    anchor_at: Instant
    blob_id: str
    blob_key: bytes
    blob_epoch: int
    blob_size: int
    unread: bool


class Indexer:
    """Writes the words of new messages. One process at a time does it (a lease)."""

    def __init__(
        self,
        db: Database,
        ring: KeyRing,
        blobs: BlobStore,
        clock: Clock,
        owner: str,
        suspects: Suspects | None = None,
    ) -> None:
        self._db = db
        self._ring = ring
        self._blobs = blobs
        self._clock = clock
        self._owner = owner
        self._suspects = Suspects() if suspects is None else suspects

    async def work(self, *, batches: int | None = None) -> int:
        """Index what waits, at most so many batches; returns how many messages were written."""
        written = 0
        while batches is None or batches > 0:
            # Looked at first, since a look costs no write: mostly there is nothing.
            waiting = await self._waiting()
            if not waiting or await leases.acquire(self._db, _LEASE, self._owner, MINUTE, self._clock()) is None:
                break  # nothing to do, or another process does it
            written += await self._write([(item, await self._tokens(item)) for item in waiting])
            batches = None if batches is None else batches - 1
        return written

    async def release(self) -> None:
        """Let another process go on at once."""
        fence = await leases.acquire(self._db, _LEASE, self._owner, MINUTE, self._clock())
        if fence is not None:
            await leases.release(self._db, _LEASE, self._owner, fence)

    async def _waiting(self) -> list[_Work]:
        query = (
            select(
                messages.c.id,
                messages.c.tenant_id,
                tenants.c.ref.label("tenant_ref"),
                messages.c.mailbox_id,
                messages.c.summary,
                messages.c.data_key,
                messages.c.key_epoch,
                messages.c.anchor_at,
                messages.c.blob_id,
                blobs_table.c.data_key.label("blob_key"),
                blobs_table.c.key_epoch.label("blob_epoch"),
                blobs_table.c.size.label("blob_size"),
                unreadable(messages.c.id).label("unread"),
            )
            .join(tenants, tenants.c.id == messages.c.tenant_id)
            .join(blobs_table, blobs_table.c.id == messages.c.blob_id)
            .where(~messages.c.indexed)
            .order_by(messages.c.tenant_id, messages.c.id)
            .limit(BATCH)
        )
        async with self._db.read() as conn:
            return [_Work(**row._asdict()) for row in await conn.execute(query)]

    async def _tokens(self, item: _Work) -> list[str]:
        """Every token of a message. What can't be read is indexed by its summary, or not at all: nothing is stuck.
        Raises BlobStoreError when the store does not work now: the batch is tried again later.
        """
        try:
            keys = self._ring.tenant(item.tenant_ref)
            raw = None if item.unread else await self._head(keys, item)
        except BlobStoreError:
            raise
        except MailgateError as error:
            _log.warning("words of a message can't be read", message_id=item.id, error=str(error))
            raw = None
        try:
            return await asyncio.to_thread(self._tokens_of, item, raw)
        except MailgateError as error:
            _log.warning("a message can't be indexed", message_id=item.id, error=str(error))
            return []

    async def _head(self, keys: TenantKeys, item: _Work) -> bytes:
        key = keys.unwrap(item.blob_key, item.blob_epoch)
        head = bytearray()
        chunks = self._blobs.read(item.tenant_id, item.blob_id, key, item.blob_size)
        async for chunk in chunks:
            head += chunk
            if len(head) >= PARSED_BYTES:
                break
        return bytes(head[:PARSED_BYTES])

    def _tokens_of(self, item: _Work, raw: bytes | None) -> list[str]:
        keys = self._ring.tenant(item.tenant_ref)
        terms = self._terms_of(keys, item, raw)
        found = [mailbox_token(keys, item.mailbox_id)]
        for field in FIELDS:
            found += tokens_of(keys, field, _terms(terms, field)) + prefix_tokens(keys, field, terms.prefixes[field])
        return found

    def _terms_of(self, keys: TenantKeys, item: _Work, raw: bytes | None) -> MessageTerms:
        if raw is not None:
            with contextlib.suppress(DeadlyError):
                return self._suspects.read(item.id, raw, lambda: message_terms(parse(raw)))
        return message_terms(self._from_summary(keys, item))

    @staticmethod
    def _from_summary(keys: TenantKeys, item: _Work) -> ParsedMessage:
        sealed = open_summary(keys.unwrap(item.data_key, item.key_epoch), item.id, item.summary)
        summary = decode_summary(sealed)
        return ParsedMessage(**{name: getattr(summary, name) for name in Summary.__dataclass_fields__})

    async def _write(self, batch: Sequence[tuple[_Work, list[str]]]) -> int:
        words = {item.id: (item, tokens) for item, tokens in batch}

        async def work(tx: Transaction) -> int:
            # Locked, so that a purge at the same time either finds the words or leaves nothing to write them for.
            waiting = (
                select(messages.c.id)
                .where(among(messages.c.id, words, sqlite=tx.sqlite), ~messages.c.indexed)
                .order_by(messages.c.id)
                .with_for_update(key_share=True)
            )
            ids = list((await tx.conn.execute(waiting)).scalars())
            if not ids:
                return 0
            docs = await _numbered(tx, [words[id_][0] for id_ in ids])
            rows = [
                {"doc": doc, "tenant_id": words[id_][0].tenant_id, "terms": words[id_][1]} for id_, doc in docs.items()
            ]
            await insert_words(tx, rows)
            indexed = update(messages).where(among(messages.c.id, ids, sqlite=tx.sqlite)).values(indexed=True)
            await tx.conn.execute(indexed)
            return len(ids)

        return await self._db.transact(work, bulk=True)


async def _numbered(tx: Transaction, items: Sequence[_Work]) -> dict[str, int]:
    """Numbers for these messages, by id. One that another message has already is drawn again."""
    numbers: dict[str, int] = {}
    while waiting := [item for item in items if item.id not in numbers]:
        rows = [{"doc": number(item.anchor_at), "tenant_id": item.tenant_id, "message_id": item.id} for item in waiting]
        put = sqlite_insert(search_docs) if tx.sqlite else postgresql_insert(search_docs)
        taken = put.on_conflict_do_nothing(index_elements=[search_docs.c.doc])
        made = await tx.conn.execute(taken.returning(search_docs.c.message_id, search_docs.c.doc), rows)
        numbers |= {row.message_id: row.doc for row in made}
    return numbers


async def insert_words(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the tokens (`terms`) of messages, each under its number in `search_docs` (`doc`)."""
    if tx.sqlite:
        statement = text("INSERT INTO search_index (rowid, terms) VALUES (:doc, :terms)")
        values = [{"doc": row["doc"], "terms": " ".join(row["terms"])} for row in rows]
    else:
        statement = text(
            "INSERT INTO search_index (doc, tenant_id, terms) "
            "VALUES (:doc, :tenant_id, array_to_tsvector(CAST(:terms AS text[])))"
        )
        values = [dict(row) for row in rows]
    await tx.conn.execute(statement, values)


def _terms(terms: MessageTerms, field: str) -> frozenset[str]:
    found: frozenset[str] = getattr(terms, field)
    return found
