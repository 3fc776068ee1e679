"""What became of a submission, written: its recipients, its copy for Sent, its events, its place in the allowance.

One who settles holds the locks of the mailbox and of the submission (`queue` says in which order).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, update

from mailgate.clock import Instant
from mailgate.keys import KeyRing
from mailgate.store.schema import submissions
from mailgate.store.sending.allowance import Allowance
from mailgate.store.sending.filing import Filing, drop_bytes
from mailgate.store.sending.records import Envelope
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import LockedMailbox
from mailgate.submissions.decide import Verdict
from mailgate.submissions.model import Recipient, RecipientState, SubmissionState, accepted
from mailgate.tenants.limits import Purpose

_S = submissions.c


class Settlement:
    """Writes verdicts."""

    def __init__(self, ring: KeyRing, filing: Filing, allowance: Allowance) -> None:
        self._ring = ring
        self._filing = filing
        self._allowance = allowance

    def seal(self, tenant_ref: str, row: Row[Any], envelope: Envelope) -> bytes:
        """The envelope under the submission's own data key, as its row holds it."""
        return envelope.seal(self._ring.tenant(tenant_ref).unwrap(row.data_key, row.key_epoch), row.id)

    async def settle(
        self,
        tx: Transaction,
        mailbox: LockedMailbox,
        row: Row[Any],
        envelope: Envelope,
        verdict: Verdict,
        code: str | None,
        now: Instant,
        wait: Instant,
    ) -> None:
        """Write the verdict over `row`, which is locked. `code`: why it is not sent, at most 64 characters are kept;
        `wait`: for so long the server may file the message in Sent by itself.
        """
        values: dict[str, Any] = {
            "state": verdict.state.value,
            "claimed_by": None,
            "sending_at": None,
            "code": None if code is None else code[:64],
            "sealed": self.seal(mailbox.tenant.ref, row, envelope),
        }
        if verdict.next_at is not None:
            values["next_at"] = verdict.next_at
        if verdict.newly and row.sent_at is None:
            key = self._ring.tenant(mailbox.tenant.ref).unwrap(row.data_key, row.key_epoch)
            copy = await self._filing.make_copy(tx, mailbox, row, key, now, wait)
            await tx.conn.execute(update(submissions).where(_S.id == row.id).values(sent_at=now, **copy))
            row = (await tx.conn.execute(select(submissions).where(_S.id == row.id))).one()
            tell(tx, row, "message.sent", now, **_counts(envelope.recipients))
        ended = verdict.state in (SubmissionState.SENT, SubmissionState.FAILED)
        if ended:
            values["finished_at"] = now
        await tx.conn.execute(update(submissions).where(_S.id == row.id).values(values))
        if ended:
            await self._end(tx, row, envelope, verdict.state, code, now)
        elif verdict.state is SubmissionState.UNCERTAIN:
            tell(tx, row, "message.failed", now, state=verdict.state, code=code)

    async def _end(
        self, tx: Transaction, row: Row[Any], envelope: Envelope, state: SubmissionState, code: str | None, now: Instant
    ) -> None:
        """Nobody waits any more. What failed keeps its bytes: it may be asked for again."""
        if state is SubmissionState.SENT:
            await drop_bytes(tx, row, now)
        refused = [item for item in envelope.recipients if item.state is RecipientState.REFUSED]
        if refused:
            tell(tx, row, "message.failed", now, state=state, code=code, **_counts(envelope.recipients))
        if state is SubmissionState.FAILED and row.charged_at is not None:
            await self._allowance.give_back(tx, row.tenant_id, Purpose(row.purpose), 1, row.charged_at)
            await tx.conn.execute(update(submissions).where(_S.id == row.id).values(charged_at=None))


def tell(tx: Transaction, row: Row[Any], type_: str, now: Instant, **payload: Any) -> None:
    """An event of the submission; it names the message in Sent as soon as there is one. Values of None are left out."""
    message_id = row.message_id if type_ == "message.sent" or row.sent_at is not None else None
    told = {"submission_id": row.id, **{name: value for name, value in payload.items() if value is not None}}
    tx.emit(row.tenant_id, type_, at=now, mailbox_id=row.mailbox_id, message_id=message_id, payload=told)


def _counts(recipients: Sequence[Recipient]) -> dict[str, int]:
    return {
        "accepted": len(accepted(recipients)),
        "refused": sum(item.state is RecipientState.REFUSED for item in recipients),
        "waiting": sum(item.state is RecipientState.WAITING for item in recipients),
    }
