"""Messages that end the process that reads them, at a real `mailgate serve` that something starts again whenever it
ends, as systemd does: it is started again once, not for ever; the message is set aside with its bytes, all others come.
What was only being read when the process was killed is mail like any other.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mailgate.clock import SECOND, system_clock
from mailgate.reading.suspects import MOST_DEATHS
from tests.dovecot import Account, Dovecot
from tests.server.two_hands import TOKEN, Gateway
from tests.sync.engine import mail
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.crash, pytest.mark.server]


LARGE = 400
"""So many messages are prepared beside before the last one comes."""

HOOK = """
import ctypes, gc, os, signal, sys, time
from pathlib import Path
import fast_mail_parser, nh3
folder, parse, clean_html = Path(__file__).parent, fast_mail_parser.parse_email_tree, nh3.clean
if "serve" in sys.orig_argv:
    (folder / "gateway").write_text(str(os.getpid()))
def freeze(freeze=gc.freeze):
    if "mailgate.sync.preparing" in sys.orig_argv:
        (folder / "beside").touch()  # it is loaded
    freeze()
gc.freeze = freeze
def end_all(what):
    with (folder / "ended").open("a") as ended:
        ended.write(what + "\\n")
    os.kill(int((folder / "gateway").read_text()), signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)
def clean(source, **how):
    if "deadly" in source:
        ctypes.string_at(0)
    return clean_html(source, **how)
nh3.clean = clean
def callers(frame):
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back
def parse_email_tree(raw, **how):
    text = bytes(raw)
    if (folder / "cured").exists():
        return parse(raw, **how)
    if b"X-Deadly: all" in text or (b"X-Deadly: body" in text and "parse" in callers(sys._getframe())):
        ctypes.string_at(0)
    if b"X-Deadly: container" in text:
        end_all(next((name for name in sys.orig_argv if name.startswith("mailgate.")), "gateway"))
    while b"X-Beside" in text and "serve" in sys.orig_argv and not (folder / "beside").exists():
        time.sleep(0.01)
    while b"X-Slow" in text and (folder / "slow").exists():
        (folder / "reading").touch()
        time.sleep(0.01)
    return parse(raw, **how)
