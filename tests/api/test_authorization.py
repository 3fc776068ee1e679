"""Every route, with every scope, and with a token of another tenant. A route missing in the table fails the test."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, to_rfc3339
from mailgate.ids import new_id
from mailgate.sync.incoming import Cause
from tests.api.conftest import START, Gateway, mailbox_body
from tests.api.hooks import URL, delivered_hook
from tests.api.mail import letter, postman
from tests.api.trouble import fail_to_send, set_aside, vanish


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


ALL = frozenset({"admin", "crm", "compliance"})
CRM = frozenset({"admin", "crm"})
COMPLIANCE = frozenset({"admin", "compliance"})
ADMIN = frozenset({"admin"})

OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/docs")}

SIGNED = {("POST", "/v1/billing/stripe")}
"""Open as well, but for who signs."""

LINKED = {("GET", "/v1/oauth/go/{secret}"), ("GET", "/v1/oauth/callback/{provider}")}
"""Open to browsers: the secret is in the link."""

T = "/v1/tenants/{tenant_id}"
M = f"{T}/messages/{{message_id}}"
B = f"{T}/mailboxes/{{mailbox_id}}"
W = "/v1/webhooks/{webhook_id}"
COMMANDS = {
    f"{T}/subscription/purchase": {"plan": "standard"},
    f"{T}/subscription/renew": {},
    f"{T}/subscription/retry": {},
    f"{T}/subscription/upgrade": {"plan": "professional"},
    f"{T}/subscription/downgrade": {"plan": "crm_plus"},
    f"{T}/subscription/cancel": {},
    f"{T}/subscription/resume": {},
    f"{T}/subscription/seats": {"seats": 5},
    f"{T}/subscription/quote": {"command": "renew"},
}
"""Which of them are allowed hangs on the subscription: 409 is an answer to who may ask."""
MATRIX: dict[tuple[str, str], frozenset[str]] = {
    ("GET", "/v1/tenants"): ALL,
    ("PUT", T): CRM,
    ("GET", T): ALL,
    ("DELETE", T): CRM,
    ("GET", "/v1/plans"): ALL,
    ("GET", f"{T}/subscription"): ALL,
    ("PUT", f"{T}/subscription"): ADMIN,
    ("GET", f"{T}/subscription/history"): ALL,
    ("GET", f"{T}/subscription/options"): ALL,
    ("GET", f"{T}/subscription/notices"): ALL,
    **{("POST", path): CRM for path in COMMANDS},
    ("POST", f"{T}/subscription/events"): ADMIN,
    ("GET", "/v1/alarms"): COMPLIANCE,
    ("POST", f"{T}/holds"): COMPLIANCE,
    ("GET", f"{T}/holds"): COMPLIANCE,
    ("GET", f"{T}/holds/{{hold_id}}"): COMPLIANCE,
    ("POST", f"{T}/holds/{{hold_id}}/release"): COMPLIANCE,
    ("POST", f"{T}/mailboxes"): CRM,
    ("GET", f"{T}/mailboxes"): CRM,
    ("GET", B): CRM,
    ("PATCH", B): CRM,
    ("DELETE", B): CRM,
    ("GET", f"{B}/folders"): CRM,
    ("POST", f"{B}/folders"): CRM,
    ("PATCH", f"{B}/folders/{{folder_id}}"): CRM,
    ("DELETE", f"{B}/folders/{{folder_id}}"): CRM,
    ("POST", f"{B}/messages"): CRM,
    ("POST", f"{B}/submissions"): CRM,
    ("GET", f"{B}/submissions"): CRM,
    ("GET", f"{B}/submissions/{{submission_id}}"): CRM,
    ("DELETE", f"{B}/submissions/{{submission_id}}"): CRM,
    ("POST", f"{B}/submissions/{{submission_id}}/retry"): CRM,
    ("GET", f"{T}/operations"): CRM,
    ("GET", f"{T}/operations/{{operation_id}}"): CRM,
    ("POST", f"{M}/rehydrate"): CRM,
    ("POST", f"{B}/sync"): CRM,
    ("POST", f"{B}/backfill"): CRM,
    ("GET", f"{B}/runs"): CRM,
    ("GET", f"{B}/guards"): ALL,
    ("POST", f"{B}/guards/{{guard_id}}/approve"): ADMIN,
    ("GET", f"{B}/quarantine"): ALL,
    ("POST", f"{B}/quarantine/{{n}}/retry"): CRM,
    ("GET", f"{B}/quarantine/{{n}}/raw"): CRM,
    ("GET", "/v1/autoconfig"): CRM,
    ("POST", f"{T}/connect-links"): CRM,
    ("GET", f"{T}/connect-links"): CRM,
    ("GET", f"{T}/connect-links/{{connect_link_id}}"): CRM,
    ("DELETE", f"{T}/connect-links/{{connect_link_id}}"): CRM,
    ("POST", "/v1/mailboxes/verify"): CRM,
    ("GET", "/v1/oauth/providers"): CRM,
    ("POST", f"{T}/oauth/start"): CRM,
    ("GET", f"{T}/messages"): ALL,
    ("GET", M): ALL,
    ("PATCH", M): CRM,
    ("DELETE", M): CRM,
    ("GET", f"{M}/raw"): CRM,
    ("GET", f"{M}/parts/{{part_id}}"): CRM,
    ("GET", f"{T}/threads/{{thread_id}}"): ALL,
    ("PUT", f"{M}/pins/{{entity_type}}/{{entity_id}}"): CRM,
    ("DELETE", f"{M}/pins/{{entity_type}}/{{entity_id}}"): CRM,
    ("GET", f"{T}/pins"): ALL,
    ("DELETE", f"{T}/pins/{{entity_type}}/{{entity_id}}"): CRM,
    ("GET", "/v1/events"): ALL,
    ("GET", "/v1/events/stream"): ALL,
    ("GET", "/v1/snapshot"): ALL,
    ("POST", "/v1/webhooks"): CRM,
    ("GET", "/v1/webhooks"): CRM,
    ("GET", W): CRM,
    ("PATCH", W): CRM,
    ("DELETE", W): CRM,
    ("POST", f"{W}/rotate-secret"): CRM,
    ("POST", f"{W}/replay"): CRM,
    ("POST", f"{W}/test"): CRM,
    ("GET", f"{W}/deliveries"): CRM,
    ("POST", f"{W}/deliveries/{{delivery_id}}/retry"): CRM,
    ("GET", f"{T}/retention"): ALL,
    ("GET", "/v1/retention/preview"): COMPLIANCE,
    ("POST", "/v1/retention/runs"): ADMIN,
    ("GET", "/v1/retention/runs"): COMPLIANCE,
    ("GET", "/v1/retention/runs/{run_id}/certificate"): COMPLIANCE,
    ("GET", "/v1/retention/runs/{run_id}"): COMPLIANCE,
    ("GET", "/v1/purge-log"): COMPLIANCE,
    ("GET", "/v1/purge-log/export"): COMPLIANCE,
    ("GET", "/v1/purge-log/proof"): COMPLIANCE,
    ("GET", "/v1/purge-log/{tenant_id}/checkpoint"): COMPLIANCE,
    ("GET", "/v1/purge-log/{tenant_id}/key"): COMPLIANCE,
    ("GET", "/v1/purge-log/{tenant_id}/tile/{path}"): COMPLIANCE,
    ("POST", "/v1/tokens"): ADMIN,
    ("GET", "/v1/tokens"): ADMIN,
    ("DELETE", "/v1/tokens/{token_id}"): ADMIN,
    ("GET", "/v1/access-log"): COMPLIANCE,
}
FEED = ("/v1/events", "/v1/events/stream", "/v1/snapshot")
LISTED_FOR_ALL = {
    ("GET", "/v1/tenants"),
    ("GET", "/v1/plans"),
    ("GET", "/v1/tokens"),
    ("GET", "/v1/retention/runs"),
    ("GET", "/v1/alarms"),
    ("GET", "/v1/webhooks"),
    ("GET", "/v1/autoconfig"),
    ("GET", "/v1/oauth/providers"),
}


async def world(gateway: Gateway) -> dict[str, str]:
    """One of everything that a path names, of tenant acme."""
    gateway.core.feed.arrivals.close()  # a stream ends when there is nothing more in it
    post = await postman(gateway, "acme")
    purged_id = await post.deliver(letter(), index=False, age=91 * DAY)
    run = await gateway.core.retention.run(actor=SYSTEM, tenant_id="acme")
    message_id = await post.deliver(letter(), index=False)
    message = (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).json()
    patched = await gateway.client.patch(f"/v1/tenants/acme/messages/{message_id}", json={"flags": {"add": ["$a"]}})
    await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1")
    bound = await gateway.client.post("/v1/tokens", json={"name": "x", "scopes": ["crm"], "tenant_id": "acme"})
    asked = {"scope": {"message_ids": [message_id]}, "matter": "M-1", "reason": "asked"}
    held = await gateway.client.post("/v1/tenants/acme/holds", json=asked)
    assert held.status_code == 201, held.text
    hook_id, delivery_id = await delivered_hook(gateway)
    link = await gateway.client.post("/v1/tenants/acme/connect-links", json={"owner": "ann"})
    assert link.status_code == 201, link.text
    return {
        "connect_link_id": link.json()["id"],
        "webhook_id": hook_id,
        "delivery_id": delivery_id,
        "submission_id": await fail_to_send(post),
        "tenant_id": "acme",
        "mailbox_id": post.mailbox_id,
        "folder_id": await post.folder("Empty"),
        "message_id": message_id,
        "purged_id": purged_id,
        "operation_id": patched.json()["operation_id"],
        "thread_id": message["thread_id"],
        "part_id": "1",
        "entity_type": "deal",
        "entity_id": "D-1",
        "run_id": run.id,
        "guard_id": await vanish(post, [await post.deliver(letter(), folder="Gone", index=False)], "Gone"),
        "n": await set_aside(post, 1, Cause.UNREADABLE, message_id=await post.deliver(letter(), index=False)),
        "token_id": bound.json()["id"],
        "hold_id": held.json()["id"],
        "path": "0/000.p/1",
    }


def request_of(method: str, path: str, known: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The path filled in, and the rest of a request that the route accepts."""
    more: dict[str, Any] = {}
    if path in ("/v1/access-log", "/v1/purge-log", "/v1/purge-log/export", "/v1/retention/preview", *FEED):
        more["params"] = {"tenant": known["tenant_id"]}
    if path == "/v1/autoconfig":
        more["params"] = {"address": "ann@gmail.com"}
    if path == "/v1/purge-log/proof":
        more["params"] = {"tenant": known["tenant_id"], "item": known["purged_id"]}
    bodies: dict[tuple[str, str], Any] = {
        ("PUT", T): {"name": "Acme"},
        ("PUT", f"{T}/subscription"): {"plan": "professional"},
        ("POST", f"{T}/mailboxes"): mailbox_body("ben@acme.example"),
        ("PATCH", B): {"owner": "ann"},
        ("POST", f"{B}/folders"): {"name": "New"},
        ("POST", f"{B}/submissions"): {"to": ["bob@other.example"]},
        ("POST", f"{B}/backfill"): {"days": 30},
        ("PATCH", f"{B}/folders/{{folder_id}}"): {"name": "Renamed"},
        ("PATCH", M): {"flags": {"add": ["\\Seen"]}},
        ("POST", "/v1/mailboxes/verify"): {"tenant_id": known["tenant_id"], "imap": mailbox_body()["imap"]},
        ("POST", f"{T}/oauth/start"): {"provider": "generic", "mailbox_id": known["mailbox_id"]},
        ("POST", "/v1/retention/runs"): {"tenant": known["tenant_id"]},
        ("POST", f"{T}/holds"): {"scope": {"message_ids": [known["message_id"]]}, "matter": "M-2", "reason": "asked"},
        ("POST", f"{T}/holds/{{hold_id}}/release"): {"reason": "closed"},
        ("POST", f"{T}/subscription/events"): {"id": "e", "type": "resumed", "effective_at": to_rfc3339(START)},
        **{("POST", command): body for command, body in COMMANDS.items()},
        ("POST", "/v1/webhooks"): {"url": URL, "tenant_id": known["tenant_id"]},
        ("PATCH", W): {"description": "changed"},
        ("POST", f"{W}/rotate-secret"): {},
        ("POST", f"{W}/replay"): {"after": "latest"},
        ("POST", "/v1/tokens"): {"name": "new", "scopes": ["crm"], "tenant_id": known["tenant_id"]},
    }
    if (method, path) == ("DELETE", f"{B}/folders/{{folder_id}}"):
        more["params"] = {"permanent": "true"}
    if (method, path) == ("POST", f"{B}/messages"):
        more = {"params": {"folder_id": known["folder_id"]}, "content": letter()}
        more["headers"] = {"content-type": "message/rfc822"}
    if path == f"{M}/rehydrate":
        known = known | {"message_id": known["purged_id"]}
    if (method, path) in bodies:
        more["json"] = bodies[method, path]
    return path.format(**known), more


