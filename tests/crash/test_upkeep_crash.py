"""Keys are rotated, a tenant leaves, last week's backup is restored: each killed with kill -9 at every step boundary,
once and once more, and at the end it is as if it had not been.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from mailgate.keys import KeyMissingError, KeyRing
from mailgate.store import tenants
from mailgate.store.restore import behind
from mailgate.store.tenant_erasure import Reason
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from tests.crash.upkeep_process import KILLS
from tests.forks import fork
from tests.store.conftest import NOW
from tests.store.conftest import store as store
from tests.store.test_key_epochs import DECEMBER, Keys
from tests.store.test_key_epochs import keys as keys
from tests.store.test_restore import ADMIN, Week, pass_by
from tests.store.test_restore import week as week
from tests.store.test_tenant_erasure import Leaving
from tests.store.test_tenant_erasure import leaving as leaving

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


async def attempt(killed: Counter[str], what: str, url: str, folder: Path, now: int) -> bool:
    """One process; whether it came to its end. Where it was killed instead is counted."""
    process = fork(
        "tests.crash.upkeep_process", what=what, url=url, folder=str(folder), now=now, kill_after=dict(killed)
    )
    output, errors = await asyncio.to_thread(process.communicate, 300)
    if output.endswith("done\n"):
        assert process.returncode == 0, errors
        return True
    assert process.returncode == -signal.SIGKILL, errors
    killed[output.split("\n")[-2]] += 1
    return False


async def test_a_rotation_of_keys(keys: Keys, database_url: str, tmp_path: Path) -> None:
    before = await keys.rows()
    ref = (await keys.purging.leaves())[0]["tenant_ref"]
    ring = keys.store.ring.tenant(ref)
    plain = {row.id: ring.unwrap(row.data_key, row.key_epoch) for row in before}
    keys.now = DECEMBER
    killed = Counter[str]()
    while not await attempt(killed, "rotation", database_url, tmp_path, DECEMBER):
        # whenever it is cut, every key that is stored opens
        rows = await keys.rows()
        assert {row.id: ring.unwrap(row.data_key, row.key_epoch) for row in rows} == plain
    assert killed == dict.fromkeys(("wrapped messages", "wrapped blobs", "destroying", "destroyed"), KILLS)
    assert {row.key_epoch for row in await keys.rows()} == {202612}
    anew = KeyRing.open(f"file://{tmp_path}/keys", create=False).tenant(ref)  # the one here remembers
    with pytest.raises(KeyMissingError):
        anew.unwrap(before[0].data_key, 202611)
    assert len(await keys.rotated()) == 1


async def test_the_erasure_of_a_tenant(leaving: Leaving, database_url: str, tmp_path: Path) -> None:
    await leaving.erasures.begin("acme", Reason.ERASURE_REQUEST, ADMIN)
    killed = Counter[str]()
    while not await attempt(killed, "erasure", database_url, tmp_path, NOW):
        await leaving.erase_blobs()
    await leaving.erase_blobs()
    await leaving.erasures.work()
    assert set(killed) == {"copies", "keys", "keys gone", "keys told", "rows gone"}
    await leaving.is_gone(4)


async def test_a_restore(week: Week, database_url: str, tmp_path: Path) -> None:
    backup = await pass_by(week)
    known = {tenant_id: await week.bodies(tenant_id) for tenant_id in ("acme", "bye", "calm")}
    await week.restore(backup)
    killed = Counter[str]()
    while not await attempt(killed, "restore", database_url, tmp_path, week.purging.now):
        for tenant_id, bodies in known.items():
            have = await week.bodies(tenant_id)
            assert have == bodies[: len(have)], "what is there is the log that was signed, entry by entry"
    names = {"verified", "mailboxes removed", "lost bytes known", "replayed", "checkpoint kept", "logs", "settled"}
    assert set(killed) == names
    assert {tenant_id: await week.bodies(tenant_id) for tenant_id in known} == known
    assert await behind(week.store.db, week.witness) == []
    assert await week.left() == {"pinned later", "held later", "young"}
    assert await tenants.find(week.store.db, "bye") is None
    report = replay_leaves(await week.bodies("acme"))
    assert report.verdict is Verdict.OK, report.lines()
    await week.erasures.work()
    await week.erase_blobs()
    await week.erasures.work()