fast_mail_parser.parse_email_tree = parse_email_tree
"""


class Served:
    """A gateway that is started again whenever it ends, and a client of it."""

    def __init__(self, folder: Path, hook: str = HOOK) -> None:
        """`hook`: what every process of it runs first."""
        self.hook = folder / "hook"
        self.hook.mkdir()
        (self.hook / "sitecustomize.py").write_text(hook)
        self.gateway = Gateway(folder, PYTHONPATH=str(self.hook), PYTHONFAULTHANDLER="0")
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.gateway.port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
        )
        self.deaths: list[int] = []
        self.gateway.start()

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request, until it is answered."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if self.gateway.ended is not None:
                    self.deaths.append(self.gateway.ended)
                    assert len(self.deaths) <= MOST_DEATHS, self.gateway.log()
                    self.gateway.start()
                try:
                    return await self.client.request(method, path, **more)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    async def get(self, path: str, **params: str) -> Any:
        answer = await self.request("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():  # noqa: ASYNC110 - a gateway tells nobody
                await asyncio.sleep(0.1)

    async def connect(self, tenant: str, account: Account) -> str:
        """A tenant with this mailbox; its path."""
        await self.request("PUT", f"/v1/tenants/{tenant}", json={"name": tenant})
        await self.request("PUT", f"/v1/tenants/{tenant}/subscription", json={"plan": "professional"})
        imap = {
            "host": "127.0.0.1",
            "port": account.server.port,
            "security": "none",
            "username": account.name,
            "auth": {"password": account.password},
        }
        given = {"address": f"x@{tenant}.example", "imap": imap, "smtp": imap | {"port": 1}}
        made = await self.request("POST", f"/v1/tenants/{tenant}/mailboxes", json=given)
        lost = made.status_code == 409  # the gateway ended before it could answer, and was asked again
        assert lost or made.status_code == 201, made.text
        return f"/v1/tenants/{tenant}/mailboxes/{made.json()['mailbox_id' if lost else 'id']}"

    async def until_live(self, path: str) -> None:
        async def live() -> bool:
            return bool((await self.get(path))["state"] == "live")

        await self.until(live)

    async def until_kept(self, tenant: str, count: int) -> list[Any]:
        """Its messages, once there are so many."""
        found: list[Any] = []

        async def kept() -> bool:
            found[:] = (await self.get(f"/v1/tenants/{tenant}/messages", limit="100"))["items"]
            assert len(found) <= count
            return len(found) == count

        await self.until(kept)
        return found

    async def found(self, tenant: str, **words: str) -> list[Any]:
        """What is found by words, once all words are written."""
        page: dict[str, Any] = {}

        async def complete() -> bool:
            page.update(await self.get(f"/v1/tenants/{tenant}/messages", **words))
            return bool(page["complete"])

        await self.until(complete)
        return list(page["items"])

    async def close(self) -> None:
        await self.client.aclose()
        self.gateway.stop()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    yield served
    await served.close()


def now() -> int:
    return system_clock() // SECOND * SECOND


def add(account: Account, n: int, extra: str = "") -> bytes:
    raw = mail(n, body=f"word{n}", extra=extra)
    account.add(raw, received_at=now())
    return raw


@pytest.mark.parametrize("arrives", ["at the import", "live"])
async def test_what_ends_its_reader_is_set_aside(served: Served, plain_dovecot: Dovecot, arrives: str) -> None:
    ann, bob = plain_dovecot.account(), plain_dovecot.account()
    add(ann, 1)
    add(bob, 1)
    if arrives == "live":
        boxes = [await served.connect("ann", ann), await served.connect("bob", bob)]
        for box in boxes:
            await served.until_live(box)
    deadly = add(ann, 2, "X-Deadly: all\r\n")
    for n in (3, 4):
        add(ann, n)
        add(bob, n)
    if arrives != "live":
        boxes = [await served.connect("ann", ann), await served.connect("bob", bob)]
    messages = await served.until_kept("ann", 4)
    await served.until_kept("bob", 3)
    for box in boxes:
        await served.until_live(box)
    (entry,) = (await served.get(f"{boxes[0]}/quarantine"))["items"]
    assert (entry["cause"], entry["reason"]) == (
        "unreadable",
        "it can't be read: DeadlyError; its bytes are kept",
    )
    assert (await served.get(f"{boxes[1]}/quarantine"))["items"] == []
    assert {item["subject"] for item in messages} == {"Number 1", "", "Number 3", "Number 4"}
    kept = f"/v1/tenants/ann/messages/{entry['message_id']}"
    assert (await served.request("GET", f"{kept}/raw")).content == deadly
    shown = await served.get(kept)
    assert (shown["text"], shown["html"], shown["subject"]) == (None, None, "")
    assert (await served.request("GET", f"{kept}/parts/1")).status_code == 422
    for n in (1, 3, 4):
        assert len(await served.found("ann", q=f"word{n}")) == 1
    assert served.deaths == [-signal.SIGSEGV]

    async def retried(attempts: int) -> None:
        asked = await served.request("POST", f"{boxes[0]}/quarantine/{entry['id']}/retry")
        assert asked.status_code == 202, asked.text
        await served.request("POST", f"{boxes[0]}/sync")

        async def tried() -> bool:
            left = (await served.get(f"{boxes[0]}/quarantine"))["items"]
            return not left or (left[0]["attempts"] == attempts and left[0]["retry_at"] is None)

        await served.until(tried)

    await retried(2)
    assert len((await served.get(f"{boxes[0]}/quarantine"))["items"]) == 1
    assert served.deaths == [-signal.SIGSEGV], "who asks for it to be read again ends nothing"
    (served.hook / "cured").touch()
    await retried(3)

    async def mended() -> bool:
        return not (await served.get(f"{boxes[0]}/quarantine"))["items"]

    await served.until(mended)
    assert [item["id"] for item in await served.found("ann", q="word2")] == [entry["message_id"]]
    assert (await served.get(kept))["text"].strip() == "word2"
    assert len(served.deaths) == 1


async def test_what_ends_whoever_looks_for_its_words_is_found_by_its_subject(
    served: Served, plain_dovecot: Dovecot
) -> None:
    account = plain_dovecot.account()
    box = await served.connect("ann", account)
    await served.until_live(box)
    raw = add(account, 1, "X-Deadly: body\r\n")
    add(account, 2)
    await served.until_kept("ann", 2)
    assert len(await served.found("ann", q="word2")) == 1
    (found,) = await served.found("ann", subject="1")
    shown = await served.get(f"/v1/tenants/ann/messages/{found['id']}")
    assert shown["text"] is None
    assert (await served.request("GET", f"/v1/tenants/ann/messages/{found['id']}/raw")).content == raw
    assert (await served.request("GET", f"/v1/tenants/ann/messages/{found['id']}/parts/1")).status_code == 422
    assert served.deaths == [-signal.SIGSEGV]


async def test_what_was_being_read_when_the_process_was_killed_is_mail_like_any_other(
    served: Served, plain_dovecot: Dovecot
) -> None:
    account = plain_dovecot.account()
    box = await served.connect("ann", account)
    await served.until_live(box)
    (served.hook / "slow").touch()
    raw = add(account, 1, "X-Slow: yes\r\n")

    async def reading() -> bool:
        return (served.hook / "reading").exists()

    await served.until(reading)
    served.gateway.kill()
    (served.hook / "slow").unlink()
    (kept,) = await served.until_kept("ann", 1)
    assert (await served.get(f"{box}/quarantine"))["items"] == []
    assert (await served.get(f"/v1/tenants/ann/messages/{kept['id']}"))["text"].strip() == "word1"
    assert (await served.request("GET", f"/v1/tenants/ann/messages/{kept['id']}/raw")).content == raw
    assert served.deaths == [-signal.SIGKILL]


async def test_what_ends_all_processes_of_a_large_import_is_set_aside(served: Served, plain_dovecot: Dovecot) -> None:
    """As a container does that is killed whole for want of memory: the processes beside know no more than this one."""
    account = plain_dovecot.account()
    deadly = add(account, 0, "X-Deadly: container\r\n")
    for n in range(1, LARGE):
        add(account, n, "X-Beside: yes\r\n")
    box = await served.connect("ann", account)
    await served.until_live(box)
    (entry,) = (await served.get(f"{box}/quarantine"))["items"]
    assert entry["reason"] == "it can't be read: DeadlyError; its bytes are kept"
    kept = f"/v1/tenants/ann/messages/{entry['message_id']}"
    assert (await served.request("GET", f"{kept}/raw")).content == deadly
    assert len(await served.found("ann", subject="number", limit="100")) == 100
    assert (await served.get(box))["progress"]["done"] == LARGE
    assert served.deaths == [-signal.SIGKILL] * MOST_DEATHS
    assert (served.hook / "ended").read_text().split() == ["mailgate.sync.preparing"] * MOST_DEATHS


@pytest.mark.parametrize("how", ["append", "raw", "letter"])
async def test_what_the_crm_hands_in_ends_the_process_once(served: Served, plain_dovecot: Dovecot, how: str) -> None:
    box = await served.connect("ann", plain_dovecot.account())
    await served.until_live(box)
    for n, deadly in ((1, ""), (2, "X-Deadly: all\r\n"), (3, "")):
        raw = mail(n, extra=deadly)
        if how == "append":
            (folder,) = [folder["id"] for folder in (await served.get(box))["folders"] if folder["name"] == "INBOX"]
            given = {"content": raw, "headers": {"content-type": "message/rfc822"}, "params": {"folder_id": folder}}
            answer = await served.request("POST", f"{box}/messages", **given)
        elif how == "raw":
            given = {"content": raw, "headers": {"content-type": "message/rfc822"}}
            answer = await served.request("POST", f"{box}/submissions", **given)
        else:
            letter = {"to": [{"address": "bob@acme.example"}], "subject": f"Number {n}", "text": deadly}
            answer = await served.request("POST", f"{box}/submissions", json=letter)
        if deadly:
            assert (answer.status_code, answer.json()["type"]) == (422, "message_invalid"), answer.text
        else:
            assert answer.status_code in (201, 202), answer.text
    assert served.deaths == [-signal.SIGSEGV]


async def test_html_that_ends_who_makes_it_safe_is_shown_once(served: Served, plain_dovecot: Dovecot) -> None:
    account = plain_dovecot.account()
    box = await served.connect("ann", account)
    raw = mail(1, body="<p>deadly</p>", extra="MIME-Version: 1.0\r\nContent-Type: text/html\r\n")
    account.add(raw, received_at=now())
    await served.until_live(box)
    (found,) = await served.until_kept("ann", 1)
    shown = await served.get(f"/v1/tenants/ann/messages/{found['id']}")
    assert (shown["subject"], shown["html"]) == ("Number 1", None)
    assert served.deaths == [-signal.SIGSEGV]
