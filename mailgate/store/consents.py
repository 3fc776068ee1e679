"""Consents in the database: who may ask a provider, and what it answered. Tokens are sealed under the tenant's key.

1. A provider is asked by one process at a time: the claim. It ends with what is written of the answer, or with CLAIM.
2. What a provider gave is written before it is used. The write names the version that was read; if another was faster
   (ours had stalled beyond its claim), a refresh token that came with our answer is kept as a spare, since nobody can
   tell which of the two answers the provider gave last.
3. What is written of a consent that was given anew meanwhile is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, select, update

from connectors.oauth.model import Tokens
from mailgate.clock import Instant
from mailgate.consents.model import CLAIM, LONGEST_ASKED, Consent, Given, Kept, lapse_reason
from mailgate.keys import KeyRing
from mailgate.keys.tenant import TenantKeys
from mailgate.store.database import Database
from mailgate.store.pauses import over
from mailgate.store.schema import consents, mailboxes, tenants
from mailgate.store.transaction import Transaction
from mailgate.sync.state import MailboxState

_C = consents.c
_STANDING: Final = select(consents, tenants.c.ref).join(tenants, tenants.c.id == _C.tenant_id)
_LONGEST_ERROR: Final = 500
_TOGETHER: Final = 100


@dataclass(frozen=True, slots=True)
class ConsentState:
    """What is shown of a mailbox's consent; no token."""

    provider: str
    given_at: Instant
    refreshed_at: Instant | None
    lapsed_at: Instant | None
    last_error: str | None


async def put(tx: Transaction, keys: TenantKeys, tenant_id: str, mailbox_id: str, given: Given, now: Instant) -> None:
    """A new consent, in place of the one that there was."""
    values: dict[str, Any] = {
        "provider": given.provider.value,
        "tokens": _seal(keys, mailbox_id, given.kept),
        "given_at": now,
        "refreshed_at": None if given.kept.access is None else now,
        "expires_at": given.expires_at,
        "renew_at": given.renew_at,
        "claimed_by": None,
        "claimed_until_at": 0,
        "failures": 0,
        "retry_at": 0,
        "last_error": None,
        "lapsed_at": None,
    }
    new = tx.insert(consents).values(mailbox_id=mailbox_id, tenant_id=tenant_id, given=1, version=1, **values)
    again = {**values, "given": _C.given + 1, "version": _C.version + 1}
    await tx.conn.execute(new.on_conflict_do_update(index_elements=[_C.mailbox_id], set_=again))


async def forget(tx: Transaction, mailbox_id: str) -> None:
    """Destroy the tokens."""
    await tx.conn.execute(delete(consents).where(_C.mailbox_id == mailbox_id))


async def states(db: Database, mailbox_ids: Sequence[str]) -> dict[str, ConsentState]:
    """What is shown of consents, by mailbox."""
    async with db.read() as conn:
        rows = await conn.execute(select(consents).where(_C.mailbox_id.in_(mailbox_ids)))
        return {
            row.mailbox_id: ConsentState(row.provider, row.given_at, row.refreshed_at, row.lapsed_at, row.last_error)
            for row in rows
        }


async def release_ended(db: Database, owners: Collection[str]) -> int:
    """End the claims of processes that are known to have ended: nobody needs to wait until they run out."""
    if not owners:
        return 0

    async def work(tx: Transaction) -> int:
        theirs = update(consents).where(_C.claimed_by.in_(owners)).values(_FREE)
        return (await tx.conn.execute(theirs)).rowcount

    return await db.transact(work)


