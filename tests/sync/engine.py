"""The sync engine on a real store and a mail account in memory: what tests drive, and how they look at the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from connectors.memory import MemoryAccount
from connectors.port import Connect
from mailgate.actors import SYSTEM
from mailgate.blobs import BlobStore
from mailgate.clock import DAY, SECOND, Instant, system_clock
from mailgate.ids import new_id
from mailgate.keys import KeyRing
from mailgate.messages.model import Summary
from mailgate.messages.summary import decode_summary, open_summary
from mailgate.settings import SyncSettings
from mailgate.store import tenants
from mailgate.store.check import doctor
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.mailboxes import Mailboxes, MailboxPatch, MailboxSpec
from mailgate.store.pins import Pins
from mailgate.store.purge import SqlPurgeStore
from mailgate.store.purge_lease import PurgeLease
from mailgate.store.schema import blobs as blobs_table
from mailgate.store.schema import events, folders, mailboxes, messages, origins, quarantine, tombstones
from mailgate.store.subscriptions import SubscriptionChange, Subscriptions
from mailgate.store.sync import SqlSyncStore
from mailgate.sync.state import MailboxConfig
from mailgate.sync.supervisor import Parts, Supervisor
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.engine import Engine as Purge
from retention.model import SCHEDULER, Graces
from retention.port import Run

NOW: Instant = 20_000 * DAY
PLANS = Path(__file__).parents[2] / "config" / "plans.toml"
TABLES: dict[str, Table] = {
    "events": events,
    "folders": folders,
    "mailboxes": mailboxes,
    "messages": messages,
    "origins": origins,
    "quarantine": quarantine,
    "tombstones": tombstones,
    "blobs": blobs_table,
}


@dataclass
class TestClock:
    """Time that moves a microsecond with every look, and otherwise only when told to."""

    __test__ = False
    now: Instant = NOW

    def __call__(self) -> Instant:
        self.now += 1
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


@dataclass
class RealClock:
    """The time that real servers have, and what a test does not wait for."""

    skipped: Instant = 0

    def __call__(self) -> Instant:
        return system_clock() + self.skipped

    def advance(self, seconds: float) -> None:
        self.skipped += int(seconds * SECOND)


def mail(n: int, *, body: str = "", message_id: str | None = None, extra: str = "") -> bytes:
    """One message, unlike any other of another number."""
    id_ = f"{n}@example.org" if message_id is None else message_id
    return (
        f"Message-ID: <{id_}>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nFrom: Ann <ann@example.org>\r\n"
        f"To: bob@example.com\r\nSubject: Number {n}\r\n{extra}\r\n{body or f'Text of number {n}.'}\r\n"
    ).encode()


@dataclass
class Engine:
    """One gateway process over one database, with one tenant and one mailbox of one account."""

    db: Database
    ring: KeyRing
    blobs: BlobStore
    log: PurgeLog
    subscriptions: Subscriptions
    mailboxes: Mailboxes
    store: SqlSyncStore
    clock: TestClock
    account: MemoryAccount
    settings: SyncSettings
    connect: Connect
    mailbox_id: str = ""
    tenant_id: str = "acme"
    process: str = "test-1"
    others: dict[str, Connect] = field(default_factory=dict)

    @classmethod
    async def open(
        cls,
        database_url: str,
        folder: Path,
        account: MemoryAccount,
        *,
        plan: str = "professional",
        settings: SyncSettings | None = None,
        connect: Connect | None = None,
        clock: TestClock | None = None,
    ) -> Engine:
        """Open everything; makes tenant and mailbox when the database has none."""
        db = Database(database_url)
        ring = KeyRing.open(f"file://{folder}/keys", create=True)
        blobs = BlobStore.open(f"file://{folder}/blobs")
        log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 90}), version="1", commit="test")
        subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
        settings_of = Mailboxes(db, ring, subscriptions)
        store = SqlSyncStore(db, settings_of, subscriptions, log, Expiry(subscriptions, Graces()))
        engine = cls(
            db=db,
            ring=ring,
            blobs=blobs,
            log=log,
            subscriptions=subscriptions,
            mailboxes=settings_of,
            store=store,
            clock=clock or TestClock(),
            account=account,
            settings=settings or SyncSettings(poll_interval_s=1, backoff_min_s=0.01, backoff_max_s=1),
            connect=connect or account.connect,
        )
        known = await engine.rows("mailboxes")
        if known:
            engine.mailbox_id = known[0].id
        else:
            await engine._set_up(plan)
        return engine

    async def _set_up(self, plan: str) -> None:
        now = self.clock()
        await tenants.put(self.db, self.ring, self.log, self.tenant_id, "Acme", now, SYSTEM)
        await self.plan(plan)
        self.mailbox_id = await self.add_mailbox("bob", self.account)
        del self.others["bob"]

    async def add_tenant(self, tenant_id: str, plan: str = "professional") -> None:
        """One more tenant."""
        await tenants.put(self.db, self.ring, self.log, tenant_id, tenant_id.title(), self.clock(), SYSTEM)
        await self.subscriptions.set_outright(tenant_id, SubscriptionChange(plan), self.clock(), SYSTEM)

    async def add_mailbox(self, username: str, account: MemoryAccount, *, tenant_id: str | None = None) -> str:
        """One more mailbox, of another account; its id."""
        self.others[username] = account.connect
        imap = {"host": "imap.example.com", "port": 993, "security": "tls", "username": username}
        spec = MailboxSpec(f"{username}@example.com", imap, {"imap": {"password": "secret"}})
        return (await self.mailboxes.create(tenant_id or self.tenant_id, spec, self.clock(), SYSTEM)).id

    async def plan(self, plan: str) -> None:
        """Set the tenant's plan."""
        await self.subscriptions.set_outright(self.tenant_id, SubscriptionChange(plan), self.clock(), SYSTEM)

    async def enable(self, enabled: bool) -> None:
        """The switch."""
        await self.mailboxes.update(
            self.tenant_id, self.mailbox_id, MailboxPatch(enabled=enabled), self.clock(), SYSTEM
        )

    def supervisor(self, process: str | None = None) -> Supervisor:
        """A supervisor over these parts."""

        def connector(config: MailboxConfig) -> Connect:
            return self.others.get(config.auth.username, self.connect)

        parts = Parts(self.store, connector, self.ring, self.blobs, self.settings, self.clock, process or self.process)
        return Supervisor(parts)

    async def sync(self) -> None:
        """One complete pass, as `mailgate sync --once`."""
        await self.supervisor().sync_once(self.mailbox_id)

    async def purge(self) -> None:
        """One run of the purge over everything."""
        lease = PurgeLease(self.process)
        assert await lease.acquire(self.db, self.clock())
        expiry = Expiry(self.subscriptions, Graces())
        store = SqlPurgeStore(self.db, self.log, self.subscriptions, expiry, self.clock, lease)
        now = self.clock()
        await Purge(store, self.clock).run(Run(new_id(now), None, now, now, "request", SCHEDULER, 1, "ab" * 32))
        await lease.release(self.db)

    async def pin(self, message_id: str) -> None:
        """A deal refers to the message."""
        pins = Pins(self.db, self.ring, self.log, Expiry(self.subscriptions, Graces()))
        await pins.put(self.tenant_id, message_id, "deal", "D", note=None, now=self.clock(), actor=SYSTEM)

    async def rows(self, table: str, where: Callable[[Any], Any] | None = None) -> list[Any]:
        """All rows of a table."""
        query = select(TABLES[table])
        if where is not None:
            query = query.where(where(TABLES[table].c))
        async with self.db.read() as conn:
            return list((await conn.execute(query)).all())

    async def raw(self, message: Any) -> bytes:
        """The bytes of a copy, as `/raw` serves them."""
        blob = (await self.rows("blobs", lambda c: c.id == message.blob_id))[0]
        tenant = await tenants.get(self.db, message.tenant_id)
        key = self.ring.tenant(tenant.ref).unwrap(blob.data_key, blob.key_epoch)
        return b"".join([part async for part in self.blobs.read(message.tenant_id, blob.id, key, blob.size)])

    async def summary(self, message: Any) -> Summary:
        """What a copy's row says of it."""
        tenant = await tenants.get(self.db, message.tenant_id)
        key = self.ring.tenant(tenant.ref).unwrap(message.data_key, message.key_epoch)
        return decode_summary(open_summary(key, message.id, message.summary))

    async def near(self) -> dict[str, list[tuple[bytes, tuple[str, ...]]]]:
        """Every copy that stands somewhere, by folder name: (bytes, flags), sorted."""
        origins, messages, folders = (TABLES[name] for name in ("origins", "messages", "folders"))
        # One statement, for it is asked while the engine writes: PostgreSQL gives each statement its own snapshot.
        standing = (
            select(messages, origins.c.flags.label("origin_flags"), folders.c.name.label("folder_name"))
            .select_from(origins)
            .join(messages, messages.c.id == origins.c.message_id)
            .join(folders, folders.c.id == origins.c.folder_id)
            .where(origins.c.vanished_at.is_(None))
        )
        async with self.db.read() as conn:
            rows = (await conn.execute(standing)).all()
        found: dict[str, list[tuple[bytes, tuple[str, ...]]]] = {}
        for row in rows:
            assert sorted(row.flags) == sorted(row.origin_flags)
            found.setdefault(row.folder_name, []).append((await self.raw(row), tuple(row.flags)))
        return {name: sorted(entries) for name, entries in found.items()}

    def far(self, *, since: Instant | None = None) -> dict[str, list[tuple[bytes, tuple[str, ...]]]]:
        """The same of the server's messages received since then."""
        found = {
            name: sorted(
                (m.raw, tuple(sorted(m.flags)))
                for m in folder.messages.values()
                if since is None or m.internal_date >= since
            )
            for name, folder in self.account.folders.items()
        }
        return {name: entries for name, entries in found.items() if entries}

    async def events(self, *types: str) -> list[Any]:
        """The outbox, in order."""
        found = sorted(await self.rows("events"), key=lambda row: row.seq)
        return [row for row in found if not types or row.type in types]

    async def close(self, *, check: bool = True) -> None:
        """Close; the store checks itself first."""
        report = await doctor(self.db, self.blobs, self.ring, deep=True) if check else None
        await self.db.close()
        self.blobs.close()
        if report is not None:
            assert report.healthy, report.findings


Opened = Callable[..., Awaitable[Engine]]
"""What the fixture `opened` gives: `await opened(account, settings=…, plan=…)`."""
