"""Consistent rows without an import: tenants with plans, mailboxes, folders, and copies of any age with real blobs.

The rows are those that sync writes, in the same shapes; the store's doctor finds nothing to complain about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import format_datetime

from sqlalchemy import insert, select, update

from mailgate.actors import SYSTEM
from mailgate.blobs import BlobStore
from mailgate.clock import DAY, Instant, to_datetime
from mailgate.ids import new_id, new_ref
from mailgate.keys import KeyRing
from mailgate.messages.headers import header_digest_input
from mailgate.messages.parser import parse_summary
from mailgate.messages.timed import hour_of
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import blobs as blob_table
from mailgate.store.schema import folders, mailboxes, messages, origins, search_docs
from mailgate.store.search import insert_words
from mailgate.store.subscriptions import SubscriptionChange, Subscriptions
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from retention.ledger.commitment import Committer

_PIECE = 25
"""Blobs in a file, as an import stores them."""


@dataclass(frozen=True)
class Home:
    """Where copies are put: a tenant's mailbox and its INBOX."""

    tenant: Tenant
    mailbox_id: str
    folder_id: str


@dataclass(frozen=True)
class Seed:
    """One copy to make. `content` equal to another's shares its blob; None: bytes of its own. `tokens`: what stands in
    the text index if it is `indexed`.
    """

    anchor_at: Instant
    content: bytes | None = None
    originals: int = 1
    indexed: bool = False
    stored_at: Instant | None = None
    tokens: Sequence[str] = ("abc", "def")


