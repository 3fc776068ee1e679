"""Mail for the tests of the interface: stored by the same steps as an import does it, without a server."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from sqlalchemy import insert

from connectors.model import MessageMeta
from mailgate.clock import DAY, Instant
from mailgate.ids import new_id
from mailgate.store import messages, tenants
from mailgate.store.messages import Place
from mailgate.store.schema import folders
from mailgate.store.search import Indexer
from mailgate.store.transaction import Transaction
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.prepare import Preparer
from retention.model import AnchorFrom, Brake
from tests.api.conftest import Gateway

UIDVALIDITY = 7


def letter(
    subject: str = "Offer",
    text: str = "Dear Ann,\n\nhere is the offer.\n",
    *,
    html: str | None = None,
    files: tuple[tuple[str, str, bytes], ...] = (),
    **headers: str,
) -> bytes:
    """A message; `headers` with underscores for hyphens; `files`: name, type, content."""
    message = EmailMessage()
    named = {"From": "Bob <bob@other.example>", "To": "Ann <ann@acme.example>", "Subject": subject}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in named.items():
        message[name] = value
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name, kind, content in files:
        main, _, sub = kind.partition("/")
        message.add_attachment(content, maintype=main, subtype=sub, filename=name)
    return message.as_bytes(policy=SMTP)


@dataclass
class Postman:
    """Delivers into one mailbox of a tenant."""

    gateway: Gateway
    tenant_id: str
    mailbox_id: str
    _folders: dict[str, str] = field(default_factory=dict)
    _uid: int = 0

    async def folder(self, name: str = "INBOX", **more: Any) -> str:
        """The folder's id; made when missing."""
        if name not in self._folders:
            folder_id = new_id(self.gateway.clock())
            values = {
                "id": folder_id,
                "tenant_id": self.tenant_id,
                "mailbox_id": self.mailbox_id,
                "name": name,
                "special_use": "inbox" if name == "INBOX" else None,
                "selectable": True,
                "followed": True,
                "uidvalidity": UIDVALIDITY,
                "delimiter": "/",
                **more,
            }

            async def work(tx: Transaction) -> None:
                await tx.conn.execute(insert(folders).values(values))

            await self.gateway.core.db.transact(work)
            self._folders[name] = folder_id
        return self._folders[name]

    async def deliver(
        self,
        raw: bytes,
        *,
        age: Instant = DAY,
        folder: str = "INBOX",
        flags: frozenset[str] = frozenset(),
        index: bool = True,
    ) -> str:
        """Store one message that the server received `age` ago; its id."""
        core, now = self.gateway.core, self.gateway.clock()
        tenant = await tenants.get(core.db, self.tenant_id)
        self._uid += 1
        sink = MemorySink()
        sink.write(memoryview(raw))
        meta = MessageMeta(self._uid, flags, now - age, len(raw))
        preparer = Preparer(
            tenant.id, core.ring.tenant(tenant.ref), core.blobs, max_bytes=1 << 30, anchor_from=AnchorFrom.RECEIVED
        )
        arrived = Arrived(meta, sink, len(raw))
        preparer.add_tokens([arrived])
        prepared = preparer.prepare([arrived], now)
        assert not prepared.aside, prepared.aside
        place = Place(tenant.id, self.mailbox_id, await self.folder(folder), UIDVALIDITY)

        async def work(tx: Transaction) -> None:
            horizon = await core.expiry.horizon(tx.conn, tenant.id, now)
            await messages.add(tx, place, prepared.messages, horizon=horizon, initial=False)

        await core.db.transact(work)
        if index:
            await self.index()
        return prepared.messages[0].id

    async def index(self) -> int:
        """Write the search words of everything that waits."""
        core = self.gateway.core
        return await Indexer(core.db, core.ring, core.blobs, core.clock, core.owner).work()


async def postman(gateway: Gateway, tenant_id: str = "acme", plan: str = "professional") -> Postman:
    """A tenant with a mailbox, and who delivers to it."""
    await gateway.tenant(tenant_id, plan)
    mailbox = await gateway.mailbox(tenant_id, f"ann@{tenant_id}.example")
    return Postman(gateway, tenant_id, mailbox["id"])


async def two_at_the_brake(gateway: Gateway) -> None:
    """Two copies of the tenant "acme" that are due in two days, and a brake that stops at more than one."""
    service = gateway.core.retention
    await service.adopt(replace(service.policy, brake=Brake(minimum=1, share=0)))
    post = await postman(gateway, plan="standard")
    for _ in range(2):
        await post.deliver(letter(), age=59 * DAY)
