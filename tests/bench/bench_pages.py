"""The pages at 5 000 mailboxes and 1 000 000 entries of a purge log: how long each takes to answer, everything
included, over HTTP from another process.

    python -m tests.bench.bench_pages [--mailboxes N] [--copies N] [--entries N] [--rounds N] [--database URL]

One gateway on SQLite, furnished as it is after some months (tests/browser/showroom.py), in a process of its own; a
client that is signed in asks for each page so many times. Beside them, a page that asks the database for nothing but
the session, which is what signing in, the template and HTTP cost.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
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
from mailgate.settings import DatabaseSettings, Settings
from tests.bench.purge_history import write_history
from tests.browser.showroom import PASSWORD, Showroom, furnish
from tests.servers import free_port

GOAL_MS = 200


async def prepare(settings: Settings, mailboxes: int, copies: int, entries: int) -> tuple[Showroom, str]:
    """What is there, and the id of a purge in the middle of the long log."""
    core, now = await Core.open(settings), system_clock()
    try:
        room = await furnish(core, now, count=mailboxes, copies_each=copies)
        return room, await write_history(core, room.tenant_ids[4], entries, now)
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


def processor_ms(pid: int) -> float:
    """What the gateway has used so far, its work in the background included: what other load leaves unchanged."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000 / os.sysconf("SC_CLK_TCK")


def measure(client: httpx.Client, path: str, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = client.get(path)
        found.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == 200, (path, answer.status_code)
    return found


def purge_log_paths(client: httpx.Client, at: str, run_id: str) -> dict[str, str]:
    """Pages of a long log: at its end, far from it, and by each filter."""
    day, long_ago = (
        re.findall(r'datetime="([-0-9]{10})', client.get(f"{at}?run={run_id}").text)[0],
        (dt.datetime.now(dt.UTC) - dt.timedelta(days=400)).date().isoformat(),
    )
    size = int(re.findall(rf'href="{at}/([0-9]+)"', client.get(at).text)[0]) + 1
    return {
        "purge log": at,
        "purge log, of a purge": f"{at}?run={run_id}",
        "purge log, of an item": f"{at}?item=00000100000007",
        "purge log, of a rare type": f"{at}?type=hold.place",
        "purge log, of the usual type": f"{at}?type=item.purge",
        "purge log, by a reason": f"{at}?reason=offboarding",
        "purge log, of a day": f"{at}?since={day}&until={day}",
        "purge log, until long ago": f"{at}?until={long_ago}&type=run.open",
        "purge log, since long ago": f"{at}?since={long_ago}&type=item.deferred",
        "one entry with its proof": f"{at}/{size // 2}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mailboxes", type=int, default=5_000)
    parser.add_argument("--copies", type=int, default=40, help="of each mailbox, on average")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the purge log of one tenant")
    parser.add_argument("--database", default="", help="URL of an empty PostgreSQL database; SQLite without it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = DatabaseSettings(url=given.database)
        settings = Settings(data_dir=Path(folder) / "data", database=database)
        began = time.monotonic()
        room, run_id = asyncio.run(prepare(settings, given.mailboxes, given.copies, given.entries))
        print(f"{len(room.mailbox_ids)} mailboxes, {len(room.tenant_ids)} tenants: {time.monotonic() - began:.0f} s")
        port = free_port()
        environment = {
            **os.environ,
            "MAILGATE_DATA_DIR": str(settings.data_dir),
            "MAILGATE_HTTP__PORT": str(port),
            "MAILGATE_DATABASE__URL": given.database,
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
                "retention": "/admin/retention",
                "retention, what will go": f"/admin/retention?tenant={room.tenant_ids[3]}",
                "purges": "/admin/retention/runs",
                "one purge": f"/admin/retention/runs/{room.run_id}",
                "holds": f"/admin/retention/holds/{room.tenant_ids[1]}",
                **purge_log_paths(client, f"/admin/purge-log/{room.tenant_ids[4]}", run_id),
                "events": "/admin/events",
                "events, of a rare type": "/admin/events?type=hold.placed",
                "events of a mailbox": f"/admin/events?mailbox={box.rpartition('/')[2]}",
                "one event": f"/admin/events/{room.tenant_ids[3]}%3A9",
                "webhooks": "/admin/webhooks",
                "one webhook": f"/admin/webhooks/{room.webhook_ids[1]}",
                "system": "/admin/system?hours=72",
                "system, asked for again": "/admin/system/now",
                "access log": "/admin/access-log",
            }
            print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            print(f"{'page':32} {'median':>8} {'p95':>8} {'worst':>8} {'processor':>10}  ms; goal {GOAL_MS}")
            for name, path in paths.items():
                before = processor_ms(process.pid)
                took = sorted(measure(client, path, given.rounds))
                used = (processor_ms(process.pid) - before) / given.rounds
                p95 = took[min(len(took) - 1, round(0.95 * len(took)))]
                print(f"{name:32} {statistics.median(took):8.1f} {p95:8.1f} {took[-1]:8.1f} {used:10.1f}")
            print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
