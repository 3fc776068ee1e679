"""The HTTP interface over a real store, called in process; the clock is the test's, no mail server is near."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from argon2 import PasswordHasher
from fastapi import FastAPI

from connectors.autoconfig.discover import Finder
from connectors.autoconfig.names import Service
from connectors.autoconfig.providers import providers
from connectors.errors import NetworkError
from connectors.model import Endpoint, PasswordAuth
from connectors.web import Response
from mailgate.actors import Actor
from mailgate.admin import application as pages
from mailgate.api.application import create_app
from mailgate.app.core import Core
from mailgate.clock import DAY, Instant
from mailgate.ids import new_id
from mailgate.keys.passwords import Passwords
from mailgate.logs import configure
from mailgate.metrics import Metrics
from mailgate.settings import DatabaseSettings, LogSettings, OAuthGenericSettings, OnboardingSettings, Settings
from mailgate.store import runs
from mailgate.store.access_log import AccessLog
from mailgate.store.billing import StripeBook
from mailgate.store.check import doctor
from mailgate.store.runs import RunRecord
from mailgate.store.transaction import Transaction
from mailgate.usecases.parts import Find, Health, Services, Step, Told, Verification, untold
from mailgate.usecases.signing_in_elsewhere import Elsewhere
from mailgate.webhooks.calling import Call
from mailgate.webhooks.model import Answer
from tests.authserver import settings_of

RETURN = "https://crm.example/settings"
START: Instant = 20_600 * DAY
ADMIN = "an-admin-token-of-the-tests"
SENDING_WELL = Verification(True, (Step("smtp_connect", True), Step("smtp_login", True)))
ALL_WELL = Verification(True, (Step("resolve", True), Step("login", True)))


@dataclass
class TestClock:
    """Time that only the test moves."""

    __test__ = False
    at: Instant = START

    def __call__(self) -> Instant:
        return self.at

    def forward(self, by: Instant) -> None:
        self.at += by


@dataclass
class RecordedSync:
    """Stands for the running synchronization: remembers what it was told, and records runs as asked for."""

    core: Core
    woken: list[str | None] = field(default_factory=list)

    def changed(self, mailbox_id: str | None = None) -> None:
        self.woken.append(mailbox_id)

    async def request_run(self, mailbox_id: str, tenant_id: str, actor: str, now: Instant) -> str:
        kind, _, ref = actor.partition(":")
        run = RunRecord(
            new_id(now), runs.SYNC, tenant_id, mailbox_id, runs.QUEUED, "request", Actor(kind, ref), False, now, now
        )

        async def work(tx: Transaction) -> None:
            await runs.create(tx, run)

        await self.core.db.transact(work)
        self.woken.append(mailbox_id)
        return run.id


@dataclass
class RecordedVerify:
    """Stands for trying an account: answers what the test wants."""

    answer: Verification = ALL_WELL
    tried: list[tuple[Endpoint, PasswordAuth]] = field(default_factory=list)
    smtp_answer: Verification = SENDING_WELL
    smtp_tried: list[tuple[Endpoint, PasswordAuth]] = field(default_factory=list)

    senders: list[str | None] = field(default_factory=list)

    async def smtp(
        self, endpoint: Endpoint, auth: PasswordAuth, *, sender: str | None = None, told: Told = untold
    ) -> Verification:
        self.smtp_tried.append((endpoint, auth))
        self.senders.append(sender)
        return _telling(self.smtp_answer, told)

    async def __call__(self, endpoint: Endpoint, auth: PasswordAuth, *, told: Told = untold) -> Verification:
        self.tried.append((endpoint, auth))
        return _telling(self.answer, told)


def _telling(answer: Verification, told: Told) -> Verification:
    for step in answer.steps:
        told(step)
    return answer


async def well() -> Health:
    return Health(True)


@dataclass
class Gateway:
    """What a test has in hand. `client` speaks with the admin's token."""

    core: Core
    app: FastAPI
    clock: TestClock
    sync: RecordedSync
    verify: RecordedVerify
    health: dict[str, Any]
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.with_token(ADMIN)

    def with_token(self, token: str | None) -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://gateway.test",
            headers=headers,
        )

    async def token(self, *scopes: str, tenant_id: str | None = None) -> httpx.AsyncClient:
        body = {"name": "a test's", "scopes": list(scopes), "tenant_id": tenant_id}
        made = await self.client.post("/v1/tokens", json=body)
        assert made.status_code == 201, made.text
        return self.with_token(made.json()["token"])

    async def tenant(self, tenant_id: str = "acme", plan: str = "professional") -> str:
        put = await self.client.put(f"/v1/tenants/{tenant_id}", json={"name": tenant_id.title()})
        assert put.status_code in (200, 201), put.text
        if plan != "free":
            set_ = await self.client.put(f"/v1/tenants/{tenant_id}/subscription", json={"plan": plan})
            assert set_.status_code == 200, set_.text
        return tenant_id

    async def mailbox(self, tenant_id: str, address: str = "ann@acme.example", **more: Any) -> dict[str, Any]:
        made = await self.client.post(f"/v1/tenants/{tenant_id}/mailboxes", json=mailbox_body(address, **more))
        assert made.status_code == 201, made.text
        found: dict[str, Any] = made.json()
        return found


