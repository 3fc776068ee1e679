"""The queue: who works on what, the journal before DATA, and what became of an attempt.

A process that sends holds the lease `sender:<process>`; what it claimed is its own while that lease lasts, and
`attempts` is the fence: whoever claims next raises it. The lock order is tenant → mailbox → submission → messages →
blobs → heads.

1. A claim promises nothing to anybody: a process killed before the journal leaves a submission that is queued.
2. `journal` commits before DATA is sent: from then on the server may have the message.
3. A submission that is `sending` and whose process is gone becomes `uncertain`. It is never sent again by itself.
4. The answer that comes after all is believed, unless somebody asked for another attempt meanwhile. So is what only a
   message that was taken brings about: its copy in Sent, an answer to it, a report that it was returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, exists, func, literal, or_, select, update
from sqlalchemy.orm import aliased

from mailgate.clock import DAY, HOUR, MINUTE, Instant
from mailgate.errors import ConflictError, MailgateError, NotFoundError
from mailgate.keys import KeyRing
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.pauses import over
from mailgate.store.schema import blobs, mailboxes, message_links, messages, submissions
from mailgate.store.schema import leases as leases_table
from mailgate.store.sending.allowance import Allowance
from mailgate.store.sending.filing import FOLDERS_PAUSE, Filing, filed_of
from mailgate.store.sending.records import Envelope
from mailgate.store.sending.returns import RETURNED
from mailgate.store.sending.settlement import Settlement, tell
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import LockedMailbox, Locks
from mailgate.submissions import decide
from mailgate.submissions.decide import Outcome, Verdict
from mailgate.submissions.model import RecipientState, SubmissionState

SENDER = "sender:"
BLOCKED_PAUSE: Instant = MINUTE
"""How long what may not be sent (no plan, switched off) waits until it is looked at again."""
LOGIN_REFUSED = "auth_failed"

_S = submissions.c
_B = mailboxes.c
_WHOSE = select(_S.id, _S.tenant_id, _S.mailbox_id)


class ClaimLostError(ConflictError):
    """Somebody else has it by now, or it was canceled: nothing more may be done for it."""

    default_slug = "claim_lost"


@dataclass(frozen=True, slots=True)
class Claim:
    """A submission that one process works on. `smtp`: the mailbox's settings; no secret."""

    id: str
    tenant_id: str
    tenant_ref: str
    mailbox_id: str
    owner: str
    attempts: int
    give_up_at: Instant
    smtp: dict[str, Any]
    envelope: Envelope
    blob_id: str
    blob_key: bytes
    size: int

    def __repr__(self) -> str:
        return f"Claim({self.id!r}, attempt {self.attempts})"