class Consents:
    """Renewing what was consented to."""

    def __init__(self, db: Database, ring: KeyRing) -> None:
        self._db = db
        self._ring = ring

    async def find(self, mailbox_id: str) -> Consent | None:
        """The consent of a mailbox; None when there is none."""
        async with self._db.read() as conn:
            row = (await conn.execute(_STANDING.where(_C.mailbox_id == mailbox_id))).one_or_none()
        return None if row is None else self._consent(row)

    async def due(self, now: Instant) -> list[tuple[str, str]]:
        """(mailbox_id, tenant_id) whose access tokens are to be renewed now, of mailboxes that may be used."""
        query = (
            select(_C.mailbox_id, _C.tenant_id)
            .join(mailboxes, mailboxes.c.id == _C.mailbox_id)
            .where(
                _C.lapsed_at.is_(None),
                _C.renew_at <= now,
                over(_C.retry_at, now, LONGEST_ASKED),
                mailboxes.c.enabled,
                mailboxes.c.removed_at.is_(None),
                mailboxes.c.state != MailboxState.NOT_ENTITLED.value,
            )
            .order_by(_C.renew_at)
            .limit(_TOGETHER)
        )
        async with self._db.read() as conn:
            return [(row.mailbox_id, row.tenant_id) for row in await conn.execute(query)]

    async def claim(self, consent: Consent, by: str, now: Instant) -> bool:
        """Take the right to ask the provider with these tokens. False: another has it, or they are not the last."""
        mine = (_C.mailbox_id == consent.mailbox_id) & (_C.version == consent.version) & _C.lapsed_at.is_(None)
        free = over(_C.claimed_until_at, now, CLAIM)
        take = update(consents).where(mine, free).values(claimed_by=by, claimed_until_at=now + CLAIM)

        async def work(tx: Transaction) -> bool:
            return (await tx.conn.execute(take)).rowcount == 1

        return await self._db.transact(work, at_once=True)

    async def renewed(
        self, consent: Consent, tokens: Tokens, now: Instant, expires_at: Instant, renew_at: Instant
    ) -> None:
        """Write what the provider gave, before anybody uses it."""
        keys = await self._keys(consent.tenant_id)
        fresh = {
            "tokens": _seal(keys, consent.mailbox_id, consent.kept.renewed(tokens)),
            "version": consent.version + 1,
            "refreshed_at": now,
            "expires_at": expires_at,
            "renew_at": renew_at,
            "failures": 0,
            "retry_at": 0,
            "last_error": None,
            **_FREE,
        }

        async def work(tx: Transaction) -> None:
            written = await tx.conn.execute(update(consents).where(_same(consent)).values(fresh))
            if written.rowcount == 1 or tokens.refresh_token is None:
                return
            row = await self._lock(tx, consent)
            if row is not None:
                kept = _open(keys, consent.mailbox_id, row.tokens).with_spare(tokens.refresh_token)
                await self._write(tx, row, keys, kept)

        await self._db.transact(work)

    async def failed(self, consent: Consent, error: str, retry_at: Instant) -> None:
        """The provider gave nothing now: it is asked again from `retry_at` on."""
        values = {"failures": consent.failures + 1, "retry_at": retry_at, "last_error": error[:_LONGEST_ERROR], **_FREE}

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(consents).where(_same(consent)).values(values))

        await self._db.transact(work, at_once=True)

    async def refused(self, consent: Consent, why: str, now: Instant) -> bool:
        """The first refresh token is good for nothing any more. True: another is left to be tried; else the consent has
        lapsed, and its mailbox says so.
        """
        keys = await self._keys(consent.tenant_id)
        left = consent.kept.without_first()

        async def work(tx: Transaction) -> bool:
            # In the order of locks that holds everywhere: mailbox, then what hangs on it.
            box = await _locked_mailbox(tx, consent.mailbox_id)
            row = (await tx.conn.execute(select(consents).where(_same(consent)).with_for_update())).one_or_none()
            if row is None or box is None:
                return True  # there is something newer: whoever asks looks again
            if left is not None:
                await self._write(tx, row, keys, left)
                return True
            reason = lapse_reason(consent.provider, why)
            over = {"lapsed_at": now, "last_error": reason, "version": row.version + 1, **_FREE}
            await tx.conn.execute(update(consents).where(_same(consent)).values(over))
            await _say_lapsed(tx, box, reason, now)
            return False

        return await self._db.transact(work)

    async def _lock(self, tx: Transaction, consent: Consent) -> Row[Any] | None:
        """The row as it is now, of the same consent."""
        same = (_C.mailbox_id == consent.mailbox_id) & (_C.given == consent.given)
        return (await tx.conn.execute(select(consents).where(same).with_for_update())).one_or_none()

    @staticmethod
    async def _write(tx: Transaction, row: Row[Any], keys: TenantKeys, kept: Kept) -> None:
        values = {"tokens": _seal(keys, row.mailbox_id, kept), "version": row.version + 1, **_FREE}
        await tx.conn.execute(update(consents).where(_C.mailbox_id == row.mailbox_id).values(values))

    async def _keys(self, tenant_id: str) -> TenantKeys:
        async with self._db.read() as conn:
            ref = (await conn.execute(select(tenants.c.ref).where(tenants.c.id == tenant_id))).scalar_one()
        return self._ring.tenant(ref)

    def _consent(self, row: Row[Any]) -> Consent:
        return Consent(
            mailbox_id=row.mailbox_id,
            tenant_id=row.tenant_id,
            provider=row.provider,
            kept=_open(self._ring.tenant(row.ref), row.mailbox_id, row.tokens),
            given=row.given,
            version=row.version,
            expires_at=row.expires_at,
            renew_at=row.renew_at,
            retry_at=row.retry_at,
            failures=row.failures,
            last_error=row.last_error,
            lapsed_at=row.lapsed_at,
        )


_FREE: Final[dict[str, Any]] = {"claimed_by": None, "claimed_until_at": 0}


def _same(consent: Consent) -> Any:
    return (_C.mailbox_id == consent.mailbox_id) & (_C.version == consent.version)


async def _locked_mailbox(tx: Transaction, mailbox_id: str) -> Row[Any] | None:
    query = select(mailboxes).where(mailboxes.c.id == mailbox_id, mailboxes.c.removed_at.is_(None))
    return (await tx.conn.execute(query.with_for_update(key_share=True))).one_or_none()


async def _say_lapsed(tx: Transaction, box: Row[Any], reason: str, now: Instant) -> None:
    """The mailbox says at once what is wrong and what to do. `config_version` ends what runs on the old consent, in
    whichever process it does.
    """
    values: dict[str, Any] = {"config_version": box.config_version + 1}
    if box.enabled and box.state != MailboxState.NOT_ENTITLED.value:
        values |= {"state": MailboxState.AUTH_FAILED.value, "state_reason": reason}
        if box.state != MailboxState.AUTH_FAILED.value:
            values["state_changed_at"] = now
            payload = {"state": MailboxState.AUTH_FAILED.value, "reason": reason, "code": "consent_lapsed"}
            tx.emit(box.tenant_id, "mailbox.state_changed", at=now, mailbox_id=box.id, payload=payload)
    await tx.conn.execute(update(mailboxes).where(mailboxes.c.id == box.id).values(values))


def _seal(keys: TenantKeys, mailbox_id: str, kept: Kept) -> bytes:
    return keys.seal(json.dumps(kept.document()).encode(), f"consent:{mailbox_id}")


def _open(keys: TenantKeys, mailbox_id: str, sealed: bytes) -> Kept:
    return Kept.of(json.loads(keys.open_sealed(sealed, f"consent:{mailbox_id}")))
