"""Entries with their proofs over HTTP, and one entry opened: what a third party then checks with the verifier alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from mailgate.clock import DAY
from mailgate.errors import ConflictError, NotFoundError
from mailgate.keys.errors import KeyMissingError
from mailgate.store import disclosing, tenants
from mailgate.store.schema import log_leaves
from mailgate.store.users import Role
from retention.ledger.audit import check_proof_file
from retention.ledger.canonical import encode
from retention.ledger.disclosure import check_disclosure
from retention.ledger.note import Verifier
from retention.ledger.report import Verdict
from tests.api.conftest import Gateway
from tests.api.mail import letter, postman
from tests.api.people import person
from tests.api.test_retention import purged_tenant


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


async def key_of(gateway: Gateway) -> Verifier:
    return Verifier.from_vkey((await gateway.client.get("/v1/purge-log/acme/key")).text.strip())


async def leaves(gateway: Gateway, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.client.get("/v1/purge-log", params={"tenant": "acme"} | query)).json()[
        "items"
    ]
    return found


async def opened(gateway: Gateway, index: int, **given: bytes) -> str:
    core = gateway.core
    tenant = await tenants.get(core.db, "acme")
    return (await disclosing.disclose(core.db, core.ring, core.log_reader, tenant, index, given, gateway.clock()))[0]


async def test_an_items_entries_prove_themselves_offline(gateway: Gateway, tmp_path: Path) -> None:
    _, kept, gone = await purged_tenant(gateway)
    answer = await gateway.client.get("/v1/purge-log/proof", params={"tenant": "acme", "item": gone})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [item["type"] for item in told["items"]] == ["item.purge"]
    file = tmp_path / "proof.json"
    file.write_text(answer.text)
    report = check_proof_file(file, await key_of(gateway))
    assert report.verdict is Verdict.OK, report.lines()
    assert report.facts["size"] == told["size"]
    (line,) = report.facts["leaves"].values()
    assert "item.purge" in line
    by_ref = {"tenant": "acme", "item": told["items"][0]["leaf"]["item_ref"]}
    assert (await gateway.client.get("/v1/purge-log/proof", params=by_ref)).json()["items"] == told["items"]
    assert [leaf["type"] for leaf in await leaves(gateway, item=kept)] == ["pin.add"]
    file.write_text(answer.text.replace(told["items"][0]["proof"][30:40], "AAAAAAAAAA"))
    assert check_proof_file(file, await key_of(gateway)).verdict is Verdict.INVALID


async def test_many_entries_of_an_item_come_in_pages(gateway: Gateway, tmp_path: Path) -> None:
    post = await postman(gateway)
    id_ = await post.deliver(letter())
    for n in range(5):
        await gateway.client.put(f"/v1/tenants/acme/messages/{id_}/pins/deal/D-{n}")
    query = {"tenant": "acme", "item": id_, "limit": "3"}
    first = (await gateway.client.get("/v1/purge-log/proof", params=query)).json()
    rest = (await gateway.client.get("/v1/purge-log/proof", params=query | {"cursor": first["next_cursor"]})).json()
    assert [len(page["items"]) for page in (first, rest)] == [3, 2]
    assert rest["next_cursor"] is None
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(first))
    assert check_proof_file(file, await key_of(gateway)).headline.startswith("ok: 3 leaves are in the log")


async def test_no_such_item_and_another_tenants(gateway: Gateway) -> None:
    _, _, gone = await purged_tenant(gateway)
    await gateway.tenant("other")
    for query in ({"tenant": "acme", "item": "nothing"}, {"tenant": "other", "item": gone}):
        refused = await gateway.client.get("/v1/purge-log/proof", params=query)
        assert (refused.status_code, refused.json()["type"]) == (404, "leaf_not_found")
    async with await gateway.token("compliance", tenant_id="other") as bound:
        refused = await bound.get("/v1/purge-log/proof", params={"tenant": "acme", "item": gone})
        assert (refused.status_code, refused.json()["type"]) == (404, "tenant_not_found")


async def test_a_purge_is_opened_to_who_has_the_message(gateway: Gateway, tmp_path: Path) -> None:
    post = await postman(gateway)
    raw = letter("gone", Message_ID="<m1@other.example>")
    await post.deliver(raw)
    gateway.clock.forward(90 * DAY)
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    (purge,) = await leaves(gateway, type="item.purge")
    with pytest.raises(ConflictError, match="give its content or msgid"):
        await opened(gateway, purge["index"])
    with pytest.raises(ConflictError, match="another content"):
        await opened(gateway, purge["index"], content=hashlib.sha256(b"other").digest())
    with pytest.raises(ConflictError, match="commits to content, msgid"):
        await opened(gateway, purge["index"], subject=b"gone")
    with pytest.raises(NotFoundError):
        await opened(gateway, 10_000)
    with pytest.raises(ConflictError, match="nothing to open"):
        await opened(gateway, 0)
    text = await opened(gateway, purge["index"], content=hashlib.sha256(raw).digest(), msgid=b"<m1@other.example>")
    shown = check_disclosure(text, await key_of(gateway))
    assert shown.proven.leaf == purge["leaf"]
    assert shown.values["msgid"] == b"<m1@other.example>"
    (tmp_path / "opened").write_text(text)
    report = check_proof_file(tmp_path / "opened", await key_of(gateway))
    assert report.facts["opened"]["content"] == hashlib.sha256(raw).hexdigest()


async def test_what_the_gateway_still_knows_it_opens_itself(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    (pin,) = await leaves(gateway, type="pin.add")
    assert check_disclosure(await opened(gateway, pin["index"]), await key_of(gateway)).values == {"entity": b"D-1"}
    asked = {"scope": {"tenant": True}, "matter": "M-1", "reason": "claim received"}
    hold = (await gateway.client.post("/v1/tenants/acme/holds", json=asked)).json()
    await gateway.client.post(f"/v1/tenants/acme/holds/{hold['id']}/release", json={"reason": "settled"})
    release, place = (await leaves(gateway))[:2]
    values = [
        check_disclosure(await opened(gateway, leaf["index"]), await key_of(gateway)).values
        for leaf in (place, release)
    ]
    assert values == [{"reason": b"claim received"}, {"reason": b"settled"}]


async def test_destroyed_keys_shred_what_the_log_commits_to(gateway: Gateway) -> None:
    """Nobody can open an entry any more, not even with the right value; the log itself verifies as before."""
    _, _, gone = await purged_tenant(gateway)
    (pin,) = await leaves(gateway, type="pin.add")
    tenant = await tenants.get(gateway.core.db, "acme")
    keys = gateway.core.ring
    key = await key_of(gateway)
    copy = gateway.core.settings.data_dir / "keys"
    kept = {path: path.read_bytes() for path in sorted((copy / "tenants" / tenant.ref).rglob("*")) if path.is_file()}
    assert keys.destroy_tenant(tenant.ref)
    with pytest.raises(KeyMissingError):
        await opened(gateway, pin["index"], entity=b"D-1")
    answer = await gateway.client.get("/v1/purge-log/proof", params={"tenant": "acme", "item": gone})
    assert answer.status_code == 200, answer.text
    assert key == await key_of(gateway)
    # for the doctor at the end, which reads the copies that are left
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize("junk", [b"\xff\x00junk", b"[]", b'{"type":"item.purge"}'])
async def test_an_entry_that_somebody_changed_is_shown_as_damaged_and_raises_an_alarm(
    gateway: Gateway, junk: bytes
) -> None:
    _, _, gone = await purged_tenant(gateway)
    assert not any(entry["damaged"] for entry in await leaves(gateway))
    await gateway.client.get("/v1/purge-log/acme/checkpoint")  # it is signed
    (purge,) = await leaves(gateway, type="item.purge")
    core, leaf = gateway.core, log_leaves.c
    mine = (leaf.tenant_id == "acme") & (leaf.idx == purge["index"])
    async with core.db.write() as tx:
        await tx.conn.execute(update(log_leaves).where(mine).values(body=junk))

    for query in ({"type": "item.purge"}, {"item": gone}, {"run": purge["run"]}):
        damaged = [entry for entry in await leaves(gateway, **query) if entry["damaged"]]
        assert [(entry["index"], entry["leaf"]) for entry in damaged] == [(purge["index"], {})]
    assert await leaves(gateway, reason="age") == []  # it does not say why any more
    for form in ("csv", "ndjson", "tlog"):
        refused = await gateway.client.get("/v1/purge-log/export", params={"tenant": "acme", "format": form})
        assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "log_diverged"), form
    refused = await gateway.client.get("/v1/purge-log/proof", params={"tenant": "acme", "item": gone})
    assert refused.status_code == 409
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    assert "Damaged" in (await cleo.get("/admin/purge-log/acme")).text
    page = await cleo.get(f"/admin/purge-log/acme/{purge['index']}")
    assert (page.status_code, "Damaged" in page.text) == (200, True)
    await core.alarms.look(gateway.clock())
    (alarm,) = [
        each for each in (await gateway.client.get("/v1/alarms")).json()["items"] if each["kind"] == "log_diverged"
    ]
    assert f"entry {purge['index']}" in alarm["detail"]
    async with core.db.write() as tx:
        await tx.conn.execute(update(log_leaves).where(mine).values(body=encode(purge["leaf"])))
    assert not any(entry["damaged"] for entry in await leaves(gateway))
