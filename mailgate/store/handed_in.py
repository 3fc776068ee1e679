"""A message that the CRM hands in, to be appended or sent: kept as one is that a mail server has."""

from __future__ import annotations

from mailgate.clock import Instant
from mailgate.errors import MailgateError, PreconditionError
from mailgate.sync.arriving import Arrived
from mailgate.sync.incoming import PreparedMessage
from mailgate.sync.prepare import Preparer


class MessageTooLargeError(MailgateError):
    """The message is larger than the operator allows."""

    status = 413
    default_slug = "too_large"


def too_large(most: int, setting: str) -> MessageTooLargeError:
    """The error for what has more than `most` bytes, which `setting` allows."""
    return MessageTooLargeError(f"the message has more than {most} bytes ({setting})")


def keep_one(preparer: Preparer, arrived: Arrived, now: Instant) -> PreparedMessage:
    """Described, stored, durable. For a worker thread: it blocks. Raises PreconditionError `message_invalid`, and as
    `Preparer.prepare` does.
    """
    preparer.add_tokens([arrived])
    prepared = preparer.prepare([arrived], now)
    if prepared.aside:
        reason = prepared.aside[0].reason.partition(";")[0]  # its bytes are not kept, as a server's mail is
        raise PreconditionError(f"this message can't be kept: {reason}", slug="message_invalid")
    preparer.settle(prepared.messages)
    return prepared.messages[0]
