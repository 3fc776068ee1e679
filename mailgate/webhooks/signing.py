"""Standard Webhooks: secrets, ids and signatures (standardwebhooks.com). Nothing else imports its library."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from standardwebhooks.webhooks import Webhook

from mailgate.clock import SECOND, Instant, to_datetime

PREFIX: Final = "whsec_"
_SECRET: Final = 32


def new_secret() -> str:
    """A secret as receivers' libraries take it: `whsec_` and base64 of 32 random bytes."""
    return PREFIX + base64.b64encode(os.urandom(_SECRET)).decode()


def message_id(event_id: str, at: Instant) -> str:
    """The `webhook-id` of an event: the same at each attempt, whichever process makes it, and another for an event that
    gets the same number after a backup was restored. It has no full stop, which separates what is signed.
    """
    return "msg_" + hashlib.sha256(f"{event_id}\0{at}".encode()).hexdigest()[:32]


def headers(secrets: Sequence[str], id_: str, at: Instant, body: str) -> dict[str, str]:
    """The headers of a request that is sent at `at`: a signature for each secret, the newest first."""
    whole = at - at % SECOND
    signatures = [Webhook(secret).sign(msg_id=id_, timestamp=to_datetime(whole), data=body) for secret in secrets]
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(whole // SECOND),
        "webhook-signature": " ".join(signatures),
    }


def body_of(item: Mapping[str, Any]) -> str:
    """The body of an event: what the feed shows of it, and `timestamp`, which Standard Webhooks recommends."""
    return json.dumps(
        {"type": item["type"], "timestamp": item["at"], **item}, separators=(",", ":"), ensure_ascii=False
    )
