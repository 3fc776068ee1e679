"""What the store writes, as an auditor sees it: exported by the gateway's reader, verified and replayed by the verifier
alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.store import tenants
from retention.ledger.consistency import check_consistency
from retention.ledger.export import export_directory
from retention.ledger.replay import replay_directory
from retention.ledger.report import Report, Verdict
from retention.ledger.verify import verify_directory
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


async def export(purging: Purging, path: Path, tenant_id: str = "acme") -> Path:
    reader = purging.store.reader
    tenant = await tenants.get(purging.store.db, tenant_id)
    signed = await reader.checkpoint(tenant, purging.now)
    bodies = [body async for body in reader.entries(tenant, 0, signed.size)]
    export_directory(path, reader.verifier(tenant), signed.note, bodies)
    return path


async def audit(purging: Purging, path: Path, tenant_id: str = "acme") -> Report:
    key = purging.store.reader.verifier(await tenants.get(purging.store.db, tenant_id))
    report = verify_directory(path, key)
    assert report.verdict is Verdict.OK, report.lines()
    return replay_directory(path, key)


async def test_pins_plans_and_runs_replay(purging: Purging, tmp_path: Path) -> None:
    """Professional, pinned, purged; then free, unpinned, purged again: at each step the log proves itself."""
    home = await purging.builder.home(plan="professional")
    ids = [await purging.builder.copy(home, age_days=age) for age in (1, 40, 70, 89, 90, 95, 120)]
    for message_id in (ids[0], ids[5]):
        await purging.pins.put("acme", message_id, "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    await purging.purge(1)
    first = await export(purging, tmp_path / "first")
    report = await audit(purging, first)
    assert (report.verdict, report.facts["purged"]) == (Verdict.OK, {"age": 2}), report.lines()

    purging.now += DAY
    await purging.builder.plan("acme", "free", purging.now)
    await purging.pins.remove("acme", ids[5], "deal", "D-1", now=purging.now, actor=SYSTEM)
    await purging.purge(2)
    assert await purging.ids() == {ids[0]}
    second = await export(purging, tmp_path / "second")
    report = await audit(purging, second)
    assert report.verdict is Verdict.OK, report.lines()
    assert sum(report.facts["purged"].values()) == 6
    assert report.facts["pinned_items"] == 1
    key = purging.store.reader.verifier(home.tenant)
    assert check_consistency(first, second, key).verdict is Verdict.OK
    assert check_consistency(second, first, key).verdict is Verdict.DIVERGED


async def test_a_removed_mailbox_replays(purging: Purging, tmp_path: Path) -> None:
    home = await purging.builder.home(plan="professional")
    pinned, _ = [await purging.builder.copy(home, age_days=1) for _ in range(2)]
    await purging.pins.put("acme", pinned, "task", "T-1", note=None, now=NOW, actor=SYSTEM)
    await purging.store.mailboxes.remove("acme", home.mailbox_id, NOW, SYSTEM)
    await purging.purge()
    assert await purging.ids() == {pinned}
    report = await audit(purging, await export(purging, tmp_path / "log"))
    assert report.verdict is Verdict.OK, report.lines()
    assert report.facts["purged"] == {"mailbox_removed": 1}


async def test_tenants_have_logs_of_their_own(purging: Purging, tmp_path: Path) -> None:
    for name in ("acme", "other"):
        home = await purging.builder.home(name, "crm_plus")
        await purging.builder.copy(home, age_days=40)
    await purging.purge()
    for name in ("acme", "other"):
        report = await audit(purging, await export(purging, tmp_path / name, name), name)
        assert (report.verdict, report.facts["purged"]) == (Verdict.OK, {"age": 1})
    acme = purging.store.reader.verifier(await tenants.get(purging.store.db, "acme"))
    assert verify_directory(tmp_path / "other", acme).verdict is Verdict.INVALID
