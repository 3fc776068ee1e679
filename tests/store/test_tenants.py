"""Tenants, their subscriptions and mailboxes."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, SECOND
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.store import tenants
from mailgate.store.mailboxes import MailboxPatch, MailboxSpec
from mailgate.store.schema import events, log_leaves, mailboxes
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.tenants.timeline import Status
from retention.ledger.leaves import parse_leaf
from tests.store.conftest import NOW, Store

IMAP = {"host": "imap.example", "port": 993, "security": "tls", "username": "ann@example.com"}
SECRETS = {"imap": {"password": "correct horse"}}
SPEC = MailboxSpec(address="ann@example.com", imap=IMAP, secrets=SECRETS)


async def _paid(store: Store, plan: str = "standard") -> None:
    await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM)
    await store.subscriptions.set_outright("acme", SubscriptionChange(plan), NOW, SYSTEM)


async def _leaf_types(store: Store) -> list[str]:
    async with store.db.read() as conn:
        return list((await conn.execute(select(log_leaves.c.type).order_by(log_leaves.c.idx))).scalars())


async def test_a_tenant_is_made_once_and_renamed_after(store: Store) -> None:
    made = await asyncio.gather(
        *(tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM) for _ in range(5))
    )
    assert sorted(new for _, new in made) == [False] * 4 + [True]
    assert len({tenant.ref for tenant, _ in made}) == 1
    renamed, new = await tenants.put(store.db, store.ring, store.log, "acme", "Acme Ltd", NOW, SYSTEM)
    assert (renamed.name, new) == ("Acme Ltd", False)
    assert store.ring.tenant(renamed.ref)
    assert await _leaf_types(store) == ["policy.set"]


async def test_pages_of_tenants(store: Store) -> None:
    for name in ("c", "a", "b"):
        await tenants.put(store.db, store.ring, store.log, name, name, NOW, SYSTEM)
    page = await tenants.list_page(store.db, after=None, limit=2)
    assert ([t.id for t in page.items], page.next_key) == (["a", "b"], ("b",))
    page = await tenants.list_page(store.db, after="b", limit=2)
    assert ([t.id for t in page.items], page.next_key) == (["c"], None)
    with pytest.raises(NotFoundError):
        await tenants.get(store.db, "d")


async def test_a_plan_that_is_set_holds_and_stands_in_the_log(store: Store) -> None:
    await _paid(store)
    holds = await store.subscriptions.entitlements("acme", NOW)
    assert (holds.plan, holds.sync, holds.retention_days) == ("standard", True, 60)
    assert await _leaf_types(store) == ["policy.set", "plan.effective"]
    with pytest.raises(PreconditionError, match="the plans are"):
        await store.subscriptions.set_outright("acme", SubscriptionChange("gold"), NOW, SYSTEM)
    with pytest.raises(NotFoundError):
        await store.subscriptions.set_outright("nobody", SubscriptionChange("free"), NOW, SYSTEM)


async def test_a_period_that_ran_out_is_announced_with_the_time_it_did(store: Store) -> None:
    await _paid(store)
    end = NOW + 30 * DAY
    change = SubscriptionChange("professional", Status.PAST_DUE, period_end=end)
    await store.subscriptions.set_outright("acme", change, NOW + SECOND, SYSTEM)
    assert await store.subscriptions.announce_lapses(end + 9 * DAY) == 0  # ten days of grace
    assert await store.subscriptions.announce_lapses(end + 10 * DAY + SECOND) == 1
    assert await store.subscriptions.announce_lapses(end + 11 * DAY) == 0
    async with store.db.read() as conn:
        body = (await conn.execute(select(log_leaves.c.body).order_by(log_leaves.c.idx.desc()).limit(1))).scalar_one()
    leaf = parse_leaf(body)
    assert (leaf["plan"], leaf["days"], leaf["cause"]) == ("free", 0, "time")
    history = await store.subscriptions.history("acme", end + 11 * DAY)
    assert [period.period.plan for period in history] == ["free", "professional", "standard"]


async def test_a_mailbox_keeps_its_secret_sealed(store: Store) -> None:
    await _paid(store)
    mailbox = await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)
    assert (mailbox.state, mailbox.enabled) == ("connecting", True)
    assert await store.mailboxes.secrets(mailbox.id) == SECRETS
    async with store.db.read() as conn:
        row = (await conn.execute(select(mailboxes))).one()
    assert b"correct horse" not in row.secrets
    assert "correct horse" not in repr(SPEC) + repr(mailbox)
    assert await store.mailboxes.get("acme", mailbox.id) == mailbox
    with pytest.raises(NotFoundError):
        await store.mailboxes.get("other", mailbox.id)


async def test_a_free_tenant_connects_nothing_and_nobody_connects_an_account_twice(store: Store) -> None:
    await _paid(store, "free")
    with pytest.raises(ConflictError) as refused:
        await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)
    assert refused.value.slug == "not_entitled"
    await store.subscriptions.set_outright("acme", SubscriptionChange("crm_plus"), NOW, SYSTEM)
    first = await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)
    with pytest.raises(ConflictError) as refused:
        await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)
    assert (refused.value.slug, refused.value.extra) == ("mailbox_exists", {"mailbox_id": first.id})


async def test_the_switch_and_new_credentials(store: Store) -> None:
    await _paid(store)
    mailbox = await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)
    off = await store.mailboxes.update("acme", mailbox.id, MailboxPatch(enabled=False), NOW, SYSTEM)
    assert (off.state, off.enabled) == ("disabled", False)
    on = await store.mailboxes.update("acme", mailbox.id, MailboxPatch(enabled=True), NOW, SYSTEM)
    assert on.state == "connecting"
    fresh = MailboxPatch(secrets={"imap": {"password": "battery staple"}})
    await store.mailboxes.update("acme", mailbox.id, fresh, NOW, SYSTEM)
    assert await store.mailboxes.secrets(mailbox.id) == {"imap": {"password": "battery staple"}}
    await store.subscriptions.set_outright("acme", SubscriptionChange("free"), NOW + SECOND, SYSTEM)
    await store.mailboxes.update("acme", mailbox.id, MailboxPatch(enabled=False), NOW + SECOND, SYSTEM)
    waiting = await store.mailboxes.update("acme", mailbox.id, MailboxPatch(enabled=True), NOW + SECOND, SYSTEM)
    assert waiting.state == "not_entitled"
    async with store.db.read() as conn:
        states = (await conn.execute(select(events.c.payload).where(events.c.mailbox_id == mailbox.id))).scalars()
    assert [event["state"] for event in states] == ["connecting", "disabled", "connecting", "disabled", "not_entitled"]


async def test_a_removed_mailbox_has_no_secret_and_can_be_connected_again(store: Store) -> None:
    await _paid(store)
    mailbox = await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)
    await store.mailboxes.remove("acme", mailbox.id, NOW, SYSTEM)
    await store.mailboxes.remove("acme", mailbox.id, NOW + 1, SYSTEM)
    assert (await store.mailboxes.get("acme", mailbox.id)).removed_at == NOW
    assert (await store.mailboxes.list_page("acme", after=None, limit=5)).items == []
    with pytest.raises(NotFoundError):
        await store.mailboxes.secrets(mailbox.id)
    with pytest.raises(ConflictError) as refused:
        await store.mailboxes.update("acme", mailbox.id, MailboxPatch(enabled=True), NOW, SYSTEM)
    assert refused.value.slug == "mailbox_removed"
    assert (await store.mailboxes.create("acme", SPEC, NOW, SYSTEM)).id != mailbox.id
