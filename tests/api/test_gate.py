"""What stands before every route: tokens and scopes, sizes, texts, repeated requests, and errors nobody foresaw."""

from __future__ import annotations

import gzip
import io
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from mailgate.clock import HOUR, MINUTE, to_rfc3339
from tests.api.conftest import ADMIN, START, Gateway


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic YTpi", f"bearer{ADMIN}", "Bearer mg_unknown", "Bearer " + "x" * 5_000],
)
async def test_without_a_valid_token_nothing_of_v1_is_told(gateway: Gateway, header: str | None) -> None:
    async with gateway.with_token(None) as client:
        headers = {} if header is None else {"authorization": header}
        for path in ("/v1/tenants", "/v1/plans", "/v1/nothing", "/v1"):
            refused = await client.get(path, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["type"] == "unauthorized"


async def test_a_token_is_needed_before_the_body_is_looked_at(gateway: Gateway) -> None:
    async with gateway.with_token(None) as client:
        refused = await client.put("/v1/tenants/acme", content=b"{not json")
        assert refused.status_code == 401


async def test_the_scheme_is_not_case_sensitive(gateway: Gateway) -> None:
    async with gateway.with_token(None) as client:
        assert (await client.get("/v1/plans", headers={"authorization": f"bEARER {ADMIN}"})).status_code == 200


async def test_a_token_lives_until_it_expires_or_is_revoked(gateway: Gateway) -> None:
    body = {"name": "short", "scopes": ["crm"], "expires_at": to_rfc3339(START + HOUR)}
    made = (await gateway.client.post("/v1/tokens", json=body)).json()
    async with gateway.with_token(made["token"]) as client:
        assert (await client.get("/v1/plans")).status_code == 200
        gateway.clock.forward(HOUR)
        assert (await client.get("/v1/plans")).status_code == 401
    async with await gateway.token("crm") as client:
        assert (await client.get("/v1/plans")).status_code == 200
        newest = (await gateway.client.get("/v1/tokens")).json()["items"][0]
        assert (await gateway.client.delete(f"/v1/tokens/{newest['id']}")).status_code == 204
        assert (await client.get("/v1/plans")).status_code == 401
        assert (await gateway.client.delete(f"/v1/tokens/{newest['id']}")).status_code == 204


async def test_a_secret_is_shown_once_and_never_listed(gateway: Gateway) -> None:
    made = await gateway.client.post("/v1/tokens", json={"name": "crm", "scopes": ["crm"]})
    secret = made.json()["token"]
    assert len(secret) == 46
    listed = await gateway.client.get("/v1/tokens")
    assert secret not in listed.text
    assert [item["name"] for item in listed.json()["items"]] == ["crm"]


async def test_the_last_use_is_noted_to_the_minute(gateway: Gateway) -> None:
    async with await gateway.token("crm") as client:
        for _ in range(3):
            await client.get("/v1/plans")
        await gateway.app.state.authenticator.flush()
        (item,) = (await gateway.client.get("/v1/tokens")).json()["items"]
        assert item["last_used_at"] == to_rfc3339(START)
        gateway.clock.forward(MINUTE)
        await client.get("/v1/plans")
        await gateway.app.state.authenticator.flush()
        (item,) = (await gateway.client.get("/v1/tokens")).json()["items"]
        assert item["last_used_at"] == to_rfc3339(START + MINUTE)


async def test_a_bound_token_sees_its_tenant_only(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    await gateway.tenant("other")
    async with await gateway.token("crm", tenant_id="acme") as client:
        assert [item["id"] for item in (await client.get("/v1/tenants")).json()["items"]] == ["acme"]
        assert (await client.get("/v1/tenants/acme")).status_code == 200
        for tenant_id in ("other", "nobody"):
            refused = await client.get(f"/v1/tenants/{tenant_id}")
            assert (refused.status_code, refused.json()["type"]) == (404, "tenant_not_found")
        assert (await client.put("/v1/tenants/new", json={"name": "x"})).status_code == 404
    assert (await gateway.client.get("/v1/tenants/new")).status_code == 404


async def test_a_bound_admin_makes_only_tokens_of_its_tenant(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    await gateway.tenant("other")
    async with await gateway.token("admin", tenant_id="acme") as client:
        for tenant_id in (None, "other"):
            refused = await client.post("/v1/tokens", json={"name": "x", "scopes": ["crm"], "tenant_id": tenant_id})
            assert refused.status_code == 403
        made = await client.post("/v1/tokens", json={"name": "mine", "scopes": ["crm"], "tenant_id": "acme"})
        assert made.status_code == 201
        assert {item["tenant_id"] for item in (await client.get("/v1/tokens")).json()["items"]} == {"acme"}
    unbound = (await gateway.client.post("/v1/tokens", json={"name": "theirs", "scopes": ["crm"]})).json()
    async with await gateway.token("admin", tenant_id="acme") as client:
        assert (await client.delete(f"/v1/tokens/{unbound['id']}")).status_code == 404


async def test_a_token_for_an_unknown_tenant_is_not_made(gateway: Gateway) -> None:
    refused = await gateway.client.post("/v1/tokens", json={"name": "x", "scopes": ["crm"], "tenant_id": "nobody"})
    assert (refused.status_code, refused.json()["type"]) == (404, "tenant_not_found")


@pytest.mark.parametrize("expires_at", [START - HOUR, START])
async def test_a_token_that_would_never_be_valid_is_not_made(gateway: Gateway, expires_at: int) -> None:
    body = {"name": "x", "scopes": ["crm"], "expires_at": to_rfc3339(expires_at)}
    refused = await gateway.client.post("/v1/tokens", json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, "expires_at_in_the_past")
    assert "lies in the past" in refused.json()["detail"]
    assert (await gateway.client.get("/v1/tokens")).json()["items"] == []


async def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    refused = await gateway.client.get("/v1/nothing")
    assert (refused.status_code, refused.json()["type"]) == (404, "route_not_found")
    refused = await gateway.client.post("/v1/plans")
    assert (refused.status_code, refused.json()["type"]) == (405, "method_not_allowed")
    assert refused.headers["allow"] == "GET"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"name":"\\ud800"}', b"null"])
async def test_a_body_that_is_no_json_object_is_refused(gateway: Gateway, content: bytes) -> None:
    refused = await gateway.client.put(
        "/v1/tenants/acme", content=content, headers={"content-type": "application/json"}
    )
    assert refused.status_code in (400, 422)
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"{", "line 1, column 2"),
        (b'{"name":\n "x",}', "line 2, column 6"),
        (b'{"name": "x"} {}', "line 1, column 15"),
        (b'{"name": "a\nb"}', "line 1, column 12"),
        (b'{"name": "\xff"}', "byte 11 is not UTF-8"),
        ('{"name": "x"}'.encode("utf-16"), "byte 1 is not UTF-8"),
        (b'\xef\xbb\xbf{"name": "x"}', "byte order mark"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": -Infinity}', "-Infinity"),
        (b'{"name": ' + b"9" * 5_000 + b"}", "5000 characters"),
        (b'{"name": 1e999}', "too large"),
        (b'{"name": "x", "name": "y"}', "'name' is given twice"),
        (b'{"name": "x", "more": {"a": 1, "a": 1}}', "'a' is given twice"),
        (b'{"name": "a\\ud800"}', "line 1, column 12"),
        (b'{"name": "\\udc00"}', "surrogate"),
        (b'{"name": "\\ud800\\ud800\\udc00"}', "line 1, column 11"),
        (b'{"name": "\\ud800x\\udc00"}', "surrogate"),
        (b'{"\\udc00": "x"}', "surrogate"),
        (b"[" * 100_000, "inside each other"),
        (b'{"name": ' + b"[" * 70 + b"]" * 70 + b"}", "inside each other"),
    ],
)
async def test_a_body_that_is_no_json_is_told_what_and_where(gateway: Gateway, content: bytes, where: str) -> None:
    headers = {"content-type": "application/json"}
    tenant = await gateway.tenant()
    mailbox = (await gateway.mailbox(tenant))["id"]
    for method, path in (
        ("PUT", "/v1/tenants/acme"),
        ("POST", f"/v1/tenants/acme/mailboxes/{mailbox}/submissions"),
        ("POST", "/v1/retention/runs"),
    ):
        refused = await gateway.client.request(method, path, content=content, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (400, "invalid_json"), refused.text
        assert where in refused.json()["detail"]


async def test_json_is_what_every_parser_understands(gateway: Gateway) -> None:
    headers = {"content-type": "application/json"}
    deep = b'{"name": "x", "more": [' + b"[[]]," * 200 + b"[]]}"
    unknown = await gateway.client.put("/v1/tenants/acme", content=deep, headers=headers)
    assert unknown.json()["type"] == "invalid"  # many arrays, but none deep inside another
    for written, name in ((b"\\ud83d\\ude42", "\U0001f642"), (b"\\\\ud800", "\\ud800"), (b'\\"', '"')):
        made = await gateway.client.put("/v1/tenants/acme", content=b'{"name": "' + written + b'"}', headers=headers)
        assert made.json()["name"] == name


async def test_another_media_type_is_refused(gateway: Gateway) -> None:
    for headers in ({}, {"content-type": "text/plain"}):
        refused = await gateway.client.put("/v1/tenants/acme", content=b'{"name":"x"}', headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (415, "unsupported_media_type")


async def test_a_compressed_body_is_refused(gateway: Gateway) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    refused = await gateway.client.put("/v1/tenants/acme", content=gzip.compress(b'{"name":"x"}'), headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in refused.json()["detail"]
    headers["content-encoding"] = "identity"
    assert (await gateway.client.put("/v1/tenants/acme", content=b'{"name":"x"}', headers=headers)).status_code == 201


@pytest.mark.parametrize(
    "twice",
    [
        [("content-length", "12"), ("transfer-encoding", "chunked")],
        [("authorization", f"Bearer {ADMIN}"), ("authorization", "Bearer mg_other")],
        [("content-type", "application/json"), ("content-type", "text/plain")],
        [("idempotency-key", "a"), ("idempotency-key", "b")],
    ],
)
async def test_what_a_proxy_may_have_read_otherwise_is_refused(gateway: Gateway, twice: list[tuple[str, str]]) -> None:
    async with gateway.with_token(None) as client:
        headers = httpx.Headers([("authorization", f"Bearer {ADMIN}"), ("content-type", "application/json")])
        given = [pair for pair in headers.multi_items() if pair[0] != twice[0][0]] + twice
        request = client.build_request("PUT", "/v1/tenants/acme", content=b'{"name":"x"}')
        request.headers = httpx.Headers([*given, ("host", "a")])
        refused = await client.send(request)
    assert (refused.status_code, refused.json()["type"]) == (400, "bad_request")
    assert refused.headers["connection"] == "close"
    assert (await gateway.client.get("/v1/tenants/acme")).status_code == 404


async def test_head_answers_as_get_without_a_body(gateway: Gateway) -> None:
    await gateway.tenant()
    export = "/v1/purge-log/export?tenant=acme"
    for path in ("/v1/tenants", "/v1/tenants/acme", "/v1/tenants/nobody", export, "/healthz"):
        got = await gateway.client.get(path)
        head = await gateway.client.head(path)
        assert head.status_code == got.status_code
        assert head.content == b""
        assert got.content
        differ = {
            "x-request-id",
            "ratelimit",
            "etag",
            "last-modified",
            "repr-digest",
        }  # an export is made anew each time
        assert {k: v for k, v in head.headers.items() if k not in differ} == {
            k: v for k, v in got.headers.items() if k not in differ
        }
    async with gateway.with_token(None) as client:
        assert (await client.head("/v1/tenants")).status_code == 401
        metrics = (await client.get("/metrics")).text
    assert any('method="HEAD"' in line and 'route="/v1/tenants/{tenant_id}"' in line for line in metrics.splitlines())
    refused = await gateway.client.head("/v1/mailboxes/verify")
    assert refused.status_code == 405


async def test_a_body_over_the_limit_is_refused(gateway: Gateway) -> None:
    most = gateway.core.settings.limits.request_bytes
    headers = {"content-type": "application/json"}
    announced = await gateway.client.put("/v1/tenants/acme", content=b" " * (most + 1), headers=headers)
    assert (announced.status_code, announced.json()["type"]) == (413, "too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(most // 65_536 + 1):
            yield b" " * 65_536

    streamed = await gateway.client.put("/v1/tenants/acme", content=chunks(), headers=headers)
    assert (streamed.status_code, streamed.json()["type"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/tenants/a%00b", 422),
        ("/v1/tenants/acme%2fsubscription", 422),
        ("/v1/tenants?cursor=%00", 422),
        ("/v1/tenants?limit=1&limit=2", 422),
        ("/v1/tenants?limit=1&%6Cimit=2", 422),
        ("/v1/tenants/%ff", 400),
        ("/v1/tenants?cursor=%ff", 400),
        ("/v1/" + "x" * 5_000, 400),
        ("/v1/tenants?cursor=" + "x" * 9_000, 400),
    ],
)
async def test_addresses_that_are_no_text_are_refused(gateway: Gateway, path: str, status: int) -> None:
    refused = await gateway.client.get(path)
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"


async def test_what_nobody_foresaw_answers_without_internals(
    gateway: Gateway, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: object, **_more: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr("mailgate.api.routes.tenants.tenants.list_page", broken)
    refused = await gateway.client.get("/v1/tenants")
    assert refused.status_code == 500
    problem = refused.json()
    assert problem["type"] == "internal"
    assert problem["request_id"] == refused.headers["x-request-id"]
    assert "hunter2" not in refused.text
    assert "Traceback" not in refused.text
    assert problem["request_id"] in log.getvalue()
    assert "RuntimeError" in log.getvalue()


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), OperationalError("SELECT 1", {}, Exception("disk full"))]
)
async def test_without_its_database_it_asks_to_try_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def unreachable(*_args: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr("mailgate.api.routes.tenants.tenants.list_page", unreachable)
    refused = await gateway.client.get("/v1/tenants")
    assert (refused.status_code, refused.json()["type"]) == (503, "unavailable")
    assert refused.headers["retry-after"] == "5"


async def test_health_is_open_and_says_what_is_wrong(gateway: Gateway) -> None:
    from mailgate.usecases.parts import Health

    async with gateway.with_token(None) as client:
        assert (await client.get("/healthz")).json()["status"] == "ok"
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")

        async def ill() -> Health:
            return Health(False, "the disk is full")

        gateway.health["blobs"] = ill
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert {"name": "blobs", "ok": False, "detail": "the disk is full", "needed": True} in ready.json()["parts"]


async def test_metrics_count_requests_by_route(gateway: Gateway) -> None:
    await gateway.tenant()
    await gateway.mailbox("acme")
    async with gateway.with_token(None) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'mailgate_http_requests_total{method="PUT",route="/v1/tenants/{tenant_id}",status="201"} 1.0' in answer.text
    assert 'mailgate_mailboxes{state="connecting"} 1.0' in answer.text
    assert "acme" not in answer.text


async def test_the_reference_needs_nothing_from_outside(gateway: Gateway) -> None:
    async with gateway.with_token(None) as client:
        page = await client.get("/docs")
        document = (await client.get("/openapi.json")).json()
    assert page.status_code == 200
    for wanted in ("<script", "https://", "http://", "src="):
        assert wanted not in page.text
    for path in document["paths"]:
        assert path in page.text
    assert "--data-binary @message.eml" in page.text, "not every body is JSON"


async def test_the_bare_address_leads_to_the_reference(gateway: Gateway) -> None:
    async with gateway.with_token(None) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs")


async def test_a_client_that_goes_away_harms_nobody(gateway: Gateway) -> None:
    assert isinstance(gateway.client, httpx.AsyncClient)
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "PUT",
        "path": "/v1/tenants/acme",
        "raw_path": b"/v1/tenants/acme",
        "query_string": b"",
        "headers": [
            (b"authorization", f"Bearer {ADMIN}".encode()),
            (b"content-type", b"application/json"),
            (b"content-length", b"100"),
        ],
    }
    await gateway.app(scope, receive, send)
    assert (await gateway.client.get("/v1/tenants/acme")).status_code == 404