def mailbox_body(address: str = "ann@acme.example", **more: Any) -> dict[str, Any]:
    imap = {
        "host": "imap.acme.example",
        "port": 993,
        "security": "tls",
        "username": address,
        "auth": {"password": "hunter2-imap"},
    }
    return {"address": address, "imap": imap, **more}


async def not_called(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Stands for receivers: all of them take everything."""
    del url, headers, body
    return Answer(204)


class Nobody:
    """Stands for DNS: no name is there."""

    async def services(self, name: str) -> Sequence[Service]:
        del name
        return []

    async def mail_hosts(self, domain: str) -> Sequence[str]:
        del domain
        return []


class Nowhere:
    """Stands for the web: no host is there."""

    async def request(self, method: str, url: str, *, most: int) -> Response:
        del method, url, most
        raise NetworkError("the host was not found", reason="name_not_found")


async def nowhere(host: str, port: int) -> Sequence[str]:
    """Stands for the resolver."""
    del host, port
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


def make_services(
    core: Core,
    sync: RecordedSync,
    verify: RecordedVerify,
    health: dict[str, Any],
    call: Call | None = None,
    find: Find | None = None,
    elsewhere: Elsewhere | None = None,
) -> Services:
    return Services(
        settings=core.settings,
        clock=core.clock,
        db=core.db,
        ring=core.ring,
        blobs=core.blobs,
        log=core.log,
        log_reader=core.log_reader,
        subscriptions=core.subscriptions,
        stripe=StripeBook(core.db, core.subscriptions, core.clock, sync.changed),
        expiry=core.expiry,
        mailboxes=core.mailboxes,
        reader=core.reader,
        pins=core.pins,
        holds=core.holds,
        retention=core.retention,
        alarms=core.alarms,
        tenant_erasures=core.tenant_erasures,
        wishes=core.wishes,
        submissions=core.submissions,
        tokens=core.tokens,
        feed=core.feed,
        sync=sync,
        verify=verify,
        verify_smtp=verify.smtp,
        links=core.links,
        find=find or Finder(providers(), Nobody(), Nowhere(), timeout_s=1.0, resolver=nowhere),
        metrics=Metrics(),
        webhooks=core.webhooks,
        call=call or not_called,
        access=AccessLog(core.db, core.clock),
        health=health,
        admin_token=ADMIN,
        passwords=Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)),
        elsewhere=elsewhere,
    )


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """What the gateway logs during the test."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, structlog.get_config())
    stream = io.StringIO()
    configure(LogSettings(format="json", level="debug"), stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    structlog.configure(**before[2])


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """On SQLite and on PostgreSQL; at the end the store checks itself."""
    onboarding = OnboardingSettings(return_urls=(RETURN,), service_name="Example CRM")
    database = DatabaseSettings(url=database_url)
    settings = Settings(
        data_dir=tmp_path / "data",
        database=database,
        onboarding=onboarding,
        oauth_generic=OAuthGenericSettings(**settings_of(1)),
    )
    clock = TestClock()
    core = await Core.open(settings, clock=clock)
    sync, verify = RecordedSync(core), RecordedVerify()
    health: dict[str, Any] = {"database": well}
    services = make_services(core, sync, verify, health)
    app = create_app(services)
    pages.install(app, services)
    made = Gateway(core, app, clock, sync, verify, health)
    yield made
    await made.client.aclose()
    await app.state.authenticator.flush()
    report = await doctor(core.db, core.blobs, core.ring, deep=True)
    await core.close()
    assert report.healthy, report.findings
