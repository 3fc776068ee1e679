"""Asking for time-stamps: kept, refused, not answered; a purge never waits for one, and what fails raises an alarm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from mailgate import timestamps
from mailgate.actors import SYSTEM
from mailgate.jobs.stamp import Stamper
from mailgate.store import stamps, tenants
from mailgate.store.schema import log_checkpoints
from mailgate.timestamps import MAX_REPLY, REPLY_TYPE, load_roots
from tests.store.conftest import NOW, Store
from tests.timestamping import Authority, make_authority

URL = "http://user:hunter2@tsa.test/tsr"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa"))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The statements are few and plain; the schema has a test on both."""
    return sqlite_url


async def signed(store: Store, name: str) -> tenants.Tenant:
    tenant = (await tenants.put(store.db, store.ring, store.log, name, name, NOW, SYSTEM))[0]
    await store.reader.checkpoint(tenant, NOW)
    return tenant


def stamper(store: Store, authority: Authority, answer: Callable[[httpx.Request], httpx.Response]) -> Stamper:
    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(answer), follow_redirects=False)

    return Stamper(store.db, URL, load_roots(authority.root), client)


async def errors(store: Store) -> dict[str, str | None]:
    point = log_checkpoints.c
    async with store.db.read() as conn:
        return {row[0]: row[1] for row in (await conn.execute(select(point.tenant_id, point.stamp_error))).all()}


async def test_the_newest_checkpoint_of_each_log_is_stamped_once(store: Store, authority: Authority) -> None:
    acme, _ = [await signed(store, name) for name in ("acme", "other")]
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=authority.answer(request.content), headers={"content-type": REPLY_TYPE})

    worker = stamper(store, authority, answer)
    assert await worker.work() == (2, 0)
    assert await worker.work() == (0, 0)
    assert {request.headers["content-type"] for request in asked} == {"application/timestamp-query"}
    kept = await stamps.newest(store.db, "acme", 1_000)
    assert kept is not None
    assert timestamps.check(kept.stamp, kept.note, load_roots(authority.root)).authority == "CN=Test time"
    assert await stamps.newest(store.db, "acme", kept.size - 1) is None
    await store.log.note_export(store.db, acme, "tlog", kept.size, bytes(32), at=NOW, actor=SYSTEM)
    await store.reader.checkpoint(acme, NOW)
    assert [each.tenant_id for each in await stamps.missing(store.db)] == ["acme"]
    still = await stamps.newest(store.db, "acme", 1_000)
    assert still == kept  # the older one serves until the new one is stamped
    assert await worker.work() == (1, 0)


@pytest.mark.parametrize(
    ("answer", "said", "asked"),
    [
        (lambda _: httpx.Response(503), "answered 503", 2),
        (lambda _: httpx.Response(302, headers={"location": "http://127.0.0.1/"}), "answered 302", 2),
        (lambda _: httpx.Response(200, content=b"<html>"), "no answer of a time-stamping authority", 2),
        (lambda _: httpx.Response(200, content=bytes(MAX_REPLY + 1)), "more than 65536 bytes", 2),
    ],
)
async def test_what_is_no_stamp_is_recorded(
    store: Store, authority: Authority, answer: Callable[[httpx.Request], httpx.Response], said: str, asked: int
) -> None:
    for name in ("acme", "other"):
        await signed(store, name)
    assert await stamper(store, authority, answer).work() == (0, asked)
    for error in (await errors(store)).values():
        assert error is not None
        assert said in error
        assert "hunter2" not in error
        assert error.startswith("tsa.test: ")


async def test_an_authority_that_does_not_answer_is_asked_once(store: Store, authority: Authority) -> None:
    for name in ("acme", "other"):
        await signed(store, name)

    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("", request=request)

    assert await stamper(store, authority, silent).work() == (0, 1)
    assert await errors(store) == {"acme": "tsa.test: ConnectTimeout", "other": None}
    # and when it does again, all is well
    good = stamper(store, authority, lambda request: httpx.Response(200, content=authority.answer(request.content)))
    assert await good.work() == (2, 0)
    assert await errors(store) == {"acme": None, "other": None}


async def test_an_authority_that_drips_is_not_waited_for(store: Store, authority: Authority) -> None:
    for name in ("acme", "other"):
        await signed(store, name)

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"."
            await asyncio.sleep(0)

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=drip())))

    assert await Stamper(store.db, URL, [], client, timeout_s=0).work() == (0, 1)
    assert await errors(store) == {"acme": "tsa.test: TimeoutError", "other": None}


async def test_another_authority_is_not_believed(store: Store, authority: Authority, tmp_path: Path) -> None:
    await signed(store, "acme")
    thief = make_authority(tmp_path / "thief")
    worker = stamper(store, authority, lambda request: httpx.Response(200, content=thief.answer(request.content)))
    assert await worker.work() == (0, 1)
    assert "does not verify" in str((await errors(store))["acme"])


async def test_without_an_authority_nobody_is_asked(store: Store) -> None:
    await signed(store, "acme")
    assert await Stamper(store.db, "", []).work() == (0, 0)
