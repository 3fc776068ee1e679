"""Rows of submissions. What a person could read (addresses, the server's words) is sealed under the row's data key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Row

from mailgate.clock import Instant
from mailgate.keys import DataKey, TenantKeys, epoch_at
from mailgate.keys.wrap import unwrap, wrap
from mailgate.submissions.model import Recipient, SubmissionState
from mailgate.sync.incoming import PreparedBlob, PreparedMessage
from mailgate.tenants.limits import Purpose
from retention.model import AnchorFrom
from retention.policy import anchor

_BYTES = ("header_token", "msgid_token", "content_commit", "msgid_commit", "summary", "data_key")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is sealed of a submission: who sends, who gets it, what the server said last."""

    sender: str
    rfc_message_id: str
    recipients: tuple[Recipient, ...]
    utf8: bool = False
    eight_bit: bool = False
    last_response: str | None = None

    def seal(self, key: bytes, submission_id: str) -> bytes:
        """The column."""
        value = {
            "sender": self.sender,
            "rfc_message_id": self.rfc_message_id,
            "recipients": [recipient.to_json() for recipient in self.recipients],
            "utf8": self.utf8,
            "eight_bit": self.eight_bit,
            "last_response": self.last_response,
        }
        return wrap(AESGCM(key), json.dumps(value, separators=(",", ":")).encode(), _context("envelope", submission_id))

    @classmethod
    def open(cls, key: bytes, submission_id: str, sealed: bytes) -> Envelope:
        """The inverse."""
        value = json.loads(unwrap(AESGCM(key), sealed, _context("envelope", submission_id)))
        value["recipients"] = tuple(Recipient.of(item) for item in value["recipients"])
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission as clients see it. `envelope` is None once its copy was purged; `message_id` until there is one."""

    id: str
    mailbox_id: str
    state: SubmissionState
    purpose: Purpose
    attempts: int
    code: str | None
    requested_at: Instant
    requested_by: str
    next_at: Instant | None
    sent_at: Instant | None
    finished_at: Instant | None
    size: int
    message_id: str | None
    parent_id: str | None
    envelope: Envelope | None


def submission_of(row: Row[Any], keys: TenantKeys, *, readable: bool) -> Submission:
    """A row as clients see it."""
    envelope = None
    if readable and row.sealed is not None:
        envelope = Envelope.open(keys.unwrap(row.data_key, row.key_epoch), row.id, row.sealed)
    state = SubmissionState(row.state)
    return Submission(
        id=row.id,
        mailbox_id=row.mailbox_id,
        state=state,
        purpose=Purpose(row.purpose),
        attempts=row.attempts,
        code=row.code,
        requested_at=row.requested_at,
        requested_by=row.requested_by,
        next_at=row.next_at if state is SubmissionState.QUEUED else None,
        sent_at=row.sent_at,
        finished_at=row.finished_at,
        size=row.size,
        message_id=row.message_id if row.sent_at is not None else None,
        parent_id=row.parent_id,
        envelope=envelope,
    )


def seal_prepared(key: DataKey, submission_id: str, message: PreparedMessage) -> bytes:
    """What the copy's row will say, but for its bytes and times."""
    value: dict[str, Any] = {name: getattr(message, name) for name in _PLAIN}
    value |= {name: _hex(getattr(message, name)) for name in _BYTES}
    value["links"] = [token.hex() for token in message.links]
    return wrap(AESGCM(key.key), json.dumps(value).encode(), _context("prepared", submission_id))


def open_prepared(
    key: bytes,
    submission_id: str,
    sealed: bytes,
    blob: PreparedBlob,
    *,
    now: Instant,
    received_at: Instant,
    anchor_from: AnchorFrom,
) -> PreparedMessage:
    """The copy, as of now. `received_at`: when the server took it."""
    anchor_at, source = anchor(received_at, now, anchor_from)
    value: Mapping[str, Any] = json.loads(unwrap(AESGCM(key), sealed, _context("prepared", submission_id)))
    return PreparedMessage(
        uid=0,
        anchor_at=anchor_at,
        anchor_source=str(source),
        internal_date_at=received_at,
        stored_at=now,
        flags=("\\Seen",),
        blob=blob,
        links=tuple(bytes.fromhex(token) for token in value.get("links", ())),
        **{name: value[name] for name in _PLAIN},
        **{name: _bytes(value[name]) for name in _BYTES},
    )


def rewrap_prepared(keys: TenantKeys, row: Row[Any], now: Instant) -> bytes | None:
    """What prepared the copy of a submission, with the copy's own data key wrapped under the epoch of `now`; None when
    it is already. The row: id, data_key, key_epoch, prepared.
    """
    own, context = AESGCM(keys.unwrap(row.data_key, row.key_epoch)), _context("prepared", row.id)
    value: dict[str, Any] = json.loads(unwrap(own, row.prepared, context))
    if value["key_epoch"] >= epoch_at(now):
        return None
    fresh = keys.wrap_anew(bytes.fromhex(value["data_key"]), value["key_epoch"], now)
    value |= {"data_key": fresh.wrapped.hex(), "key_epoch": fresh.epoch}
    return wrap(own, json.dumps(value).encode(), context)


_PLAIN = ("id", "item_ref", "size", "has_files", "key_epoch")


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _bytes(value: str | None) -> Any:
    return None if value is None else bytes.fromhex(value)


def _context(what: str, submission_id: str) -> bytes:
    return b"mailgate submission\0" + what.encode() + b"\0" + submission_id.encode()
