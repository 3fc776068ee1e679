"""Changes that the CRM asks for over HTTP: what shows at once, what is asked of the server, what is refused and why."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select, update

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, to_rfc3339
from mailgate.ids import new_id
from mailgate.store import operations
from mailgate.store.schema import events, holds, log_leaves, messages, origins, tombstones
from mailgate.store.schema import operations as operations_table
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import OperationState
from retention.ledger.schema import parse_leaf
from tests.api.conftest import START, Gateway
from tests.api.mail import Postman, letter, postman
from tests.postgres import before_the_database

T = "/v1/tenants/acme"


async def rows(gateway: Gateway, table: Any) -> list[Any]:
    async with gateway.core.db.read() as conn:
        return list((await conn.execute(select(table))).all())


async def asked(gateway: Gateway) -> list[tuple[str, Any]]:
    """Operations as (kind, detail), in order."""
    found = sorted(await rows(gateway, operations_table), key=lambda row: row.seq)
    return [(row.kind, row.detail) for row in found]


async def told(gateway: Gateway, *types: str) -> list[Any]:
    found = sorted(await rows(gateway, events), key=lambda row: row.seq)
    return [row for row in found if row.type in types]


async def finish(gateway: Gateway, state: OperationState = OperationState.APPLIED) -> None:
    """End the oldest operation as the push does, without its effects."""
    (row, *_) = sorted(
        (row for row in await rows(gateway, operations_table) if row.finished_at is None), key=lambda row: row.seq
    )

    async def work(tx: Transaction) -> None:
        await operations.finish(tx, "acme", operations.operation_of(row), state, gateway.clock())

    await gateway.core.db.transact(work)


async def change(gateway: Gateway, table: Any, **values: Any) -> None:
    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(table).values(**values))

    await gateway.core.db.transact(work)


async def hold(gateway: Gateway) -> None:
    values = {
        "id": new_id(START),
        "scope": "tenant",
        "matter": "M",
        "reason": "r",
        "placed_at": START,
        "placed_by": "x",
    }

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(insert(holds).values(tenant_id="acme", **values))

    await gateway.core.db.transact(work)


async def removals(gateway: Gateway) -> list[tuple[str, str, str]]:
    leaves = [parse_leaf(row.body) for row in await rows(gateway, log_leaves) if row.type == "item.remove"]
    return [(leaf["reason"], leaf["original"], leaf["actor"]["kind"]) for leaf in leaves]


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


@pytest.fixture
async def post(gateway: Gateway) -> Postman:
    made = await postman(gateway)
    await made.folder("Archive", special_use="archive")
    await made.folder("Trash", special_use="trash")
    return made


# Flags.


async def test_flags_show_at_once_and_are_asked_of_the_server(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter(), flags=frozenset({"\\Seen", "$Old"}))
    body = {"flags": {"add": ["\\Flagged", "$New"], "remove": ["\\Seen"]}}
    answer = await gateway.client.patch(f"{T}/messages/{id_}", json=body)
    assert answer.status_code == 202
    operation_id = answer.json()["operation_id"]
    assert answer.json() == {
        "message_id": id_,
        "scope": "both",
        "operation_id": operation_id,
        "operation_ids": [operation_id],
    }
    assert gateway.sync.woken[-1] == post.mailbox_id
    found = (await gateway.client.get(f"{T}/messages/{id_}")).json()
    assert found["flags"] == ["$New", "$Old", "\\Flagged"]
    assert found["pending_operations"] == 1
    for wanted, count in (({"flagged": "true"}, 1), ({"unseen": "false"}, 0)):
        assert len((await gateway.client.get(f"{T}/messages", params=wanted)).json()["items"]) == count
    assert await asked(gateway) == [("flags", {"add": ["$New", "\\Flagged"], "remove": ["\\Seen"]})]
    assert [row.flags for row in await rows(gateway, origins)] == [["$Old", "\\Seen"]]
    (event,) = await told(gateway, "message.updated")
    assert (event.message_id, event.payload["anchor_at"]) == (id_, START - DAY)

    shown = (await gateway.client.get(f"{T}/operations/{operation_id}")).json()
    assert (shown["state"], shown["kind"], shown["message_id"]) == ("pending", "flags", id_)
    assert shown["requested_by"] == "token:environment"
    await finish(gateway)
    shown = (await gateway.client.get(f"{T}/operations/{operation_id}")).json()
    assert (shown["state"], shown["finished_at"]) == ("applied", to_rfc3339(START))
    assert (await gateway.client.get(f"{T}/messages/{id_}")).json()["pending_operations"] == 0


async def test_nothing_is_asked_twice(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter(), flags=frozenset({"\\Seen", "$Work"}))
    for body in ({}, {"flags": {"add": ["\\Seen", "$WORK"], "remove": ["$nope"]}}, {"folder_id": await post.folder()}):
        answer = await gateway.client.patch(f"{T}/messages/{id_}", json=body)
        assert (answer.status_code, answer.json()["operation_id"]) == (200, None)
    first = await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"remove": ["$work"]}})
    again = await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"remove": ["$Work"]}})
    assert first.json() == again.json()
    assert (first.status_code, again.status_code) == (202, 202)
    assert await asked(gateway) == [("flags", {"add": [], "remove": ["$Work"]})]
    assert len(await told(gateway, "message.updated")) == 1


@before_the_database
@pytest.mark.parametrize(
    "flag",
    [
        "\\Deleted",
        "\\Recent",
        "\\deleted",
        "\\Foo",
        "\\*",
        "",
        " ",
        "a b",
        "a)",
        "ü",
        "a\r\n",
        "x" * 101,
        "{3}",
        "\x7f",
    ],
)
async def test_flags_that_are_none(gateway: Gateway, post: Postman, flag: str) -> None:
    id_ = await post.deliver(letter())
    for body in ({"add": [flag]}, {"remove": [flag]}):
        assert refused(await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": body})) == (422, "flag_invalid")
    assert await asked(gateway) == []


async def test_more_flags_than_a_message_can_have(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    first = {"flags": {"add": [f"$a{n}" for n in range(100)]}}
    assert (await gateway.client.patch(f"{T}/messages/{id_}", json=first)).status_code == 202
    answer = await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"add": ["$b"]}})
    assert refused(answer) == (422, "too_many_flags")
    both = {"flags": {"add": ["$x"], "remove": ["$X"]}}
    assert refused(await gateway.client.patch(f"{T}/messages/{id_}", json=both)) == (422, "flag_invalid")


async def test_flags_of_a_copy_without_an_original_are_its_own(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    await gateway.client.put(f"{T}/messages/{id_}/pins/deal/D-1")

    async def detach(tx: Transaction) -> None:
        await tx.conn.execute(origins.delete())

    await gateway.core.db.transact(detach)
    answer = await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"add": ["\\Seen"]}})
    assert (answer.status_code, answer.json()["scope"], answer.json()["operation_ids"]) == (200, "copy", [])
    found = (await gateway.client.get(f"{T}/messages/{id_}")).json()
    assert (found["flags"], found["origin"]["present"]) == (["\\Seen"], False)
    body = {"flags": {"add": ["\\Flagged"]}, "folder_id": await post.folder("Archive")}
    assert refused(await gateway.client.patch(f"{T}/messages/{id_}", json=body)) == (409, "no_original")
    assert (await gateway.client.get(f"{T}/messages/{id_}")).json()["flags"] == ["\\Seen"], "all of it, or nothing"


# Labels.


async def test_labels_where_the_server_has_them(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    body = {"labels": {"add": ["Kunden", "\\Starred"], "remove": ["\\Inbox"]}}
    assert refused(await gateway.client.patch(f"{T}/messages/{id_}", json=body)) == (409, "no_labels")
    await change(gateway, origins, labels=["\\Inbox"])
    await change(gateway, messages, labels=["\\Inbox"])
    assert (await gateway.client.patch(f"{T}/messages/{id_}", json=body)).status_code == 202
    assert (await gateway.client.get(f"{T}/messages/{id_}")).json()["labels"] == ["Kunden", "\\Starred"]
    assert await asked(gateway) == [("labels", {"add": ["Kunden", "\\Starred"], "remove": ["\\Inbox"]})]
    again = await gateway.client.patch(f"{T}/messages/{id_}", json={"labels": {"add": ["kunden"]}})
    assert again.status_code == 202
    assert len(await asked(gateway)) == 1
    odd = {"labels": {"add": ["\\Sent"]}}
    assert refused(await gateway.client.patch(f"{T}/messages/{id_}", json=odd)) == (422, "label_invalid")


# Moves.


async def test_a_move_shows_at_once_and_stays_where_the_server_has_it(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    inbox, archive = await post.folder(), await post.folder("Archive")
    answer = await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": archive})
    assert answer.status_code == 202
    found = (await gateway.client.get(f"{T}/messages/{id_}")).json()
    assert [folder["name"] for folder in found["folders"]] == ["Archive"]
    assert [(at["folder_id"], at["present"]) for at in found["origin"]["locations"]] == [(inbox, True)]
    for folder, count in ((inbox, 0), (archive, 1)):
        page = await gateway.client.get(f"{T}/messages", params={"folder": folder})
        assert len(page.json()["items"]) == count
    (row,) = await rows(gateway, operations_table)
    assert (row.kind, row.from_folder_id, row.folder_id) == ("move", inbox, archive)
    (event,) = await told(gateway, "message.moved")
    assert (event.payload["from_folder_id"], event.payload["folder_id"]) == (inbox, archive)
    again = await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": archive})
    assert again.json() == answer.json()


async def test_a_second_move_replaces_the_folder_and_both_are_brought_in_order(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    inbox, archive, other = await post.folder(), await post.folder("Archive"), await post.folder("Other")
    for folder in (archive, other, inbox):
        assert (await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": folder})).status_code == 202
    found = sorted(await rows(gateway, operations_table), key=lambda row: row.seq)
    assert [(row.from_folder_id, row.folder_id) for row in found] == [
        (inbox, archive),
        (archive, other),
        (other, inbox),
    ]
    shown = (await gateway.client.get(f"{T}/messages/{id_}")).json()
    assert [folder["id"] for folder in shown["folders"]] == [inbox]
    assert shown["pending_operations"] == 3


async def test_everything_in_one_request_is_asked_in_order(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    body = {"flags": {"add": ["\\Seen"]}, "folder_id": await post.folder("Archive")}
    answer = (await gateway.client.patch(f"{T}/messages/{id_}", json=body)).json()
    assert [kind for kind, _ in await asked(gateway)] == ["flags", "move"]
    listed = (await gateway.client.get(f"{T}/operations", params={"message": id_, "state": "pending"})).json()["items"]
    assert {item["id"] for item in listed} == set(answer["operation_ids"])
    assert answer["operation_id"] == answer["operation_ids"][-1]
    mailbox = (await gateway.client.get(f"{T}/mailboxes/{post.mailbox_id}")).json()
    assert mailbox["pending_operations"] == 2


async def test_folders_that_nothing_can_be_moved_to(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    await gateway.tenant("other")
    elsewhere = await gateway.mailbox("other", "zoe@other.example")
    theirs = Postman(gateway, "other", elsewhere["id"])
    for folder in (
        new_id(START),
        await theirs.folder("Archive"),
        await post.folder("Gone", gone_at=START),
        await post.folder("Deleting", on_its_way="delete"),
        await post.folder("Container", selectable=False),
    ):
        answer = await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": folder})
        assert refused(answer) == (404, "folder_not_found")
    left_out = await post.folder("Left out", followed=False)
    answer = await gateway.client.patch(f"{T}/messages/{id_}", json={"folder_id": left_out})
    assert refused(answer) == (409, "folder_not_followed")


# Deleting.


async def test_deleting_moves_to_trash_and_then_for_ever(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    first = await gateway.client.delete(f"{T}/messages/{id_}")
    assert (first.status_code, first.json()["scope"]) == (202, "both")
    shown = (await gateway.client.get(f"{T}/messages/{id_}")).json()
    assert [folder["special_use"] for folder in shown["folders"]] == ["trash"]
    # Repeated while it is on its way (the answer was lost): not a deletion for ever.
    assert (await gateway.client.delete(f"{T}/messages/{id_}")).json() == first.json()
    assert await asked(gateway) == [("move", {})]
    await finish(gateway)
    await change(gateway, origins, folder_id=await post.folder("Trash"))
    await change(gateway, messages, moving_to=None)

    gone = await gateway.client.delete(f"{T}/messages/{id_}")
    assert gone.status_code == 202
    assert (await gateway.client.delete(f"{T}/messages/{id_}")).json() == gone.json()
    assert [kind for kind, _ in await asked(gateway)] == ["move", "delete"]
    assert len(await told(gateway, "message.deleted")) == 1


@pytest.mark.parametrize("permanent", [True, False])
async def test_a_deleted_message_is_hidden_from_all_but_compliance(
    gateway: Gateway, post: Postman, permanent: bool
) -> None:
    folder = "INBOX" if permanent else "Trash"
    id_ = await post.deliver(letter("Secret plan"), folder=folder)
    thread = (await gateway.client.get(f"{T}/messages/{id_}")).json()["thread_id"]
    before = (await gateway.client.get(f"{T}/subscription")).json()["usage"]
    path = f"{T}/messages/{id_}"
    answer = await gateway.client.delete(path, params={"permanent": str(permanent).lower()})
    assert answer.status_code == 202
    for address in (path, f"{path}/raw", f"{path}/parts/1", f"{T}/threads/{thread}"):
        assert (await gateway.client.get(address)).status_code == 404, address
    for query in ({}, {"q": "secret"}, {"thread": thread}, {"folder": await post.folder(folder)}):
        assert (await gateway.client.get(f"{T}/messages", params=query)).json()["items"] == []
    assert refused(await gateway.client.patch(path, json={"flags": {"add": ["$x"]}})) == (404, "message_not_found")
    assert refused(await gateway.client.put(f"{path}/pins/deal/D-1")) == (409, "deleted")
    # Its bytes are there until the server has expunged it: they count.
    assert (await gateway.client.get(f"{T}/subscription")).json()["usage"] == before
    async with await gateway.token("compliance", tenant_id="acme") as client:
        shown = (await client.get(path)).json()
        assert (shown["deleted_at"], shown["subject"], shown["text"]) == (to_rfc3339(START), "Secret plan", None)
        assert [item["id"] for item in (await client.get(f"{T}/messages")).json()["items"]] == [id_]
        assert (await client.get(f"{T}/threads/{thread}")).status_code == 200
    async with await gateway.token("compliance", "crm") as client:
        shown = (await client.get(path)).json()
        assert (shown["deleted_at"], shown["text"], shown["snippet"]) == (to_rfc3339(START), None, None)
        assert (await client.get(f"{path}/raw")).status_code == 404


async def test_what_is_pinned_is_not_deleted(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    await gateway.client.put(f"{T}/messages/{id_}/pins/deal/D-1")
    for query in ({}, {"permanent": "true"}):
        answer = await gateway.client.delete(f"{T}/messages/{id_}", params=query)
        assert refused(answer) == (409, "pinned")
        assert answer.json()["pins"] == 1
    await gateway.client.delete(f"{T}/messages/{id_}/pins/deal/D-1")
    assert (await gateway.client.delete(f"{T}/messages/{id_}")).status_code == 202


async def test_an_account_without_trash_gets_one_first(gateway: Gateway) -> None:
    post = await postman(gateway)
    first, second = await post.deliver(letter("1")), await post.deliver(letter("2"))
    answer = (await gateway.client.delete(f"{T}/messages/{first}")).json()
    assert len(answer["operation_ids"]) == 2
    await gateway.client.delete(f"{T}/messages/{second}")
    assert await asked(gateway) == [
        ("folder_create", {"name": "Trash", "special_use": "trash"}),
        ("move", {}),
        ("move", {}),
    ]
    folders = (await gateway.client.get(f"{T}/mailboxes/{post.mailbox_id}/folders")).json()["items"]
    assert [(folder["name"], folder["special_use"], folder["pending"]) for folder in folders] == [
        ("INBOX", "inbox", None),
        ("Trash", "trash", "create"),
    ]


@pytest.mark.parametrize(("there", "made"), [(["INBOX.Sent"], "INBOX.Trash"), (["Sent"], "Trash"), ([], "Trash")])
async def test_trash_is_made_where_the_other_folders_are(gateway: Gateway, there: list[str], made: str) -> None:
    post = await postman(gateway)
    await post.folder("INBOX", delimiter=".")
    for name in there:
        await post.folder(name, delimiter=".")
    await gateway.client.delete(f"{T}/messages/{await post.deliver(letter())}")
    assert (await asked(gateway))[0][1]["name"] == made


async def test_a_folder_called_trash_is_taken_for_it(gateway: Gateway) -> None:
    post = await postman(gateway)
    trash = await post.folder("TRASH")
    await gateway.client.delete(f"{T}/messages/{await post.deliver(letter())}")
    (row,) = await rows(gateway, operations_table)
    assert (row.kind, row.folder_id) == ("move", trash)


@pytest.mark.parametrize("off", ["free", "switched off"])
async def test_without_sync_only_the_copy_is_deleted_and_never_more(gateway: Gateway, post: Postman, off: str) -> None:
    id_, other = await post.deliver(letter("1")), await post.deliver(letter("2"))
    await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"add": ["\\Seen"]}})
    if off == "free":
        await gateway.client.put(f"{T}/subscription", json={"plan": "free"})
        slug = "not_entitled"
    else:
        await gateway.client.patch(f"{T}/mailboxes/{post.mailbox_id}", json={"enabled": False})
        slug = "mailbox_disabled"
    for body in ({"flags": {"add": ["\\Flagged"]}}, {"folder_id": await post.folder("Archive")}, {}):
        answer = await gateway.client.patch(f"{T}/messages/{other}", json=body)
        assert refused(answer) == (409, slug)
        assert answer.json().get("plan") == ("free" if off == "free" else None)
    woken = len(gateway.sync.woken)
    answer = await gateway.client.delete(f"{T}/messages/{id_}")
    assert answer.status_code == 200
    assert answer.json() == {"message_id": id_, "scope": "copy", "operation_id": None, "operation_ids": []}
    assert len(gateway.sync.woken) == woken
    (flags,) = await rows(gateway, operations_table)
    assert (flags.state, flags.code) == ("failed", "deleted")
    assert len(await told(gateway, "message.deleted")) == 1
    assert await removals(gateway) == [("user_deleted", "untouched", "token")]
    (grave,) = await rows(gateway, tombstones)
    assert (grave.message_id, grave.reason, grave.folder, grave.uid) == (id_, "user_deleted", "INBOX", 1)
    for method, address, status in (
        ("GET", f"{T}/messages/{id_}", 404),
        ("DELETE", f"{T}/messages/{id_}", 404),
        ("PUT", f"{T}/messages/{id_}/pins/deal/D-1", 409),
    ):
        assert (await gateway.client.request(method, address)).status_code == status
    await gateway.client.put(f"{T}/messages/{other}/pins/deal/D-1")
    assert refused(await gateway.client.delete(f"{T}/messages/{other}")) == (409, "pinned")


async def test_what_is_held_is_hidden_where_only_the_copy_can_be_deleted(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    await hold(gateway)
    await gateway.client.put(f"{T}/subscription", json={"plan": "free"})
    answer = await gateway.client.delete(f"{T}/messages/{id_}")
    assert (answer.status_code, answer.json()["scope"]) == (200, "copy")
    assert len(await told(gateway, "message.deleted")) == 1
    assert await removals(gateway) == []
    assert (await gateway.client.get(f"{T}/messages/{id_}")).status_code == 404
    async with await gateway.token("compliance") as client:
        found = (await client.get(f"{T}/messages/{id_}")).json()
        assert (found["held"], found["deleted_at"]) == (True, to_rfc3339(START))
        assert found["origin"]["present"] is True, "nothing was done at the server, and nothing will be"


async def test_a_copy_without_an_original_ends_with_its_deletion(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())

    async def detach(tx: Transaction) -> None:
        await tx.conn.execute(origins.delete())

    await gateway.core.db.transact(detach)
    answer = await gateway.client.delete(f"{T}/messages/{id_}")
    assert (answer.status_code, answer.json()["scope"]) == (200, "copy")
    assert await rows(gateway, messages) == []
    assert await rows(gateway, tombstones) == [], "what a person deleted and brought back may come"


async def test_what_is_expired_or_purged_says_so(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter(), age=80 * DAY)
    gateway.clock.forward(20 * DAY)
    path = f"{T}/messages/{id_}"
    body = {"flags": {"add": ["\\Seen"]}}
    assert refused(await gateway.client.delete(path)) == (410, "expired")
    assert refused(await gateway.client.patch(path, json=body)) == (410, "expired")
    await gateway.core.retention.run(actor=SYSTEM)
    assert refused(await gateway.client.delete(path)) == (410, "purged")
    assert refused(await gateway.client.patch(path, json=body)) == (410, "purged")


async def test_of_a_removed_mailbox_nothing_can_be_changed(gateway: Gateway, post: Postman) -> None:
    id_ = await post.deliver(letter())
    await gateway.client.put(f"{T}/messages/{id_}/pins/deal/D-1")
    await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"add": ["$late"]}})
    await gateway.client.delete(f"{T}/mailboxes/{post.mailbox_id}")
    path = f"{T}/messages/{id_}"
    found = (await gateway.client.get(path)).json()
    assert (found["origin"]["present"], found["folders"]) == (False, [])
    (waiting,) = await rows(gateway, operations_table)
    assert (waiting.state, waiting.code) == ("failed", "mailbox_removed")
    assert [row.payload["code"] for row in await told(gateway, "operation.failed")] == ["mailbox_removed"]
    answer = await gateway.client.patch(path, json={"flags": {"add": ["\\Seen"]}})
    assert refused(answer) == (409, "mailbox_removed")
    assert refused(await gateway.client.delete(path)) == (409, "pinned")
    answer = await gateway.client.post(f"{T}/mailboxes/{post.mailbox_id}/folders", json={"name": "New"})
    assert refused(answer) == (409, "mailbox_removed")


# Operations.


async def test_operations_are_listed_by_mailbox_message_and_state(gateway: Gateway, post: Postman) -> None:
    first, second = await post.deliver(letter("1")), await post.deliver(letter("2"))
    for id_ in (first, second):
        for flag in ("$a", "$b"):
            await gateway.client.patch(f"{T}/messages/{id_}", json={"flags": {"add": [flag]}})
    await finish(gateway)
    await finish(gateway, OperationState.FAILED)

    async def listed(**query: str) -> list[tuple[str, str]]:
        found = (await gateway.client.get(f"{T}/operations", params=query)).json()["items"]
        return sorted((item["message_id"], item["state"]) for item in found)

    assert len(await listed()) == len(await listed(mailbox=post.mailbox_id)) == 4
    assert await listed(message=first) == [(first, "applied"), (first, "failed")]
    assert await listed(state="pending") == [(second, "pending")] * 2
    assert await listed(state="failed") == [(first, "failed")]
    assert await listed(mailbox=new_id(START)) == []
    page = (await gateway.client.get(f"{T}/operations", params={"limit": "3"})).json()
    rest = await gateway.client.get(f"{T}/operations", params={"limit": "3", "cursor": page["next_cursor"]})
    assert len(rest.json()["items"]) == 1
    answer = await gateway.client.get(f"{T}/operations/{new_id(START)}")
    assert refused(answer) == (404, "operation_not_found")


async def test_a_purged_message_is_asked_for(gateway: Gateway, post: Postman) -> None:
    message_id = await post.deliver(letter(), age=89 * DAY)
    path = f"{T}/messages/{message_id}"
    living = await gateway.client.post(f"{path}/rehydrate")
    assert refused(living) == (409, "not_purged")
    gateway.clock.forward(2 * DAY)
    await gateway.core.retention.run(actor=SYSTEM)
    late = await gateway.client.put(f"{path}/pins/deal/D-1")
    assert refused(late) == (409, "purged")
    assert "rehydrate" in late.json()["detail"]
    body = {"pins": [{"entity_type": "deal", "entity_id": "D-1", "note": "why"}]}
    answer = await gateway.client.post(f"{path}/rehydrate", json=body)
    assert answer.status_code == 202
    again = await gateway.client.post(f"{path}/rehydrate")
    assert again.json() == answer.json()
    operation = (await gateway.client.get(f"{T}/operations/{answer.json()['operation_id']}")).json()
    assert (operation["kind"], operation["state"], operation["message_id"]) == ("rehydrate", "pending", message_id)
    assert post.mailbox_id in gateway.sync.woken
    assert refused(await gateway.client.get(path)) == (410, "purged")
    await change(gateway, tombstones, gone_at=gateway.clock())
    assert refused(await gateway.client.post(f"{path}/rehydrate")) == (410, "original_gone")
    other = await gateway.client.post(f"{T}/messages/{'0' * 26}/rehydrate")
    assert refused(other) == (404, "message_not_found")
    broken = await gateway.client.post(f"{path}/rehydrate", json={"pins": [{"entity_type": "deal"}]})
    assert broken.status_code == 422


async def test_what_is_not_entitled_brings_nothing_back(gateway: Gateway, post: Postman) -> None:
    message_id = await post.deliver(letter())
    await gateway.client.put(f"{T}/subscription", json={"plan": "free"})
    await gateway.core.retention.run(actor=SYSTEM)
    answer = await gateway.client.post(f"{T}/messages/{message_id}/rehydrate")
    assert refused(answer) == (409, "not_entitled")
