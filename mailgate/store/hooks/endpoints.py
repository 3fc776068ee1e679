"""Endpoints: made, changed, paused, moved to another place in the feed, removed.

A secret is shown once, when it is made; what is kept is sealed under the service key. Every change counts the
endpoint's `version` up: whoever delivers to it looks at the row again before the next request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update

from mailgate.clock import Clock, Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.events.types import parse_filter
from mailgate.ids import new_id
from mailgate.keys import KeyRing
from mailgate.store.database import Database
from mailgate.store.feed import FeedReader, read_head, refuse_pruned, resume
from mailgate.store.hooks.rows import Endpoint, endpoint_of
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import tenants, webhook_deliveries, webhook_lanes, webhooks
from mailgate.store.transaction import Transaction
from mailgate.webhooks.model import DeliveryState, EndpointState, PauseReason
from mailgate.webhooks.signing import new_secret

_W = webhooks.c
_L = webhook_lanes.c
_D = webhook_deliveries.c
_BATCH: Final = 1_000

Checked = Callable[[str], str]
"""A URL as it is kept. Raises PreconditionError."""


@dataclass(frozen=True, slots=True)
class Change:
    """What to change; None leaves it. `types` empty: all."""

    url: str | None = None
    description: str | None = None
    types: Sequence[str] | None = None
    state: EndpointState | None = None


class Webhooks:
    """The endpoints as one process sees them. `most`: how many one tenant may have. A `tenant_id` beside an id is that
    of the one who asks: other tenants' endpoints, and those of all tenants, are not found then.
    """

    def __init__(
        self, db: Database, ring: KeyRing, reader: FeedReader, clock: Clock, check_url: Checked, *, most: int = 20
    ) -> None:
        self.on_changed: Callable[[], None] = lambda: None
        """Called after each commit that changed what is to be delivered."""
        self._db = db
        self._ring = ring
        self._reader = reader
        self._clock = clock
        self._check_url = check_url
        self._most = most

    async def create(
        self, *, url: str, tenant_id: str | None, types: Sequence[str] = (), description: str = ""
    ) -> tuple[Endpoint, str]:
        """Make an endpoint that gets what happens from now on; (endpoint, secret). Raises PreconditionError
        (`url_invalid`, `type_unknown`), NotFoundError for an unknown tenant, ConflictError `too_many_webhooks`.
        """
        now = self._clock()
        url = self._check_url(url)
        parse_filter(types)
        await self._reader.head()  # it begins with the first who asks
        id_, secret = new_id(now), new_secret()
        values = {
            "id": id_,
            "tenant_id": tenant_id,
            "url": url,
            "description": description,
            "types": list(types) or None,
            "secret": self._seal(id_, secret),
            "state": EndpointState.ENABLED.value,
            "generation": 0,
            "version": 0,
            "created_at": now,
        }

        async def work(tx: Transaction) -> Endpoint:
            if tenant_id is not None:
                living = select(tenants.c.id).where(tenants.c.id == tenant_id, tenants.c.erasing_at.is_(None))
                if (await tx.conn.execute(living.with_for_update(read=True))).one_or_none() is None:
                    raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
            same = select(func.count()).where(_W.tenant_id.is_not_distinct_from(tenant_id))
            if (await tx.conn.execute(same)).scalar_one() >= self._most:
                raise ConflictError(
                    f"there are {self._most} webhooks already (webhooks.per_tenant); remove one first",
                    slug="too_many_webhooks",
                )
            position = (await read_head(tx.conn)).position
            await tx.conn.execute(insert(webhooks).values(**values, position=position))
            tx.after_commit(self.on_changed)
            return endpoint_of((await tx.conn.execute(select(webhooks).where(_W.id == id_))).one())

        return await self._db.transact(work), secret

    async def get(self, id_: str, tenant_id: str | None = None) -> Endpoint:
        """The endpoint. Raises NotFoundError."""
        async with self._db.read() as conn:
            row = (await conn.execute(select(webhooks).where(_mine(id_, tenant_id)))).one_or_none()
        return endpoint_of(_there(row, id_))

    async def page(self, *, tenant_id: str | None, after: str | None, limit: int) -> Page[Endpoint]:
        """Endpoints, newest first. The page's key is (id,)."""
        query = select(webhooks)
        if tenant_id is not None:
            query = query.where(_W.tenant_id == tenant_id)
        return await page_by_id(self._db, query, _W.id, endpoint_of, after=after, limit=limit)

    async def change(self, id_: str, tenant_id: str | None, change: Change) -> Endpoint:
        """Change it. Enabled again, it goes on where it stopped, at once. Raises NotFoundError, PreconditionError, and
        GoneError `cursor_expired` when what it has not delivered is not in the feed any more: replay from another place
        first.
        """
        values: dict[str, Any] = {}
        if change.url is not None:
            values["url"] = self._check_url(change.url)
        if change.description is not None:
            values["description"] = change.description
        if change.types is not None:
            parse_filter(change.types)
            values["types"] = list(change.types) or None

        async def work(tx: Transaction) -> Endpoint:
            row = await _locked(tx, id_, tenant_id)
            wanted = dict(values)
            if change.state is not None and change.state != row.state:
                if change.state is EndpointState.ENABLED:
                    await self._resume(tx, row)
                    wanted |= {"state": change.state.value, "reason": None, "detail": None, "paused_at": None}
                else:
                    wanted |= pausing(PauseReason.REQUESTED, None, self._clock())
            return await self._update(tx, row, wanted)

        return await self._db.transact(work)

    async def remove(self, id_: str, tenant_id: str | None) -> None:
        """Remove it with everything about it. Raises NotFoundError."""

        async def work(tx: Transaction) -> None:
            await _locked(tx, id_, tenant_id)
            await tx.conn.execute(delete(webhook_lanes).where(_L.webhook_id == id_))
            await tx.conn.execute(delete(webhooks).where(_W.id == id_))
            tx.after_commit(self.on_changed)

        await self._db.transact(work)
        await forget_removed(self._db)

    async def rotate(self, id_: str, tenant_id: str | None, overlap: Instant) -> tuple[Endpoint, str]:
        """A new secret; (endpoint, secret). The one before signs as well for `overlap`. Raises NotFoundError."""
        secret = new_secret()

        async def work(tx: Transaction) -> Endpoint:
            row = await _locked(tx, id_, tenant_id)
            until = {"old_secret": row.secret, "old_secret_until_at": self._clock() + overlap}
            gone = {"old_secret": None, "old_secret_until_at": None}
            return await self._update(tx, row, {"secret": self._seal(id_, secret), **(until if overlap else gone)})

        return await self._db.transact(work), secret

    async def replay(
        self, id_: str, tenant_id: str | None, *, after: str | None = None, since: Instant | None = None
    ) -> Endpoint:
        """Deliver again everything after a cursor of the feed (`latest`: nothing), or since an instant. What waited to
        be tried again is canceled: it comes again in its place, or was left out by who asked. Raises NotFoundError,
        BadRequestError `bad_cursor`, GoneError `cursor_expired`.
        """
        head = await self._reader.head()
        position = resume(head, after) if since is None else await self._reader.before(since)
        now = self._clock()

        async def work(tx: Transaction) -> Endpoint:
            row = await _locked(tx, id_, tenant_id)
            refuse_pruned(await read_head(tx.conn), position)
            await tx.conn.execute(delete(webhook_lanes).where(_L.webhook_id == id_))
            waiting = update(webhook_deliveries).where(_D.webhook_id == id_, _D.state == DeliveryState.WAITING.value)
            ended = {"state": DeliveryState.CANCELED.value, "next_at": None, "finished_at": now}
            await tx.conn.execute(waiting.values(ended))
            return await self._update(tx, row, {"position": position, "generation": row.generation + 1})

        return await self._db.transact(work)

    async def secrets(self, id_: str) -> list[str]:
        """The secrets that sign now, the newest first. Raises NotFoundError."""
        async with self._db.read() as conn:
            row = _there((await conn.execute(select(webhooks).where(_W.id == id_))).one_or_none(), id_)
        sealed = [row.secret]
        if row.old_secret is not None and self._clock() < row.old_secret_until_at:
            sealed.append(row.old_secret)
        return [self._ring.open_sealed(each, _context(id_)).decode() for each in sealed]

    async def _resume(self, tx: Transaction, row: Row[Any]) -> None:
        """Check that everything is there that is due, and make it due at once."""
        behind = (await tx.conn.execute(select(func.min(_L.position)).where(_L.webhook_id == row.id))).scalar_one()
        first = row.position if behind is None else min(row.position, behind)
        refuse_pruned(await read_head(tx.conn), first)
        anew = {"next_at": 0, "since_at": None, "attempts": 0}
        await tx.conn.execute(update(webhook_lanes).where(_L.webhook_id == row.id).values(anew))

    async def _update(self, tx: Transaction, row: Row[Any], values: dict[str, Any]) -> Endpoint:
        changed = update(webhooks).where(_W.id == row.id).values(version=_W.version + 1, **values)
        await tx.conn.execute(changed)
        tx.after_commit(self.on_changed)
        return endpoint_of((await tx.conn.execute(select(webhooks).where(_W.id == row.id))).one())

    def _seal(self, id_: str, secret: str) -> bytes:
        return self._ring.seal(secret.encode(), _context(id_))


