"""An older backup of the database is put back beside a real Dovecot, with the commands of docs/backup.md: copies that
were purged and brought back since keep their ids and pins, and their bytes are fetched again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mailgate.clock import DAY, SECOND, system_clock
from mailgate.store.pins import RESTORED
from tests.dovecot import Account, Dovecot
from tests.servers import free_port
from tests.sync.engine import mail

pytestmark = [pytest.mark.server, pytest.mark.soak, pytest.mark.timeout(600)]

TOKEN = "a-token-of-the-tests-of-restore"
ACME = "/tenants/acme"
PATIENCE_S = 240


@dataclass
class Installation:
    """What `mailgate` is told, and where its database lies."""

    folder: Path
    account: Account
    port: int

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "MAILGATE_DATA_DIR": str(self.folder / "data"),
            "MAILGATE_LEDGER__WITNESS": str(self.folder / "witness"),
            "MAILGATE_ADMIN_TOKEN": TOKEN,
            "MAILGATE_HTTP__PORT": str(self.port),
            "MAILGATE_NET__ALLOW": json.dumps(["127.0.0.0/8"]),
            "MAILGATE_SYNC__POLL_INTERVAL_S": "1",
        }

    @property
    def database(self) -> Path:
        return self.folder / "data" / "mailgate.db"

    def command(self, *words: str) -> str:
        command = [sys.executable, "-m", "mailgate.cli", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def back_up(self, to: Path) -> None:
        """`sqlite3 mailgate.db ".backup …"`"""
        with closing(sqlite3.connect(self.database)) as live, closing(sqlite3.connect(to)) as backup:
            live.backup(backup)

    async def erased(self) -> bool:
        """Whether the bytes of all that was purged are gone, too."""
        with closing(sqlite3.connect(self.database)) as live:
            return bool(live.execute("SELECT count(*) FROM blob_erasures").fetchone() == (0,))

    def put_back(self, backup: Path) -> None:
        for suffix in ("-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)
        self.database.write_bytes(backup.read_bytes())

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "serve.log").open("ab") as log:
            command = [sys.executable, "-m", "mailgate.cli", "serve"]
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[httpx.AsyncClient]:
        base, headers = f"http://127.0.0.1:{self.port}", {"authorization": f"Bearer {TOKEN}"}
        with self.process():
            async with httpx.AsyncClient(base_url=f"{base}/v1", headers=headers, timeout=60) as client:
                await until(lambda: answers(client, f"{base}/readyz"))
                yield client


async def answers(client: httpx.AsyncClient, path: str, content: bytes | None = None, status: int = 200) -> bool:
    try:
        answer = await client.get(path)
    except httpx.TransportError:
        return False
    return answer.status_code == status and (content is None or answer.content == content)


async def until(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture
def installation(tmp_path: Path, dovecot_account: Account) -> Installation:
    received_at = (system_clock() - 40 * DAY) // SECOND * SECOND
    for number in range(4):
        dovecot_account.add(mail(number), received_at=received_at + number * SECOND)
    return Installation(tmp_path, dovecot_account, free_port())


async def connect(client: httpx.AsyncClient, account: Account, dovecot: Dovecot) -> dict[str, str]:
    """A tenant with the mailbox; the ids of its messages by subject, once they are here."""
    await client.put(ACME, json={"name": "Acme"})
    await client.put(f"{ACME}/subscription", json={"plan": "professional"})
    imap = {"host": dovecot.host, "port": dovecot.port, "security": "none"}
    imap |= {"username": account.name, "auth": {"password": account.password}}
    made = await client.post(f"{ACME}/mailboxes", json={"address": "ann@acme.example", "imap": imap})
    await until(lambda: has_state(client, f"{ACME}/mailboxes/{made.json()['id']}", "live"))
    return {item["subject"]: item["id"] for item in (await client.get(f"{ACME}/messages")).json()["items"]}


async def has_state(client: httpx.AsyncClient, path: str, state: str) -> bool:
    return bool((await client.get(path)).json()["state"] == state)


async def test_what_was_purged_and_brought_back_since_the_backup_is_read_again(
    installation: Installation, dovecot: Dovecot
) -> None:
    """The first with a pin, the second without; the others were not brought back."""
    backup = installation.folder / "backup.db"
    async with installation.served() as client:
        ids = await connect(client, installation.account, dovecot)
        paths = [f"{ACME}/messages/{ids[f'Number {number}']}" for number in range(4)]
        installation.back_up(backup)
        await client.put(f"{ACME}/subscription", json={"plan": "crm_plus"})
        purge = await client.post("/retention/runs", json={"tenant": "acme"})
        assert purge.status_code == 202, purge.text
        await until(lambda: has_state(client, f"/retention/runs/{purge.json()['id']}", "completed"))
        await until(installation.erased)
        for number, body in ((0, {"pins": [{"entity_type": "deal", "entity_id": "D-1"}]}), (1, {})):
            asked = await client.post(f"{paths[number]}/rehydrate", json=body)
            assert asked.status_code == 202, asked.text
            await until(lambda number=number: answers(client, f"{paths[number]}/raw", mail(number)))
        signed = await client.get("/purge-log/acme/checkpoint")
        assert signed.status_code == 200, signed.text
    installation.put_back(backup)
    said = installation.command("restore")
    assert "2 item.purge, 2 rehydrate, 1 pin.add\n" in said
    assert "once more (rehydrate)" not in said
    assert "copies that were purged and brought back after the backup: 2; their bytes are fetched from the mail" in said
    async with installation.served() as client:
        for number in range(2):
            await until(lambda number=number: answers(client, f"{paths[number]}/raw", mail(number)))
        pinned, unpinned = [(await client.get(path)).json() for path in paths[:2]]
        assert pinned["pins"][0]["entity_id"].startswith(RESTORED)
        assert unpinned["pins"] == []
        assert [(await client.get(path)).status_code for path in paths[2:]] == [410, 410]
        aside = await client.get(f"{ACME}/mailboxes/{pinned['mailbox_id']}/quarantine")
        assert aside.json()["items"] == []
