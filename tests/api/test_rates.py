"""A token that asks too often: refused with when to come back, alone, and told beforehand what is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailgate.api.application import create_app
from mailgate.app.core import Core
from mailgate.settings import DatabaseSettings, LimitsSettings, Settings
from tests.api.conftest import Gateway, RecordedSync, RecordedVerify, TestClock, make_services, well

BURST = 4


@pytest.fixture
async def slow(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """One request a minute, four at once: no test takes so long that a bucket fills again."""
    settings = Settings(
        data_dir=tmp_path / "data",
        database=DatabaseSettings(url=sqlite_url),
        limits=LimitsSettings(requests_per_minute=1, requests_burst=BURST),
    )
    clock = TestClock()
    core = await Core.open(settings, clock=clock)
    sync, verify = RecordedSync(core), RecordedVerify()
    made = Gateway(core, create_app(make_services(core, sync, verify, {"database": well})), clock, sync, verify, {})
    yield made
    await made.client.aclose()
    await core.close()


async def test_a_token_is_told_what_is_left_and_then_refused(slow: Gateway) -> None:
    for left in range(BURST - 1, -1, -1):
        answer = await slow.client.get("/v1/plans")
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"token";q=4;w=240'
        name, remaining, reset = answer.headers["ratelimit"].split(";")
        assert (name, remaining) == ('"token"', f"r={left}")
        assert 0 < int(reset.removeprefix("t=")) <= 240
    refused = await slow.client.get("/v1/plans")
    assert refused.status_code == 429
    assert refused.json()["type"] == "rate_limited"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"].startswith('"token";r=0;t=')
    assert refused.headers["content-type"] == "application/problem+json"


async def test_others_are_not_held_up_and_probes_are_free(slow: Gateway) -> None:
    other = await slow.token("crm")
    for _ in range(2 * BURST):
        await slow.client.get("/v1/plans")
    assert (await slow.client.get("/v1/plans")).status_code == 429
    assert (await other.get("/v1/plans")).status_code == 200
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        for _ in range(2 * BURST):
            answer = await slow.client.get(path)
            assert answer.status_code == 200
            assert "ratelimit" not in answer.headers


async def test_who_has_no_token_is_not_counted(slow: Gateway) -> None:
    async with slow.with_token("mg_unknown") as client:
        for _ in range(2 * BURST):
            refused = await client.get("/v1/plans")
            assert refused.status_code == 401
            assert "ratelimit" not in refused.headers


async def test_what_is_refused_changes_nothing(slow: Gateway) -> None:
    """Also with an Idempotency-Key: the refusal is not what it is answered with for ever."""
    for _ in range(BURST):
        await slow.client.get("/v1/plans")
    body, headers = {"name": "late", "scopes": ["crm"]}, {"idempotency-key": "once"}
    assert (await slow.client.post("/v1/tokens", json=body, headers=headers)).status_code == 429
    other = await Gateway(
        slow.core,
        create_app(make_services(slow.core, slow.sync, slow.verify, {})),
        slow.clock,
        slow.sync,
        slow.verify,
        {},
    ).client.post("/v1/tokens", json=body, headers=headers)
    assert other.status_code == 201


async def test_waiting_for_events_counts_once(slow: Gateway) -> None:
    """A long poll is one request, however often it looks."""
    slow.core.feed.arrivals.close()  # nothing will come, and nobody waits for it
    answer = await slow.client.get("/v1/events", params={"wait": 1})
    assert answer.status_code == 200
    assert answer.headers["ratelimit"].startswith(f'"token";r={BURST - 1};')
    async with slow.client.stream("GET", "/v1/events/stream") as stream:
        assert stream.headers["ratelimit"].startswith(f'"token";r={BURST - 2};')
