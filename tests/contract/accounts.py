"""Mail accounts for the contract of `Source`: what "another client" does, in memory and on real servers."""

from __future__ import annotations

import asyncio
import imaplib
import re
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from connectors.imap.source import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security, SpecialUse
from connectors.net import parse_networks
from connectors.port import Source
from tests.dovecot import Account, Dovecot, modified_utf7

LOOPBACK = parse_networks(["127.0.0.0/8", "::1/128"])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Remote(Protocol):
    """One account on some server, and what happens there behind the gateway's back."""

    condstore: bool
    qresync: bool

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


class OnDovecot:
    """Debian's Dovecot; the other client is the standard library's."""

    def __init__(self, server: Dovecot, *, condstore: bool, security: Security = Security.NONE) -> None:
        self.server, self.security = server, security
        self.condstore = self.qresync = condstore
        self.account: Account = server.account(rawlog=True)
        self._context: ssl.SSLContext | None = None
        self._sources: list[Source] = []

    async def connect(self) -> Source:
        if self._context is None and self.security is not Security.NONE:
            self._context = self.server.ssl_context()
        port = self.server.tls_port if self.security is Security.TLS else self.server.port
        source = await connect_imap(
            Endpoint(self.server.host, port, self.security),
            PasswordAuth(self.account.name, self.account.password),
            ssl_context=self._context,
            allow_networks=LOOPBACK,
        )
        self._sources.append(source)
        return source

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
        await asyncio.to_thread(self._store, folder, uid, "FLAGS", " ".join(flags))

    def _store(self, folder: str, uid: int, item: str, flags: str) -> None:
        with self._client() as client:
            client.select(_quoted(folder))
            client.uid("STORE", str(uid), item, f"({flags})")

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

    def _client(self) -> imaplib.IMAP4:
        return self.account.imap()

    async def drop_connections(self) -> None:
        done = await asyncio.create_subprocess_exec(
            "doveadm", "-c", str(self.server.folder / "dovecot.conf"), "kick", self.account.name,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await done.wait() == 0


def _quoted(folder: str) -> str:
    return '"' + modified_utf7(folder).replace("\\", "\\\\").replace('"', '\\"') + '"'
