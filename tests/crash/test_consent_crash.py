"""Renewing a token, killed with kill -9 at every step: what the provider gave is lost only where no client could keep
it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.oauth.errors import ConsentLapsedError
from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.clock import Instant, system_clock
from mailgate.consents.model import CLAIM, Given, Kept, ProviderName
from mailgate.store import tenants
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.subscriptions import SubscriptionChange
from tests.authserver import AuthServer
from tests.crash.consent_process import STEPS, settings
from tests.forks import fork

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

USER = "ann@acme.example"
CASES = [("claimed", False), ("answered", False), ("answered", True), ("written", False)]
"""The step, and whether the provider takes the last refresh token for a while longer."""


def later() -> Instant:
    """The claim of who was killed has run out."""
    return system_clock() + CLAIM


@pytest.fixture
async def server() -> AsyncIterator[AuthServer]:
    made = await AuthServer(later).start()
    try:
        yield made
    finally:
        await made.stop()


def test_every_step_is_killed_at() -> None:
    assert {step for step, _ in CASES} == set(STEPS)


@pytest.mark.parametrize(("step", "grace"), CASES)
async def test_a_killed_process_loses_what_nobody_could_keep(
    database_url: str, tmp_path: Path, server: AuthServer, step: str, grace: bool
) -> None:
    server.grace = grace
    core = await Core.open(settings(tmp_path, database_url, server.port), clock=later)
    try:
        now = core.clock()
        await tenants.put(core.db, core.ring, core.log, "acme", "Acme", now, SYSTEM)
        await core.subscriptions.set_outright("acme", SubscriptionChange("standard"), now, SYSTEM)
        spec = MailboxSpec(
            address=USER,
            imap={"host": "imap.acme.example", "port": 993, "security": "tls", "username": USER},
            secrets={"imap": {"oauth2": "generic"}},
            given=Given(ProviderName.GENERIC, Kept((server.grant(USER),)), 0, 0),
        )
        box = await core.mailboxes.create("acme", spec, now, SYSTEM)
        job = {"url": database_url, "folder": str(tmp_path), "port": server.port, "mailbox_id": box.id, "step": step}
        process = fork("tests.crash.consent_process", **job)
        await asyncio.to_thread(process.communicate)
        assert process.wait() == -signal.SIGKILL
        assert len(server.refreshes()) == (0 if step == "claimed" else 1)
        if step == "answered" and not grace:
            # The provider voided the old token, and its answer died with the process (docs/oauth.md).
            with pytest.raises(ConsentLapsedError, match="sign in there again"):
                await core.tokens.bearer(box.id, USER)
            assert (await core.mailboxes.get("acme", box.id)).state == "auth_failed"
        else:
            bearer = await core.tokens.bearer(box.id, USER)
            assert server.is_good(USER, bearer.token)
            assert len(server.refreshes()) == (2 if step == "answered" else 1)
            kept = await core.tokens.consents.find(box.id)
            assert kept is not None
            assert kept.kept.refresh == (server.grants[0].current,)
    finally:
        await core.close()
