"""Forms and addresses of the pages of webhooks and events that make no sense: refused with the reason, or not there."""

from __future__ import annotations

import pytest

from mailgate.admin.hook_words import EVENTS
from mailgate.admin.webhook_forms import areas
from mailgate.events.types import TYPES
from tests.api.conftest import Gateway
from tests.api.hooks import URL
from tests.api.people import person
from tests.api.test_pages_webhooks import made, text_of


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


def test_every_type_of_event_has_words() -> None:
    assert set(EVENTS) == {*TYPES, "webhook.test"}
    words = [type_ for _, _, types in areas(EVENTS) for type_, _ in types]
    assert sorted(words) == sorted(TYPES)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"url": ""}, "Write the address of the receiver."),
        ({"url": "http://crm.example/"}, "https"),
        ({"url": "https://ann:secret@crm.example/"}, "user"),
        ({"url": "https://127.0.0.1/"}, "private"),
        ({"url": "javascript:alert(1)"}, "https"),
        ({"url": "https://crm.example/" + "a" * 2_000}, "Write the address of the receiver."),
        ({"description": "a" * 201}, "Write at most 200 characters."),
        ({"tenant": "nobody"}, "nobody"),
    ],
)
async def test_what_can_not_be_an_endpoint_comes_back_with_the_reason(
    gateway: Gateway, form: dict[str, str], said: str
) -> None:
    ann = await person(gateway)
    await ann.get("/admin/webhooks/new")
    answer = await ann.post("/admin/webhooks/new", {"url": URL, "type:message.*": "1", **form})
    assert answer.status_code in (404, 422)
    assert said in text_of(answer)
    assert "checked" in answer.text  # what was ticked stays
    assert (await gateway.client.get("/v1/webhooks")).json()["items"] == []


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({}, 422, "give one"),
        ({"since": "yesterday"}, 422, "Write the time as year-month-day and hour:minute."),
        ({"since": "2026-02-31T10:00"}, 422, "Write the time"),
        ({"since": "2026-01-01T10:00", "after": "x"}, 422, "give one"),
        ({"after": "not a cursor"}, 400, "no cursor"),
    ],
)
async def test_a_place_that_is_none_is_refused(gateway: Gateway, form: dict[str, str], status: int, said: str) -> None:
    ann = await person(gateway)
    at, _ = await made(ann)
    await ann.get(at)
    answer = await ann.post(f"{at}/replay", form)
    assert answer.status_code == status
    assert said in text_of(answer)


@pytest.mark.parametrize(
    "event_id", ["acme", "acme:", "acme:x", "acme:-1", "acme:99999", "acme:" + "9" * 40, ":1", "acme:1%0A", "acme:١"]
)
async def test_an_event_that_is_none(gateway: Gateway, event_id: str) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    assert (await ann.get(f"/admin/events/{event_id}")).status_code == 404
