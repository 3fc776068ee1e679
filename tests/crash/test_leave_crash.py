"""A process that rotates keys and erases a tenant is killed between a key file and the row that tells of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR
from mailgate.keys import KeyMissingError
from mailgate.store import tenants
from mailgate.store.tenant_erasure import Reason, TenantErasures
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from tests.forks import fork
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store, store
from tests.store.purging import make_purging

__all__ = ["store"]

pytestmark = pytest.mark.crash


def run(**wanted: Any) -> tuple[int | None, str, str]:
    """One process, to its end or its death: how it ended, what it printed, its errors."""
    process = fork("tests.crash.leave_process", **wanted)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


async def test_killed_between_a_key_and_its_row_it_ends_as_if_it_had_not_been(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    purging = await make_purging(store)
    homes = [await purging.builder.home(name) for name in ("acme", "leaves")]
    for home in homes:
        await purging.builder.copies(home, [Seed(NOW - DAY) for _ in range(5)])
    now = NOW + 60 * DAY
    log = TenantErasures(store.db, store.ring, store.log, store.subscriptions, lambda: now, "test")
    wanted = {"url": database_url, "folder": str(tmp_path)}
    for kill_at in ("destroying", "destroyed"):
        now += HOUR  # the lease of the one that died has run out
        ended, _, errors = run(**wanted, now=now, kill_at=kill_at)
        assert ended == -signal.SIGKILL, errors
    await log.begin("leaves", Reason.OFFBOARDING, SYSTEM)
    for kill_at in ("copies", "keys gone"):
        now += HOUR
        ended, _, errors = run(**wanted, now=now, kill_at=kill_at)
        assert ended == -signal.SIGKILL, errors
    now += HOUR
    ended, output, errors = run(**wanted, now=now, kill_at=None)
    assert ended == 0, errors
    assert json.loads(output.splitlines()[-1])["erased"] == 1

    assert await tenants.find(store.db, "leaves") is None
    with pytest.raises(KeyMissingError):
        store.ring.tenant(homes[1].tenant.ref)
    assert len(store.ring.epochs(homes[0].tenant.ref)) == 1  # of the month that is; what is under it is read at the end
    for home in homes:
        leaves = await purging.leaves(home.tenant.id)
        rotated = [leaf["key"] for leaf in leaves if leaf["type"] == "key.rotate"]
        purged = [leaf["item_ref"] for leaf in leaves if leaf["type"] == "item.purge"]
        gone = home is homes[1]
        assert rotated == (["tenant"] if gone else ["tenant_epoch"])
        assert len(set(purged)) == len(purged) == (5 if gone else 0)
        bodies = [body async for body in store.reader.entries(home.tenant, 0, len(leaves))]
        report = replay_leaves(bodies)
        assert report.verdict is Verdict.OK, report.lines()
