"""Signatures: against the published rules, written anew here, and against their authors' own library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from mailgate.clock import DAY, to_datetime
from mailgate.webhooks.signing import body_of, headers, message_id, new_secret

NOW = 20_000 * DAY


class _Now(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return to_datetime(NOW).astimezone(tz)


@pytest.fixture(autouse=True)
def _the_library_reads_our_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("standardwebhooks.webhooks.datetime", _Now)


def verified(secret: str, sent: dict[str, str], body: str) -> bool:
    """By the rules: HMAC-SHA256 over `id.timestamp.body` under what base64 after `whsec_` says; `v1,` and base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.{body}".encode()
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(expected, each) for each in sent["webhook-signature"].split(" "))


def test_both_verify_it() -> None:
    secret, body = new_secret(), body_of({"type": "message.created", "at": "2026-01-01T00:00:00Z", "data": {"ü": 1}})
    sent = headers([secret], "msg_1", NOW, body)
    assert verified(secret, sent, body)
    assert Webhook(secret).verify(body, sent)["data"] == {"ü": 1}
    assert not verified(new_secret(), sent, body)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + " ", sent)


def test_during_an_overlap_either_secret_verifies() -> None:
    new, old = new_secret(), new_secret()
    sent = headers([new, old], "msg_1", NOW, "{}")
    assert len(sent["webhook-signature"].split(" ")) == 2
    assert verified(new, sent, "{}")
    assert verified(old, sent, "{}")
    Webhook(old).verify("{}", sent)


def test_a_secret_has_256_random_bits() -> None:
    assert len(base64.b64decode(new_secret().removeprefix("whsec_"))) == 32
    assert new_secret() != new_secret()


def test_an_id_is_the_same_each_time_and_holds_no_full_stop() -> None:
    assert message_id("a.b:7", NOW) == message_id("a.b:7", NOW)
    assert len({message_id("a.b:7", NOW + n) for n in range(3)} | {message_id("a.b:8", NOW)}) == 4
    assert "." not in message_id("a.b:7", NOW)


def test_the_body_is_the_event_as_the_feed_has_it_with_a_timestamp() -> None:
    shown = {"cursor": "c", "id": "acme:1", "type": "folder.created", "at": "2026-01-01T00:00:00Z", "data": {}}
    assert json.loads(body_of(shown)) == {**shown, "timestamp": shown["at"]}


async def test_the_receiver_in_the_docs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    secret = new_secret()
    monkeypatch.setenv("MAILGATE_WEBHOOK_SECRET", secret)
    names: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)  # noqa: S102 - our own page
    body = body_of({"id": "acme:1", "type": "folder.created", "at": "2026-01-01T00:00:00Z", "data": {}})
    sent = headers([secret], "msg_1", NOW, body)
    assert await names["receive"](sent, body.encode()) == 204
    assert await names["receive"](sent, body.encode()) == 204  # once more: it was stored once
    assert await names["receive"](sent, body.encode() + b" ") == 401
    assert capsys.readouterr().out == "folder.created acme:1\n"
