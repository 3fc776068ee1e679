"""The OpenAPI document against the interface itself: schemathesis sends what it allows and what it forbids.

The gateway is served over real HTTP from a thread of its own, with one of everything in it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
import uvicorn
import uvloop
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from mailgate.api.application import create_app
from mailgate.app.core import Core
from mailgate.settings import Settings
from mailgate.sync.incoming import Cause
from tests.api.conftest import ADMIN, Gateway, RecordedSync, RecordedVerify, TestClock, make_services, well
from tests.api.hooks import delivered_hook
from tests.api.mail import letter, postman
from tests.api.test_authorization import MATRIX, OPEN
from tests.api.trouble import fail_to_send, set_aside, vanish
from tests.soak import SOAK

STATEFUL = {
    "too_many_pins",
    "bad_cursor",
    "approval_incomplete",
    "at_needs_dry_run",
    "at_in_the_past",
    "expires_at_in_the_past",
    "plan_unknown",
    "matter_invalid",
    "reason_invalid",
    "plan_missing",
    "term_unknown",
    "seats_invalid",
    "seats_missing",
    "period_end_missing",
    "period_end_invalid",
    "plan_not_on_sale",
    "status_contradicts_plan",
    "idempotency_key_reused",
    "name_invalid",
    "return_url_refused",
    "address_invalid",
    "received_at_invalid",
    "attachment_invalid",
    "header_invalid",
    "message_invalid",
    "no_parent",
    "no_recipients",
    "send_at_invalid",
    "text_invalid",
    "too_many_recipients",
    "tenant_needed",
    "url_invalid",
    "replay_invalid",
    "type_unknown",
    "provider_not_set_up",
    "host_not_of_provider",
    "tls_needed",
    "one_consent",
    "prefix_invalid",
    "tokens_needed",
}
"""Refusals of values that no schema can tell from good ones: they hang on other values, or on what went before."""


HEALTH = {route for route in OPEN if route[1] not in ("/openapi.json", "/docs")}


@schemathesis.serializer("message/rfc822")
def message(_context: object, value: object) -> bytes:
    """What is generated for a message: text, or bytes."""
    return value if isinstance(value, bytes) else str(value).encode()


class Served:
    """A gateway in a thread: `url`, and the ids of what it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self.url = ""
        self.known: dict[str, str] = {}
        self.failure: BaseException | None = None

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(200)
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    async def _main(self) -> None:
        try:
            clock = TestClock()
            core = await Core.open(Settings(data_dir=self._folder), clock=clock)
            core.feed.arrivals.close()  # nobody waits for events, and streams end when there is nothing more in them
            sync, verify = RecordedSync(core), RecordedVerify()
            app = create_app(make_services(core, sync, verify, {"database": well}))
            await self._fill(Gateway(core, app, clock, sync, verify, {}))
            listening = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            self._server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
            self._ready.set()
            await self._server.serve(sockets=[listening])
            listening.close()
            await core.close()
        except BaseException as error:
            self.failure = error
            self._ready.set()
            raise

    async def _fill(self, gateway: Gateway) -> None:
        post = await postman(gateway)
        message_id = await post.deliver(letter(files=(("a.txt", "text/plain", b"x"),)))
        message = (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).json()
        asked = await gateway.client.patch(f"/v1/tenants/acme/messages/{message_id}", json={"flags": {"add": ["$a"]}})
        await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1")
        run = (await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})).json()
        webhook_id, delivery_id = await delivered_hook(gateway)
        self.known = {
            "tenant_id": "acme",
            "connect_link_id": (await gateway.client.post("/v1/tenants/acme/connect-links")).json()["id"],
            "webhook_id": webhook_id,
            "delivery_id": delivery_id,
            "mailbox_id": post.mailbox_id,
            "folder_id": await post.folder("Projects"),
            "message_id": message_id,
            "operation_id": asked.json()["operation_id"],
            "thread_id": message["thread_id"],
            "part_id": "1",
            "entity_type": "deal",
            "entity_id": "D-1",
            "run_id": run["id"],
            "guard_id": await vanish(post, [await post.deliver(letter(), folder="Gone")], "Gone"),
            "submission_id": await fail_to_send(post),
            "n": await set_aside(post, 1, Cause.UNREADABLE, message_id=message_id),
        }
        await gateway.client.aclose()


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[GenerationMode, Any]]:
    """One gateway for each mode: what the good requests made must not turn a wrong name into a right one."""
    with (
        Served(tmp_path_factory.mktemp("positive")) as positive,
        Served(tmp_path_factory.mktemp("negative")) as negative,
    ):
        served = {GenerationMode.POSITIVE: positive, GenerationMode.NEGATIVE: negative}
        yield {mode: schemathesis.openapi.from_url(f"{gateway.url}/openapi.json") for mode, gateway in served.items()}


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [
        *((GenerationMode.POSITIVE, *route) for route in sorted(set(MATRIX) | HEALTH)),
        *((GenerationMode.NEGATIVE, *route) for route in sorted(MATRIX)),  # health takes nothing that could be wrong
    ],
)
def test_the_interface_keeps_to_its_document(
    schemas: dict[GenerationMode, Any], mode: GenerationMode, method: str, path: str
) -> None:
    operation = schemas[mode][path][method]

    @hypothesis.settings(
        max_examples=100 if SOAK else 8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def keeps(case: schemathesis.Case) -> None:
        response = case.call(headers={"Authorization": f"Bearer {ADMIN}"})
        problem = response.json() if "problem+json" in response.headers.get("content-type", [""])[0] else {}
        excluded = [CHECKS.get_one("positive_data_acceptance")] if problem.get("type") in STATEFUL else []
        case.validate_response(response, excluded_checks=excluded)

    keeps()
