"""`mailgate serve` sends a letter through a submission server, and its copy stands in Dovecot's Sent once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.sending import LETTER, smtp_settings
from tests.server.test_two_way_api import PATIENCE_S, Served
from tests.server.test_two_way_api import gateway as gateway
from tests.server.test_two_way_api import served as served
from tests.smtpserver import SmtpServer

pytestmark = pytest.mark.server


async def test_a_letter_is_sent_and_stands_in_sent_once(served: Served) -> None:
    server = await SmtpServer().start()
    mailbox = f"/mailboxes/{served.mailbox_id}"
    await served.ask("PATCH", mailbox, status=200, json={"smtp": smtp_settings(server.port)})
    made = await served.ask("POST", f"{mailbox}/submissions", json=LETTER)

    async def sent() -> dict[str, Any]:
        return await served.get(f"{mailbox}/submissions/{made['id']}")

    async with asyncio.timeout(PATIENCE_S):
        while (found := await sent())["state"] != "sent":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    (taken,) = server.received
    assert taken.recipients == ["bob@other.example"]
    asked = (await served.get(f"/operations?message={found['message_id']}"))["items"]
    await served.done({"operation_ids": [operation["id"] for operation in asked]})
    ((flags, stored),) = served.at_server("Sent")
    assert flags >= {"\\Seen"}
    assert stored == taken.content
    # A pass over Sent afterwards knows it: one message, with the id that it had from the start.
    run = await served.ask("POST", f"{mailbox}/sync")
    async with asyncio.timeout(PATIENCE_S):
        while (await served.get(f"{mailbox}/runs"))["items"][0]["state"] in ("queued", "running"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert run["mailbox_id"] == served.mailbox_id
    items = [item for item in (await served.get("/messages"))["items"] if item["subject"] == "Offer"]
    assert [(item["id"], item["origin"]["present"]) for item in items] == [(found["message_id"], True)]
    await server.stop()
