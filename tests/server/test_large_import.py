"""A large mailbox, whole: every message imported, every byte the original's, in bounded memory.

A thousand messages in `make test`; ten thousand, about 430 MB, in `make soak`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bench.bench_import import messages, run_ours
from tests.dovecot import Account, Dovecot
from tests.servers import free_port
from tests.soak import also

TOKEN = "a-token-of-the-large-import"
MEMORY_LIMIT_MB = 300
HUGE_LIMIT_MB = 40
PATIENCE_S = 600


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`mailgate serve` in a process of its own, on embedded defaults; its address."""
    port = free_port()
    environment = {
        **os.environ,
        "MAILGATE_DATA_DIR": str(tmp_path / "data"),
        "MAILGATE_ADMIN_TOKEN": TOKEN,
        "MAILGATE_HTTP__PORT": str(port),
        "MAILGATE_NET__ALLOW": json.dumps(["127.0.0.0/8"]),
    }
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailgate.cli", "serve"], env=environment, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(200)


def peak_memory_mb(process: subprocess.Popen[bytes]) -> float:
    """The most that the process ever had resident."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process is gone")


@pytest.mark.server
@pytest.mark.parametrize(
    "count", [pytest.param(1_000, marks=pytest.mark.timeout(900)), *also([10_000], pytest.mark.timeout(1_800))]
)
async def test_every_message_arrives_byte_for_byte(
    gateway: tuple[str, subprocess.Popen[bytes]], dovecot: Dovecot, dovecot_account: Account, count: int
) -> None:
    address, process = gateway
    originals: dict[str, int] = {}

    def remembered() -> Iterator[tuple[bytes, int]]:
        for raw, received_at in messages(count, 43_000):
            digest = hashlib.sha256(raw).hexdigest()
            originals[digest] = originals.get(digest, 0) + 1
            yield raw, received_at

    assert await asyncio.to_thread(dovecot_account.seed, remembered()) == count
    async with httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:

        async def until(path: str, holds: Any) -> Any:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        answer = await client.get(path)
                    except httpx.TransportError:
                        assert process.poll() is None, "serve ended"
                    else:
                        if answer.status_code == 200 and holds(answer.json()):
                            return answer.json()
                    await asyncio.sleep(0.1)

        await until("/healthz", lambda _: True)
        await client.put("/v1/tenants/acme", json={"name": "Acme"})
        await client.put("/v1/tenants/acme/subscription", json={"plan": "professional"})
        imap = {
            "host": "127.0.0.1",
            "port": dovecot.port,
            "security": "none",
            "username": dovecot_account.name,
            "auth": {"password": dovecot_account.password},
        }
        made = await client.post("/v1/tenants/acme/mailboxes", json={"address": "ann@acme.example", "imap": imap})
        assert made.status_code == 201, made.text
        await until(f"/v1/tenants/acme/mailboxes/{made.json()['id']}", lambda box: box["state"] == "live")

        found: dict[str, int] = {}
        cursor: str | None = ""
        while cursor is not None:
            page = (
                await client.get(
                    "/v1/tenants/acme/messages", params={"limit": 200, "cursor": cursor} if cursor else {"limit": 200}
                )
            ).json()
            for item in page["items"]:
                raw = (await client.get(f"/v1/tenants/acme/messages/{item['id']}/raw")).content
                digest = hashlib.sha256(raw).hexdigest()
                found[digest] = found.get(digest, 0) + 1
            cursor = page["next_cursor"]
    assert found == originals
    peak = peak_memory_mb(process)
    print(f"\n{count} messages, peak memory of the gateway {peak:.0f} MB")
    assert peak < MEMORY_LIMIT_MB


@pytest.mark.server
def test_one_huge_message_is_streamed(plain_dovecot: Dovecot, tmp_path: Path) -> None:
    """100 MB, most of them in a file that is no text and compresses badly, in the memory that any import takes."""
    peaks = []
    for number, size in enumerate((1_000, 100_000_000)):
        account = plain_dovecot.account()
        head = b"Subject: huge\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        noise = base64.encodebytes(random.Random(1).randbytes(size * 3 // 4)).replace(b"\n", b"\r\n")
        account.add(head + noise)
        folder = tmp_path / str(number)
        folder.mkdir()
        peaks.append(run_ours(plain_dovecot, account, 1, folder, tls=False, url="", profile="").memory)
    small, huge = peaks
    print(f"\npeak memory {small:.0f} MB with a small message, {huge:.0f} MB with one of 100 MB")
    assert huge - small < HUGE_LIMIT_MB