def pausing(reason: PauseReason, detail: str | None, now: Instant) -> dict[str, Any]:
    """The values of a row that is paused."""
    return {"state": EndpointState.PAUSED.value, "reason": reason.value, "detail": detail, "paused_at": now}


async def forget_removed(db: Database) -> int:
    """Delete the deliveries of endpoints that are gone, in small transactions; how many went."""

    async def work(tx: Transaction) -> int:
        orphans = select(_D.id).where(_D.webhook_id.not_in(select(_W.id))).limit(_BATCH)
        return (await tx.conn.execute(delete(webhook_deliveries).where(_D.id.in_(orphans)))).rowcount

    total = 0
    while count := await db.transact(work):
        total += count
    return total


def _mine(id_: str, tenant_id: str | None) -> ColumnElement[bool]:
    return _W.id == id_ if tenant_id is None else (_W.id == id_) & (_W.tenant_id == tenant_id)


def _there(row: Row[Any] | None, id_: str) -> Row[Any]:
    if row is None:
        raise NotFoundError(f"there is no webhook {id_!r}", slug="webhook_not_found")
    return row


async def _locked(tx: Transaction, id_: str, tenant_id: str | None) -> Row[Any]:
    query = select(webhooks).where(_mine(id_, tenant_id)).with_for_update()
    return _there((await tx.conn.execute(query)).one_or_none(), id_)


def _context(id_: str) -> str:
    return f"webhook/{id_}"
