"""Sending in tests: a mailbox whose submission server is a double, and the worker that sends, driven by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from connectors.model import Endpoint, PasswordAuth
from connectors.net import parse_networks
from connectors.smtp.session import SmtpSession, Timeouts, open_session
from mailgate.consents.model import Consented
from mailgate.jobs.send import Sender, SendLimits
from mailgate.metrics import Metrics
from mailgate.store.schema import events, submissions
from tests.api.conftest import Gateway
from tests.api.mail import Postman
from tests.smtpserver import SmtpServer

LOOPBACK = parse_networks(["127.0.0.0/8"])
TIMEOUTS = Timeouts(connect_s=60, command_s=60, end_s=60)
LETTER: dict[str, Any] = {
    "to": [{"name": "Bob", "address": "bob@other.example"}],
    "subject": "Offer",
    "text": "Dear Bob,\nhere it is.\n",
}


async def connect(_mailbox_id: str, endpoint: Endpoint, auth: PasswordAuth | Consented) -> SmtpSession:
    """To the double, over its plain line."""
    assert isinstance(auth, PasswordAuth)
    return await open_session(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK, timeouts=TIMEOUTS)


def smtp_settings(port: int, username: str = "ann@acme.example") -> dict[str, Any]:
    """What a client gives."""
    auth = {"password": "hunter2-smtp"}
    return {"host": "127.0.0.1", "port": port, "security": "none", "username": username, "auth": auth}


@dataclass
class Office:
    """A tenant `acme` with a mailbox that can send, its submission server, and the process that sends."""

    gateway: Gateway
    server: SmtpServer
    mailbox_id: str
    sender: Sender
    post: Postman
    tenant_id: str = "acme"
    _others: list[Sender] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"/v1/tenants/{self.tenant_id}/mailboxes/{self.mailbox_id}/submissions"

    def process(self, owner: str) -> Sender:
        """One more process that sends."""
        core = self.gateway.core
        made = Sender(
            core.send_queue,
            core.blobs,
            connect,
            core.mailboxes.secrets,
            self.gateway.clock,
            owner,
            Metrics(),
            SendLimits(grace_s=0),
        )
        self._others.append(made)
        return made

    async def submit(self, *, key: str | None = None, status: int = 202, **body: Any) -> dict[str, Any]:
        """Ask for a letter to be sent; the answer."""
        headers = {} if key is None else {"idempotency-key": key}
        made = await self.gateway.client.post(self.base, json={**LETTER, **body}, headers=headers)
        assert made.status_code == status, made.text
        found: dict[str, Any] = made.json()
        return found

    async def get(self, submission_id: str) -> dict[str, Any]:
        found = await self.gateway.client.get(f"{self.base}/{submission_id}")
        assert found.status_code == 200, found.text
        answer: dict[str, Any] = found.json()
        return answer

    async def work(self) -> None:
        """Send what is due, to its end."""
        await self.sender.work()
        await self.sender.idle()

    async def send(self, **body: Any) -> dict[str, Any]:
        """Ask, send, look."""
        made = await self.submit(**body)
        await self.work()
        return await self.get(made["id"])

    async def events(self, prefix: str = "message.") -> list[Any]:
        """What the feed was told, in order."""
        query = select(events).where(events.c.type.startswith(prefix)).order_by(events.c.seq)
        async with self.gateway.core.db.read() as conn:
            return list((await conn.execute(query)).all())

    async def row(self, submission_id: str) -> Any:
        query = select(submissions).where(submissions.c.id == submission_id)
        async with self.gateway.core.db.read() as conn:
            return (await conn.execute(query)).one()


@asynccontextmanager
async def office(gateway: Gateway, **server: Any) -> AsyncIterator[Office]:
    """Everything that sending takes, and its end."""
    double = await SmtpServer(**server).start()
    try:
        await gateway.tenant("acme")
        mailbox = await gateway.mailbox("acme", smtp=smtp_settings(double.port))
        made = Office(gateway, double, mailbox["id"], None, Postman(gateway, "acme", mailbox["id"]))  # type: ignore[arg-type]
        made.sender = made.process("process-1")
        yield made
        for process in made._others:
            await process.stop()
    finally:
        await double.stop()
