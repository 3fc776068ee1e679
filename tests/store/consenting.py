"""A mailbox with a consent, an authorisation server, and processes that renew its tokens."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy import select

from connectors.model import BearerAuth
from connectors.oauth.client import TokenClient
from mailgate.actors import SYSTEM
from mailgate.clock import Instant
from mailgate.consents.model import Given, Kept, ProviderName
from mailgate.consents.providers import offered
from mailgate.settings import OAuthGenericSettings, Settings
from mailgate.store import tenants
from mailgate.store.consents import Consents
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.schema import events, mailboxes
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.usecases.access_tokens import AccessTokens
from tests.authserver import AuthServer, settings_of
from tests.store.conftest import NOW, Store

USER = "ann@acme.example"


@dataclass
class Time:
    at: Instant = NOW

    def __call__(self) -> Instant:
        return self.at


@dataclass
class World:
    """A mailbox with a consent, and processes that use it."""

    store: Store
    server: AuthServer
    time: Time
    mailbox_id: str
    processes: list[AccessTokens]

    def process(self, name: str = "two", timeout_s: float = 5) -> AccessTokens:
        settings = Settings(oauth_generic=OAuthGenericSettings(**settings_of(self.server.port)))
        client = TokenClient(ssl.create_default_context, timeout_s)
        made = AccessTokens(
            Consents(self.store.db, self.store.ring),
            self.store.subscriptions,
            offered(settings),
            client,
            self.time,
            name,
            ahead_s=300,
        )
        self.processes.append(made)
        return made

    @property
    def first(self) -> AccessTokens:
        return self.processes[0]

    async def bearer(self, refused: str | None = None) -> BearerAuth:
        return await self.first.bearer(self.mailbox_id, USER, refused=refused)

    async def kept(self) -> Kept:
        found = await self.first.consents.find(self.mailbox_id)
        assert found is not None
        return found.kept

    async def box(self) -> tuple[str, str | None, int]:
        columns = mailboxes.c
        query = select(columns.state, columns.state_reason, columns.config_version).where(columns.id == self.mailbox_id)
        async with self.store.db.read() as conn:
            return tuple((await conn.execute(query)).one())  # type: ignore[return-value]

    async def told(self) -> list[dict[str, str]]:
        query = select(events.c.payload).where(events.c.type == "mailbox.state_changed").order_by(events.c.seq)
        async with self.store.db.read() as conn:
            return [dict(row.payload) for row in await conn.execute(query)]


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM)
    change = SubscriptionChange(plan="professional")
    await store.subscriptions.set_outright("acme", change, NOW, SYSTEM)
    time = Time()
    server = await AuthServer(time).start()
    spec = MailboxSpec(
        address=USER,
        imap={"host": "imap.acme.example", "port": 993, "security": "tls", "username": USER},
        secrets={"imap": {"oauth2": "generic"}},
        given=Given(ProviderName.GENERIC, Kept((server.grant(USER),)), 0, 0),
    )
    box = await store.mailboxes.create("acme", spec, NOW, SYSTEM)
    made = World(store, server, time, box.id, [])
    made.process("one")
    yield made
    for process in made.processes:
        await process.close()
    await server.stop()
