"""Which conversation a message belongs to, by the headers alone."""

from __future__ import annotations

from mailgate.messages.model import Summary


def thread_root(message: Summary) -> str | None:
    """The message id that names the thread: the first of References, else In-Reply-To's, else its own; None without
    any.

    (RFC 5256's REFERENCES algorithm roots a thread at the first reference; a reply whose References were lost joins by
    In-Reply-To.)
    """
    if message.references:
        return message.references[0]
    if message.in_reply_to:
        return message.in_reply_to[0]
    return message.rfc_message_id
