"""What comes back of what was sent: delivery reports and answers, recognised in the commit that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Row, or_, select, update

from mailgate.clock import Instant
from mailgate.keys import TenantKeys
from mailgate.store.schema import messages, submissions
from mailgate.store.sending.records import Envelope
from mailgate.store.transaction import Transaction
from mailgate.submissions.model import Recipient, RecipientState, SubmissionState
from mailgate.sync.incoming import Bounce, PreparedMessage

RETURNED: Final = "returned"
"""The code of what was uncertain when a report said that it was returned: so the server had taken it."""

_S = submissions.c
_UNCERTAIN = _S.state == SubmissionState.UNCERTAIN.value


async def answered(tx: Transaction, tenant_id: str, arrived: Sequence[PreparedMessage]) -> Mapping[str, dict[str, Any]]:
    """What to say of those that answer something sent from here: the submission and its copy, by message id."""
    tokens = {message.answers for message in arrived if message.answers is not None}
    if not tokens:
        return {}
    query = (
        select(_S.id, _S.msgid_token, messages.c.id.label("copy_id"))
        .outerjoin(messages, messages.c.id == _S.message_id)
        .where(_S.tenant_id == tenant_id, or_(_S.sent_at.is_not(None), _UNCERTAIN), _S.msgid_token.in_(sorted(tokens)))
        .order_by(_S.id)
    )
    found: dict[bytes, dict[str, Any]] = {}
    for row in await tx.conn.execute(query):
        said = {"reply_to_submission_id": row.id}
        found[row.msgid_token] = said | ({"in_reply_to_message_id": row.copy_id} if row.copy_id else {})
    return {
        message.id: found[message.answers]
        for message in arrived
        if message.answers is not None and message.answers in found
    }


async def bounced(
    tx: Transaction, tenant_id: str, mailbox_id: str, keys: TenantKeys, arrived: Sequence[PreparedMessage], now: Instant
) -> None:
    """Mark the recipients that reports name, and tell the feed. A report about nothing of ours is mail like any."""
    for message in arrived:
        report = message.bounce
        if report is None:
            continue
        mine = (_S.tenant_id == tenant_id) & (_S.mailbox_id == mailbox_id) & _S.msgid_token.in_(report.msgid_tokens)
        rows = (await tx.conn.execute(select(submissions).where(mine).order_by(_S.id).with_for_update())).all()
        for row in rows:
            await _mark(tx, row, keys, report, message.id, now)


async def _mark(tx: Transaction, row: Row[Any], keys: TenantKeys, report: Bounce, report_id: str, now: Instant) -> None:
    uncertain = row.state == SubmissionState.UNCERTAIN.value
    if row.sealed is None or (row.sent_at is None and not uncertain):
        return
    key = keys.unwrap(row.data_key, row.key_epoch)
    envelope = Envelope.open(key, row.id, row.sealed)
    said = {item.address: item for item in report.recipients}
    after = tuple(_after(recipient, said.get(recipient.address.lower())) for recipient in envelope.recipients)
    count = sum(new != old for new, old in zip(after, envelope.recipients, strict=True))
    if not count:
        return
    sealed = replace(envelope, recipients=after).seal(key, row.id)
    values = {"sealed": sealed} | ({"code": RETURNED} if uncertain else {})
    await tx.conn.execute(update(submissions).where(_S.id == row.id).values(values))
    payload = {"submission_id": row.id, "report_message_id": report_id, "bounced": count}
    message_id = None if row.sent_at is None else row.message_id
    tx.emit(row.tenant_id, "message.bounced", at=now, mailbox_id=row.mailbox_id, message_id=message_id, payload=payload)


def _after(recipient: Recipient, said: Any) -> Recipient:
    if said is None or recipient.state not in (RecipientState.ACCEPTED, RecipientState.UNCERTAIN):
        return recipient
    return replace(recipient, state=RecipientState.BOUNCED, code=said.status, text=said.text or None)
