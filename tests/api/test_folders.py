"""Folders over HTTP: new ones, other names, deletions; what shows at once, what is asked, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from mailgate.ids import new_id
from mailgate.store.schema import events, folders, messages
from mailgate.store.schema import operations as operations_table
from tests.api.conftest import START, Gateway
from tests.api.mail import Postman, letter, postman
from tests.postgres import before_the_database

T = "/v1/tenants/acme"


@pytest.fixture
async def post(gateway: Gateway) -> Postman:
    made = await postman(gateway)
    await made.folder()
    return made


async def rows(gateway: Gateway, table: Any) -> list[Any]:
    async with gateway.core.db.read() as conn:
        return list((await conn.execute(select(table))).all())


async def asked(gateway: Gateway) -> list[tuple[str, Any]]:
    found = sorted(await rows(gateway, operations_table), key=lambda row: row.seq)
    return [(row.kind, row.detail) for row in found]


async def listed(gateway: Gateway, post: Postman) -> list[tuple[str, str | None]]:
    found = (await gateway.client.get(f"{T}/mailboxes/{post.mailbox_id}/folders")).json()["items"]
    return [(folder["name"], folder["pending"]) for folder in found]


def address(post: Postman, folder_id: str | None = None) -> str:
    base = f"{T}/mailboxes/{post.mailbox_id}/folders"
    return base if folder_id is None else f"{base}/{folder_id}"


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


# New folders.


async def test_a_new_folder_is_there_at_once(gateway: Gateway, post: Postman) -> None:
    answer = await gateway.client.post(address(post), json={"name": "Projekte/Dächer"})
    assert answer.status_code == 202
    folder_id = answer.json()["folder_id"]
    assert await listed(gateway, post) == [("INBOX", None), ("Projekte/Dächer", "create")]
    assert await asked(gateway) == [("folder_create", {"name": "Projekte/Dächer", "special_use": None})]
    assert gateway.sync.woken[-1] == post.mailbox_id
    (event,) = [row for row in await rows(gateway, events) if row.type == "folder.created"]
    assert event.payload == {"folder_id": folder_id}
    id_ = await post.deliver(letter())
    moved = await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": folder_id})
    assert moved.status_code == 202, "what is asked later is brought later"
    mailbox = (await gateway.client.get(f"{T}/mailboxes/{post.mailbox_id}")).json()
    assert mailbox["pending_operations"] == 2


async def test_rules_say_whether_a_new_folder_is_followed(gateway: Gateway) -> None:
    await gateway.tenant()
    mailbox = await gateway.mailbox("acme", folders={"exclude": ["Private*"]})
    post = Postman(gateway, "acme", mailbox["id"])
    for name in ("Private/Diary", "Work"):
        await gateway.client.post(address(post), json={"name": name})
    found = (await gateway.client.get(address(post))).json()["items"]
    assert {folder["name"]: folder["followed"] for folder in found} == {"Private/Diary": False, "Work": True}


@before_the_database
@pytest.mark.parametrize(
    "name",
    [
        *("/a", "a/", "a//b", " a", "a ", "a/ b", "\u2063x", "\u2028", "a\u2029b", "\u0085".join("ab"), "\u2003", "/"),
        pytest.param("ä" * 251, id="too long"),
        *("a*", "100%", "a\tb", "a\r\nb"),
    ],
)
async def test_names_that_no_folder_can_have(gateway: Gateway, post: Postman, name: str) -> None:
    folder = await post.folder("Old")
    answers = [
        await gateway.client.post(address(post), json={"name": name}),
        await gateway.client.patch(address(post, folder), json={"name": name}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["type"] in ("name_invalid", "invalid")
    assert await asked(gateway) == []


async def test_names_are_as_servers_keep_them(gateway: Gateway, post: Postman) -> None:
    await gateway.client.post(address(post), json={"name": "Da\u0308cher & \U0001f3e0"})
    assert (await asked(gateway))[0][1]["name"] == "D\u00e4cher & \U0001f3e0"


async def test_a_name_that_is_taken(gateway: Gateway, post: Postman) -> None:
    there = await post.folder("There")
    await post.folder("Leaving", on_its_way="delete")
    renamed = await post.folder("Before")
    await post.folder("Before/Below")
    assert (await gateway.client.patch(address(post, renamed), json={"name": "After"})).status_code == 202
    for name in ("There", "Leaving", "Before", "After", "Before/Below", "After/Below", "INBOX", "inbox", "Inbox"):
        answer = await gateway.client.post(address(post), json={"name": name})
        assert refused(answer) == (409, "folder_exists"), name
        answer = await gateway.client.patch(address(post, there), json={"name": name})
        assert answer.status_code == (200 if name == "There" else 409), name
    assert len(await asked(gateway)) == 1


async def test_a_name_of_a_folder_that_went_is_free(gateway: Gateway, post: Postman) -> None:
    old = await post.folder("Projects", gone_at=START)
    other = await post.folder("Other")
    answer = await gateway.client.post(address(post), json={"name": "Projects"})
    assert answer.status_code == 202
    assert answer.json()["folder_id"] != old
    (gone,) = [row for row in await rows(gateway, folders) if row.id == old]
    assert gone.name.startswith("Projects (gone ")
    assert refused(await gateway.client.patch(address(post, other), json={"name": "Projects"})) == (
        409,
        "folder_exists",
    )


# Other names.


async def test_a_renamed_folder_has_its_name_at_once_and_so_have_those_below(gateway: Gateway, post: Postman) -> None:
    folder, below = await post.folder("Old"), await post.folder("Old/Inner/Most")
    await post.folder("Older")
    id_ = await post.deliver(letter(), folder="Old/Inner/Most")
    answer = await gateway.client.patch(address(post, folder), json={"name": "New/Name"})
    assert answer.status_code == 202
    assert await listed(gateway, post) == [
        ("INBOX", None),
        ("New/Name", "rename"),
        ("New/Name/Inner/Most", "rename"),
        ("Older", None),
    ]
    assert (await gateway.client.get(f"{T}/messages/{id_}")).json()["folders"][0]["name"] == "New/Name/Inner/Most"
    assert await asked(gateway) == [("folder_rename", {"name": "New/Name", "from": "Old"})]
    assert [row.payload for row in await rows(gateway, events) if row.type == "folder.renamed"] == [
        {"folder_id": folder}
    ]
    again = await gateway.client.patch(address(post, folder), json={"name": "New/Name"})
    assert again.json() == answer.json()
    assert len(await asked(gateway)) == 1
    # One below it, by its name of now; and the first one once more.
    await gateway.client.patch(address(post, below), json={"name": "New/Name/Inner/Least"})
    await gateway.client.patch(address(post, folder), json={"name": "Third"})
    assert [detail for _, detail in await asked(gateway)][1:] == [
        {"name": "New/Name/Inner/Least", "from": "New/Name/Inner/Most"},
        {"name": "Third", "from": "New/Name"},
    ]


async def test_a_folder_is_not_moved_below_itself(gateway: Gateway, post: Postman) -> None:
    folder = await post.folder("A")
    assert refused(await gateway.client.patch(address(post, folder), json={"name": "A/B"})) == (422, "name_invalid")


@pytest.mark.parametrize("use", ["inbox", "trash", "sent", "drafts", "archive", "junk", "all"])
async def test_folders_with_a_use_are_protected(gateway: Gateway, post: Postman, use: str) -> None:
    folder = await post.folder("INBOX") if use == "inbox" else await post.folder("Above/Special", special_use=use)
    above = await post.folder("Above")
    for id_ in {folder, above} if use != "inbox" else {folder}:
        assert refused(await gateway.client.patch(address(post, id_), json={"name": "X"})) == (409, "folder_protected")
        assert refused(await gateway.client.delete(address(post, id_))) == (409, "folder_protected")


async def test_folders_that_are_not_there(gateway: Gateway, post: Postman) -> None:
    for folder in (
        new_id(START),
        await post.folder("Gone", gone_at=START),
        await post.folder("Leaving", on_its_way="delete"),
    ):
        for method, body in (("PATCH", {"name": "X"}), ("DELETE", None)):
            answer = await gateway.client.request(method, address(post, folder), json=body)
            assert refused(answer) == (404, "folder_not_found")


# Deletions.


async def test_an_empty_folder_goes_at_once(gateway: Gateway, post: Postman) -> None:
    folder = await post.folder("Old")
    answer = await gateway.client.delete(address(post, folder))
    assert answer.status_code == 202
    assert await listed(gateway, post) == [("INBOX", None)]
    assert await asked(gateway) == [("folder_delete", {"name": "Old", "exists": 0})]
    assert [row.payload for row in await rows(gateway, events) if row.type == "folder.deleted"] == [
        {"folder_id": folder}
    ]
    assert refused(await gateway.client.delete(address(post, folder))) == (404, "folder_not_found")


async def test_a_folder_with_messages_goes_only_with_them(gateway: Gateway, post: Postman) -> None:
    folder = await post.folder("Old", exists_count=5)
    ids = [await post.deliver(letter(str(number)), folder="Old") for number in range(3)]
    moved_in = await post.deliver(letter("in"))
    await gateway.client.patch(f"{T}/messages/{moved_in}", json={"folder_id": folder})
    await gateway.client.patch(f"{T}/messages/{ids[0]}", json={"folder_id": await post.folder()})
    answer = await gateway.client.delete(address(post, folder))
    assert refused(answer) == (409, "folder_not_empty")
    assert answer.json()["exists"] == 5, "two of its own, one that comes, and two without copies"
    await gateway.client.put(f"{T}/messages/{ids[1]}/pins/deal/D-1")
    answer = await gateway.client.delete(address(post, folder), params={"permanent": "true"})
    assert refused(answer) == (409, "pinned")
    await gateway.client.delete(f"{T}/messages/{ids[1]}/pins/deal/D-1")
    before = len(await asked(gateway))
    answer = await gateway.client.delete(address(post, folder), params={"permanent": "true"})
    assert answer.status_code == 202
    # Two messages at the server have no copy here: that many must be there when the folder goes, and no others.
    assert (await asked(gateway))[before:] == [("delete", {})] * 3 + [("folder_delete", {"name": "Old", "exists": 2})]
    hidden = {row.id for row in await rows(gateway, messages) if row.deleted_at is not None}
    assert hidden == {ids[1], ids[2], moved_in}
    assert {row.message_id for row in await rows(gateway, events) if row.type == "message.deleted"} == hidden
    assert [item["id"] for item in (await gateway.client.get(f"{T}/messages")).json()["items"]] == [ids[0]]


async def test_a_folder_with_folders_stays(gateway: Gateway, post: Postman) -> None:
    folder, below = await post.folder("Old"), await post.folder("Old/Inner")
    for query in ({}, {"permanent": "true"}):
        assert refused(await gateway.client.delete(address(post, folder), params=query)) == (409, "folder_not_empty")
    assert (await gateway.client.delete(address(post, below))).status_code == 202
    assert (await gateway.client.delete(address(post, folder))).status_code == 202


async def test_a_folder_that_only_holds_others(gateway: Gateway, post: Postman) -> None:
    """It is not shown, but a client may know it from the time when it held messages."""
    folder, below = await post.folder("Old", selectable=False), await post.folder("Old/Inner")
    answer = await gateway.client.delete(address(post, folder))
    assert refused(answer) == (409, "folder_not_empty")
    assert "1 folders below" in answer.json()["detail"]
    assert (await gateway.client.patch(address(post, folder), json={"name": "New"})).status_code == 202
    assert ("New/Inner", "rename") in await listed(gateway, post)
    assert (await gateway.client.delete(address(post, below))).status_code == 202
    assert (await gateway.client.delete(address(post, folder))).status_code == 202
    assert (await asked(gateway))[-1] == ("folder_delete", {"name": "New", "exists": 0})
    id_ = await post.deliver(letter())
    answer = await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": folder})
    assert refused(answer) == (404, "folder_not_found")


async def test_a_folder_is_made_of_one_that_only_holds_others(gateway: Gateway, post: Postman) -> None:
    folder, below = await post.folder("Old", selectable=False), await post.folder("Old/Inner")
    assert await listed(gateway, post) == [("INBOX", None), ("Old/Inner", None)]
    answer = await gateway.client.post(f"{T}/mailboxes/{post.mailbox_id}/folders", json={"name": "Old"})
    assert (answer.status_code, answer.json()["folder_id"]) == (202, folder)
    assert await listed(gateway, post) == [("INBOX", None), ("Old", "create"), ("Old/Inner", None)]
    assert await asked(gateway) == [("folder_create", {"name": "Old", "special_use": None})]
    assert [row.payload for row in await rows(gateway, events) if row.type == "folder.created"] == [
        {"folder_id": folder}
    ]
    again = await gateway.client.post(f"{T}/mailboxes/{post.mailbox_id}/folders", json={"name": "Old"})
    assert refused(again) == (409, "folder_exists")
    id_ = await post.deliver(letter())
    assert (await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": folder})).status_code == 202
    assert refused(await gateway.client.delete(address(post, folder))) == (409, "folder_not_empty")
    assert (await gateway.client.delete(address(post, below))).status_code == 202


async def test_one_that_only_holds_others_and_is_on_its_way_elsewhere_keeps_its_name(
    gateway: Gateway, post: Postman
) -> None:
    folder = await post.folder("Old", selectable=False)
    assert (await gateway.client.patch(address(post, folder), json={"name": "New"})).status_code == 202
    for name in ("Old", "New"):
        answer = await gateway.client.post(f"{T}/mailboxes/{post.mailbox_id}/folders", json={"name": name})
        assert refused(answer) == (409, "folder_exists")


async def test_what_is_moved_away_leaves_an_empty_folder(gateway: Gateway, post: Postman) -> None:
    folder = await post.folder("Old", exists_count=1)
    id_ = await post.deliver(letter(), folder="Old")
    await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": await post.folder()})
    assert (await gateway.client.delete(address(post, folder))).status_code == 202
    assert [kind for kind, _ in await asked(gateway)] == ["move", "folder_delete"]


@pytest.mark.parametrize("off", ["free", "switched off"])
async def test_without_sync_folders_stay_as_they_are(gateway: Gateway, post: Postman, off: str) -> None:
    folder = await post.folder("Old")
    if off == "free":
        await gateway.client.put(f"{T}/subscription", json={"plan": "free"})
    else:
        await gateway.client.patch(f"{T}/mailboxes/{post.mailbox_id}", json={"enabled": False})
    slug = "not_entitled" if off == "free" else "mailbox_disabled"
    for method, path, body in (
        ("POST", address(post), {"name": "New"}),
        ("PATCH", address(post, folder), {"name": "New"}),
        ("DELETE", address(post, folder), None),
    ):
        assert refused(await gateway.client.request(method, path, json=body)) == (409, slug)
    assert await listed(gateway, post) == [("INBOX", None), ("Old", None)]
