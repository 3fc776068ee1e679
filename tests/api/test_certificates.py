"""Certificates of runs over HTTP: JSON that a verifier checks, a page to be printed, and who gets which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from mailgate.clock import DAY, HOUR
from mailgate.ids import new_id
from mailgate.jobs.erase import EraseWorker
from mailgate.store.erasures import Erasures
from mailgate.store.schema import log_leaves, runs
from retention.ledger.audit import check_proof_file
from retention.ledger.note import Verifier
from retention.ledger.report import Verdict
from tests.api.conftest import Gateway
from tests.api.mail import letter, postman
from tests.api.test_retention import purged_tenant


async def erase(gateway: Gateway) -> None:
    core = gateway.core
    await EraseWorker(Erasures(core.db, core.log), core.blobs, core.clock, core.owner).work()


async def newest(gateway: Gateway) -> str:
    run_id: str = (await gateway.client.get("/v1/retention/runs?limit=1")).json()["items"][0]["id"]
    return run_id


async def test_a_certificate_checks_offline(gateway: Gateway, tmp_path: Path) -> None:
    await purged_tenant(gateway)
    await erase(gateway)
    run_id = await newest(gateway)
    answer = await gateway.client.get(f"/v1/retention/runs/{run_id}/certificate")
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["certificates"]
    assert told["counts"] == {"candidates": 2, "purged": 1, "kept": {"pinned": 1}, "failed": 0}
    assert (told["objects"]["freed"], told["objects"]["erased"], told["objects"]["outstanding"]) == (1, 1, 0)
    assert told["policy"] == {"ver": gateway.core.policy.version, "sha256": gateway.core.policy.sha256}
    file = tmp_path / "certificate.json"
    file.write_text(answer.text)
    key = Verifier.from_vkey((await gateway.client.get("/v1/purge-log/acme/key")).text.strip())
    report = check_proof_file(file, key)
    assert report.verdict is Verdict.OK, report.lines()
    assert run_id in report.facts["runs"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


async def test_what_somebody_changed_is_not_certified(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    path = f"/v1/retention/runs/{await newest(gateway)}/certificate"
    good = (await gateway.client.get(path)).json()
    purges = log_leaves.c.type == "item.purge"

    async def put(body: bytes) -> None:
        async with gateway.core.db.write() as tx:
            await tx.conn.execute(update(log_leaves).where(purges).values(body=body))

    async with gateway.core.db.read() as conn:
        body = (await conn.execute(select(log_leaves.c.body).where(purges))).scalar_one()
    for forged in (body.replace(b'"age"', b'"offboarding"'), b"\xff junk"):
        assert forged != body
        await put(forged)
        refused = await gateway.client.get(path)
        assert (refused.status_code, refused.json()["type"]) == (409, "log_diverged"), forged
    await put(body)
    assert (await gateway.client.get(path)).json() == good


async def test_a_browser_gets_a_page_that_loads_nothing(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    path = f"/v1/retention/runs/{await newest(gateway)}/certificate"
    browser = {"accept": "text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8"}
    for answer in (await gateway.client.get(path, headers=browser), await gateway.client.get(f"{path}?format=html")):
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "Certificate of sanitization" in answer.text
    for accept in ("application/json", "*/*", "application/json, text/html"):
        answer = await gateway.client.get(path, headers={"accept": accept})
        assert answer.headers["content-type"] == "application/json"
    answer = await gateway.client.get(f"{path}?format=json", headers=browser)
    assert answer.json()["certificates"]


async def test_a_run_over_all_tenants_has_one_for_each(gateway: Gateway) -> None:
    for tenant_id in ("acme", "other", "idle"):
        if tenant_id == "idle":
            await gateway.tenant(tenant_id)
            continue
        post = await postman(gateway, tenant_id)
        await post.deliver(letter())
    gateway.clock.forward(90 * DAY)
    await gateway.client.post("/v1/retention/runs", json={})
    await gateway.core.retention.work()
    path = f"/v1/retention/runs/{await newest(gateway)}/certificate"
    both = (await gateway.client.get(path)).json()["certificates"]
    assert len({told["log"]["tenant_ref"] for told in both}) == 2
    (one,) = (await gateway.client.get(f"{path}?tenant=other")).json()["certificates"]
    assert one in both
    async with await gateway.token("compliance", tenant_id="other") as bound:
        assert (await bound.get(path)).json()["certificates"] == [one]
        assert (await bound.get(f"{path}?tenant=acme")).status_code == 404
    refused = await gateway.client.get(f"{path}?tenant=idle")
    assert (refused.status_code, refused.json()["type"]) == (409, "nothing_to_certify")


async def test_what_has_not_ended_and_what_purged_nothing(gateway: Gateway) -> None:
    await gateway.tenant()
    queued = (await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})).json()["id"]
    refused = await gateway.client.get(f"/v1/retention/runs/{queued}/certificate")
    assert (refused.status_code, refused.json()["type"]) == (409, "run_not_finished")
    await gateway.core.retention.work()
    (empty,) = (await gateway.client.get(f"/v1/retention/runs/{queued}/certificate")).json()["certificates"]
    assert empty["counts"]["candidates"] == 0
    dry = (await gateway.client.post("/v1/retention/runs", json={"tenant": "acme", "dry_run": True})).json()["id"]
    await gateway.core.retention.work()
    refused = await gateway.client.get(f"/v1/retention/runs/{dry}/certificate")
    assert (refused.status_code, refused.json()["type"]) == (409, "nothing_to_certify")


async def test_a_run_is_found_where_the_clock_went_back_too(gateway: Gateway) -> None:
    """Its leaves are older than those before them: they are not where their time says."""
    post = await postman(gateway)
    await post.deliver(letter())
    gateway.clock.forward(91 * DAY)
    await gateway.core.retention.note_time(gateway.clock())
    await gateway.client.put(f"/v1/tenants/acme/messages/{await post.deliver(letter('b'))}/pins/deal/D-1")
    gateway.clock.forward(-12 * HOUR)
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme", "approve_clock": True})
    assert await gateway.core.retention.work() == 1
    answer = await gateway.client.get(f"/v1/retention/runs/{await newest(gateway)}/certificate")
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["certificates"]
    assert told["approved"] == ["clock"]
    assert json.dumps(told)


async def test_a_run_that_only_the_log_knows_has_its_certificate(gateway: Gateway) -> None:
    """As after a backup was restored, or years later, when runs are forgotten."""
    await purged_tenant(gateway)
    run_id = await newest(gateway)
    path = f"/v1/retention/runs/{run_id}/certificate"
    known = (await gateway.client.get(path)).json()
    async with gateway.core.db.write() as tx:
        await tx.conn.execute(delete(runs))
    assert (await gateway.client.get(f"/v1/retention/runs/{run_id}")).status_code == 404
    assert (await gateway.client.get(path)).json() == known
    async with await gateway.token("compliance", tenant_id="acme") as bound:
        assert (await bound.get(path)).json() == known
    await gateway.tenant("other")
    assert (await gateway.client.get(f"{path}?tenant=other")).status_code == 404
    async with await gateway.token("compliance", tenant_id="other") as bound:
        assert (await bound.get(path)).status_code == 404
    unheard = await gateway.client.get(f"/v1/retention/runs/{new_id(gateway.clock())}/certificate")
    assert (unheard.status_code, unheard.json()["type"]) == (404, "run_not_found")


async def test_the_erasure_of_a_tenant_is_certified(gateway: Gateway) -> None:
    post = await postman(gateway)
    await post.deliver(letter())
    assert (await gateway.client.delete("/v1/tenants/acme")).status_code in (202, 204)
    entries = {"tenant": "acme", "type": "run.open", "limit": 1}
    (opened,) = (await gateway.client.get("/v1/purge-log", params=entries)).json()["items"]
    path = f"/v1/retention/runs/{opened['run']}/certificate"
    refused = await gateway.client.get(path)
    assert (refused.status_code, refused.json()["type"]) == (409, "run_not_finished")
    await gateway.core.tenant_erasures.work()
    await erase(gateway)
    await gateway.core.tenant_erasures.work()
    (told,) = (await gateway.client.get(path)).json()["certificates"]
    assert (told["counts"]["purged"], told["objects"]["outstanding"]) == (1, 0)


@pytest.mark.parametrize("tenants", [1, 2])
async def test_the_page_is_signed_by_each_log_that_it_is_of(gateway: Gateway, tmp_path: Path, tenants: int) -> None:
    await purged_tenant(gateway)
    if tenants == 2:
        post = await postman(gateway, "other", "standard")
        await post.deliver(letter())
        gateway.clock.forward(60 * DAY)
        await gateway.client.delete("/v1/tenants/acme/pins/deal/D-1")
        await gateway.client.post("/v1/retention/runs", json={"approve_brake": True})
        assert await gateway.core.retention.work() == 1
    path = f"/v1/retention/runs/{await newest(gateway)}/certificate?format=html"
    file = tmp_path / "certificate.html"
    file.write_bytes((await gateway.client.get(path)).content)
    for tenant_id in ["acme", "other"][:tenants]:
        key = Verifier.from_vkey((await gateway.client.get(f"/v1/purge-log/{tenant_id}/key")).text.strip())
        assert check_proof_file(file, key).verdict is Verdict.OK
        changed = tmp_path / "changed.html"
        changed.write_bytes(file.read_bytes().replace(b"1 copies purged", b"2 copies purged"))
        assert check_proof_file(changed, key).verdict is Verdict.INVALID
