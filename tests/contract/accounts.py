"""Mail accounts for the contract of `Source`: what "another client" does, in memory and on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security, SpecialUse
from connectors.net import parse_networks
from connectors.port import Connection
from tests.contract.pymap_server import Pymap
from tests.courier import Courier
from tests.cyrus import Cyrus
from tests.dovecot import Account, Dovecot, modified_utf7
from tests.proxy import Proxy

LOOPBACK = parse_networks(["127.0.0.0/8", "::1/128"])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAMES = ("Größe & Zahl", "プロジェクト", "Star * Club", 'quo"ted \\ name')


class Remote(Protocol):
    """One account on some server, and what happens there behind the gateway's back.

    The attributes say what this server can; see `OverImap`.
    """

    condstore: bool
    qresync: bool
    keywords: bool
    line_ends: bool
    copies: bool
    refuses: bool
    breaks: bool
    opens_with_uidnext: bool
    identities: bool
    names: tuple[str, ...]

    def folder(self, *path: str) -> str:
        """What this server calls a folder of the account's top level, or one below it: `folder("Projects", "2024")`."""
        ...

    async def connect(self) -> Connection: ...
    async def append(self, folder: str, raw: bytes, *, received_at: int, flags: Iterable[str] = ()) -> int: ...
    async def store_flags(self, folder: str, uid: int, flags: Iterable[str]) -> None: ...
    async def expunge(self, folder: str, uid: int) -> None: ...
    async def move(self, folder: str, uid: int, target: str) -> None: ...
    async def create_folder(self, name: str) -> None: ...
    async def rename_folder(self, old: str, new: str) -> None: ...
    async def delete_folder(self, name: str) -> None: ...
    async def subscribed(self) -> set[str]:
        """The folders that mail programs show."""
        ...

    async def unsubscribe(self, name: str) -> None: ...
    async def renew_uidvalidity(self, name: str) -> None:
        """The folder gets another UIDVALIDITY; the same messages stand in it, in another order. Not INBOX."""
        ...

    async def originals(self, folder: str) -> dict[int, tuple[frozenset[str], bytes]]:
        """What the server itself says of a folder: UID → (flags, bytes)."""
        ...

    async def drop_connections(self) -> None:
        """Every open line of the gateway dies, in whatever way this server can do that."""
        ...


class InMemory:
    """The double."""

    keywords = line_ends = copies = refuses = opens_with_uidnext = identities = True
    breaks = False
    names = NAMES

    def __init__(self, *, qresync: bool = True, condstore: bool = True) -> None:
        self.account = MemoryAccount(qresync=qresync, condstore=condstore)
        self.condstore, self.qresync = self.account.condstore, qresync
        for use in (SpecialUse.DRAFTS, SpecialUse.SENT, SpecialUse.TRASH, SpecialUse.JUNK, SpecialUse.ARCHIVE):
            self.account.create_folder(use.value.capitalize(), special_use=use)

    def folder(self, *path: str) -> str:
        return self.account.delimiter.join(path)

    async def connect(self) -> Connection:
        return await self.account.connect()

    async def append(self, folder: str, raw: bytes, *, received_at: int, flags: Iterable[str] = ()) -> int:
        return self.account.append(folder, raw, internal_date=received_at, flags=flags)

    async def store_flags(self, folder: str, uid: int, flags: Iterable[str]) -> None:
        self.account.store_flags(folder, uid, flags)

    async def expunge(self, folder: str, uid: int) -> None:
        self.account.expunge(folder, uid)

    async def move(self, folder: str, uid: int, target: str) -> None:
        self.account.move(folder, uid, target)

    async def create_folder(self, name: str) -> None:
        self.account.create_folder(name)

    async def rename_folder(self, old: str, new: str) -> None:
        self.account.rename_folder(old, new)

    async def delete_folder(self, name: str) -> None:
        self.account.delete_folder(name)

    async def subscribed(self) -> set[str]:
        return self.account.subscribed

    async def unsubscribe(self, name: str) -> None:
        self.account.subscribed.discard(name)

    async def renew_uidvalidity(self, name: str) -> None:
        self.account.change_uidvalidity(name)

    async def originals(self, folder: str) -> dict[int, tuple[frozenset[str], bytes]]:
        messages = self.account.folders[folder].messages
        return {uid: (message.flags, message.raw) for uid, message in messages.items()}

    async def drop_connections(self) -> None:
        self.account.drop_connections()


