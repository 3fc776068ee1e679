"""The pages at 5 000 mailboxes: how long each takes to answer, everything included, over HTTP from another process.

    python -m tests.bench.bench_pages [--mailboxes N] [--copies N] [--rounds N]

One gateway on SQLite, furnished as it is after some months (tests/browser/showroom.py), in a process of its own; a
client that is signed in asks for each page so many times. Beside them, a page that asks the database for nothing but
the session, which is what signing in, the template and HTTP cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from mailgate.app.core import Core
from mailgate.clock import system_clock
from mailgate.settings import Settings
from tests.browser.showroom import PASSWORD, Showroom, furnish
from tests.servers import free_port

GOAL_MS = 200


async def prepare(settings: Settings, mailboxes: int, copies: int) -> Showroom:
    core = await Core.open(settings)
    try:
        return await furnish(core, system_clock(), count=mailboxes, copies_each=copies)
    finally:
        await core.close()


def signed_in(base: str) -> httpx.Client:
    client = httpx.Client(base_url=base, timeout=60)
    deadline = time.monotonic() + 60
    while True:
        try:
            page = client.get("/admin/sign-in").text
            break
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    token = re.findall(r'name="token" value="(\w+)"', page)[0]
    answer = client.post("/admin/sign-in", data={"token": token, "name": "ann", "password": PASSWORD})
    assert answer.status_code == 303, answer.text
    return client


def settle(client: httpx.Client) -> None:
    """Wait until what a gateway does when it starts (every log is signed, what is due is purged) is over."""
    quick, deadline = 0, time.monotonic() + 180
    while quick < 20 and time.monotonic() < deadline:
        quick = quick + 1 if measure(client, "/admin/account", 1)[0] < 40 else 0
        time.sleep(0.1)


def measure(client: httpx.Client, path: str, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = client.get(path)
        found.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == 200, (path, answer.status_code)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mailboxes", type=int, default=5_000)
    parser.add_argument("--copies", type=int, default=40, help="of each mailbox, on average")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder) / "data")
        began = time.monotonic()
        room = asyncio.run(prepare(settings, given.mailboxes, given.copies))
        print(f"{len(room.mailbox_ids)} mailboxes, {len(room.tenant_ids)} tenants: {time.monotonic() - began:.0f} s")
        port = free_port()
        environment = {
            **os.environ,
            "MAILGATE_DATA_DIR": str(settings.data_dir),
            "MAILGATE_HTTP__PORT": str(port),
        }
        command = [sys.executable, "-m", "mailgate.cli", "serve"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            client = signed_in(f"http://127.0.0.1:{port}")
            settle(client)
            listing = client.get("/admin/mailboxes").text
            box = re.findall(r'href="(/admin/tenants/[^/"]+/mailboxes/[^/"#]+)"', listing)[0]
            following = re.findall(r'href="([^"]+)" rel="next"', listing)[0].replace("&amp;", "&")
            ids = re.findall(r'id="row-(\w+)"', listing)
            paths = {
                "account (only the session)": "/admin/account",
                "mailboxes, trouble first": "/admin/mailboxes",
                "the page after it": following,
                "mailboxes in trouble": "/admin/mailboxes?state=trouble",
                "search": "/admin/mailboxes?q=kim%40kestrel",
                "rows, asked for again": f"/admin/mailboxes/rows?ids={','.join(ids)}",
                "one mailbox": box,
                "tenants": "/admin/tenants",
                "one tenant": f"/admin/tenants/{room.tenant_ids[3]}",
            }
            print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            print(f"{'page':32} {'median':>8} {'p95':>8} {'worst':>8}  ms; goal {GOAL_MS}")
            for name, path in paths.items():
                took = sorted(measure(client, path, given.rounds))
                p95 = took[min(len(took) - 1, round(0.95 * len(took)))]
                print(f"{name:32} {statistics.median(took):8.1f} {p95:8.1f} {took[-1]:8.1f}")
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
