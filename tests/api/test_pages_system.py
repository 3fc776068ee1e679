"""The system page: is the gateway well? In words, with what to do; for who is bound to no tenant."""

from __future__ import annotations

import html
import re

import httpx
import pytest

from mailgate.admin.system_words import PARTS
from mailgate.app.health import checks
from mailgate.clock import HOUR, MINUTE
from mailgate.store import leases, samples
from mailgate.store.samples import Process
from mailgate.store.users import Role
from mailgate.usecases.parts import Health
from tests.api.conftest import Gateway
from tests.api.people import person

HOSTILE = "<script>alert(1)</script>"


def text_of(answer: httpx.Response) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


async def test_a_well_gateway_says_so(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    shown = text_of(await ann.get("/admin/system"))
    for said in ("The gateway is well.", "Database it answers", "No mailbox flows at this moment.", "Purge logs 1"):
        assert said in shown, said
    assert "Nothing is measured yet" in shown


async def test_every_part_that_readyz_looks_at_has_words(gateway: Gateway) -> None:
    assert set(PARTS) == set(checks(gateway.core, dict))


async def test_what_does_not_work_is_said_with_what_to_do(gateway: Gateway) -> None:
    async def broken() -> Health:
        return Health(False, f"no space {HOSTILE}")

    async def odd() -> Health:
        return Health(False, "look", needed=False)

    gateway.health["blobs"] = broken
    gateway.health["something_new"] = odd
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    answer = await cleo.get("/admin/system/now")
    assert HOSTILE not in answer.text
    shown = text_of(answer)
    for said in (f"no space {HOSTILE}", "does not work", "Look at its space", "something_new", "wants a look"):
        assert said in shown, said
    assert "The gateway can't do its work." in shown
    del gateway.health["blobs"]
    assert "The gateway works, and something wants a look." in text_of(await cleo.get("/admin/system/now"))


async def test_its_last_hours_as_plots_and_as_a_table(gateway: Gateway) -> None:
    db, now = gateway.core.db, gateway.clock()
    process = Process(f"host:1:{HOSTILE}", "1.2.3", now - HOUR, now, 64 << 20, 1_000, 250)
    for minutes in range(120, -1, -1):
        at = now - minutes * MINUTE
        values = {"lag_s": 5.0 if minutes != 30 else 77.0, "position": 1_000 - minutes * 7, "pushes": 0}
        await samples.put(db, process, values if not 40 < minutes < 60 else None, at)
    await leases.acquire(db, "publisher", process.owner, MINUTE, now)
    await leases.acquire(db, "purge:acme", "host:2:gone", MINUTE, now)
    ann = await person(gateway)
    answer = await ann.get("/admin/system?hours=24")
    assert HOSTILE not in answer.text
    assert answer.text.count('<svg class="plot small"') == 3
    shown = text_of(answer)
    for said in ("Lag of most mailboxes", "Events a minute 7", "1 minute", "puts events in order"):
        assert said in shown, said
    for said in ("1.2.3", "64 MiB", "25% of a processor", "not heard of", "purges acme"):
        assert said in shown, said
    table = answer.text.partition('<table class="compare">')[2].partition("</table>")[0]
    assert table.count('<th scope="row">') == 24
    part = await ann.get("/admin/system/past?hours=72")
    assert '<a id="hours-72" href="/admin/system?hours=72#past" aria-current="true">' in part.text
    for odd in ("", "0", "-1", "9999999", "x" * 150):
        assert (
            'id="hours-6" href="/admin/system?hours=6#past" aria-current'
            in (await ann.get(f"/admin/system/past?hours={odd}")).text
        )


@pytest.mark.parametrize("path", ["/admin/system", "/admin/system/now", "/admin/system/past"])
async def test_it_is_not_there_for_who_is_bound_to_a_tenant(gateway: Gateway, path: str) -> None:
    await gateway.tenant("acme")
    bob = await person(gateway, "bob", tenant_id="acme")
    assert (await bob.get(path)).status_code == 404
    assert "/admin/system" not in (await bob.get("/admin/mailboxes")).text