@dataclass
class Builder:
    """Makes rows at `now`; `blobs` None writes no objects (for tests that read none). `packed`: blobs of copies that
    are made together share files, as those of an import do.
    """

    db: Database
    ring: KeyRing
    log: PurgeLog
    subscriptions: Subscriptions
    blobs: BlobStore | None
    now: Instant
    packed: bool = False
    _uid: int = 0

    async def home(self, tenant_id: str = "acme", plan: str | None = "crm_plus") -> Home:
        """A tenant on this plan (None: no subscription, that is free) with one mailbox."""
        await tenants.put(self.db, self.ring, self.log, tenant_id, tenant_id, self.now, SYSTEM)
        tenant = await tenants.get(self.db, tenant_id)
        if plan is not None:
            await self.plan(tenant_id, plan)
        return await self.mailbox(tenant)

    async def plan(self, tenant_id: str, plan: str, at: Instant | None = None) -> None:
        """Set the tenant's plan outright, as the billing system does."""
        await self.subscriptions.set_outright(tenant_id, SubscriptionChange(plan), at or self.now, SYSTEM)

    async def mailbox(self, tenant: Tenant) -> Home:
        """One more mailbox, connected to an account of its own."""
        mailbox_id, folder_id = new_id(self.now), new_id(self.now)
        address = f"{mailbox_id.lower()}@{tenant.id}.example"
        account = self.ring.tenant(tenant.ref).mac("account", address.encode())

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(
                insert(mailboxes).values(
                    id=mailbox_id,
                    tenant_id=tenant.id,
                    address=address,
                    imap={"host": "127.0.0.1", "port": 143, "security": "none", "username": address},
                    folder_rules={},
                    account_ref=account,
                    state="live",
                    state_changed_at=self.now,
                    created_at=self.now,
                )
            )
            await tx.conn.execute(
                insert(folders).values(
                    id=folder_id,
                    tenant_id=tenant.id,
                    mailbox_id=mailbox_id,
                    name="INBOX",
                    selectable=True,
                    followed=True,
                    uidvalidity=7,
                )
            )

        await self.db.transact(work)
        return Home(tenant, mailbox_id, folder_id)

    async def copy(self, home: Home, *, age_days: float = 0, **more: object) -> str:
        """One copy, received so many days ago; its id."""
        anchor_at = self.now - int(age_days * DAY)
        return (await self.copies(home, [Seed(anchor_at, **more)]))[0]  # type: ignore[arg-type]

    async def copies(self, home: Home, seeds: Sequence[Seed]) -> list[str]:
        """Copies, written in one transaction; their ids in order."""
        keys = self.ring.tenant(home.tenant.ref)
        committer = Committer(keys.ledger_key)
        message_rows, origin_rows, blob_rows = [], [], dict[str, dict[str, object]]()
        words = dict[str, Sequence[str]]()
        shared = dict[str, int]()
        known = await self._known(home, [seed.content for seed in seeds if seed.content is not None])
        together = len(seeds) if self.packed else 1
        batch = None if self.blobs is None else self.blobs.batch(home.tenant.id, self.now, together)
        for seed in seeds:
            self._uid += 1
            if seed.content is None:
                content, msgid = self._content(seed.anchor_at)
            else:
                content, msgid = seed.content, parse_summary(seed.content).rfc_message_id
            header = header_digest_input(content)
            hour = hour_of(header)
            digest = hashlib.sha256(content).digest()
            token = hour + keys.mac("content", digest)
            blob_id = known.get(token)
            if blob_id is None:
                key = keys.new_data_key(self.now)
                blob_id, stored = new_id(self.now), len(content) + 64
                if batch is not None:
                    blob_id, stored = batch.put(content, key.key)
                    if len(blob_rows) % _PIECE == _PIECE - 1:
                        batch.finish()
                known[token] = blob_id
                blob_rows[blob_id] = {
                    "id": blob_id,
                    "tenant_id": home.tenant.id,
                    "content_token": token,
                    "size": len(content),
                    "stored_size": stored,
                    "data_key": key.wrapped,
                    "key_epoch": key.epoch,
                    "refs": 1,
                    "created_at": self.now,
                }
            elif blob_id in blob_rows:
                blob_rows[blob_id]["refs"] = int(str(blob_rows[blob_id]["refs"])) + 1
            else:
                shared[blob_id] = shared.get(blob_id, 0) + 1
            stored_at = max(seed.anchor_at, self.now if seed.stored_at is None else seed.stored_at)
            id_, item_ref, key = new_id(self.now), new_id(self.now), keys.new_data_key(self.now)
            message_rows.append(
                {
                    "id": id_,
                    "tenant_id": home.tenant.id,
                    "mailbox_id": home.mailbox_id,
                    "item_ref": item_ref,
                    "anchor_at": seed.anchor_at,
                    "anchor_source": "internaldate",
                    "internal_date_at": seed.anchor_at,
                    "stored_at": stored_at,
                    "size": len(content),
                    "flags": [],
                    "seen": False,
                    "flagged": False,
                    "has_files": False,
                    "thread_id": id_,
                    "header_token": hour + keys.mac("header", header),
                    "msgid_token": None if msgid is None else keys.mac("msgid", msgid.encode()),
                    "content_commit": bytes.fromhex(committer.commit(item_ref, "content", digest)),
                    "msgid_commit": bytes.fromhex(committer.commit(item_ref, "msgid", (msgid or "").encode())),
                    "summary": b"sealed",
                    "data_key": key.wrapped,
                    "key_epoch": key.epoch,
                    "blob_id": blob_id,
                    "indexed": seed.indexed,
                }
            )
            origin_rows += [
                {
                    "folder_id": home.folder_id,
                    "uid": self._uid * 10 + number,
                    "uidvalidity": 7,
                    "tenant_id": home.tenant.id,
                    "mailbox_id": home.mailbox_id,
                    "message_id": id_,
                    "flags": [],
                }
                for number in range(seed.originals)
            ]
            if seed.indexed:
                words[id_] = seed.tokens
        if self.blobs is not None and batch is not None:
            batch.finish()
            self.blobs.settle()

        async def work(tx: Transaction) -> None:
            if blob_rows:
                await tx.conn.execute(insert(blob_table), list(blob_rows.values()))
            for blob_id, count in shared.items():
                more = update(blob_table).where(blob_table.c.id == blob_id)
                await tx.conn.execute(more.values(refs=blob_table.c.refs + count))
            await tx.conn.execute(insert(messages), message_rows)
            if origin_rows:
                await tx.conn.execute(insert(origins), origin_rows)
            if words:
                await self._index(tx, home.tenant.id, words)
            size = sum(int(str(row["size"])) for row in message_rows)
            tx.count(home.tenant.id, copies=len(message_rows), storage_bytes=size)

        await self.db.transact(work)
        return [str(row["id"]) for row in message_rows]

    def _content(self, at: Instant) -> tuple[bytes, str]:
        """A message that no other is like, sent at this time, and its Message-ID."""
        msgid = f"<{new_ref()}@example.com>"
        header = f"Date: {format_datetime(to_datetime(at))}\r\nMessage-ID: {msgid}\r\nSubject: {self._uid}\r\n"
        return f"{header}\r\n{new_ref()}\r\n".encode(), msgid

    async def _known(self, home: Home, contents: Sequence[bytes]) -> dict[bytes, str]:
        """The blobs that the tenant has of these contents, by token."""
        if not contents:
            return {}
        keys = self.ring.tenant(home.tenant.ref)
        tokens = {
            hour_of(header_digest_input(content)) + keys.mac("content", hashlib.sha256(content).digest())
            for content in contents
        }
        c = blob_table.c
        query = select(c.content_token, c.id).where(c.tenant_id == home.tenant.id, c.content_token.in_(tokens))
        async with self.db.read() as conn:
            return {row[0]: row[1] for row in (await conn.execute(query)).all()}

    async def _index(self, tx: Transaction, tenant_id: str, words: Mapping[str, Sequence[str]]) -> None:
        c = search_docs.c
        docs = [{"tenant_id": tenant_id, "message_id": id_} for id_ in words]
        made = (await tx.conn.execute(insert(search_docs).returning(c.doc, c.message_id), docs)).all()
        await insert_words(tx, [{"doc": doc, "tenant_id": tenant_id, "terms": words[id_]} for doc, id_ in made])