class OverImap:
    """A real server; the other client is the standard library's. `_client` gives one, logged in."""

    keywords = True
    line_ends = True
    """Are CRLFs stored as they are?"""
    copies = True
    """Does COPY copy the content?"""
    refuses = True
    """Does it refuse to rename a folder that is not there?"""
    breaks = False
    """Does it hang up when a folder is in the way of a new name?"""
    opens_with_uidnext = True
    """Does EXAMINE tell UIDNEXT?"""
    identities = True
    """Does a folder keep its MAILBOXID, if it has one, when it is renamed?"""
    names = NAMES
    """Strange folder names that this server takes."""
    delimiter = "/"
    prefix = ""
    """What stands before the name of a folder of the top level."""
    moves = True
    """Has it MOVE?"""

    def __init__(self, *, condstore: bool) -> None:
        self.condstore = self.qresync = condstore

    def _client(self) -> imaplib.IMAP4:
        raise NotImplementedError

    def _unopened(self) -> AbstractContextManager[imaplib.IMAP4]:
        """A client that opens no folder."""
        return self._client()

    def folder(self, *path: str) -> str:
        return "INBOX" if path == ("INBOX",) else self.prefix + self.delimiter.join(path)

    async def append(self, folder: str, raw: bytes, *, received_at: int, flags: Iterable[str] = ()) -> int:
        when = EPOCH + timedelta(microseconds=received_at)
        return await asyncio.to_thread(self._append, folder, raw, when, " ".join(flags))

    def _append(self, folder: str, raw: bytes, when: datetime, flags: str) -> int:
        with self._unopened() as client:
            answer = _done(client.append(_quoted(folder), f"({flags})", when, raw))
            found = re.search(rb"APPENDUID \d+ (\d+)", answer[0])
            assert found is not None, answer
            return int(found[1])

    async def store_flags(self, folder: str, uid: int, flags: Iterable[str]) -> None:
        await asyncio.to_thread(self._say, folder, ("STORE", str(uid), "FLAGS", f"({' '.join(flags)})"))

    async def expunge(self, folder: str, uid: int) -> None:
        gone = (("STORE", str(uid), "+FLAGS", "(\\Deleted)"), ("EXPUNGE", str(uid)))
        await asyncio.to_thread(self._say, folder, *gone)

    async def move(self, folder: str, uid: int, target: str) -> None:
        await asyncio.to_thread(self._move, folder, uid, target)

    def _move(self, folder: str, uid: int, target: str) -> None:
        if self.moves:
            self._say(folder, ("MOVE", str(uid), _quoted(target)))
        else:
            gone = (("STORE", str(uid), "+FLAGS", "(\\Deleted)"), ("EXPUNGE", str(uid)))
            self._say(folder, ("COPY", str(uid), _quoted(target)), *gone)

    def _say(self, folder: str, *commands: tuple[str, ...]) -> None:
        """UID commands in an open folder."""
        with self._client() as client:
            _done(client.select(_quoted(folder)))
            for command in commands:
                _done(client.uid(*command))

    async def create_folder(self, name: str) -> None:
        await asyncio.to_thread(self._run, "create", name)

    async def rename_folder(self, old: str, new: str) -> None:
        await asyncio.to_thread(self._run, "rename", old, new)

    async def delete_folder(self, name: str) -> None:
        await asyncio.to_thread(self._run, "delete", name)

    async def subscribed(self) -> set[str]:
        return await asyncio.to_thread(self._subscribed)

    def _subscribed(self) -> set[str]:
        with self._unopened() as client:
            items = [item for item in _done(client.lsub()) if isinstance(item, bytes)]
        return {item.rpartition(b' "' + self.delimiter.encode() + b'" ')[2].strip(b'"').decode() for item in items}

    async def unsubscribe(self, name: str) -> None:
        await asyncio.to_thread(self._run, "unsubscribe", name)

    def _run(self, command: str, *names: str) -> None:
        with self._unopened() as client:
            _done(getattr(client, command)(*map(_quoted, names)))

    async def renew_uidvalidity(self, name: str) -> None:
        await asyncio.to_thread(self._renew_uidvalidity, name)

    def _renew_uidvalidity(self, name: str) -> None:
        # Most servers take the second of a folder's birth for its UIDVALIDITY: one born in another takes its place.
        # (pymap draws it by lot, most hours of the day far above the clock: nothing to wait for.)
        with self._client() as client:
            _done(client.select(_quoted(name)))
            old = _uidvalidity(client)
            while 0 <= old - int(time.time()) <= 2:
                time.sleep(0.01)
            substitute = name + " new"
            _done(client.create(_quoted(substitute)))
            uids = _done(client.uid("SEARCH", "ALL"))[0].split()
            take = "MOVE" if self.moves else "COPY"  # pymap's COPY makes a message without content
            for uid in reversed(uids):
                _done(client.uid(take, uid.decode(), _quoted(substitute)))
            _done(client.select("INBOX"))
            _done(client.delete(_quoted(name)))
            _done(client.rename(_quoted(substitute), _quoted(name)))
            _done(client.select(_quoted(name)))
            assert _uidvalidity(client) != old

    async def originals(self, folder: str) -> dict[int, tuple[frozenset[str], bytes]]:
        return await asyncio.to_thread(self._originals, folder)

    def _originals(self, folder: str) -> dict[int, tuple[frozenset[str], bytes]]:
        found: dict[int, tuple[frozenset[str], bytes]] = {}
        with self._client() as client:
            _done(client.select(_quoted(folder), readonly=True))
            for item in _done(client.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")):
                if isinstance(item, tuple):
                    uid = re.search(rb"UID (\d+)", item[0])
                    flags = re.search(rb"FLAGS \(([^)]*)\)", item[0])
                    assert uid is not None
                    assert flags is not None
                    found[int(uid[1])] = (frozenset(flags[1].decode().split()) - {r"\Recent"}, item[1])
        return found


class OverProxy(OverImap):
    """A real server that has no way to end a session of somebody else's: the gateway reaches it through a proxy."""

    def __init__(self, port: int, login: tuple[str, str], *, condstore: bool) -> None:
        super().__init__(condstore=condstore)
        self.port = port
        self.name, self.password = login
        self._proxies: list[Proxy] = []
        self._kept: imaplib.IMAP4 | None = None

    def _unopened(self) -> AbstractContextManager[imaplib.IMAP4]:
        # Kept, since logging in costs these servers more than all that is done then.
        self._kept = self._kept or self._client()
        return contextlib.nullcontext(self._kept)

    async def connect(self) -> Connection:
        proxy = await Proxy("127.0.0.1", self.port).start()
        self._proxies.append(proxy)
        return await connect_imap(
            Endpoint("127.0.0.1", proxy.port, Security.NONE),
            PasswordAuth(self.name, self.password),
            ssl_context=None,
            allow_networks=LOOPBACK,
        )

    def _client(self) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", self.port)
        # It sends a literal and the line's end in two: without this each APPEND waits 40 ms for an acknowledgement.
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.login(self.name, self.password)
        return client

    async def drop_connections(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    async def aclose(self) -> None:
        if self._kept is not None:
            await asyncio.to_thread(self._kept.logout)
        for proxy in self._proxies:
            await proxy.close()


class OnDovecot(OverImap):
    """Debian's Dovecot."""

    def __init__(self, server: Dovecot, *, condstore: bool, security: Security = Security.NONE) -> None:
        super().__init__(condstore=condstore)
        self.server, self.security = server, security
        self.account: Account = server.account(rawlog=True)
        self._context = server.ssl_context() if security is not Security.NONE else None

    async def connect(self) -> Connection:
        return await connect_imap(
            Endpoint(
                self.server.host,
                self.server.tls_port if self.security is Security.TLS else self.server.port,
                self.security,
            ),
            PasswordAuth(self.account.name, self.account.password),
            ssl_context=self._context,
            allow_networks=LOOPBACK,
        )

    def _client(self) -> imaplib.IMAP4:
        return self.account.imap()

    async def drop_connections(self) -> None:
        done = await asyncio.create_subprocess_exec(
            "doveadm", "-c", str(self.server.folder / "dovecot.conf"), "kick", self.account.name,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await done.wait() == 0


class OnCyrus(OverProxy):
    """Debian's Cyrus."""

    names = NAMES[:3]  # it refuses quotes, backslashes, %, |, <, >, { and }

    def __init__(self, server: Cyrus) -> None:
        super().__init__(server.port, server.account(), condstore=True)


class OnCourier(OverProxy):
    """Debian's Courier: no CONDSTORE, MOVE or ESEARCH, and all folders below INBOX."""

    opens_with_uidnext = False
    delimiter = "."
    prefix = "INBOX."
    moves = refuses = False

    def __init__(self, server: Courier) -> None:
        super().__init__(server.port, server.account(), condstore=False)
        for folder in ("Archive", "Drafts", "Junk", "Sent", "Trash"):
            self._run("create", self.folder(folder))


class OnPymap(OverProxy):
    """pymap with Maildir: no CONDSTORE or ESEARCH, keywords dropped, CRLF stored as LF."""

    keywords = line_ends = copies = refuses = identities = False
    breaks = True

    def __init__(self, server: Pymap) -> None:
        super().__init__(server.port, server.account(), condstore=False)
        for folder in ("Archive", "Drafts", "Junk", "Sent", "Trash"):
            self._run("create", folder)


@contextlib.asynccontextmanager
async def remote_of(request: pytest.FixtureRequest) -> AsyncIterator[Remote]:
    """The account that the parameter of a fixture names, for a test."""
    made = _make(request.param, request)
    try:
        yield made
    finally:
        if isinstance(made, OverProxy):
            await made.aclose()


def _make(name: str, request: pytest.FixtureRequest) -> Remote:
    """A new account: `memory`, `memory-condstore`, `memory-plain`, `dovecot`, `dovecot-starttls`, `dovecot-tls`,
    `dovecot-plain`, `cyrus`, `courier` or `pymap`.
    """
    server = {"dovecot-plain": "plain_dovecot", "pymap": "pymap_server"}.get(name, name.partition("-")[0])
    match name:
        case "memory" | "memory-condstore" | "memory-plain":
            return InMemory(qresync=name == "memory", condstore=name != "memory-plain")
        case "cyrus":
            return OnCyrus(request.getfixturevalue(server))
        case "courier":
            return OnCourier(request.getfixturevalue(server))
        case "pymap":
            return OnPymap(request.getfixturevalue(server))
    security = {"dovecot-starttls": Security.STARTTLS, "dovecot-tls": Security.TLS}.get(name, Security.NONE)
    return OnDovecot(request.getfixturevalue(server), condstore=name != "dovecot-plain", security=security)


def _quoted(folder: str) -> str:
    return '"' + modified_utf7(folder).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _done(answered: tuple[str, list[Any]]) -> list[Any]:
    """What the command brought; it must have been answered OK."""
    status, answer = answered
    assert status == "OK", answer
    return answer


def _uidvalidity(client: imaplib.IMAP4) -> int:
    (found,) = client.response("UIDVALIDITY")[1]
    assert isinstance(found, bytes)
    return int(found)
