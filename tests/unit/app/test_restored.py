"""An old database beside a newer witness: nothing is served before it was brought up to date. A witness that is lost is
never made anew by itself.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest

from mailgate.actors import COMMAND, SYSTEM
from mailgate.app import application as module
from mailgate.app.application import Application
from mailgate.app.core import Core, Secrets
from mailgate.errors import ConfigurationError, UnavailableError
from mailgate.settings import Settings
from mailgate.store import tenants
from mailgate.store.legal_holds import Scope
from mailgate.store.restore import Behind, RestoredBackupError
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.tenants import Tenant
from mailgate.troubles import Trouble
from tests.api.conftest import ADMIN
from tests.waiting import until


async def acme(core: Core) -> Tenant:
    """A tenant whose log was signed."""
    tenant, _ = await tenants.put(core.db, core.ring, core.log, "acme", "Acme", core.clock(), SYSTEM)
    await core.log_reader.checkpoint(tenant, core.clock())
    return tenant


@pytest.fixture
async def restored(tmp_path: Path) -> Path:
    """The data directory of an installation whose database is of before the last entries of its log."""
    folder = tmp_path / "data"
    core = await Core.open(Settings(data_dir=folder))
    tenant = await acme(core)
    assert await core.db.truncate_wal()
    shutil.copyfile(folder / "mailgate.db", tmp_path / "backup.db")
    await core.subscriptions.set_outright("acme", SubscriptionChange("professional"), core.clock(), SYSTEM)
    await core.log_reader.checkpoint(tenant, core.clock())
    await core.close()
    for file in folder.glob("mailgate.db*"):
        file.unlink()
    shutil.copyfile(tmp_path / "backup.db", folder / "mailgate.db")
    return folder


async def test_commands_are_refused(restored: Path) -> None:
    before = (restored / "mailgate.db").read_bytes()
    with pytest.raises(RestoredBackupError, match="mailgate restore"):
        await Core.open(Settings(data_dir=restored), create=False)
    assert (restored / "mailgate.db").read_bytes()[100:] == before[100:]


async def test_a_gateway_serves_nothing_until_restore_was_run(restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESTORE_LOOK_S", 0.01)
    core = await Core.open(Settings(data_dir=restored), restored=True)
    application = Application(core, secrets=Secrets(admin_token=ADMIN))
    await application.start()
    transport = httpx.ASGITransport(application.api, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers=headers) as client:
        refused = await client.get("/v1/tenants/acme")
        assert (refused.status_code, refused.json()["type"]) == (503, "backup_restored")
        assert (await client.put("/v1/tenants/new", json={"name": "New"})).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        failing = {part["name"]: part["detail"] for part in ready.json()["parts"] if not part["ok"]}
        assert failing.keys() == {"witness", "scheduler"}
        assert "run `mailgate restore`" in failing["witness"]
        assert failing["scheduler"] == "nothing works before `mailgate restore` was run; witness says why"
        assert not any(application.running().values())

        other = await Core.open(Settings(data_dir=restored), create=False, restored=True)
        (done,) = await other.restore.run(COMMAND)
        assert done.done == {"plan.effective": 1}
        await other.close()

        async def served() -> bool:
            return (await client.get("/v1/tenants/acme")).status_code == 200

        await until(served)
        found = (await client.get("/v1/tenants/acme/subscription")).json()
        assert found["plan"] == "professional"
        assert (await core.log_reader.checkpoint(await tenants.get(core.db, "acme"), core.clock())).size == 2
        assert await core.restore.behind() == []
    await application.stop()
    await core.close()


async def test_a_look_that_fails_is_not_the_last(restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESTORE_LOOK_S", 0.01)
    monkeypatch.setattr(Trouble, "pause_s", 0.01)
    core = await Core.open(Settings(data_dir=restored), restored=True)
    answers = [UnavailableError("the database is away", slug="database_busy"), None, UnavailableError("once more")]
    looks = 0

    async def behind() -> list[Behind]:
        nonlocal looks
        looks += 1
        if answers and (answer := answers.pop(0)) is not None:
            raise answer
        return [] if not answers else await behind_now()

    behind_now = core.restore.behind
    monkeypatch.setattr(core.restore, "behind", behind)
    application = Application(core)
    await application.start()

    async def open_() -> bool:
        return application.why_closed() is None

    await until(open_)
    assert looks == 4
    assert all(application.running().values())
    await application.stop()
    await core.close()


async def test_one_that_is_ended_while_it_waits(restored: Path) -> None:
    core = await Core.open(Settings(data_dir=restored), restored=True)
    application = Application(core)
    await application.start()
    await application.stop()
    await core.close()


async def test_a_hold_is_known_outside_at_once(tmp_path: Path) -> None:
    """Not at the next hour: the database of before it may be restored meanwhile."""
    core = await Core.open(Settings(data_dir=tmp_path / "data"))
    tenant = await acme(core)
    application = Application(core)
    await application.start()

    async def signed(what: str) -> None:
        async def outside() -> bool:
            size = int((core.witness.last(tenant.ref) or b"").split(b"\n")[1])
            return f'"type":"{what}"'.encode() in b"".join(core.witness.entries(tenant.ref, size))

        await until(outside)

    hold = await core.holds.place("acme", Scope(), matter="M-1", reason="r", now=core.clock(), actor=COMMAND)
    await signed("hold.place")
    await core.holds.release("acme", hold.id, reason="r", now=core.clock(), actor=COMMAND)
    await signed("hold.release")
    await application.stop()
    await core.close()


async def test_a_witness_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    core = await Core.open(settings)
    tenant = await acme(core)
    await core.close()
    witness = settings.witness_dir
    witness.rename(witness.with_name("elsewhere"))
    core = await Core.open(settings)
    assert not witness.exists()
    await core.subscriptions.set_outright("acme", SubscriptionChange("professional"), core.clock(), SYSTEM)
    with pytest.raises(UnavailableError, match="is not there"):
        await core.log_reader.checkpoint(tenant, core.clock())
    witness.mkdir()  # a mount point without its volume
    assert "not the witness of before" in (core.log_reader.witness_fault or "")
    with pytest.raises(UnavailableError):
        await core.log_reader.checkpoint(tenant, core.clock())
    witness.rmdir()
    witness.with_name("elsewhere").rename(witness)
    assert (await core.log_reader.checkpoint(tenant, core.clock())).size == 2
    await core.close()


async def test_a_forged_checkpoint_outside_is_no_restored_backup(tmp_path: Path) -> None:
    """Who can write there could else stop the gateway, which would ask for a restore that there is nothing for."""
    settings = Settings(data_dir=tmp_path / "data")
    core = await Core.open(settings)
    tenant = await acme(core)
    await core.close()
    kept = settings.witness_dir / f"{tenant.ref}.checkpoint"
    good = kept.read_bytes()
    for forged in (good.replace(b"\n1\n", b"\n1001\n"), good.replace(tenant.ref.encode(), b"0" * 32)):
        assert forged != good
        kept.write_bytes(forged)
        with pytest.raises(ConfigurationError, match="is damaged"):
            await Core.open(settings)
    kept.write_bytes(good)
    await (await Core.open(settings)).close()


async def test_the_witness_of_another_installation_is_not_taken(tmp_path: Path) -> None:
    other = await Core.open(Settings(data_dir=tmp_path / "other"))
    await acme(other)
    await other.close()
    core = await Core.open(Settings(data_dir=tmp_path / "data"))
    tenant = await acme(core)
    shutil.rmtree(core.settings.witness_dir)
    shutil.copytree(other.settings.witness_dir, core.settings.witness_dir)
    with pytest.raises(UnavailableError, match="another installation"):
        await core.log_reader._sign(tenant, core.clock())
    await core.close()


async def test_a_witness_of_before_it_was_marked_is_taken(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    core = await Core.open(settings)
    await acme(core)
    await core.close()
    (settings.witness_dir / ".installation").unlink()
    core = await Core.open(settings)
    assert core.log_reader.witness_fault is None
    assert (settings.witness_dir / ".installation").exists()
    await core.close()


async def test_entries_are_kept_from_whenever_on_that_is_wanted(tmp_path: Path) -> None:
    """With the setting off only the checkpoint is kept; switched on, everything from the beginning is."""
    off = Settings.model_validate({"data_dir": tmp_path / "data", "ledger": {"keep_entries": False}})
    core = await Core.open(off)
    tenant = await acme(core)
    assert not list(off.witness_dir.glob("*.log"))
    with pytest.raises(FileNotFoundError):
        list(core.witness.entries(tenant.ref, 1))
    await core.close()
    core = await Core.open(Settings(data_dir=tmp_path / "data"))
    for more in (1, 2, 252, 1, 1, 40):
        async with core.db.write() as tx:
            for _ in range(more):
                core.log.announce_policy(tx, "acme", tenant.ref, at=core.clock(), actor=SYSTEM)
        signed = await core.log_reader.checkpoint(tenant, core.clock())
    kept = list(core.witness.entries(tenant.ref, signed.size))
    assert kept == [body async for body in core.log_reader.entries(tenant, 0, signed.size)]
    files = sorted(path.name for path in (off.witness_dir / f"{tenant.ref}.log").rglob("*") if path.is_file())
    assert files == ["000", str(signed.size - 256)]
    await core.close()


def test_keys_are_not_made_for_a_witness_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        asyncio.run(Core.open(Settings(data_dir=tmp_path / "data"), create=False))
    assert not (tmp_path / "data").exists()
