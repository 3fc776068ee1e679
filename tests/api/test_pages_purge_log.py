"""The purge log's pages: entries explained and proven, verified, taken away; only one's own tenant's."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest

from mailgate.store.users import Role
from retention.ledger.audit import check_proof_file
from retention.ledger.note import Verifier
from retention.ledger.replay import replay_directory
from retention.ledger.report import Verdict
from tests.api.conftest import Gateway
from tests.api.people import person
from tests.api.test_retention import purged_tenant

AT = "/admin/purge-log/acme"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


def entries(text: str) -> list[str]:
    return re.findall(r'<span class="dim">([a-z]+\.[a-z]+|export)</span>', text)


async def test_prove_it(gateway: Gateway, tmp_path: Path) -> None:
    _, _, gone = await purged_tenant(gateway)
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    run = (await gateway.client.get("/v1/retention/runs")).json()["items"][0]["id"]
    text = (await cleo.get(AT)).text
    everything = entries(text)
    assert {"run.open", "item.purge", "run.close", "pin.add"} <= set(everything)
    for query, count in (
        (f"item={gone}", 1),
        ("type=pin.add", 1),
        ("reason=age", 1),
        (f"run={run}", 3),
        ("until=2001-01-01", 0),
        ("item=%3Cscript%3E", 0),
    ):
        found = (await cleo.get(f"{AT}?{query}")).text
        assert len(entries(found)) == count, query
        assert "<script>" not in found
    index = re.search(rf'href="{AT}/(\d+)"', (await cleo.get(f"{AT}?item={gone}")).text)
    assert index is not None
    text = (await cleo.get(f"{AT}/{index[1]}")).text
    for expected in ("A copy was purged", "Pins and holds at that moment", "c2sp.org"):
        assert expected in text, expected
    key = Verifier.from_vkey((await cleo.get(f"{AT}/key")).text.strip())
    file = tmp_path / "one.tlog-proof"
    file.write_text((await cleo.get(f"{AT}/{index[1]}/proof")).text)
    assert check_proof_file(file, key).verdict is Verdict.OK
    assert "This gateway finds that everything holds." in (await cleo.post(f"{AT}/verify")).text
    taken = await cleo.post(f"{AT}/export", {"format": "tlog"})
    with tarfile.open(fileobj=io.BytesIO(taken.content)) as tar:
        tar.extractall(tmp_path, filter="data")
        folder = tmp_path / tar.getnames()[0]
    assert replay_directory(folder, key).verdict is Verdict.OK
    assert f"tar xf {folder.name}.tar" in (await cleo.get(AT)).text
    assert "item.purge" in (await cleo.post(f"{AT}/export", {"format": "csv"})).text
    assert entries((await cleo.get(AT)).text)[:2] == ["export", "export"]
    for absent in ("999999", "nothing", "-1"):
        assert (await cleo.get(f"{AT}/{absent}")).status_code == 404


async def test_another_tenants_log_is_not_there(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    await gateway.tenant("other")
    bob = await person(gateway, "bob", Role.ADMIN, "other")
    assert (await bob.get("/admin/purge-log")).headers["location"] == "/admin/purge-log/other"
    for path in (AT, f"{AT}/0", f"{AT}/0/proof", f"{AT}/key"):
        assert (await bob.get(path)).status_code == 404
    await bob.get("/admin/purge-log/other")
    for path in (f"{AT}/verify", f"{AT}/export"):
        assert (await bob.post(path)).status_code == 404
