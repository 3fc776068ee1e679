"""Connect links: made for a tenant, good once and for a while.

The secret is in the link alone; what is kept is its hash. A link is used in the transaction that makes the mailbox, so
of two who use it at the same moment one has a mailbox, and a kill leaves neither half. What costs strangers' servers
something (a look-up, a check) is counted before it is done, and has an end.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, insert, or_, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError, GoneError, NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import connect_links
from mailgate.store.schema import tenants as tenant_table
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tokens import secret_hash
from mailgate.store.transaction import Transaction

_C = connect_links.c
_PREFIX: Final = "mgc_"
_SECRET: Final = re.compile(r"mgc_[A-Za-z0-9_-]{43}")


class LinkState(StrEnum):
    """What became of a link. `exhausted`: it was tried too often."""

    OPEN = "open"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"


_OVER: Final = {
    LinkState.USED: "this link was used already",
    LinkState.REVOKED: "this link was revoked",
    LinkState.EXPIRED: "this link has expired",
    LinkState.EXHAUSTED: "this link was tried too often",
}


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What a client asks for. `return_url` is judged already."""

    expires_at: Instant
    owner: str | None = None
    address: str | None = None
    shared: bool = False
    return_url: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectLink:
    """A link without its secret."""

    id: str
    tenant_id: str
    owner: str | None
    address: str | None
    shared: bool
    return_url: str | None
    created_by: str
    created_at: Instant
    expires_at: Instant
    attempts: int
    used_at: Instant | None
    revoked_at: Instant | None
    mailbox_id: str | None

    def state(self, now: Instant, most_attempts: int) -> LinkState:
        """What it is good for at `now`."""
        if self.used_at is not None:
            return LinkState.USED
        if self.revoked_at is not None:
            return LinkState.REVOKED
        if self.expires_at <= now:
            return LinkState.EXPIRED
        return LinkState.EXHAUSTED if self.attempts >= most_attempts else LinkState.OPEN

    @property
    def actor(self) -> Actor:
        """Who does what is done through it."""
        return Actor("link", self.id)