# What ends a thing comes last, so that everything before finds it.
ORDER = sorted(MATRIX, key=lambda route: (route[0] == "DELETE", route[1] == B, -len(route[1]), route[1]))


async def test_the_table_names_every_route(gateway: Gateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    served = {(method.upper(), path) for path, ops in document["paths"].items() for method in ops}
    assert served == set(MATRIX) | SIGNED | LINKED | (OPEN - {("GET", "/openapi.json"), ("GET", "/docs")})


@pytest.mark.parametrize("scope", sorted(ALL))
async def test_each_scope_reaches_its_routes_only(gateway: Gateway, scope: str) -> None:
    known = await world(gateway)
    async with await gateway.token(scope) as client:
        for method, path in ORDER:
            address, more = request_of(method, path, known)
            answer = await client.request(method, address, **more)
            if scope in MATRIX[method, path]:
                refused_by_its_rules = (path in COMMANDS or path == T) and answer.status_code == 409  # a hold stands
                assert answer.status_code < 300 or refused_by_its_rules, (method, path, answer.text)
            else:
                assert (answer.status_code, answer.json()["type"]) == (403, "forbidden"), (method, path)


async def test_another_tenants_token_finds_nothing(gateway: Gateway) -> None:
    known = await world(gateway)
    await gateway.tenant("other")
    async with await gateway.token(*ALL, tenant_id="other") as client:
        for method, path in ORDER:
            if (method, path) in LISTED_FOR_ALL:
                continue
            address, more = request_of(method, path, known)
            answer = await client.request(method, address, **more)
            expected = 403 if path in ("/v1/tokens", "/v1/webhooks") else 404
            assert answer.status_code == expected, (method, path, answer.text)
            # The answer must be the same as for something that is not there at all.
            absent = known | {name: new_id(START) for name in known if name.endswith("_id") and name != "entity_id"}
            address, more = request_of(method, path, absent | {"tenant_id": "nobody"})
            other = await client.request(method, address, **more)
            assert (other.status_code, other.json()["type"]) == (answer.status_code, answer.json()["type"])
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{known['message_id']}")).status_code == 200
    assert len((await gateway.client.get("/v1/tenants/acme/pins")).json()["items"]) == 1


async def test_without_a_token_every_route_of_v1_answers_401(gateway: Gateway) -> None:
    known = await world(gateway)
    async with gateway.with_token(None) as client:
        for method, path in ORDER:
            address, more = request_of(method, path, known)
            assert (await client.request(method, address, **more)).status_code == 401, (method, path)
        for method, path in OPEN:
            assert (await client.request(method, path)).status_code == 200, path


async def test_nothing_that_is_answered_or_logged_is_a_secret(gateway: Gateway, log: Any) -> None:
    known = await world(gateway)
    made = await gateway.client.post("/v1/tokens", json={"name": "x", "scopes": ["admin"]})
    secret = made.json()["token"]
    answers = []
    async with gateway.with_token(secret) as client:
        for method, path in ORDER:
            address, more = request_of(method, path, known)
            answers.append((await client.request(method, address, **more)).text)
    for text in ("hunter2", secret):
        assert not any(text in answer for answer in answers)
        assert text not in log.getvalue()
