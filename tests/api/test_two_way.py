"""What is asked over HTTP arrives at the mail server, and what the server refuses is taken back visibly: the interface,
the store and the sync engine over an account in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.app.outside import supervisor_of
from mailgate.clock import DAY, SECOND, to_rfc3339
from mailgate.store.schema import log_leaves
from retention.ledger.schema import parse_leaf
from tests.api.conftest import START, Gateway
from tests.api.mail import letter

T = "/v1/tenants/acme"


@dataclass
class Connected:
    """A gateway with one mailbox of an account in memory."""

    gateway: Gateway
    account: MemoryAccount
    mailbox_id: str = ""

    async def sync(self, passes: int = 2) -> None:
        """Bring what was asked, and see what is there; what is gone is believed in the next pass."""
        for _ in range(passes):
            self.gateway.clock.forward(60 * SECOND)
            supervisor = supervisor_of(self.gateway.core, lambda _config: self.account.connect)
            await supervisor.sync_once(self.mailbox_id)

    async def ask(self, method: str, path: str, *, status: int = 202, **more: Any) -> dict[str, Any]:
        answer = await self.gateway.client.request(method, f"{T}{path}", **more)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, path: str) -> dict[str, Any]:
        return await self.ask("GET", path, status=200)

    async def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.get("/messages"))["items"]
        return found

    async def only(self) -> dict[str, Any]:
        (found,) = await self.messages()
        return found

    async def folder(self, name: str) -> str:
        found = (await self.get(f"/mailboxes/{self.mailbox_id}/folders"))["items"]
        return str(next(folder["id"] for folder in found if folder["name"] == name))

    async def state(self, operation_id: str) -> tuple[str, str | None]:
        found = await self.get(f"/operations/{operation_id}")
        return found["state"], found["code"]

    def at_server(self) -> dict[str, list[tuple[bytes, set[str]]]]:
        """Folder → its messages, each with its flags."""
        found = {
            name: [(message.raw, set(message.flags)) for message in folder.messages.values()]
            for name, folder in self.account.folders.items()
        }
        return {name: messages for name, messages in found.items() if messages}

    async def leaves(self, type_: str) -> list[dict[str, Any]]:
        async with self.gateway.core.db.read() as conn:
            query = select(log_leaves.c.body).where(log_leaves.c.type == type_).order_by(log_leaves.c.idx)
            return [parse_leaf(body) for body in (await conn.execute(query)).scalars()]


async def connect(gateway: Gateway, account: MemoryAccount) -> Connected:
    await gateway.tenant()
    made = Connected(gateway, account, (await gateway.mailbox("acme"))["id"])
    await made.sync(1)
    return made


@pytest.fixture
def account() -> MemoryAccount:
    made = MemoryAccount(now=START)
    made.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    made.append("INBOX", letter("first"), internal_date=START - DAY)
    return made


@pytest.fixture
async def two_way(gateway: Gateway, account: MemoryAccount) -> Connected:
    return await connect(gateway, account)


async def test_flags(two_way: Connected) -> None:
    id_ = (await two_way.only())["id"]
    asked = await two_way.ask("PATCH", f"/messages/{id_}", json={"flags": {"add": ["\\Seen", "$Work"]}})
    await two_way.sync()
    assert await two_way.state(asked["operation_id"]) == ("applied", None)
    assert two_way.at_server() == {"INBOX": [(letter("first"), {"\\Seen", "$Work"})]}
    assert (await two_way.only())["pending_operations"] == 0
    await two_way.ask("PATCH", f"/messages/{id_}", json={"flags": {"remove": ["$WORK"]}})
    await two_way.sync()
    assert two_way.at_server() == {"INBOX": [(letter("first"), {"\\Seen"})]}
    assert (await two_way.only())["flags"] == ["\\Seen"]


async def test_a_move_and_back(two_way: Connected) -> None:
    id_ = (await two_way.only())["id"]
    archive, inbox = await two_way.folder("Archive"), await two_way.folder("INBOX")
    asked = [
        await two_way.ask("PATCH", f"/messages/{id_}", json={"folder_id": archive}),
        await two_way.ask("PATCH", f"/messages/{id_}", json={"folder_id": inbox}),
        await two_way.ask("PATCH", f"/messages/{id_}", json={"folder_id": archive, "flags": {"add": ["\\Flagged"]}}),
    ]
    await two_way.sync()
    assert {await two_way.state(answer["operation_id"]) for answer in asked} == {("applied", None)}
    assert two_way.at_server() == {"Archive": [(letter("first"), {"\\Flagged"})]}
    found = await two_way.only()
    assert (found["id"], [folder["id"] for folder in found["folders"]]) == (id_, [archive])
    assert [at["folder_id"] for at in found["origin"]["locations"] if at["present"]] == [archive]


async def test_deleting_into_a_trash_that_has_to_be_made_and_then_for_ever(two_way: Connected) -> None:
    id_ = (await two_way.only())["id"]
    asked = await two_way.ask("DELETE", f"/messages/{id_}")
    await two_way.sync()
    assert {await two_way.state(operation) for operation in asked["operation_ids"]} == {("applied", None)}
    assert two_way.account.folders["Trash"].special_use is SpecialUse.TRASH
    assert two_way.at_server() == {"Trash": [(letter("first"), set())]}
    assert [folder["special_use"] for folder in (await two_way.only())["folders"]] == ["trash"]

    asked = await two_way.ask("DELETE", f"/messages/{id_}")
    assert await two_way.messages() == []
    await two_way.sync()
    assert await two_way.state(asked["operation_id"]) == ("applied", None)
    assert two_way.at_server() == {}
    (leaf,) = await two_way.leaves("item.remove")
    assert (leaf["reason"], leaf["original"], leaf["actor"]["kind"]) == ("user_deleted", "expunged_by_user", "token")
    await two_way.ask("DELETE", f"/messages/{id_}", status=404)
    assert (await two_way.get("/subscription"))["usage"]["storage_bytes"] == 0
    # What a person deleted and brought back may come.
    two_way.account.append("INBOX", letter("first"), internal_date=START - DAY)
    await two_way.sync()
    assert (await two_way.only())["id"] != id_


async def test_an_appended_message_is_one_message_on_both_sides(two_way: Connected) -> None:
    raw = letter("written here", "Zeile\n\n.\nEnde\n")
    query = {"folder_id": await two_way.folder("Archive"), "flags": "\\Seen", "received_at": to_rfc3339(START - DAY)}
    more: dict[str, Any] = {
        "params": query,
        "content": raw.replace(b"\r\n", b"\n"),
        "headers": {"content-type": "message/rfc822"},
    }
    asked = await two_way.ask("POST", f"/mailboxes/{two_way.mailbox_id}/messages", **more)
    await two_way.sync(3)
    assert await two_way.state(asked["operation_id"]) == ("applied", None)
    assert two_way.at_server()["Archive"] == [(raw, {"\\Seen"})]
    (message,) = two_way.account.folders["Archive"].messages.values()
    assert message.internal_date == START - DAY
    found = [item for item in await two_way.messages() if item["subject"] == "written here"]
    assert [item["id"] for item in found] == [asked["message_id"]]
    assert (found[0]["origin"]["present"], found[0]["pending_operations"]) == (True, 0)


async def test_folders_new_renamed_deleted(two_way: Connected) -> None:
    base = f"/mailboxes/{two_way.mailbox_id}/folders"
    made = await two_way.ask("POST", base, json={"name": "Projekte/Dächer"})
    id_ = (await two_way.only())["id"]
    await two_way.ask("PATCH", f"/messages/{id_}", json={"folder_id": made["folder_id"]})
    await two_way.ask("PATCH", f"{base}/{made['folder_id']}", json={"name": "Projekte/Fenster"})
    await two_way.sync()
    assert two_way.at_server() == {"Projekte/Fenster": [(letter("first"), set())]}
    found = await two_way.only()
    assert (found["id"], found["folders"][0]["name"]) == (id_, "Projekte/Fenster")
    assert found["folders"][0]["id"] == made["folder_id"]

    await two_way.ask("DELETE", f"{base}/{made['folder_id']}", status=409)
    gone = await two_way.ask("DELETE", f"{base}/{made['folder_id']}", params={"permanent": "true"})
    assert await two_way.messages() == []
    await two_way.sync()
    assert await two_way.state(gone["operation_id"]) == ("applied", None)
    assert "Projekte/Fenster" not in two_way.account.folders
    assert await two_way.messages() == []
    assert [leaf["reason"] for leaf in await two_way.leaves("item.remove")] == ["user_deleted"]


async def test_a_folder_that_got_mail_meanwhile_stays(two_way: Connected) -> None:
    two_way.account.create_folder("Old")
    await two_way.sync(1)
    base, folder = f"/mailboxes/{two_way.mailbox_id}/folders", await two_way.folder("Old")
    asked = await two_way.ask("DELETE", f"{base}/{folder}")
    two_way.account.append("Old", letter("just came"), internal_date=START)
    await two_way.sync()
    assert await two_way.state(asked["operation_id"]) == ("failed", "folder_changed")
    assert len(two_way.account.folders["Old"].messages) == 1
    assert await two_way.folder("Old") == folder
    assert {item["subject"] for item in await two_way.messages()} == {"first", "just came"}


async def test_what_the_server_refuses_is_taken_back(gateway: Gateway, account: MemoryAccount) -> None:
    account.keeps_flags = frozenset({"\\Seen"})
    two_way = await connect(gateway, account)
    id_ = (await two_way.only())["id"]
    account.faults.refusals = {"MOVE": "NOPERM", "EXPUNGE": "NOPERM", "APPEND": "NOPERM"}
    account.faults.refusals |= {"CREATE": "CANNOT", "RENAME": "CANNOT", "DELETE": "CANNOT"}
    account.create_folder("Old")
    await two_way.sync(1)
    base, old = f"/mailboxes/{two_way.mailbox_id}/folders", await two_way.folder("Old")
    body = {"flags": {"add": ["\\Seen", "$Work"]}, "folder_id": await two_way.folder("Archive")}
    patched = await two_way.ask("PATCH", f"/messages/{id_}", json=body)
    append: dict[str, Any] = {
        "params": {"folder_id": await two_way.folder("Archive")},
        "content": letter("mine"),
        "headers": {"content-type": "message/rfc822"},
    }
    added = await two_way.ask("POST", f"/mailboxes/{two_way.mailbox_id}/messages", **append)
    made = await two_way.ask("POST", base, json={"name": "New"})
    renamed = await two_way.ask("PATCH", f"{base}/{old}", json={"name": "Older"})
    await two_way.sync()
    asked = [*patched["operation_ids"], *(answer["operation_id"] for answer in (added, made, renamed))]
    assert {(await two_way.state(operation))[0] for operation in asked} == {"failed"}
    for operation in asked:
        assert (await two_way.get(f"/operations/{operation}"))["reason"]
    found = await two_way.only()
    assert (found["flags"], [folder["name"] for folder in found["folders"]]) == (["\\Seen"], ["INBOX"])
    names = {folder["name"] for folder in (await two_way.get(base))["items"]}
    assert names == {"INBOX", "Archive", "Old"}

    deleted = await two_way.ask("DELETE", f"/messages/{id_}", params={"permanent": "true"})
    dropped = await two_way.ask("DELETE", f"{base}/{old}")
    assert await two_way.messages() == []
    await two_way.sync()
    for answer in (deleted, dropped):
        assert (await two_way.state(answer["operation_id"]))[0] == "failed"
    assert (await two_way.only())["deleted_at"] is None
    assert await two_way.folder("Old") == old


async def test_what_was_asked_before_the_plan_ended_waits(two_way: Connected) -> None:
    id_ = (await two_way.only())["id"]
    await two_way.ask("PUT", f"/messages/{id_}/pins/deal/D-1", status=201)
    asked = await two_way.ask("PATCH", f"/messages/{id_}", json={"flags": {"add": ["\\Seen"]}})
    await two_way.ask("PUT", "/subscription", json={"plan": "free"}, status=200)
    said = len(two_way.account.commands)
    await two_way.sync()
    assert len(two_way.account.commands) == said, "not one command"
    assert (await two_way.state(asked["operation_id"]))[0] == "pending"
    await two_way.ask("PUT", "/subscription", json={"plan": "professional"}, status=200)
    await two_way.sync()
    assert (await two_way.state(asked["operation_id"]))[0] == "applied"
    assert two_way.at_server() == {"INBOX": [(letter("first"), {"\\Seen"})]}


async def test_a_copy_that_was_deleted_without_sync_stays_away_and_its_original_stays(two_way: Connected) -> None:
    id_ = (await two_way.only())["id"]
    path = f"/mailboxes/{two_way.mailbox_id}"
    await two_way.ask("PATCH", f"/messages/{id_}", json={"folder_id": await two_way.folder("Archive")})
    await two_way.ask("PATCH", path, json={"enabled": False}, status=200)
    answer = await two_way.ask("DELETE", f"/messages/{id_}", status=200)
    assert answer["scope"] == "copy"
    await two_way.ask("PATCH", path, json={"enabled": True}, status=200)
    await two_way.sync(3)
    assert two_way.at_server() == {"INBOX": [(letter("first"), set())]}
    assert await two_way.messages() == []
    two_way.account.move("INBOX", 1, "Archive")
    await two_way.sync(3)
    assert await two_way.messages() == []


async def test_labels(gateway: Gateway) -> None:
    account = MemoryAccount(now=START, labels=True)
    everything = "[Gmail]/All Mail"
    account.create_folder(everything, special_use=SpecialUse.ALL)
    account.append(everything, letter("first"), internal_date=START - DAY)
    account.store_labels(everything, 1, ["\\Inbox", "Old"])
    two_way = await connect(gateway, account)
    found = await two_way.only()
    assert found["labels"] == ["Old", "\\Inbox"]
    body = {"labels": {"add": ["Kunden"], "remove": ["old", "\\Inbox"]}}
    asked = await two_way.ask("PATCH", f"/messages/{found['id']}", json=body)
    await two_way.sync()
    assert await two_way.state(asked["operation_id"]) == ("applied", None)
    (message,) = account.folders[everything].messages.values()
    assert message.labels == frozenset({"Kunden"})
    assert (await two_way.only())["labels"] == ["Kunden"]
