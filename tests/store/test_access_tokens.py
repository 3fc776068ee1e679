"""Access tokens: renewed in time, once more on a refusal, and not at all while a provider is in trouble."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from connectors.errors import AuthError, NetworkError
from connectors.model import BearerAuth
from connectors.oauth.errors import TokenEndpointError
from mailgate.clock import DAY, HOUR, MINUTE, SECOND
from mailgate.consents.model import LONGEST_ASKED, pause, renewal
from mailgate.store.schema import consents
from tests.authserver import SLOW
from tests.store.conftest import NOW
from tests.store.consenting import USER, World
from tests.store.consenting import world as world


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What differs by database is tested in test_consents.py."""
    return sqlite_url


async def test_a_token_is_fetched_kept_and_renewed_ahead_of_its_end(world: World) -> None:
    first = await world.bearer()
    assert world.server.is_good(USER, first.token)
    assert first.expires_at == NOW + HOUR
    assert (await world.bearer()).token == first.token
    world.time.at += HOUR - 301 * SECOND
    assert (await world.bearer()).token == first.token
    world.time.at += 2 * SECOND
    second = await world.bearer()
    assert second.token != first.token
    assert len(world.server.refreshes()) == 2
    assert (await world.kept()).refresh == (world.server.grants[0].current,)


async def test_nothing_of_it_stands_in_clear(world: World) -> None:
    bearer = await world.bearer()
    async with world.store.db.read() as conn:
        row = (await conn.execute(select(consents))).one()
    for secret in (bearer.token, world.server.grants[0].current):
        assert secret.encode() not in row.tokens
        assert secret not in repr(row)
        assert secret not in repr(await world.first.consents.find(world.mailbox_id))


async def test_a_token_that_a_server_refused_is_renewed_once(world: World) -> None:
    """Two mail servers refuse the same token: the second refusal finds the new one there."""
    old = await world.bearer()
    new = await world.bearer(refused=old.token)
    assert new.token != old.token
    assert (await world.bearer(refused=old.token)).token == new.token
    assert len(world.server.refreshes()) == 2
    tried: list[str] = []

    async def connect(bearer: BearerAuth) -> str:
        tried.append(bearer.token)
        if len(tried) == 1:
            raise AuthError("no")
        return "in"

    assert await world.first.logged_in(world.mailbox_id, USER, connect) == "in"
    assert tried[0] == new.token
    assert tried[1] not in tried[:1]

    async def never(bearer: BearerAuth) -> str:
        tried.append(bearer.token)
        raise AuthError("no")

    del tried[:]
    with pytest.raises(AuthError):
        await world.first.logged_in(world.mailbox_id, USER, never)
    assert len(tried) == 2


async def test_who_is_cut_off_loses_nothing(world: World) -> None:
    """The provider has rotated already; the one who asked is gone."""
    world.server.faults = [SLOW]
    asking = asyncio.create_task(world.bearer())
    await world.server.heard.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    world.server.release()
    await world.first.close()
    assert (await world.kept()).refresh == (world.server.grants[0].current,)


@pytest.mark.parametrize("fault", [503, 500, 429, b"", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"garbage\r\n\r\n"])
async def test_trouble_at_the_provider_disables_nothing(world: World, fault: int | bytes) -> None:
    before = await world.box()
    world.server.faults = [fault] * 2
    with pytest.raises(TokenEndpointError) as found:
        await world.bearer()
    assert isinstance(found.value, NetworkError)
    assert world.server.grants[0].current not in str(found.value)
    with pytest.raises(TokenEndpointError) as again:  # it is left alone for a while
        await world.bearer()
    assert len(world.server.asked) == 1
    assert again.value.retry_after_s
    assert await world.box() == before
    world.time.at += 10 * SECOND
    with pytest.raises(TokenEndpointError):
        await world.bearer()
    assert len(world.server.asked) == 2
    world.time.at += MINUTE
    assert world.server.is_good(USER, (await world.bearer()).token)
    assert await world.box() == before


async def test_a_clock_that_is_set_back_leaves_no_provider_alone_for_years(world: World) -> None:
    world.time.at += 400 * DAY
    world.server.faults = [503]
    with pytest.raises(TokenEndpointError):
        await world.bearer()
    world.time.at -= 400 * DAY
    await world.first.renew_due()
    assert world.server.is_good(USER, (await world.bearer()).token)
    assert len(world.server.asked) == 2


def test_no_provider_puts_itself_off_for_long() -> None:
    assert pause(1, 400 * DAY, 0) == LONGEST_ASKED


async def test_a_provider_that_is_slow_holds_nobody_up_for_ever(world: World) -> None:
    world.server.faults = [SLOW]
    slow = world.process(timeout_s=0.05)
    with pytest.raises(TokenEndpointError, match="did not answer within"):
        await slow.bearer(world.mailbox_id, USER)


async def test_a_token_that_is_still_good_serves_on_while_its_provider_is_down(world: World) -> None:
    first = await world.bearer()
    world.time.at += HOUR - 200 * SECOND
    world.server.faults = [503]
    assert (await world.bearer()).token == first.token
    assert (await world.bearer()).token == first.token
    assert len(world.server.asked) == 2


async def test_our_own_registration_refused_is_not_the_persons_fault(world: World) -> None:
    world.server.refuse = "invalid_client"
    with pytest.raises(TokenEndpointError, match="registration"):
        await world.bearer()
    assert (await world.box())[0] == "connecting"
    world.time.at += MINUTE
    world.server.refuse = None
    await world.bearer()


async def test_a_provider_that_rotates_nothing(world: World) -> None:
    world.server.rotate = False
    refresh = (await world.kept()).refresh
    for _ in range(3):
        await world.bearer()
        world.time.at += HOUR
    assert (await world.kept()).refresh == refresh


@pytest.mark.parametrize("life_s", [0, 1, None])
async def test_how_long_a_token_lasts_may_be_said_badly(world: World, life_s: int | None) -> None:
    world.server.life_s = life_s
    assert (await world.bearer()).token
    assert len(world.server.asked) == 1


def test_when_tokens_are_renewed() -> None:
    assert renewal(0, HOUR, 5 * MINUTE) == 55 * MINUTE
    assert renewal(0, 8 * MINUTE, 5 * MINUTE) == 6 * MINUTE
    assert renewal(HOUR, 0, MINUTE) == 0


def test_pauses_grow_to_an_end() -> None:
    found = [pause(n, None, 7) for n in range(1, 40)]
    assert found[0] >= 5 * SECOND
    assert found == sorted(found)
    assert found[-1] <= 18 * MINUTE
    assert pause(1, HOUR, 7) == HOUR
