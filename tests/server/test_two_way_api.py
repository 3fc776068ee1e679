"""`mailgate serve` and a real Dovecot: what a client asks over HTTP is at the mail server a moment later, seen there by
Python's own IMAP client; what the server refuses is taken back.
"""

from __future__ import annotations

import asyncio
import imaplib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mailgate.clock import DAY, SECOND, system_clock, to_rfc3339
from tests.dovecot import Account, Dovecot, modified_utf7
from tests.servers import free_port
from tests.sync.engine import mail
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.server

TOKEN = "a-token-of-the-two-way-tests"
HUGE = 48 << 20
TYPE = {"content-type": "message/rfc822"}


@dataclass
class Served:
    """A gateway in a process of its own, with one mailbox."""

    client: httpx.AsyncClient
    process: subprocess.Popen[bytes]
    account: Account
    mailbox_id: str = ""

    async def ask(self, method: str, path: str, *, status: int = 202, **more: Any) -> dict[str, Any]:
        answer = await self.client.request(method, path, **more)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, path: str) -> dict[str, Any]:
        return await self.ask("GET", path, status=200)

    async def done(self, answer: dict[str, Any], state: str = "applied") -> dict[str, Any]:
        """Wait for the end of what was asked."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE_S):
            for operation in answer.get("operation_ids") or [answer["operation_id"]]:
                while (found := await self.get(f"/operations/{operation}"))["state"] == "pending":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                assert found["state"] == state, found
        return found

    async def by_subject(self, subject: str) -> dict[str, Any] | None:
        items = (await self.get("/messages"))["items"]
        return next((item for item in items if item["subject"] == subject), None)

    async def folder(self, name: str) -> dict[str, Any]:
        items = (await self.get(f"/mailboxes/{self.mailbox_id}/folders"))["items"]
        return next(item for item in items if item["name"] == name)

    async def append(self, raw: bytes, folder: str, **query: str) -> dict[str, Any]:
        params = {"folder_id": (await self.folder(folder))["id"], **query}
        path = f"/mailboxes/{self.mailbox_id}/messages"
        return await self.ask("POST", path, params=params, content=raw, headers=TYPE)

    def at_server(self, folder: str) -> list[tuple[frozenset[str], bytes]]:
        return [*self.account.originals(folder).values()]

    def folders(self) -> set[str]:
        with self.line() as line:
            found = line.list()[1]
        return {item.decode().rpartition('"/" ')[2].strip('"') for item in found if isinstance(item, bytes)}

    @contextmanager
    def line(self) -> Iterator[imaplib.IMAP4]:
        line = self.account.imap()
        try:
            yield line
        finally:
            line.logout()

    def memory_mb(self) -> float:
        """The most that the process ever had resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`mailgate serve` on embedded defaults; its address."""
    folder = tmp_path_factory.mktemp("serve")
    port = free_port()
    environment = {
        **os.environ,
        "MAILGATE_DATA_DIR": str(folder / "data"),
        "MAILGATE_ADMIN_TOKEN": TOKEN,
        "MAILGATE_HTTP__PORT": str(port),
        "MAILGATE_NET__ALLOW": json.dumps(["127.0.0.0/8"]),
        "MAILGATE_SYNC__POLL_INTERVAL_S": "1",
    }
    with (folder / "serve.log").open("wb") as log:
        command = [sys.executable, "-m", "mailgate.cli", "serve"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}", process
    process.terminate()
    process.wait(200)


@pytest.fixture
async def served(
    gateway: tuple[str, subprocess.Popen[bytes]], dovecot: Dovecot, dovecot_account: Account
) -> AsyncIterator[Served]:
    base, process = gateway
    received_at = (system_clock() - 2 * DAY) // SECOND * SECOND
    for number in range(3):
        dovecot_account.add(mail(number), received_at=received_at + number * SECOND)
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        async with asyncio.timeout(PATIENCE_S):
            while not await ready(client, base):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        tenant = f"{base}/v1/tenants/{dovecot_account.name.replace('@', '-')}"
        await client.put(tenant, json={"name": "Acme"})
        await client.put(f"{tenant}/subscription", json={"plan": "professional"})
        client.base_url = httpx.URL(tenant)
        imap = {"host": dovecot.host, "port": dovecot.port, "security": "none"}
        imap |= {"username": dovecot_account.name, "auth": {"password": dovecot_account.password}}
        made = Served(client, process, dovecot_account)
        body = {"address": "ann@acme.example", "imap": imap}
        made.mailbox_id = (await made.ask("POST", "/mailboxes", status=201, json=body))["id"]
        async with asyncio.timeout(PATIENCE_S):
            while (await made.get(f"/mailboxes/{made.mailbox_id}"))["state"] != "live":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield made


async def ready(client: httpx.AsyncClient, base: str) -> bool:
    try:
        return (await client.get(f"{base}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_messages(served: Served) -> None:
    ids = {}
    for number in range(3):
        found = await served.by_subject(f"Number {number}")
        assert found is not None
        ids[number] = found["id"]
    trash, archive = await served.folder("Trash"), await served.folder("Archive")
    everywhere = [
        await served.ask("PATCH", f"/messages/{ids[0]}", json={"flags": {"add": ["\\Seen", "\\Flagged", "$Work"]}}),
        await served.ask("PATCH", f"/messages/{ids[1]}", json={"folder_id": archive["id"]}),
        await served.ask("DELETE", f"/messages/{ids[2]}"),
    ]
    for answer in everywhere:
        await served.done(answer)
    assert served.at_server("INBOX") == [(frozenset({"\\Seen", "\\Flagged", "$Work"}), mail(0))]
    assert served.at_server("Archive") == [(frozenset(), mail(1))]
    assert served.at_server("Trash") == [(frozenset(), mail(2))]
    for number, folder in ((1, archive), (2, trash)):
        found = await served.get(f"/messages/{ids[number]}")
        assert [at["id"] for at in found["folders"]] == [folder["id"]]
        assert (found["pending_operations"], found["origin"]["present"]) == (0, True)

    for answer in (
        await served.ask("PATCH", f"/messages/{ids[0]}", json={"flags": {"remove": ["\\Seen", "$work"]}}),
        await served.ask("DELETE", f"/messages/{ids[1]}", params={"permanent": "true"}),
        await served.ask("DELETE", f"/messages/{ids[2]}"),
    ):
        await served.done(answer)
    assert served.at_server("INBOX") == [(frozenset({"\\Flagged"}), mail(0))]
    assert served.at_server("Archive") == served.at_server("Trash") == []
    for number in (1, 2):
        await served.ask("GET", f"/messages/{ids[number]}", status=404)
    assert (await served.get(f"/mailboxes/{served.mailbox_id}"))["pending_operations"] == 0


async def test_an_appended_message_is_byte_identical(served: Served) -> None:
    raw = mail(7, body="Zeile mit Umlauten: äöü\r\n.\r\nFrom here\r\n\r\n" + "x" * 2_000)
    received_at = (system_clock() - DAY) // SECOND * SECOND
    query = {"flags": "\\Seen $Sent", "received_at": to_rfc3339(received_at)}
    asked = await served.append(raw.replace(b"\r\n", b"\n"), "Sent", **query)
    await served.done(asked)
    with served.line() as line:
        line.select("Sent", readonly=True)
        _, (dated,) = line.uid("FETCH", "1:*", "(INTERNALDATE)")
    assert isinstance(dated, bytes)
    moment = imaplib.Internaldate2tuple(dated)
    assert moment is not None
    assert time.mktime(moment) == received_at // SECOND
    assert served.at_server("Sent") == [(frozenset({"\\Seen", "$Sent"}), raw)]
    assert (await served.client.get(f"/messages/{asked['message_id']}/raw")).content == raw
    found = await served.get(f"/messages/{asked['message_id']}")
    assert (found["origin"]["present"], [at["name"] for at in found["folders"]]) == (True, ["Sent"])
    # The passes that follow know it: one message on both sides.
    run = await served.ask("POST", f"/mailboxes/{served.mailbox_id}/sync")
    async with asyncio.timeout(PATIENCE_S):
        while (await runs(served))[run["id"]] in ("queued", "running"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    items = (await served.get("/messages"))["items"]
    assert [item["id"] for item in items if item["subject"] == "Number 7"] == [asked["message_id"]]


async def runs(served: Served) -> dict[str, str]:
    found = (await served.get(f"/mailboxes/{served.mailbox_id}/runs"))["items"]
    return {run["id"]: run["state"] for run in found}


async def test_a_huge_message_goes_through_in_bounded_memory(served: Served) -> None:
    head = b"Subject: huge\r\nContent-Type: application/octet-stream\r\n\r\n"
    line = b"0123456789abcdef" * 4 + b"\r\n"
    count = HUGE // len(line)
    size = len(head) + count * len(line)

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        for _ in range(0, count, 1_000):
            yield line * 1_000

    count -= count % 1_000
    size = len(head) + count * len(line)
    before = served.memory_mb()
    params = {"folder_id": (await served.folder("Sent"))["id"]}
    path = f"/mailboxes/{served.mailbox_id}/messages"
    asked = await served.ask("POST", path, params=params, content=pieces(), headers=TYPE)
    await served.done(asked)
    ((_, raw),) = served.at_server("Sent")
    assert len(raw) == size
    assert raw.startswith(head)
    assert raw.count(line) == count
    grown = served.memory_mb() - before
    assert grown < HUGE / 2**20 / 2, f"{grown:.0f} MB more for a message of {HUGE >> 20}"


async def test_folders(served: Served) -> None:
    base = f"/mailboxes/{served.mailbox_id}/folders"
    made = await served.ask("POST", base, json={"name": "Projekte/Dächer & Co"})
    found = await served.by_subject("Number 0")
    assert found is not None
    moved = await served.ask("PATCH", f"/messages/{found['id']}", json={"folder_id": made["folder_id"]})
    renamed = await served.ask("PATCH", f"{base}/{made['folder_id']}", json={"name": "Fenster/日本"})
    for answer in (made, moved, renamed):
        await served.done(answer)
    assert served.at_server("Fenster/日本") == [(frozenset(), mail(0))]
    assert modified_utf7("Projekte/Dächer & Co") not in served.folders()
    shown = await served.get(f"/messages/{found['id']}")
    assert [(at["id"], at["name"]) for at in shown["folders"]] == [(made["folder_id"], "Fenster/日本")]

    await served.ask("DELETE", f"{base}/{made['folder_id']}", status=409)
    await served.done(await served.ask("DELETE", f"{base}/{made['folder_id']}", params={"permanent": "true"}))
    assert modified_utf7("Fenster/日本") not in served.folders()
    await served.ask("GET", f"/messages/{found['id']}", status=404)
    assert [raw for _, raw in served.at_server("INBOX")] == [mail(1), mail(2)]


async def test_what_the_server_refuses_is_taken_back(served: Served) -> None:
    base = f"/mailboxes/{served.mailbox_id}/folders"
    # Dovecot has no folder of such a name: the server says so, not the gateway.
    made = await served.ask("POST", base, json={"name": "~/Letters"})
    failed = await served.done(made, "failed")
    assert failed["reason"]
    names = [folder["name"] for folder in (await served.get(base))["items"]]
    assert not any(name.startswith("~") for name in names)


async def test_the_examples_of_the_documentation(served: Served, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    found = re.search(r"^## Changing mail$.*?^```sh$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    made = await served.ask("POST", f"/mailboxes/{served.mailbox_id}/folders", json={"name": "Examples"})
    message = await served.by_subject("Number 0")
    assert message is not None
    (tmp_path / "letter.eml").write_bytes(mail(9))
    environment = {
        **os.environ,
        "TOKEN": TOKEN,
        "ID": message["id"],
        "FOLDER": made["folder_id"],
        "MAILBOX": served.mailbox_id,
        "OPERATION": made["operation_id"],
    }
    example = found[1].replace("http://127.0.0.1:8025/v1/tenants/acme", str(served.client.base_url).rstrip("/"))
    script = f'set -e\ncurl() {{ command curl -fsS "$@"; echo; }}\n{example}'
    shell = ["bash", "-c", script]
    done = await asyncio.to_thread(
        subprocess.run, shell, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.count("{") >= 10
