"""What a CRM does, with a client that was made from the OpenAPI document: run and type-checked by test_client.py.

It is a program of its own, with MAILGATE_URL, MAILGATE_TOKEN (of an admin) and HOOK (where webhooks go) in the
environment, and `gateway_client` on its path. ann@acme.example is connected already.
"""

from __future__ import annotations

import datetime
import io
import os
import time
from collections.abc import Callable
from typing import TypeVar

from gateway_client import AuthenticatedClient
from gateway_client.api.changes import append_message, get_operation, patch_message
from gateway_client.api.events import get_snapshot, list_events
from gateway_client.api.holds import place_hold, release_hold
from gateway_client.api.mailboxes import get_mailbox, list_mailboxes, start_sync
from gateway_client.api.messages import get_message, get_part, get_raw, list_messages
from gateway_client.api.pins import delete_pin, delete_record_pins, list_pins, put_pin
from gateway_client.api.purge_log import list_leaves
from gateway_client.api.retention import get_retention, start_run
from gateway_client.api.submissions import create_submission, get_submission
from gateway_client.api.subscriptions import put_subscription
from gateway_client.api.tenants import get_tenant, list_plans
from gateway_client.api.tokens import create_token, list_tokens, revoke_token
from gateway_client.api.webhooks import create_webhook, list_deliveries, remove_webhook, try_webhook
from gateway_client.models import (
    AttachmentBody,
    DeliveryState,
    FlagsBody,
    HoldBody,
    MailboxState,
    MessagePatchBody,
    PinBody,
    Problem,
    ReleaseBody,
    RunBody,
    SubmissionBody,
    SubmissionState,
    SubscriptionBody,
    SubscriptionBodyPlan,
    TenantScope,
    TokenBody,
    TokenBodyScopesItem,
    WebhookBody,
)
from gateway_client.types import File

Answer = TypeVar("Answer")
client = AuthenticatedClient(
    base_url=os.environ["MAILGATE_URL"], token=os.environ["MAILGATE_TOKEN"], raise_on_unexpected_status=True
)


