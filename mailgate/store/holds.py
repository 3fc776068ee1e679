"""Which holds protect a tenant's copies at an instant. A hold beats everything: purge, removal, erasure.

A hold covers the tenant, one mailbox (also what arrives in it later) or named messages; a released one goes on
protecting until `protects_until_at`. Who places or releases a hold takes the tenant's lock alone, so under the shared
lock what `active` read stays true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, false, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.schema import hold_messages, holds, messages
from mailgate.store.sets import among

_ACTIVE = select(holds.c.id, holds.c.scope, holds.c.mailbox_id).where(
    holds.c.tenant_id == bindparam("tenant"),
    or_(holds.c.released_at.is_(None), holds.c.protects_until_at > bindparam("at")),
)


@dataclass(frozen=True, slots=True)
class ActiveHolds:
    """The holds of one tenant that protect at an instant: how many on the tenant and by mailbox, ids of the others."""

    tenant: int = 0
    mailboxes: Mapping[str, int] = field(default_factory=dict)
    on_messages: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        """Whether nothing is held at all."""
        return not (self.tenant or self.mailboxes or self.on_messages)

    def held(self) -> ColumnElement[bool]:
        """Whether a row of `messages` is held."""
        if self.tenant:
            return true()
        parts: list[ColumnElement[bool]] = []
        if self.mailboxes:
            parts.append(messages.c.mailbox_id.in_(sorted(self.mailboxes)))
        if self.on_messages:
            parts.append(
                exists().where(
                    hold_messages.c.message_id == messages.c.id, hold_messages.c.hold_id.in_(self.on_messages)
                )
            )
        return or_(*parts) if parts else false()

    def named(self) -> ColumnElement[bool]:
        """Whether a hold names a row of `messages`, of which it looks up only those."""
        return messages.c.id.in_(
            select(hold_messages.c.message_id).where(hold_messages.c.hold_id.in_(self.on_messages))
        )

    async def count(self, conn: AsyncConnection, copies: Mapping[str, str], *, sqlite: bool) -> Mapping[str, int]:
        """How many holds protect each of these copies (id → mailbox id)."""
        found = {id_: self.tenant + self.mailboxes.get(mailbox_id, 0) for id_, mailbox_id in copies.items()}
        if self.on_messages and copies:
            for id_, count in await self._named(conn, copies.keys(), sqlite=sqlite):
                found[id_] += count
        return found

    async def _named(self, conn: AsyncConnection, ids: Collection[str], *, sqlite: bool) -> list[tuple[str, int]]:
        query = (
            select(hold_messages.c.message_id, func.count())
            .where(among(hold_messages.c.message_id, ids, sqlite=sqlite), hold_messages.c.hold_id.in_(self.on_messages))
            .group_by(hold_messages.c.message_id)
        )
        return [(id_, count) for id_, count in (await conn.execute(query)).all()]


async def active(conn: AsyncConnection, tenant_id: str, at: Instant) -> ActiveHolds:
    """The tenant's holds that protect at `at`: not released, or released and still protecting."""
    return _together((await conn.execute(_ACTIVE, {"tenant": tenant_id, "at": at})).all())


@dataclass(frozen=True, slots=True)
class HoldsAhead:
    """The holds of one tenant that protect at an instant, as (id, scope, mailbox id), each with until when."""

    each: Sequence[tuple[tuple[str, str, str | None], Instant | None]] = ()

    @property
    def ends(self) -> set[Instant]:
        """When one of them ends."""
        return {until for _, until in self.each if until is not None}

    def at(self, at: Instant) -> ActiveHolds:
        """Those that protect at that later instant, if nothing happens."""
        return _together([hold for hold, until in self.each if until is None or until > at])


async def ahead(conn: AsyncConnection, tenant_ids: Collection[str], at: Instant) -> dict[str, HoldsAhead]:
    """Of those of these tenants that have any: the holds that protect at `at`, in one statement."""
    query = select(holds).where(
        among(holds.c.tenant_id, tenant_ids, sqlite=conn.dialect.name == "sqlite"),
        or_(holds.c.released_at.is_(None), holds.c.protects_until_at > at),
    )
    found: dict[str, list[tuple[tuple[str, str, str | None], Instant | None]]] = {}
    for row in await conn.execute(query):
        until = None if row.released_at is None else row.protects_until_at
        found.setdefault(row.tenant_id, []).append(((row.id, row.scope, row.mailbox_id), until))
    return {tenant_id: HoldsAhead(each) for tenant_id, each in found.items()}


def _together(rows: Iterable[Any]) -> ActiveHolds:
    tenant, mailboxes, named = 0, dict[str, int](), list[str]()
    for id_, scope, mailbox_id in rows:
        if scope == "tenant":
            tenant += 1
        elif scope == "mailbox":
            mailboxes[mailbox_id] = mailboxes.get(mailbox_id, 0) + 1
        else:
            named.append(id_)
    return ActiveHolds(tenant, mailboxes, tuple(sorted(named)))
