"""Retention and the purge log over HTTP."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from mailgate.ids import new_id
from mailgate.store.schema import log_leaves
from retention.ledger.checkpoint import open_checkpoint
from retention.ledger.note import Verifier
from retention.ledger.report import Verdict
from retention.ledger.tiles import TileNodes, decode_bundle, parse_tile_path
from retention.ledger.tree import tree_root
from retention.ledger.verify import verify_directory
from tests.api.conftest import START, Gateway
from tests.api.mail import Postman, letter, postman, two_at_the_brake


async def purged_tenant(gateway: Gateway) -> tuple[Postman, str, str]:
    """Two copies that are due, one of them pinned, and a purge: (postman, kept, gone)."""
    post = await postman(gateway, plan="standard")
    kept, gone = await post.deliver(letter("kept")), await post.deliver(letter("gone"))
    await gateway.client.put(f"/v1/tenants/acme/messages/{kept}/pins/deal/D-1")
    gateway.clock.forward(60 * DAY)
    asked = await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    assert asked.status_code == 202
    assert asked.json()["state"] == "queued"
    assert await gateway.core.retention.work() == 1
    return post, kept, gone


async def test_how_a_tenant_stands(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    old = await post.deliver(letter("old"), age=10 * DAY)
    await post.deliver(letter("new"), age=1 * DAY)
    await gateway.client.put(f"/v1/tenants/acme/messages/{old}/pins/deal/D-1")
    found = (await gateway.client.get("/v1/tenants/acme/retention")).json()
    assert {name: found[name] for name in ("plan", "days", "copies", "pinned", "held", "due_now")} == {
        "plan": "standard",
        "days": 60,
        "copies": 2,
        "pinned": 1,
        "held": 0,
        "due_now": 0,
    }
    assert found["next_due_at"] == to_rfc3339(START - DAY + 60 * DAY)
    assert found["bytes"] > 0


async def test_a_run_is_queued_made_and_its_counts_balance(gateway: Gateway) -> None:
    _, _, _ = await purged_tenant(gateway)
    (run,) = (await gateway.client.get("/v1/retention/runs")).json()["items"]
    assert (run["state"], run["candidates"], run["purged"], run["kept"], run["failed"]) == (
        "completed",
        2,
        1,
        {"pinned": 1},
        0,
    )
    assert run["candidates"] == run["purged"] + sum(run["kept"].values()) + run["failed"]
    assert run["now"] == to_rfc3339(START + 60 * DAY)
    assert run["policy"]["sha256"] == gateway.core.policy.sha256
    assert (await gateway.client.get(f"/v1/retention/runs/{run['id']}")).json() == run


async def test_a_preview_equals_the_purge_that_follows(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    kept = await post.deliver(letter("kept"))
    for n in range(3):
        await post.deliver(letter(f"m{n}"))
    await gateway.client.put(f"/v1/tenants/acme/messages/{kept}/pins/deal/D-1")
    later = START + 60 * DAY
    params = {"tenant": "acme", "at": to_rfc3339(later)}
    preview = (await gateway.client.get("/v1/retention/preview", params=params)).json()
    assert (preview["purged"], preview["kept"], preview["plan"]) == (3, {"pinned": 1}, "standard")
    assert (await gateway.client.get("/v1/retention/preview?tenant=acme")).json()["purged"] == 0
    gateway.clock.at = later
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    (run,) = (await gateway.client.get("/v1/retention/runs?tenant=acme")).json()["items"]
    assert (run["purged"], run["kept"], run["bytes"]) == (preview["purged"], preview["kept"], preview["bytes"])


async def test_a_preview_says_that_the_brake_would_halt_the_run(gateway: Gateway) -> None:
    await two_at_the_brake(gateway)
    assert (await gateway.client.get("/v1/retention/preview")).json()["halted_at"] == {}
    gateway.clock.forward(2 * DAY)
    for tenant in ("", "?tenant=acme"):
        preview = (await gateway.client.get(f"/v1/retention/preview{tenant}")).json()
        assert (preview["halted_at"], preview["purged"]) == ({"acme": 2}, 2)
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme", "dry_run": True})
    await gateway.core.retention.work()
    gateway.clock.forward(SECOND)
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    run, dry = (await gateway.client.get("/v1/retention/runs?tenant=acme")).json()["items"]
    assert (dry["state"], dry["halted_at"]) == ("completed", preview["halted_at"])
    assert (run["state"], run["halted_at"]) == ("halted", preview["halted_at"])


async def test_a_preview_of_another_plan_says_what_goes_stays_and_why(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    pinned = await post.deliver(letter("pinned"), age=40 * DAY)
    old = await post.deliver(letter("old"), age=35 * DAY)
    await post.deliver(letter("new"), age=DAY)
    await gateway.client.put(f"/v1/tenants/acme/messages/{pinned}/pins/deal/D-1")
    as_it_is = (await gateway.client.get("/v1/retention/preview?tenant=acme")).json()
    assert (as_it_is["plan"], as_it_is["days"], as_it_is["due"], as_it_is["items"]) == ("standard", 60, {}, [])
    preview = (await gateway.client.get("/v1/retention/preview?tenant=acme&plan=crm_plus&limit=5")).json()
    assert (preview["plan"], preview["days"], preview["purged"], preview["kept"]) == ("crm_plus", 30, 1, {"pinned": 1})
    assert {reason: found["copies"] for reason, found in preview["due"].items()} == {"age": 1}
    assert {kept_by: found["copies"] for kept_by, found in preview["stays"].items()} == {"pinned": 1, "not_due": 1}
    assert preview["due"]["age"]["bytes"] == preview["bytes"] > 0
    goes, stays = preview["items"]
    assert (goes["message_id"], goes["reason"], goes["kept_by"]) == (old, "age", None)
    assert goes["due_at"] == to_rfc3339(START - 5 * DAY)
    assert (stays["message_id"], stays["reason"], stays["kept_by"]) == (pinned, None, "pinned")
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{old}")).status_code == 200


async def test_a_preview_of_all_tenants_is_for_tokens_of_all_tenants(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    await post.deliver(letter("old"), age=35 * DAY)
    await gateway.tenant("other")
    query = {"plan": "free", "limit": "1"}
    whole = (await gateway.client.get("/v1/retention/preview", params=query)).json()
    assert (whole["tenant_id"], whole["plan"], whole["purged"], set(whole["due"])) == (None, "free", 1, {"plan_end"})
    assert [item["tenant_id"] for item in whole["items"]] == ["acme"]
    async with await gateway.token("compliance", tenant_id="other") as bound:
        theirs = (await bound.get("/v1/retention/preview", params=query)).json()
        assert (theirs["tenant_id"], theirs["purged"], theirs["items"]) == ("other", 0, [])
        assert (await bound.get("/v1/retention/preview?tenant=acme")).status_code == 404
    unheard = await gateway.client.get("/v1/retention/preview?tenant=acme&plan=gold")
    assert (unheard.status_code, unheard.json()["type"]) == (422, "plan_unknown")
    assert (await gateway.client.get("/v1/retention/preview?tenant=acme&limit=101")).status_code == 422


async def test_a_dry_run_changes_nothing(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter())
    body = {"tenant": "acme", "dry_run": True, "at": to_rfc3339(START + 61 * DAY)}
    asked = (await gateway.client.post("/v1/retention/runs", json=body)).json()
    await gateway.core.retention.work()
    run = (await gateway.client.get(f"/v1/retention/runs/{asked['id']}")).json()
    assert (run["state"], run["dry_run"], run["purged"]) == ("completed", True, 1)
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"at": to_rfc3339(START + DAY)}, 422, "at_needs_dry_run"),
        ({"approve_up_to": 7}, 422, "approval_incomplete"),
        ({"at": to_rfc3339(START - DAY), "dry_run": True}, 422, "at_in_the_past"),
        ({"tenant": "nobody"}, 404, "tenant_not_found"),
        ({"tenant": "a b"}, 422, "invalid"),
        ({"tenants": "acme"}, 422, "invalid"),
    ],
)
async def test_bad_runs_are_refused(gateway: Gateway, body: dict[str, Any], status: int, slug: str) -> None:
    await gateway.tenant()
    refused = await gateway.client.post("/v1/retention/runs", json=body)
    assert (refused.status_code, refused.json()["type"]) == (status, slug)


async def test_an_unknown_run_and_one_of_sync(gateway: Gateway) -> None:
    await gateway.tenant()
    mailbox = await gateway.mailbox("acme")
    sync = (await gateway.client.post(f"/v1/tenants/acme/mailboxes/{mailbox['id']}/sync")).json()
    for run_id in (new_id(START), sync["id"]):
        refused = await gateway.client.get(f"/v1/retention/runs/{run_id}")
        assert (refused.status_code, refused.json()["type"]) == (404, "run_not_found")


async def test_a_bound_token_sees_no_counts_of_others(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    await gateway.client.post("/v1/retention/runs", json={})
    await gateway.core.retention.work()
    everything = (await gateway.client.get("/v1/retention/runs")).json()["items"]
    assert {run["tenant_id"] for run in everything} == {None, "acme"}
    over_all = next(run["id"] for run in everything if run["tenant_id"] is None)
    async with await gateway.token("compliance", tenant_id="acme") as client:
        assert {run["tenant_id"] for run in (await client.get("/v1/retention/runs")).json()["items"]} == {"acme"}
        assert (await client.get(f"/v1/retention/runs/{over_all}")).status_code == 404
        assert (await client.get("/v1/retention/runs?tenant=other")).status_code == 404
        assert (await client.get("/v1/retention/preview?tenant=other")).status_code == 404
        assert (await client.get("/v1/purge-log?tenant=other")).status_code == 404


async def test_leaves_are_listed_newest_first_and_filtered(gateway: Gateway) -> None:
    await purged_tenant(gateway)

    async def listed(**params: str) -> list[dict[str, Any]]:
        answer = await gateway.client.get("/v1/purge-log", params={"tenant": "acme"} | params)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    everything = await listed()
    assert [leaf["index"] for leaf in everything] == list(range(len(everything)))[::-1]
    assert everything[-1]["type"] == "policy.set"
    (purged,) = await listed(type="item.purge")
    assert purged["leaf"]["reason"] == "age"
    assert purged["leaf"]["original"] == "untouched"
    assert [leaf["index"] for leaf in await listed(item=purged["item_ref"])] == [purged["index"]]
    assert {leaf["type"] for leaf in await listed(run=purged["run"])} >= {"run.open", "item.purge", "run.close"}
    assert [leaf["type"] for leaf in await listed(reason="age")] == ["item.purge"]
    assert await listed(reason="nothing") == []
    assert await listed(until=to_rfc3339(START)) == []
    assert all(leaf["at"] >= to_rfc3339(START + DAY) for leaf in await listed(since=to_rfc3339(START + DAY)))
    page = (await gateway.client.get("/v1/purge-log?tenant=acme&limit=2")).json()
    rest = (
        await gateway.client.get("/v1/purge-log", params={"tenant": "acme", "limit": 2, "cursor": page["next_cursor"]})
    ).json()
    indices = [leaf["index"] for leaf in page["items"] + rest["items"]]
    assert indices == [leaf["index"] for leaf in everything[:4]]


async def test_no_leaf_says_what_the_mail_was(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    text = (await gateway.client.get("/v1/purge-log?tenant=acme")).text
    for word in ("gone", "bob@other.example", "Ann", "D-1"):
        assert word not in text.replace('"original":"gone"', "")


async def test_checkpoint_key_and_tiles_verify(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    key = Verifier.from_vkey((await gateway.client.get("/v1/purge-log/acme/key")).text.strip())
    note = (await gateway.client.get("/v1/purge-log/acme/checkpoint")).content
    checkpoint = open_checkpoint(note, key)
    tiles: dict[str, bytes] = {}
    for path in (f"0/000.p/{checkpoint.size}", f"entries/000.p/{checkpoint.size}"):
        answer = await gateway.client.get(f"/v1/purge-log/acme/tile/{path}")
        assert answer.status_code == 200
        tiles[f"tile/{path}"] = answer.content
    nodes = TileNodes(checkpoint.size, lambda tile: tiles[tile.path])
    assert tree_root(checkpoint.size, nodes) == checkpoint.root
    entries = decode_bundle(tiles[f"tile/entries/000.p/{checkpoint.size}"], checkpoint.size)
    assert json.loads(entries[0])["type"] == "policy.set"
    assert parse_tile_path(f"tile/0/000.p/{checkpoint.size}").width == checkpoint.size


@pytest.mark.parametrize("path", ["0/001", "9/000", "entries/000.p/250", "x/000", "0/000/../000", "%2E%2E/key"])
async def test_a_tile_that_is_not_there(gateway: Gateway, path: str) -> None:
    await gateway.tenant()
    refused = await gateway.client.get(f"/v1/purge-log/acme/tile/{path}")
    assert (refused.status_code, refused.json()["type"]) == (404, "tile_not_found")


async def test_the_exported_log_verifies_offline(gateway: Gateway, tmp_path: Path) -> None:
    await purged_tenant(gateway)
    key = Verifier.from_vkey((await gateway.client.get("/v1/purge-log/acme/key")).text.strip())
    answer = await gateway.client.get("/v1/purge-log/export?tenant=acme")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    (folder,) = (tmp_path / "out").iterdir()
    assert verify_directory(folder, key).verdict is Verdict.OK


async def test_a_log_that_somebody_wrote_to_is_not_handed_out_as_signed(gateway: Gateway) -> None:
    await gateway.tenant()
    checkpoint = await gateway.client.get("/v1/purge-log/acme/checkpoint")
    assert checkpoint.status_code == 200
    first = log_leaves.c.idx == 0
    async with gateway.core.db.write() as tx:
        body = (await tx.conn.execute(select(log_leaves.c.body).where(first))).scalar_one()
        await tx.conn.execute(update(log_leaves).where(first).values(body=body.replace(b'"v":1', b'"v":2')))
    refused = await gateway.client.get("/v1/purge-log/export?tenant=acme")
    assert (refused.status_code, refused.json()["type"]) == (409, "log_diverged")
    async with gateway.core.db.write() as tx:
        await tx.conn.execute(update(log_leaves).where(first).values(body=body))


async def test_the_log_as_lines_and_as_a_table(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    everything = (await gateway.client.get("/v1/purge-log?tenant=acme&limit=200")).json()["items"]
    ndjson = await gateway.client.get("/v1/purge-log/export?tenant=acme&format=ndjson")
    assert [json.loads(line) for line in ndjson.text.splitlines()] == [leaf["leaf"] for leaf in reversed(everything)]
    table = await gateway.client.get("/v1/purge-log/export?tenant=acme&format=csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    # that the log was handed out as lines stands in it too
    assert [row["type"] for row in rows] == [*(leaf["type"] for leaf in reversed(everything)), "export"]
    assert json.loads(rows[-1]["more"])["format"] == "ndjson"
    assert rows[-1]["actor_kind"] == "token"
    since = to_rfc3339(START + HOUR)
    part = await gateway.client.get("/v1/purge-log/export", params={"tenant": "acme", "format": "csv", "since": since})
    late = list(csv.DictReader(io.StringIO(part.text)))
    assert [row["index"] for row in late[:-1]] == [row["index"] for row in rows if row["at"] >= since]
    assert 0 < len(late) < len(rows)


async def test_a_removed_mailbox_loses_what_is_attached_to_nothing(gateway: Gateway) -> None:
    post = await postman(gateway)
    kept, gone = await post.deliver(letter("kept")), await post.deliver(letter("gone"))
    await gateway.client.put(f"/v1/tenants/acme/messages/{kept}/pins/deal/D-1")
    gateway.clock.forward(SECOND)
    await gateway.client.delete(f"/v1/tenants/acme/mailboxes/{post.mailbox_id}")
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{gone}")).json()["type"] == "expired"
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{gone}")).json()["reason"] == "mailbox_removed"
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{kept}")).json()["subject"] == "kept"
    refused = await gateway.client.put(f"/v1/tenants/acme/messages/{gone}/pins/deal/D-2")
    assert (refused.status_code, refused.json()["type"]) == (409, "mailbox_removed")


@pytest.mark.parametrize("form", ["tlog", "csv", "ndjson"])
async def test_an_export_comes_with_its_digest_and_leaves_nothing_behind(gateway: Gateway, form: str) -> None:
    await purged_tenant(gateway)
    answer = await gateway.client.get(f"/v1/purge-log/export?tenant=acme&format={form}")
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert list(gateway.core.settings.exports_dir.iterdir()) == []


async def test_exports_take_so_many_places_and_free_them(gateway: Gateway) -> None:
    await purged_tenant(gateway)
    exports = gateway.app.state.services.exports
    export = "/v1/purge-log/export?tenant=acme&format=csv"
    with exports.place("acme"), exports.place("acme"):
        refused = await gateway.client.get(export)
        assert (refused.status_code, refused.json()["type"]) == (503, "too_many_exports")
    newest = (await gateway.client.get("/v1/purge-log?tenant=acme&limit=1")).json()["items"]
    assert newest[0]["type"] != "export"  # nothing was handed out
    for _ in range(5):
        assert (await gateway.client.get(export)).status_code == 200
    assert exports.taken == 0


async def test_an_export_that_the_disk_does_not_take(gateway: Gateway) -> None:
    await gateway.tenant()
    gateway.core.settings.exports_dir.write_text("in the way")
    refused = await gateway.client.get("/v1/purge-log/export?tenant=acme")
    assert (refused.status_code, refused.json()["type"]) == (503, "export_failed")
    gateway.core.settings.exports_dir.unlink()
