"""A mailbox under two hands: a person with real mail programs (mbsync, NeoMutt, and plain IMAP commands beside them)
and a script that uses the gateway's HTTP interface, at the same time. What both did is remembered, so that afterwards
one can say whether anything was lost or is there twice.

Every message carries `X-Number`, by which it is known whatever becomes of its address. Deletion is a wish: who wished
it, and whether it won over what the other hand did meanwhile, is left open; what nobody wished away must be there,
once. What NeoMutt moves is a copy that it made, and an original that it removes some time later: of what the other hand
did with either meanwhile there may be two. So there may be when both hands move one message in the same instant:
Dovecot and Cyrus both obey a MOVE of one message on each of two lines, and leave a copy in each target.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import imaplib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.server.neomutt import Neomutt
from tests.servers import free_port
from tests.waiting import PATIENCE_S

TOKEN = "a-token-for-two-hands"
FOLDERS = ("INBOX", "Work", "Trash")
KEYWORDS = ("\\Seen", "\\Flagged", "\\Answered", "Project", "$Label1")
_NUMBER = re.compile(rb"^X-Number: (\d+)\r?$", re.MULTILINE)
_MAILDIR_FLAGS = {"S": "seen", "F": "flagged", "R": "answered"}


@dataclass(slots=True)
class Numbers:
    """Which messages were ever made, which somebody wished away, and of which a mail program made copies."""

    made: set[int] = field(default_factory=set)
    wished_away: set[int] = field(default_factory=set)
    copied: set[int] = field(default_factory=set)
    moved: list[tuple[int, datetime, datetime]] = field(default_factory=list)
    """What a person moved, and between which times."""

    def new(self) -> tuple[int, bytes]:
        """A message nobody has seen."""
        number = len(self.made) + 1
        self.made.add(number)
        text = f"Line {number}.\r\n" * (1 + number % 50)
        head = (
            f"From: Ann <ann@acme.example>\r\nTo: bob@acme.example\r\nSubject: Number {number}\r\n"
            f"Date: Mon, 02 Nov 2026 08:{number % 60:02}:00 +0000\r\nMessage-ID: <{number}@two-hands.example>\r\n"
            f"X-Number: {number}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
        )
        return number, (head + text).encode()


def number_of(raw: bytes) -> int:
    """The number that a message carries."""
    found = _NUMBER.search(raw)
    assert found is not None, raw[:300]
    return int(found.group(1))


@dataclass(frozen=True, slots=True)
class Login:
    """Where the mailbox is."""

    port: int
    name: str
    password: str
    folders: tuple[str, ...] = FOLDERS
    """INBOX, one for work, and the trash, by their full names."""
    moves: bool = True
    """The server has MOVE."""

    @contextlib.contextmanager
    def imap(self, folder: str | None = None) -> Iterator[imaplib.IMAP4]:
        """A line of the person's own, straight to the server."""
        line = self._line()
        try:
            if folder is not None:
                status, answer = line.select(f'"{folder}"')
                assert status == "OK", answer
            yield line
        finally:
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                line.logout()

    def _line(self) -> imaplib.IMAP4:
        """Logged in. Cyrus now and then says that it has no mechanism, for want of memory or time; never for long."""
        for last in (False, False, True):
            line = imaplib.IMAP4("127.0.0.1", self.port, timeout=120)
            try:
                line.login(self.name, self.password)
            except imaplib.IMAP4.error as error:
                line.shutdown()
                if last or "no mechanism" not in str(error):
                    raise
            else:
                return line
        raise AssertionError("unreachable")

    def everything(self) -> dict[str, Counter[tuple[str, frozenset[str]]]]:
        """Folder → (SHA-256 of the bytes, flags), each as often as it stands there."""
        found: dict[str, Counter[tuple[str, frozenset[str]]]] = {}
        for folder in self.folders:
            found[folder] = Counter()
            for flags, raw in self._messages(folder):
                found[folder][hashlib.sha256(raw).hexdigest(), flags] += 1
        return found

    def numbers(self) -> Counter[int]:
        """How often each message stands at the server, in all folders together."""
        return Counter(number_of(raw) for folder in self.folders for _, raw in self._messages(folder))

    def _messages(self, folder: str) -> Iterator[tuple[frozenset[str], bytes]]:
        with self.imap(folder) as line:
            _, found = line.uid("search", "ALL")
            if not found or not found[0]:
                return
            _, items = line.uid("fetch", b",".join(found[0].split()).decode(), "(FLAGS BODY.PEEK[])")
            for item in items:
                if isinstance(item, tuple):
                    flags = imaplib.ParseFlags(item[0])
                    yield frozenset(flag.decode() for flag in flags if flag != b"\\Recent"), item[1]


