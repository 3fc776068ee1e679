"""What a sent message is known by when the server gave it another Message-ID: whom it is to, its subject, its files."""

from __future__ import annotations

import json

from mailgate.messages.model import Summary


def sent_likeness(summary: Summary) -> bytes:
    """Equal for a message and for what a server filed of it, which may have rewritten texts and headers: recipients but
    Bcc, subject, sizes of the files. The store keys it before it is kept.
    """
    recipients = sorted({item.address.lower() for item in (*summary.to, *summary.cc) if item.address})
    files = sorted(part.size for part in summary.parts if not part.inline)
    return json.dumps([recipients, " ".join(summary.subject.split()), files]).encode()
