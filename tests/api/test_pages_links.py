"""Connect links on the pages: an admin makes one and hands it over, sees what became of it, withdraws it."""

from __future__ import annotations

import html
import re

from mailgate.clock import DAY
from tests.api.conftest import Gateway
from tests.api.people import Person, person
from tests.api.test_connect_links import Visitor

AT = "/admin/tenants/acme/links"


async def made(ann: Person, form: dict[str, str] | None = None) -> str:
    """The path of a link that is made."""
    await ann.get(AT)
    answer = await ann.post(AT, form)
    assert answer.status_code == 200, answer.text
    url = re.findall(r'<pre class="secret"[^>]*>([^<]+)</pre>', answer.text)[0]
    return str(url).removeprefix(ann.gateway.core.settings.public_url)


def open_links(text: str) -> list[str]:
    return re.findall(rf'action="{AT}/(\w+)/revoke"', text)


async def test_an_admin_makes_a_link_that_a_person_uses(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    assert AT in (await ann.get("/admin/tenants/acme")).text
    path = await made(ann, {"address": "ben@acme.example", "owner": "ben", "hours": "24"})
    text = (await ann.get(AT)).text
    assert path.rpartition("/")[2] not in text  # only once
    assert "ben@acme.example" in text
    assert '<span class="dim">ann</span>' in text
    (link_id,) = open_links(text)
    kept = (await gateway.client.get(f"/v1/tenants/acme/connect-links/{link_id}")).json()
    assert (kept["owner"], kept["address"], kept["shared"]) == ("ben", "ben@acme.example", False)
    ben = Visitor(gateway, path)
    await ben.open()
    assert "is connected" in (await ben.check()).text
    assert open_links((await ann.get(AT)).text) == []
    every = (await ann.get(f"{AT}?show=all")).text
    mailbox_id = (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"][0]["id"]
    assert "Used" in every
    assert f'href="/admin/tenants/acme/mailboxes/{mailbox_id}"' in every
    log = (await gateway.client.get("/v1/access-log", params={"kind": "change", "tenant": "acme"})).json()["items"]
    assert "/admin/tenants/{tenant_id}/links" in [entry["route"] for entry in log if entry["actor"].startswith("user:")]


async def test_a_link_that_is_withdrawn_leads_nowhere(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    path = await made(ann)
    (link_id,) = open_links((await ann.get(AT)).text)
    answer = await ann.post(f"{AT}/{link_id}/revoke")
    assert answer.headers["location"] == f"{AT}?done=link_revoked"
    assert (await Visitor(gateway, path).open()).status_code == 410
    assert open_links((await ann.get(f"{AT}?show=all")).text) == []
    assert (await ann.post(f"{AT}/{'0' * 26}/revoke")).status_code == 404
    log = (await gateway.client.get("/v1/access-log", params={"kind": "change", "tenant": "acme"})).json()["items"]
    assert {"connect_link_id": link_id} in [entry["targets"] for entry in log]


async def test_a_link_is_good_as_long_as_was_chosen(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    await made(ann, {"hours": "24"})
    await made(ann, {"hours": "9999999"})  # none of the choices: as long as is usual
    assert len(open_links((await ann.get(AT)).text)) == 2
    gateway.clock.forward(2 * DAY)
    await ann.sign_in()
    assert len(open_links((await ann.get(AT)).text)) == 1
    assert "Expired" in (await ann.get(f"{AT}?show=all")).text


async def test_what_can_be_no_link_is_said_beside_its_field(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    await gateway.tenant("poor", "free")
    ann = await person(gateway)
    await ann.get(AT)
    answer = await ann.post(AT, {"address": "nobody", "owner": "o" * 201})
    assert answer.status_code == 422
    assert "Write an address like ann@example.com." in answer.text
    assert "Write at most 200 characters." in answer.text
    assert 'value="nobody"' in answer.text
    assert "nothing could be connected" in (await ann.get("/admin/tenants/poor/links")).text
    answer = await ann.post("/admin/tenants/poor/links")
    assert answer.status_code == 409
    assert "The plan has no synchronization" in html.unescape(answer.text)


async def test_links_are_listed_page_by_page(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    for n in range(51):
        await gateway.client.post("/v1/tenants/acme/connect-links", json={"owner": f"owner-{n}"})
    first = (await ann.get(AT)).text
    following = html.unescape(re.findall(r'href="([^"]+)" rel="next"', first)[0])
    rest = (await ann.get(following)).text
    assert (len(open_links(first)), len(open_links(rest))) == (50, 1)
    assert set(open_links(first)) & set(open_links(rest)) == set()