class Person:
    """Uses a mail program on the mailbox."""

    def __init__(self, login: Login, folder: Path, numbers: Numbers, dice: random.Random) -> None:
        self._login = login
        self._folder = folder
        self._numbers = numbers
        self._dice = dice
        self._neomutt = Neomutt(login.port, login.name, login.password, folder)
        self._mail = folder / "mail"
        (self._mail / "INBOX").mkdir(parents=True)
        (folder / "mbsyncrc").write_text(f"""
IMAPAccount work
Host 127.0.0.1
Port {login.port}
User {login.name}
Pass "{login.password}"
SSLType None
AuthMechs LOGIN PLAIN

IMAPStore far
Account work

MaildirStore near
Path {self._mail}/
Inbox {self._mail}/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns {" ".join(FOLDERS)}
Create Near
Expunge Both
SyncState *
""")

    def act(self) -> None:
        """One thing that a person does."""
        deeds = (self._sync, self._sync, self._press, self._press, self._move, self._expunge)
        self._dice.choice((*deeds, self._append, self._mark, self._note))()

    def _press(self) -> None:
        """Move, delete or mark one message in NeoMutt."""
        source, target = self._dice.sample(self._login.folders, 2)
        with self._login.imap(source) as line:
            uids = self._uids(line)
            if not uids:
                return
            _, items = line.uid("fetch", self._dice.choice(uids), "(BODY.PEEK[HEADER])")
        if not isinstance(items[0], tuple):
            return
        number, deed = number_of(items[0][1]), self._dice.random()
        subject = f"Number {number}"
        if deed < 0.5:
            self._numbers.copied.add(number)
            self._neomutt.move(subject, source, target)
        elif deed < 0.6:
            self._numbers.wished_away.add(number)
            self._neomutt.delete(subject, source)
        else:
            self._neomutt.mark(subject, source)

    def _sync(self) -> None:
        """Change marks and delete in the mail program, then synchronize it."""
        self._run_mbsync()
        for file in self._dice.sample(files := self._files(), min(3, len(files))):
            if self._dice.random() < 0.15:
                self._numbers.wished_away.add(number_of(file.read_bytes()))
                self._remark(file, "T")
            else:
                self._remark(file, self._dice.choice("SFR"))
        self._run_mbsync()

    def _files(self) -> list[Path]:
        return sorted(file for part in ("cur", "new") for file in self._mail.glob(f"*/{part}/*"))

    def _remark(self, file: Path, flag: str) -> None:
        name, _, flags = file.name.partition(":2,")
        changed = "".join(sorted(set(flags) ^ {flag}))
        file.rename(file.parent.parent / "cur" / f"{name}:2,{changed}")

    def _run_mbsync(self) -> None:
        done = subprocess.run(
            ["mbsync", "-c", str(self._folder / "mbsyncrc"), "-q", "all"], capture_output=True, timeout=120, check=False
        )
        # It says 1 when something changed under its hands, which is what this is about; the next run takes it up.
        assert done.returncode in (0, 1), done.stderr

    def _move(self) -> None:
        source, target = self._dice.sample(self._login.folders, 2)
        with self._login.imap(source) as line:
            uids = self._uids(line)
            if uids:
                some = ",".join(self._dice.sample(uids, min(2, len(uids))))
                _, items = line.uid("fetch", some, "(BODY.PEEK[HEADER])")
                began = datetime.now(UTC)
                numbers = [number_of(item[1]) for item in items if isinstance(item, tuple)]
                if self._login.moves:
                    line.uid("MOVE", some, f'"{target}"')
                else:
                    self._numbers.copied.update(numbers)
                    line.uid("COPY", some, f'"{target}"')
                    line.uid("STORE", some, "+FLAGS.SILENT", "(\\Deleted)")
                    line.uid("EXPUNGE", some)
                ended = datetime.now(UTC)
                self._numbers.moved += [(number, began, ended) for number in numbers]

    def _expunge(self) -> None:
        folder = self._dice.choice(self._login.folders)
        with self._login.imap(folder) as line:
            uids = self._uids(line)
            if uids and self._dice.random() < 0.5:
                uid = self._dice.choice(uids)
                _, items = line.uid("fetch", uid, "(BODY.PEEK[])")
                if isinstance(items[0], tuple):
                    self._numbers.wished_away.add(number_of(items[0][1]))
                    line.uid("store", uid, "+FLAGS.SILENT", "(\\Deleted)")
                    line.uid("EXPUNGE", uid)

    def _append(self) -> None:
        _, raw = self._numbers.new()
        with self._login.imap() as line:
            status, answer = line.append(
                self._dice.choice(self._login.folders[:2]), "", imaplib.Time2Internaldate(time.time()), raw
            )
            assert status == "OK", answer

    def _mark(self) -> None:
        with self._login.imap(self._dice.choice(self._login.folders)) as line:
            uids = self._uids(line)
            if uids:
                some = ",".join(self._dice.sample(uids, min(5, len(uids))))
                line.uid("store", some, self._dice.choice(("+FLAGS", "-FLAGS")), f"({self._dice.choice(KEYWORDS)})")

    def _note(self) -> None:
        """Look at something, which changes nothing but \\Seen."""
        with self._login.imap(self._dice.choice(self._login.folders)) as line:
            uids = self._uids(line)
            if uids:
                line.uid("fetch", self._dice.choice(uids), "(BODY[])")

    @staticmethod
    def _uids(line: imaplib.IMAP4) -> list[str]:
        _, found = line.uid("search", "ALL")
        return [uid.decode() for uid in found[0].split()] if found and found[0] else []