class SendQueue:
    """Implements what the worker needs."""

    def __init__(self, db: Database, ring: KeyRing, locks: Locks, filing: Filing, allowance: Allowance) -> None:
        self._db = db
        self._ring = ring
        self._locks = locks
        self._filing = filing
        self._settlement = Settlement(ring, filing, allowance)

    # Owning.

    async def enter(self, owner: str, ttl: Instant, now: Instant) -> bool:
        """Be seen as alive; again and again while working. False: another process goes by that name."""
        return await leases.acquire(self._db, SENDER + owner, owner, ttl, now) is not None

    async def leave(self, owner: str) -> None:
        """This process works no more; what it claimed is free."""

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(delete(leases_table).where(leases_table.c.name == SENDER + owner))

        await self._db.transact(work)

    async def forget_ended(self, now: Instant) -> None:
        """Leases of processes that were killed long ago."""

        async def work(tx: Transaction) -> None:
            old = leases_table.c.name.like(f"{SENDER}%") & (leases_table.c.expires_at < now - DAY)
            await tx.conn.execute(delete(leases_table).where(old))

        await self._db.transact(work)

    # Claiming.

    async def due(self, now: Instant, limit: int, full_hosts: Collection[str] = ()) -> list[tuple[str, str, str]]:
        """(id, tenant_id, mailbox_id) of what may be sent now: of each mailbox the one that waits longest, tenants in
        turn. Not of mailboxes that somebody sends for, nor of those whose login was refused and is still the same.
        """
        other = aliased(submissions)
        o = other.c
        in_work = exists().where(o.mailbox_id == _S.mailbox_id, o.claimed_by.is_not(None), _alive(o.claimed_by, now))
        refused = exists().where(
            o.mailbox_id == _S.mailbox_id,
            o.state == SubmissionState.QUEUED.value,
            o.code == LOGIN_REFUSED,
            ~over(o.next_at, now, decide.LONGEST_ASKED),
            o.config_version == _B.config_version,
        )
        changed = (_S.code == LOGIN_REFUSED) & _S.config_version.is_distinct_from(_B.config_version)
        host = func.coalesce(_B.smtp["host"].as_string(), "")
        first = func.row_number().over(partition_by=_S.mailbox_id, order_by=(_S.next_at, _S.id)).label("first")
        found = (
            select(_S.id, _S.tenant_id, _S.mailbox_id, _S.next_at, host.label("host"), first)
            .join(mailboxes, _B.id == _S.mailbox_id)
            .where(_S.state == SubmissionState.QUEUED.value, or_(_may_begin(now), changed), ~in_work, ~refused)
        ).subquery()
        turn = func.row_number().over(partition_by=found.c.tenant_id, order_by=(found.c.next_at, found.c.id))
        query = select(found.c.id, found.c.tenant_id, found.c.mailbox_id).where(found.c.first == 1)
        if full_hosts:
            query = query.where(found.c.host.not_in(sorted(full_hosts)))
        query = query.order_by(turn, found.c.next_at, found.c.id).limit(limit)
        async with self._db.read() as conn:
            return [(row.id, row.tenant_id, row.mailbox_id) for row in await conn.execute(query)]

    async def claim(self, owner: str, id_: str, tenant_id: str, mailbox_id: str, now: Instant) -> Claim | None:
        """Take it, if it may be sent now; None: somebody else has it, or it waits, visibly, for what forbids it."""

        async def work(tx: Transaction) -> Row[Any] | None:
            mailbox = await self._locks.mailbox(tx, tenant_id, mailbox_id, now)
            free = or_(_S.claimed_by.is_(None), ~_alive(_S.claimed_by, now))
            mine = (_S.id == id_) & (_S.state == SubmissionState.QUEUED.value)
            row = await self._lock(tx, mine & free, skip=True)
            if row is None:
                return None
            forbidden = _forbidden(mailbox)
            if forbidden is not None:
                await self._put_off(tx, mailbox, row, forbidden, now)
                return None
            # One at a time for a mailbox: checked under its lock.
            others = (_S.mailbox_id == mailbox_id) & (_S.id != id_) & _alive(_S.claimed_by, now)
            if (await tx.conn.execute(select(_S.id).where(others).limit(1))).first() is not None:
                return None
            values = {
                "claimed_by": owner,
                "attempts": row.attempts + 1,
                "config_version": mailbox.row.config_version,
            }
            await tx.conn.execute(update(submissions).where(_S.id == id_).values(values))
            query = (
                select(submissions, _B.smtp, blobs.c.data_key.label("blob_key"), blobs.c.key_epoch.label("blob_epoch"))
                .join(mailboxes, _B.id == _S.mailbox_id)
                .join(blobs, blobs.c.id == _S.blob_id)
                .where(_S.id == id_)
            )
            claimed: Row[Any] = (await tx.conn.execute(query)).one()
            refs[0] = mailbox.tenant.ref
            return claimed

        refs = [""]
        try:
            row = await self._db.transact(work)
        except MailgateError as error:
            if error.status == 404:  # the tenant was erased meanwhile
                return None
            raise
        if row is None:
            return None
        keys = self._ring.tenant(refs[0])
        return Claim(
            id=row.id,
            tenant_id=tenant_id,
            tenant_ref=refs[0],
            mailbox_id=mailbox_id,
            owner=owner,
            attempts=row.attempts,
            give_up_at=row.give_up_at,
            smtp=row.smtp,
            envelope=Envelope.open(keys.unwrap(row.data_key, row.key_epoch), row.id, row.sealed),
            blob_id=row.blob_id,
            blob_key=keys.unwrap(row.blob_key, row.blob_epoch),
            size=row.size,
        )

    async def release(self, claim: Claim) -> None:
        """Nothing was tried: it is free again, and as if it had not been claimed."""

        async def work(tx: Transaction) -> None:
            mine = (_S.id == claim.id) & (_S.claimed_by == claim.owner) & (_S.attempts == claim.attempts)
            free = {"claimed_by": None, "attempts": claim.attempts - 1}
            await tx.conn.execute(
                update(submissions).where(mine, _S.state == SubmissionState.QUEUED.value).values(free)
            )

        await self._db.transact(work)

    async def abandon(self, claim: Claim, now: Instant) -> None:
        """Something broke that nobody foresaw: what was not sent waits, of the rest nobody knows what became."""

        async def work(tx: Transaction) -> None:
            row = await self._lock(tx, (_S.id == claim.id) & (_S.attempts == claim.attempts))
            if row is None or row.claimed_by != claim.owner:
                return
            values: dict[str, Any] = {"claimed_by": None, "code": "internal"}
            if row.state == SubmissionState.QUEUED.value:
                values["next_at"] = now + decide.LONGEST_PAUSE
            elif row.state == SubmissionState.SENDING.value:
                values["state"] = SubmissionState.UNCERTAIN.value
                tell(tx, row, "message.failed", now, state=SubmissionState.UNCERTAIN, code="internal")
            await tx.conn.execute(update(submissions).where(_S.id == claim.id).values(values))

        await self._db.transact(work)

    # The journal.

    async def journal(self, claim: Claim, offered: Sequence[str], now: Instant) -> None:
        """Before DATA: from now on the server may have it for these recipients. Raises ClaimLostError: then DATA must
        not be sent.
        """
        maybe = tuple(
            replace(item, state=RecipientState.UNCERTAIN) if item.address in offered else item
            for item in claim.envelope.recipients
        )

        async def work(tx: Transaction) -> None:
            row = await self._lock(tx, (_S.id == claim.id) & (_S.state == SubmissionState.QUEUED.value))
            if row is None or row.claimed_by != claim.owner or row.attempts != claim.attempts:
                raise ClaimLostError("the submission was canceled, or another process has it")
            alive = select(leases_table.c.owner).where(leases_table.c.name == SENDER + claim.owner, leases.living(now))
            if (await tx.conn.execute(alive.with_for_update(read=True))).first() is None:
                raise ClaimLostError("this process was silent for too long")
            values = {
                "state": SubmissionState.SENDING.value,
                "sending_at": now,
                "sealed": self._settlement.seal(claim.tenant_ref, row, replace(claim.envelope, recipients=maybe)),
            }
            await tx.conn.execute(update(submissions).where(_S.id == claim.id).values(values))

        await self._db.transact(work)

    async def finish(
        self, claim: Claim, outcome: Outcome, response: str | None, now: Instant, wait: Instant
    ) -> Verdict:
        """Write what became of an attempt. `response`: the server's words; `wait`: for so long it may file the message
        in Sent by itself. Raises ClaimLostError.
        """

        async def work(tx: Transaction) -> Verdict:
            mailbox = await self._locks.mailbox(tx, claim.tenant_id, claim.mailbox_id, now)
            row = await self._lock(tx, _S.id == claim.id)
            open_ = (SubmissionState.QUEUED.value, SubmissionState.SENDING.value, SubmissionState.UNCERTAIN.value)
            if row is None or row.attempts != claim.attempts or row.state not in open_:
                raise ClaimLostError("the submission was canceled, or another process has it")
            verdict = decide.verdict(
                claim.envelope.recipients,
                outcome,
                now=now,
                attempts=claim.attempts,
                give_up_at=claim.give_up_at,
                spread=int.from_bytes(claim.id[-4:].encode(), "big"),
            )
            code = LOGIN_REFUSED if outcome.login and verdict.state is SubmissionState.QUEUED else verdict.code
            envelope = replace(claim.envelope, recipients=verdict.recipients, last_response=response)
            await self._settlement.settle(tx, mailbox, row, envelope, verdict, code, now, wait)
            return verdict

        return await self._db.transact(work)

    async def recover(self, now: Instant, limit: int = 100) -> int:
        """What was being sent by processes that are gone: nobody knows whether the server took it. How many."""
        lost = (_S.state == SubmissionState.SENDING.value) & ~_alive(_S.claimed_by, now)
        async with self._db.read() as conn:
            ids = (await conn.execute(select(_S.id).where(lost).limit(limit))).scalars().all()
        for id_ in ids:

            async def work(tx: Transaction, id_: str = id_) -> None:
                row = await self._lock(tx, (_S.id == id_) & lost, skip=True)
                if row is not None:
                    values = {"state": SubmissionState.UNCERTAIN.value, "claimed_by": None, "code": "interrupted"}
                    await tx.conn.execute(update(submissions).where(_S.id == id_).values(values))
                    tell(tx, row, "message.failed", now, state=SubmissionState.UNCERTAIN, code="interrupted")

            await self._db.transact(work)
        return len(ids)

    async def resolve(self, now: Instant, limit: int = 100) -> int:
        """What is uncertain, and was taken as it turns out (invariant 4). How many."""
        filed = filed_of(submissions).correlate(submissions).exists()
        link, answer = message_links.c, messages.c
        answered = exists().where(
            link.tenant_id == _S.tenant_id,
            link.token == _S.msgid_token,
            answer.id == link.message_id,
            answer.stored_at >= _S.requested_at,
        )
        mine = (_S.state == SubmissionState.UNCERTAIN.value) & (_S.blob_id > "")  # > "": by the index
        known = mine & or_(_S.code == RETURNED, _S.sent_at.is_(None) & or_(filed, answered))

        async def settle(tx: Transaction, mailbox: LockedMailbox, row: Row[Any]) -> None:
            key = self._ring.tenant(mailbox.tenant.ref).unwrap(row.data_key, row.key_epoch)
            envelope = Envelope.open(key, row.id, row.sealed)
            verdict = decide.taken(envelope.recipients, now=now, give_up_at=row.give_up_at)
            envelope = replace(envelope, recipients=verdict.recipients)
            await self._settlement.settle(tx, mailbox, row, envelope, verdict, None, now, FOLDERS_PAUSE)

        return await self._each(_WHOSE.where(known).limit(limit), mine, settle, now)

    async def file_due(self, now: Instant, limit: int = 100) -> int:
        """Put copies into Sent that their servers did not file in time. How many were looked at."""

        async def file(tx: Transaction, mailbox: LockedMailbox, row: Row[Any]) -> None:
            file_at = await self._filing.file(tx, mailbox, row, now)
            await tx.conn.execute(update(submissions).where(_S.id == row.id).values(file_at=file_at))

        due = over(_S.file_at, now, HOUR)  # far more than any server is given
        return await self._each(_WHOSE.where(due).order_by(_S.file_at).limit(limit), due, file, now)

    # What these have in common.

    async def _each(
        self,
        query: Select[Any],
        still: ColumnElement[bool],
        act: Callable[[Transaction, LockedMailbox, Row[Any]], Awaitable[None]],
        now: Instant,
    ) -> int:
        """Do this to each that is found and is still so, a transaction each. Those of tenants that are being erased are
        left alone, and hold up no other.
        """
        async with self._db.read() as conn:
            rows = (await conn.execute(query)).all()
        for found in rows:

            async def work(tx: Transaction, found: Any = found) -> None:
                mailbox = await self._locks.mailbox(tx, found.tenant_id, found.mailbox_id, now)
                row = await self._lock(tx, (_S.id == found.id) & still, skip=True)
                if row is not None:
                    await act(tx, mailbox, row)

            with contextlib.suppress(NotFoundError):
                await self._db.transact(work)
        return len(rows)

    async def _put_off(self, tx: Transaction, mailbox: LockedMailbox, row: Row[Any], code: str, now: Instant) -> None:
        """It may not be sent now. When its time is over, or the mailbox is gone, it has failed."""
        if code != "mailbox_removed" and now + BLOCKED_PAUSE < row.give_up_at:
            values = {"code": code, "next_at": now + BLOCKED_PAUSE, "claimed_by": None}
            await tx.conn.execute(update(submissions).where(_S.id == row.id).values(values))
            return
        key = self._ring.tenant(mailbox.tenant.ref).unwrap(row.data_key, row.key_epoch)
        envelope = Envelope.open(key, row.id, row.sealed)
        left = tuple(replace(item, code=item.code or code) for item in envelope.recipients)
        after = decide.give_up(left)
        verdict = Verdict(decide.ended(after), after, 0, code=code)
        await self._settlement.settle(tx, mailbox, row, replace(envelope, recipients=after), verdict, code, now, 0)

    @staticmethod
    async def _lock(tx: Transaction, which: ColumnElement[bool], *, skip: bool = False) -> Row[Any] | None:
        query = select(submissions).where(which).with_for_update(of=submissions, skip_locked=skip)
        row: Row[Any] | None = (await tx.conn.execute(query)).one_or_none()
        return row


def _alive(owner: ColumnElement[str], now: Instant) -> ColumnElement[bool]:
    """Whether the process that claimed it works."""
    return exists().where(leases_table.c.name == literal(SENDER) + owner, leases.living(now))


def _may_begin(now: Instant) -> ColumnElement[bool]:
    """Whether its time has come. What a client put off is sent at that instant, whatever the clock said before; all
    other times are the ends of pauses.
    """
    put_off = (_S.attempts == 0) & _S.code.is_(None) & (_S.next_at > _S.requested_at)
    return or_(_S.next_at <= now, over(_S.next_at, now, decide.LONGEST_ASKED) & ~put_off)


def _forbidden(mailbox: LockedMailbox) -> str | None:
    """Why nothing of this mailbox may be sent now."""
    if mailbox.refusal is not None:
        return mailbox.refusal.slug
    return "no_smtp" if mailbox.row.smtp is None else None
