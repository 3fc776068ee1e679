"""Consents in the database: nothing that a provider gave is lost, nobody asks twice, and what ends one says so."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from connectors.errors import AuthError
from connectors.oauth.errors import ConsentLapsedError
from connectors.oauth.model import Tokens
from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, MINUTE
from mailgate.consents.model import CLAIM, Given, Kept, ProviderName
from mailgate.store.mailboxes import MailboxPatch
from mailgate.store.schema import consents
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.transaction import Transaction
from tests.store.conftest import NOW
from tests.store.consenting import USER, World
from tests.store.consenting import world as world


async def test_many_at_once_ask_once(world: World) -> None:
    """In one process, and in two."""
    other = world.process()
    found = await asyncio.gather(
        *(world.bearer() for _ in range(5)), *(other.bearer(world.mailbox_id, USER) for _ in range(5))
    )
    assert len({bearer.token for bearer in found}) == 1
    assert len(world.server.refreshes()) == 1


async def test_who_stalled_beyond_its_claim_loses_nothing(world: World) -> None:
    """Another asked meanwhile with the same token: both answers are kept, and whichever is refused makes room."""
    world.server.grace = True
    consents_ = world.first.consents
    stalled = await consents_.find(world.mailbox_id)
    assert stalled is not None
    assert await consents_.claim(stalled, "stalled", NOW)
    assert not await consents_.claim(stalled, "two", NOW + CLAIM - 1)
    late = await world.first.client.refresh(
        world.first.providers[ProviderName.GENERIC].provider, stalled.kept.refresh[0]
    )
    world.time.at += CLAIM
    await world.bearer()
    quick = (await world.kept()).refresh[0]
    await consents_.renewed(stalled, late, NOW, NOW + HOUR, NOW + HOUR)
    assert (await world.kept()).refresh == (quick, late.refresh_token)
    # The provider turns out to keep only the late one.
    world.server.grace = False
    world.server.grants[0].current = late.refresh_token or ""
    world.time.at += HOUR
    assert world.server.is_good(USER, (await world.bearer()).token)
    assert (await world.kept()).refresh == (world.server.grants[0].current,)


async def test_an_answer_for_a_consent_that_was_given_anew_is_dropped(world: World) -> None:
    old = await world.first.consents.find(world.mailbox_id)
    assert old is not None
    again = Given(ProviderName.GENERIC, Kept((world.server.grant(USER),)), 0, 0)
    await world.store.mailboxes.update("acme", world.mailbox_id, MailboxPatch(given=again), NOW, SYSTEM)
    await world.first.consents.renewed(old, Tokens("at-old", "rt-old", 3600), NOW, NOW + HOUR, NOW + HOUR)
    assert await world.first.consents.refused(old, "why", NOW)
    assert await world.kept() == again.kept


async def test_a_lapsed_consent_is_said_at_once_and_one_given_anew_resumes(world: World) -> None:
    await world.bearer()
    world.server.revoke(USER)
    world.time.at += HOUR
    woken: list[bool] = []
    world.first.on_lapsed = lambda: woken.append(True)
    _, _, version = await world.box()
    with pytest.raises(ConsentLapsedError) as found:
        await world.bearer()
    state, reason, now = await world.box()
    assert (state, now) == ("auth_failed", version + 1)
    assert reason == str(found.value)
    assert "sign in there again" in (reason or "")
    assert woken
    told = (await world.told())[-1]
    assert told == {"state": "auth_failed", "code": "consent_lapsed", "reason": (await world.box())[1]}
    asked = len(world.server.asked)
    with pytest.raises(ConsentLapsedError):
        await world.bearer()
    assert len(world.server.asked) == asked
    again = Given(ProviderName.GENERIC, Kept((world.server.grant(USER),)), 0, 0)
    await world.store.mailboxes.update("acme", world.mailbox_id, MailboxPatch(given=again), world.time.at, SYSTEM)
    assert (await world.box())[0] == "connecting"
    assert world.server.is_good(USER, (await world.bearer()).token)


async def test_what_is_due_is_renewed_without_anybody_connecting(world: World) -> None:
    await world.first.renew_due()
    assert len(world.server.asked) == 1
    await world.first.renew_due()
    assert len(world.server.asked) == 1
    world.time.at += HOUR - MINUTE
    world.server.revoke(USER)
    await world.first.renew_due()
    assert (await world.box())[0] == "auth_failed"
    await world.first.renew_due()
    assert len(world.server.asked) == 2


async def test_nobody_is_asked_for_who_is_not_entitled_or_switched_off(world: World) -> None:
    off = MailboxPatch(enabled=False)
    await world.store.mailboxes.update("acme", world.mailbox_id, off, NOW, SYSTEM)
    await world.first.renew_due()
    await world.store.mailboxes.update("acme", world.mailbox_id, MailboxPatch(enabled=True), NOW, SYSTEM)
    await world.store.subscriptions.set_outright("acme", SubscriptionChange(plan="free"), NOW, SYSTEM)
    await world.first.renew_due()
    assert world.server.asked == []


async def test_removing_the_mailbox_destroys_its_tokens(world: World) -> None:
    await world.store.mailboxes.remove("acme", world.mailbox_id, NOW, SYSTEM)
    assert await world.first.consents.find(world.mailbox_id) is None
    with pytest.raises(AuthError):
        await world.bearer()


async def test_a_password_in_its_place_destroys_them_too(world: World) -> None:
    patch = MailboxPatch(secrets={"imap": {"password": "x"}})
    await world.store.mailboxes.update("acme", world.mailbox_id, patch, NOW, SYSTEM)
    assert await world.first.consents.find(world.mailbox_id) is None


async def test_a_claim_of_a_time_that_never_was_holds_nobody_up(world: World) -> None:
    """The clock was ahead when somebody claimed, and was set back."""
    found = await world.first.consents.find(world.mailbox_id)
    assert found is not None
    assert await world.first.consents.claim(found, "ahead", NOW + DAY)
    assert await world.first.consents.claim(found, "one", NOW)

    async def forget(tx: Transaction) -> None:
        await tx.conn.execute(update(consents).values(claimed_until_at=0))

    await world.store.db.transact(forget)