class Gateway:
    """`mailgate serve` in a process of its own, which may be killed and started again."""

    def __init__(self, folder: Path, *, database_url: str | None = None, **environment: str) -> None:
        self.port = free_port()
        self._log = folder / "serve.log"
        self._environment = {
            **os.environ,
            "MAILGATE_DATA_DIR": str(folder / "data"),
            "MAILGATE_ADMIN_TOKEN": TOKEN,
            "MAILGATE_HTTP__PORT": str(self.port),
            "MAILGATE_NET__ALLOW": json.dumps(["127.0.0.0/8"]),
            "MAILGATE_SYNC__POLL_INTERVAL_S": "2",
            "MAILGATE_SYNC__LEASE_S": "10",  # a killed process has the mailbox for so long
            "MAILGATE_SYNC__COMMAND_TIMEOUT_S": "15",  # a lost answer is waited for so long
            "MAILGATE_SYNC__BACKOFF_MIN_S": "0.2",
            "MAILGATE_SYNC__BACKOFF_MAX_S": "1",
            **({} if database_url is None else {"MAILGATE_DATABASE__URL": database_url}),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def start(self) -> None:
        """Begin to serve."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mailgate.cli", "serve"], env=self._environment, stdout=log, stderr=log
            )

    @property
    def ended(self) -> int | None:
        """How it ended: minus the signal's number if one ended it; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process is not None
        return self._process.pid

    def wait(self, timeout: float) -> int:
        """How it ended, once it has. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        """As the power does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(200)
        self.kills += 1

    def stop(self) -> None:
        """End in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(200)

    def log(self) -> str:
        """What it said last."""
        return "\n".join(self._log.read_text().splitlines()[-40:])


class Crm:
    """The script. Requests are repeated while the gateway is away: a CRM would do that."""

    def __init__(self, gateway: Gateway, numbers: Numbers, dice: random.Random) -> None:
        self._gateway = gateway
        self._numbers = numbers
        self._dice = dice
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
        )
        self._box = ""
        self._names = FOLDERS
        self.done: Counter[str] = Counter()
        """Answers by wish and status."""
        self.known_as: defaultdict[int, set[str]] = defaultdict(set)
        """Every id under which a message was ever shown: one, whoever moved it."""

    async def close(self) -> None:
        await self._client.aclose()

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request, until it is answered."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._client.request(method, path, **more)
            except httpx.TransportError:
                assert time.monotonic() < deadline, self._gateway.log()
                await asyncio.sleep(0.05)

    async def connect(self, login: Login, port: int) -> None:
        """Connect the mailbox through `port`, and wait until it was read."""
        self._names = login.folders
        await self.request("PUT", "/v1/tenants/acme", json={"name": "Acme"})
        await self.request("PUT", "/v1/tenants/acme/subscription", json={"plan": "professional"})
        imap = {
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "username": login.name,
            "auth": {"password": login.password},
        }
        body = {"address": "ann@acme.example", "imap": imap, "folders": {"include": list(login.folders)}}
        made = await self.request("POST", "/v1/tenants/acme/mailboxes", json=body)
        assert made.status_code == 201, made.text
        self._box = f"/v1/tenants/acme/mailboxes/{made.json()['id']}"
        await self._until(self._imported)

    async def _imported(self) -> bool:
        return (await self.request("GET", self._box)).json()["imported_at"] is not None

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not await holds():
            assert time.monotonic() < deadline, self._gateway.log()
            await asyncio.sleep(0.1)

    async def act(self) -> None:
        """One thing that the script asks for."""
        wish = self._dice.choice((self._mark, self._mark, self._move, self._move, self._delete, self._append))
        await wish()

    async def _some(self) -> str | None:
        page = (await self.request("GET", "/v1/tenants/acme/messages", params={"limit": 200})).json()["items"]
        self._saw(page)
        return self._dice.choice(page)["id"] if page else None

    async def _patch(self, what: str, body: Any) -> None:
        message = await self._some()
        if message is not None:
            answer = await self.request("PATCH", f"/v1/tenants/acme/messages/{message}", json=body)
            self._note(what, answer, 200, 202)

    async def _mark(self) -> None:
        change = {self._dice.choice(("add", "remove")): self._dice.sample(KEYWORDS, 2)}
        await self._patch("flags", {"flags": change})

    async def _move(self) -> None:
        await self._patch("move", {"folder_id": self._dice.choice(list((await self._folders()).values()))})

    async def _folders(self) -> dict[str, str]:
        items = (await self.request("GET", f"{self._box}/folders")).json()["items"]
        return {item["name"]: item["id"] for item in items if item["name"] in self._names}

    async def _delete(self) -> None:
        message = await self._some()
        if message is None:
            return
        permanent = self._dice.random() < 0.4
        raw = await self.request("GET", f"/v1/tenants/acme/messages/{message}/raw")
        if raw.status_code != 200:
            return
        # Known before it is asked: the answer may be lost. In Trash already, a plain delete is for ever too.
        self._numbers.wished_away.add(number_of(raw.content))
        params = {"permanent": "true"} if permanent else {}
        answer = await self.request("DELETE", f"/v1/tenants/acme/messages/{message}", params=params)
        self._note("delete", answer, 200, 202)

    async def _append(self) -> None:
        number, raw = self._numbers.new()
        folder = (await self._folders())[self._dice.choice(self._names[:2])]
        answer = await self.request(
            "POST",
            f"{self._box}/messages",
            params={"folder_id": folder},
            content=raw,
            headers={"content-type": "message/rfc822", "idempotency-key": f"append-{number}"},
        )
        self._note("append", answer, 200, 201, 202)
        assert answer.status_code in (200, 201, 202), answer.text

    def _note(self, what: str, answer: httpx.Response, *well: int) -> None:
        """Somebody else may have been faster; anything else is a defect."""
        self.done[f"{what} {answer.status_code}"] += 1
        assert answer.status_code in (*well, 404, 409, 410), answer.text

    async def settle(self) -> None:
        """Until nothing is on its way and one more pass was made."""
        await self._until(self._nothing_open)
        run = await self.request("POST", f"{self._box}/sync")
        assert run.status_code == 202, run.text

        async def over() -> bool:
            runs = (await self.request("GET", f"{self._box}/runs")).json()["items"]
            return any(one["id"] == run.json()["id"] and one["state"] == "completed" for one in runs)

        await self._until(over)

    async def _nothing_open(self) -> bool:
        answer = await self.request("GET", "/v1/tenants/acme/operations", params={"state": "pending"})
        waiting: list[object] = answer.json()["items"]
        return not waiting

    async def everything(self) -> dict[str, Counter[tuple[str, frozenset[str]]]]:
        """As `Login.everything`, as the gateway has it."""
        found: dict[str, Counter[tuple[str, frozenset[str]]]] = {folder: Counter() for folder in self._names}
        async for item in self._items():
            raw = await self.request("GET", f"/v1/tenants/acme/messages/{item['id']}/raw")
            for folder in item["folders"]:
                found[folder["name"]][hashlib.sha256(raw.content).hexdigest(), frozenset(item["flags"])] += 1
        return found

    async def failed(self) -> Sequence[str]:
        """Reasons of the operations that failed, of all that was asked for."""
        answer = await self.request("GET", "/v1/tenants/acme/operations", params={"state": "failed", "limit": 200})
        return [f"{item['kind']}: {item['code']} {item['reason']}" for item in answer.json()["items"]]

    async def moved_at_once(self) -> set[int]:
        """What a person moved while a move of it was open here."""
        among = {i: number for number, ids in self.known_as.items() for i in ids}
        open_at = [
            (among[item["message_id"]], item["requested_at"], item["finished_at"])
            async for item in self._all("/v1/tenants/acme/operations")
            if item["message_id"] in among and item["kind"] == "move"
        ]
        return {
            number
            for number, began, ended in self._numbers.moved
            for other, asked, finished in open_at
            if number == other and datetime.fromisoformat(asked) <= ended and began <= datetime.fromisoformat(finished)
        }

    def _saw(self, items: Sequence[Any]) -> None:
        for item in items:
            self.known_as[int(item["subject"].removeprefix("Number "))].add(item["id"])

    async def _items(self) -> AsyncIterator[Any]:
        async for item in self._all("/v1/tenants/acme/messages"):
            self._saw([item])
            yield item

    async def _all(self, path: str) -> AsyncIterator[Any]:
        cursor: str | None = ""
        while cursor is not None:
            params = {"limit": 200, **({"cursor": cursor} if cursor else {})}
            page = (await self.request("GET", path, params=params)).json()
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]


@contextlib.asynccontextmanager
async def serving(gateway: Gateway, crm: Crm) -> AsyncIterator[None]:
    """It serves meanwhile. A test that fails shows its log."""
    gateway.start()
    try:
        yield
    except BaseException:
        print(gateway.log())
        raise
    finally:
        await crm.close()
        await asyncio.to_thread(gateway.stop)