def good(answer: Answer | Problem | None) -> Answer:
    assert answer is not None
    assert not isinstance(answer, Problem), answer
    return answer


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def main() -> None:
    # Mailboxes
    assert good(get_tenant.sync("acme", client=client)).name == "Acme"
    assert "standard" in {plan.name for plan in good(list_plans.sync(client=client)).items}
    (mailbox,) = good(list_mailboxes.sync("acme", client=client)).items
    until(lambda: good(get_mailbox.sync("acme", mailbox.id, client=client)).state is MailboxState.LIVE)
    assert good(start_sync.sync("acme", mailbox.id, client=client)).mailbox_id == mailbox.id
    inbox = next(folder for folder in mailbox.folders if folder.name == "INBOX")

    # Messages: a new one, found by its word, marked, read byte for byte
    before = good(list_events.sync(client=client, tenant="acme", after="latest")).next_cursor
    letter = (
        b"From: bob@other.example\r\nMessage-ID: <q@other.example>\r\nSubject: The quarterly figures\r\n\r\nKuchen.\r\n"
    )
    appended = good(
        append_message.sync(
            "acme", mailbox.id, client=client, body=File(payload=io.BytesIO(letter)), folder_id=inbox.id
        )
    )
    until(lambda: found("kuchen") == [appended.message_id])
    raw = good(get_raw.sync("acme", appended.message_id, client=client))
    assert isinstance(raw, File)
    assert raw.payload.read() == letter
    change = MessagePatchBody(flags=FlagsBody(add=["\\Seen"]))
    asked = good(patch_message.sync("acme", appended.message_id, client=client, body=change)).operation_id
    assert asked is not None
    until(lambda: good(get_operation.sync("acme", asked, client=client)).state.value == "applied")
    whole = good(get_message.sync("acme", appended.message_id, client=client))
    assert whole.flags == ["\\Seen"]
    assert whole.text == "Kuchen.\n", whole.text
    assert isinstance(whole.stored_at, datetime.datetime)
    missing = get_message.sync("acme", "01J8Z0000000000000000000AB", client=client)
    assert isinstance(missing, Problem)
    assert missing.status == 404

    # Pins
    put_pin.sync("acme", whole.id, "deal", "D / 1", client=client, body=PinBody(note="figures"))
    put_pin.sync("acme", whole.id, "task", "T-1", client=client, body=None)
    pins = good(list_pins.sync("acme", client=client, entity_type="deal", entity_id="D / 1"))
    assert [(pin.message_id, pin.note) for pin in pins.items] == [(whole.id, "figures")]
    delete_pin.sync_detailed("acme", whole.id, "task", "T-1", client=client)

    # Events and a snapshot
    until(lambda: types_after(before) >= {"message.created", "message.pinned", "message.unpinned"})
    snapshot = good(get_snapshot.sync(client=client, tenant="acme"))
    assert whole.id in {state.id for state in snapshot.items}

    # Webhooks
    hook = good(create_webhook.sync(client=client, body=WebhookBody(url=os.environ["HOOK"], tenant_id="acme")))
    assert hook.secret.startswith("whsec_")
    assert good(try_webhook.sync(hook.id, client=client)).state is DeliveryState.DELIVERED
    assert len(good(list_deliveries.sync(hook.id, client=client)).items) == 1
    remove_webhook.sync_detailed(hook.id, client=client)

    # Sending
    submission = good(
        create_submission.sync(
            "acme",
            mailbox.id,
            client=client,
            body=SubmissionBody(
                to=["bob@other.example"],
                subject="Re: The quarterly figures",
                text="Thank you.",
                attachments=[
                    AttachmentBody(filename="a.txt", content_type="text/plain", content_base64="Zm91cg=="),
                ],
                in_reply_to_message_id=whole.id,
                pin_to_parent=True,
            ),
            idempotency_key="once",
        )
    )
    until(lambda: sent_state(mailbox.id, submission.id) is SubmissionState.SENT)
    copy_id = good(get_submission.sync("acme", mailbox.id, submission.id, client=client)).message_id
    assert copy_id is not None
    copy = good(get_message.sync("acme", copy_id, client=client))
    assert copy.thread_id == whole.thread_id
    assert [(pin.entity_type, pin.entity_id) for pin in copy.pins] == [("deal", "D / 1")]
    file = good(get_part.sync("acme", copy.id, copy.parts[-1].part_id, client=client))
    assert isinstance(file, File)
    assert file.payload.read() == b"four"

    # Holds, a purge, its log
    scope = TenantScope(tenant=True)
    hold = good(place_hold.sync("acme", client=client, body=HoldBody(scope=scope, matter="2026-1", reason="claim")))
    assert good(get_retention.sync("acme", client=client)).held > 0
    assert good(release_hold.sync("acme", hold.id, client=client, body=ReleaseBody(reason="settled"))).id == hold.id
    assert good(delete_record_pins.sync("acme", "deal", "D / 1", client=client)).removed == 2
    good(put_subscription.sync("acme", client=client, body=SubscriptionBody(plan=SubscriptionBodyPlan.FREE)))
    run = good(start_run.sync(client=client, body=RunBody(tenant="acme", dry_run=True)))
    assert run.tenant_id == "acme"
    leaves = good(list_leaves.sync(client=client, tenant="acme"))
    assert {"hold.place", "hold.release"} <= {leaf.type_ for leaf in leaves.items}

    # Tokens
    wanted = TokenBody(name="short", scopes=[TokenBodyScopesItem.CRM], tenant_id="acme")
    token = good(create_token.sync(client=client, body=wanted))
    assert token.token
    assert revoke_token.sync_detailed(token.id, client=client).status_code == 204
    assert [item.revoked_at is not None for item in good(list_tokens.sync(client=client, limit=1)).items] == [True]


def found(words: str) -> list[str]:
    return [message.id for message in good(list_messages.sync("acme", client=client, q=words)).items]


def types_after(cursor: str) -> set[str]:
    return {event.type_ for event in good(list_events.sync(client=client, tenant="acme", after=cursor)).items}


def sent_state(mailbox_id: str, submission_id: str) -> SubmissionState:
    return good(get_submission.sync("acme", mailbox_id, submission_id, client=client)).state


if __name__ == "__main__":
    main()
