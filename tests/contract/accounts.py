"""Mail accounts for the contract of `Source`: what "another client" does, in memory and on real servers."""

from __future__ import annotations

import asyncio
import imaplib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from connectors.imap.source import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security, SpecialUse
from connectors.net import parse_networks
from connectors.port import Source
from tests.contract.pymap_server import Pymap
from tests.dovecot import Account, Dovecot, modified_utf7
from tests.proxy import Proxy

LOOPBACK = parse_networks(["127.0.0.0/8", "::1/128"])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Remote(Protocol):
    """One account on some server, and what happens there behind the gateway's back.

    The attributes say what this server can; see `OverImap`.
    """

    condstore: bool
    qresync: bool
    keywords: bool
    line_ends: bool

    async def connect(self) -> Source: ...
    async def append(self, folder: str, raw: bytes, *, received_at: int, flags: Iterable[str] = ()) -> int: ...
    async def store_flags(self, folder: str, uid: int, flags: Iterable[str]) -> None: ...
    async def expunge(self, folder: str, uid: int) -> None: ...
    async def create_folder(self, name: str) -> None: ...
    async def delete_folder(self, name: str) -> None: ...
    async def drop_connections(self) -> None:
        """Every open line of the gateway dies, in whatever way this server can do that."""
        ...


class InMemory:
    """The double."""

    keywords = line_ends = True

    def __init__(self, *, qresync: bool = True, condstore: bool = True) -> None:
        self.account = MemoryAccount(qresync=qresync, condstore=condstore)
        self.condstore, self.qresync = self.account.condstore, qresync
        for use in (SpecialUse.DRAFTS, SpecialUse.SENT, SpecialUse.TRASH, SpecialUse.JUNK, SpecialUse.ARCHIVE):
            self.account.create_folder(use.value.capitalize(), special_use=use)

    async def connect(self) -> Source:
        return await self.account.connect()

    async def append(self, folder: str, raw: bytes, *, received_at: int, flags: Iterable[str] = ()) -> int:
        return self.account.append(folder, raw, internal_date=received_at, flags=flags)

    async def store_flags(self, folder: str, uid: int, flags: Iterable[str]) -> None:
        self.account.store_flags(folder, uid, flags)

    async def expunge(self, folder: str, uid: int) -> None:
        self.account.expunge(folder, uid)

    async def create_folder(self, name: str) -> None:
        self.account.create_folder(name)

    async def delete_folder(self, name: str) -> None:
        self.account.delete_folder(name)

    async def drop_connections(self) -> None:
        self.account.drop_connections()


class OverImap:
    """A real server; the other client is the standard library's. `_client` gives one, logged in."""

    keywords = True
    line_ends = True
    """Are CRLFs stored as they are?"""

    def __init__(self, *, condstore: bool) -> None:
        self.condstore = self.qresync = condstore

    def _client(self) -> imaplib.IMAP4:
        raise NotImplementedError

    async def append(self, folder: str, raw: bytes, *, received_at: int, flags: Iterable[str] = ()) -> int:
        when = EPOCH + timedelta(microseconds=received_at)
        return await asyncio.to_thread(self._append, folder, raw, when, " ".join(flags))

    def _append(self, folder: str, raw: bytes, when: datetime, flags: str) -> int:
        with self._client() as client:
            _, answer = client.append(_quoted(folder), f"({flags})", when, raw)
            found = re.search(rb"APPENDUID \d+ (\d+)", answer[0])
            assert found is not None, answer
            return int(found[1])

    async def store_flags(self, folder: str, uid: int, flags: Iterable[str]) -> None:
        await asyncio.to_thread(self._store, folder, uid, " ".join(flags))

    def _store(self, folder: str, uid: int, flags: str) -> None:
        with self._client() as client:
            client.select(_quoted(folder))
            client.uid("STORE", str(uid), "FLAGS", f"({flags})")

    async def expunge(self, folder: str, uid: int) -> None:
        await asyncio.to_thread(self._expunge, folder, uid)

    def _expunge(self, folder: str, uid: int) -> None:
        with self._client() as client:
            client.select(_quoted(folder))
            client.uid("STORE", str(uid), "+FLAGS", "(\\Deleted)")
            client.uid("EXPUNGE", str(uid))

    async def create_folder(self, name: str) -> None:
        await asyncio.to_thread(self._run, "create", name)

    async def delete_folder(self, name: str) -> None:
        await asyncio.to_thread(self._run, "delete", name)

    def _run(self, command: str, name: str) -> None:
        with self._client() as client:
            status, answer = getattr(client, command)(_quoted(name))
            assert status == "OK", answer


class OnDovecot(OverImap):
    """Debian's Dovecot."""

    def __init__(self, server: Dovecot, *, condstore: bool, security: Security = Security.NONE) -> None:
        super().__init__(condstore=condstore)
        self.server, self.security = server, security
        self.account: Account = server.account(rawlog=True)
        self._context = server.ssl_context() if security is not Security.NONE else None

    async def connect(self) -> Source:
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


class OnPymap(OverImap):
    """pymap with Maildir: no CONDSTORE or ESEARCH, keywords dropped, CRLF stored as LF."""

    keywords = line_ends = False

    def __init__(self, server: Pymap) -> None:
        super().__init__(condstore=False)
        self.server = server
        self.name, self.password = server.account()
        for folder in ("Archive", "Drafts", "Junk", "Sent", "Trash"):
            self._run("create", folder)
        self._proxies: list[Proxy] = []

    async def connect(self) -> Source:
        # Through a proxy, since pymap has no way to end a session of somebody else's.
        proxy = await Proxy("127.0.0.1", self.server.port).start()
        self._proxies.append(proxy)
        return await connect_imap(
            Endpoint("127.0.0.1", proxy.port, Security.NONE),
            PasswordAuth(self.name, self.password),
            ssl_context=None,
            allow_networks=LOOPBACK,
        )

    def _client(self) -> imaplib.IMAP4:
        return self.server.client(self.name, self.password)

    async def drop_connections(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    async def aclose(self) -> None:
        for proxy in self._proxies:
            await proxy.close()


def _quoted(folder: str) -> str:
    return '"' + modified_utf7(folder).replace("\\", "\\\\").replace('"', '\\"') + '"'