class ConnectLinks:
    """The links as one process sees them. `most_attempts`: how often one may be tried."""

    def __init__(self, db: Database, subscriptions: Subscriptions, *, most_attempts: int) -> None:
        self._db = db
        self._subscriptions = subscriptions
        self.most_attempts = most_attempts

    async def create(self, tenant_id: str, spec: LinkSpec, now: Instant, actor: Actor) -> tuple[ConnectLink, str]:
        """Make a link; (link, secret), the secret to be shown once. Raises NotFoundError, ConflictError `not_entitled`,
        PreconditionError `expires_at_in_the_past`.
        """
        if spec.expires_at <= now:
            raise PreconditionError(
                "`expires_at` lies in the past: the link would never be good", slug="expires_at_in_the_past"
            )
        secret = _PREFIX + base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
        values = {
            "id": new_id(now),
            "tenant_id": tenant_id,
            "secret_hash": secret_hash(secret),
            "owner": spec.owner,
            "address": spec.address,
            "shared": spec.shared,
            "return_url": spec.return_url,
            "created_by": str(actor),
            "created_at": now,
            "expires_at": spec.expires_at,
            "attempts": 0,
        }

        async def work(tx: Transaction) -> ConnectLink:
            await tenants.lock(tx, tenant_id, shared=True)
            holds = await self._subscriptions.allowed_in(tx.conn, tenant_id, now)
            if not holds.sync:
                why = f"plan {holds.plan} has no synchronization: nothing could be connected by a link"
                raise ConflictError(why, slug="not_entitled", plan=holds.plan)
            return _link((await tx.conn.execute(insert(connect_links).values(values).returning(connect_links))).one())

        return await self._db.transact(work), secret

    async def find(self, secret: str) -> ConnectLink | None:
        """The link with this secret, good or not; None when there is none, or its tenant is gone."""
        if not _SECRET.fullmatch(secret):
            return None
        query = (
            select(connect_links)
            .join(tenant_table, tenant_table.c.id == _C.tenant_id)
            .where(_C.secret_hash == secret_hash(secret), tenant_table.c.erasing_at.is_(None))
        )
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        return None if row is None else _link(row)

    async def get(self, tenant_id: str, link_id: str) -> ConnectLink:
        """The link. Raises NotFoundError, also for another tenant's."""
        async with self._db.read() as conn:
            row = (await conn.execute(select(connect_links).where(_mine(tenant_id, link_id)))).one_or_none()
        return _link(_there(row, link_id))

    async def list_page(
        self, tenant_id: str, *, after: str | None, limit: int, open_at: Instant | None = None
    ) -> Page[ConnectLink]:
        """The tenant's links, or those that are open at an instant; newest first. The page's key is (id,)."""
        query = select(connect_links).where(_C.tenant_id == tenant_id)
        if open_at is not None:
            good = (_C.expires_at > open_at) & (_C.attempts < self.most_attempts)
            query = query.where(_C.used_at.is_(None), _C.revoked_at.is_(None), good)
        return await page_by_id(self._db, query, _C.id, _link, after=after, limit=limit)

    async def revoke(self, tenant_id: str, link_id: str, now: Instant) -> None:
        """End a link at once. One that was used, or has ended, stays as it is. Raises NotFoundError."""

        async def work(tx: Transaction) -> None:
            row = await _locked(tx, _mine(tenant_id, link_id))
            link = _link(_there(row, link_id))
            if link.used_at is None and link.revoked_at is None:
                await tx.conn.execute(update(connect_links).where(_C.id == link_id).values(revoked_at=now))

        await self._db.transact(work)

    async def attempt(self, link: ConnectLink, now: Instant) -> ConnectLink:
        """Count an attempt before it is made. Raises GoneError (`link_used`, `link_revoked`, `link_expired`,
        `link_exhausted`).
        """

        async def work(tx: Transaction) -> ConnectLink:
            found = _link(_there(await _locked(tx, _C.id == link.id), link.id))
            self._require_open(found, now)
            counted = update(connect_links).where(_C.id == link.id).values(attempts=_C.attempts + 1)
            return _link((await tx.conn.execute(counted.returning(connect_links))).one())

        return await self._db.transact(work)

    async def use(self, tx: Transaction, link: ConnectLink, mailbox_id: str, now: Instant) -> None:
        """Use the link for this mailbox, in the transaction that makes it. Raises GoneError as `attempt` does; that it
        was tried often does not matter any more.
        """
        found = _link(_there(await _locked(tx, _C.id == link.id), link.id))
        if found.state(now, self.most_attempts) is not LinkState.EXHAUSTED:
            self._require_open(found, now)
        used = update(connect_links).where(_C.id == link.id).values(used_at=now, mailbox_id=mailbox_id)
        await tx.conn.execute(used)
        payload = {"connect_link_id": link.id, **({} if link.owner is None else {"owner": link.owner})}
        tx.emit(link.tenant_id, "connect_link.used", at=now, mailbox_id=mailbox_id, payload=payload)

    def _require_open(self, link: ConnectLink, now: Instant) -> None:
        state = link.state(now, self.most_attempts)
        if state is not LinkState.OPEN:
            raise GoneError(_OVER[state], slug=f"link_{state.value}")


async def revoke_all(tx: Transaction, tenant_id: str, now: Instant) -> None:
    """The tenant leaves: none of its links is good any more."""
    left = (_C.tenant_id == tenant_id) & _C.revoked_at.is_(None) & _C.used_at.is_(None)
    await tx.conn.execute(update(connect_links).where(left).values(revoked_at=now))


async def prune(tx: Transaction, before: Instant, limit: int) -> int:
    """Forget links that ended before this instant, at most so many."""
    over = or_(_C.expires_at < before, _C.used_at < before, _C.revoked_at < before)
    old = select(_C.id).where(over).limit(limit)
    return (await tx.conn.execute(delete(connect_links).where(_C.id.in_(old)))).rowcount


def _mine(tenant_id: str, link_id: str) -> ColumnElement[bool]:
    return (_C.tenant_id == tenant_id) & (_C.id == link_id)


async def _locked(tx: Transaction, which: ColumnElement[bool]) -> Row[Any] | None:
    return (await tx.conn.execute(select(connect_links).where(which).with_for_update())).one_or_none()


def _there(row: Row[Any] | None, link_id: str) -> Row[Any]:
    if row is None:
        raise NotFoundError(f"there is no connect link {link_id!r}", slug="connect_link_not_found")
    return row


def _link(row: Row[Any]) -> ConnectLink:
    return ConnectLink(**{name: getattr(row, name) for name in ConnectLink.__slots__})
