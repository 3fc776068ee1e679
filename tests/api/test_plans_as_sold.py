"""What the offer says, message by message: how old a copy may get on each plan, and that what is attached stays."""

from __future__ import annotations

import pytest

from mailgate.clock import DAY
from tests.api.conftest import Gateway
from tests.api.mail import letter, postman

AGES = (0, 29, 31, 59, 61, 89)


@pytest.mark.parametrize(
    ("plan", "days"),
    [("free", 0), ("crm_plus", 30), ("demo", 30), ("standard", 60), ("professional", 90), ("nfr", 90)],
)
async def test_copies_stay_as_long_as_the_plan_says(gateway: Gateway, plan: str, days: int) -> None:
    post = await postman(gateway)  # imported on professional, which keeps all of them
    loose = {age: await post.deliver(letter(f"loose {age}"), age=age * DAY) for age in AGES}
    attached = {age: await post.deliver(letter(f"attached {age}"), age=age * DAY) for age in AGES}
    for message_id in attached.values():
        pinned = await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1")
        assert pinned.status_code == 201

    async def there() -> set[str]:
        listed = await gateway.client.get("/v1/tenants/acme/messages", params={"limit": 100})
        return {item["id"] for item in listed.json()["items"]}

    async def status(message_id: str) -> tuple[int, str | None]:
        got = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")
        return got.status_code, got.json()["type"].rpartition("/")[2].rpartition(":")[2] if got.is_error else None

    assert (await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": plan})).status_code == 200
    stay = {message_id for age, message_id in loose.items() if age < days}
    gone = set(loose.values()) - stay
    assert await there() == stay | set(attached.values())  # from the instant of the change, purge or not
    assert {await status(message_id) for message_id in gone} <= {(410, "expired")}

    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    assert await there() == stay | set(attached.values())
    assert {await status(message_id) for message_id in gone} <= {(410, "purged")}

    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    assert await there() == set(attached.values())
    for message_id in attached.values():
        raw = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/raw")
        assert (raw.status_code, raw.headers["content-type"]) == (200, "message/rfc822")
