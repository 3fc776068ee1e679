"""A mail account in memory, and a `Source` over it: the double for tests of everything above the connectors.

`MemoryAccount` is the server: folders with UIDVALIDITY, UIDs that are never used again, MODSEQ, expunges that are
remembered (QRESYNC). Its plain
methods (`append`, `store_flags`, `move`, …) are what *other* clients do; they take effect at once and wake whoever
idles. Any number of
`MemorySource` connections may be open on one account.

It behaves as RFC 9051 and RFC 7162 demand, and misbehaves only through `Faults`:

* `cut_after`: the line drops after that many more steps (a step is one call, one batch, one body, or half a body);
* `refuse`: folders that are answered with NO;
* `exists_lie`: what EXISTS claims too much or too little, per folder;
* `withheld`: UIDs that the server never answers (a missing UID is no deletion);
* `unreachable`, `reject_login`: connecting fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from connectors.errors import AuthError, FolderGoneError, NetworkError, ServerError
from connectors.model import (
    MICROSECONDS,
    FlagsChange,
    Folder,
    FolderStatus,
    Instant,
    MessageMeta,
    QResync,
    Selected,
    SpecialUse,
)
from connectors.port import Fetched, FolderChange, S

_HEADER_LIMIT = 1 << 20


@dataclass(slots=True)
class MemoryMessage:
    """One message as the server keeps it; `raw` never changes, `modseq` is that of its last change."""

    uid: int
    raw: bytes
    flags: frozenset[str]
    internal_date: Instant
    modseq: int
    email_id: str | None = None

    def meta(self, condstore: bool) -> MessageMeta:
        return MessageMeta(
            uid=self.uid,
            flags=self.flags,
            internal_date=self.internal_date,
            size=len(self.raw),
            modseq=self.modseq if condstore else None,
            email_id=self.email_id,
        )


@dataclass(slots=True)
class MemoryFolder:
    """One folder. `expunged` is the memory that QRESYNC needs: (modseq, uid), ascending by modseq."""

    name: str
    uidvalidity: int
    special_use: SpecialUse | None = None
    selectable: bool = True
    uidnext: int = 1
    highestmodseq: int = 1
    messages: dict[int, MemoryMessage] = field(default_factory=dict)
    expunged: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Faults:
    """What goes wrong, as in the module's list. Change it at any time."""

    cut_after: int | None = None
    refuse: set[str] = field(default_factory=set)
    exists_lie: dict[str, int] = field(default_factory=dict)
    withheld: set[tuple[str, int]] = field(default_factory=set)
    unreachable: bool = False
    reject_login: bool = False


class MemoryAccount:
    """The server's side. Starts with an empty INBOX.

    `condstore` and `qresync` (which implies it) say what the server offers; without them MODSEQ is kept but never
    shown.
    """

    def __init__(
        self, *, condstore: bool = True, qresync: bool = True, delimiter: str = "/", uidvalidity: int = 1
    ) -> None:
        self.condstore = condstore or qresync
        self.qresync = qresync
        self.delimiter = delimiter
        self.faults = Faults()
        self.folders: dict[str, MemoryFolder] = {}
        self.connections: list[MemorySource] = []
        self.commands: list[str] = []
        self._uidvalidity = uidvalidity
        self.create_folder("INBOX", special_use=SpecialUse.INBOX)

    @property
    def capabilities(self) -> frozenset[str]:
        words = {"IMAP4REV1", "IDLE", "UIDPLUS", "MOVE", "ESEARCH", "SPECIAL-USE", "LIST-STATUS"}
        if self.condstore:
            words |= {"CONDSTORE", "ENABLE"}
        if self.qresync:
            words.add("QRESYNC")
        return frozenset(words)

    # What another client does.

    def create_folder(
        self, name: str, *, special_use: SpecialUse | None = None, selectable: bool = True
    ) -> MemoryFolder:
        """A new folder with a UIDVALIDITY never used before on this account."""
        if name in self.folders:
            raise ValueError(f"folder exists: {name}")
        folder = MemoryFolder(name, self._new_uidvalidity(), special_use, selectable)
        self.folders[name] = folder
        return folder

    def delete_folder(self, name: str) -> None:
        """The folder and its messages go; a connection that has it open is told BYE, as Dovecot does."""
        del self.folders[name]
        for connection in list(self.connections):
            if connection.open_name == name:
                connection.drop("the folder was deleted")

    def rename_folder(self, old: str, new: str) -> None:
        """Children follow (RFC 9051 §6.3.6). UIDs and UIDVALIDITY stay."""
        if new in self.folders:
            raise ValueError(f"folder exists: {new}")
        prefix = old + self.delimiter
        renamed = {n: new + n[len(old) :] for n in self.folders if n == old or n.startswith(prefix)}
        for before, after in renamed.items():
            folder = self.folders.pop(before)
            folder.name = after
            self.folders[after] = folder
        for connection in list(self.connections):
            if connection.open_name in renamed:
                connection.drop("the folder was renamed")

    def change_uidvalidity(self, name: str) -> dict[int, int]:
        """The server rebuilt its index: a new UIDVALIDITY, all messages renumbered from 1. Returns old → new UID."""
        folder = self.folders[name]
        folder.uidvalidity = self._new_uidvalidity()
        old = [folder.messages[uid] for uid in sorted(folder.messages)]
        folder.messages, folder.expunged, folder.uidnext, folder.highestmodseq = {}, [], 1, 1
        numbers: dict[int, int] = {}
        for message in old:
            uid = self._add(folder, message.raw, message.flags, message.internal_date, message.email_id)
            numbers[message.uid] = uid
        for connection in list(self.connections):
            if connection.open_name == name:
                connection.drop("the folder was rebuilt")
        return numbers

    def append(
        self,
        name: str,
        raw: bytes,
        *,
        internal_date: Instant,
        flags: Iterable[str] = (),
        email_id: str | None = None,
    ) -> int:
        """APPEND or a delivery. Returns the UID."""
        folder = self.folders[name]
        uid = self._add(folder, raw, frozenset(flags), internal_date, email_id)
        self._tell(name, FolderChange(exists=len(folder.messages)))
        return uid

    def store_flags(self, name: str, uid: int, flags: Iterable[str]) -> None:
        """Replace the flags; equal flags change nothing, MODSEQ included."""
        folder = self.folders[name]
        message = folder.messages[uid]
        wanted = frozenset(flags)
        if wanted == message.flags:
            return
        message.flags = wanted
        message.modseq = self._next_modseq(folder)
        self._tell(name, FolderChange(flags=True))

    def expunge(self, name: str, uid: int) -> None:
        """The message goes for good; its UID is never used again."""
        folder = self.folders[name]
        del folder.messages[uid]
        folder.expunged.append((self._next_modseq(folder), uid))
        self._tell(name, FolderChange(expunged=True))

    def copy(self, source: str, uid: int, target: str) -> int:
        """COPY: a new message with the same bytes, flags, date and EMAILID. Returns its UID."""
        message = self.folders[source].messages[uid]
        return self.append(
            target, message.raw, internal_date=message.internal_date, flags=message.flags, email_id=message.email_id
        )

    def move(self, source: str, uid: int, target: str) -> int:
        """MOVE (RFC 6851). Returns the UID in `target`."""
        new = self.copy(source, uid, target)
        self.expunge(source, uid)
        return new

    def drop_connections(self, reason: str = "connection reset") -> None:
        """Every open line drops now."""
        for connection in list(self.connections):
            connection.drop(reason)

    # What the gateway does.

    async def connect(self) -> MemorySource:
        """A `Connect`: fails as `faults` say, else a logged-in connection."""
        self.commands.append("LOGIN")
        if self.faults.unreachable:
            raise NetworkError("connection refused")
        if self.faults.reject_login:
            raise AuthError("the server refused the user name or password")
        source = MemorySource(self)
        self.connections.append(source)
        return source

    def status_of(self, folder: MemoryFolder) -> FolderStatus:
        return FolderStatus(
            uidvalidity=folder.uidvalidity,
            uidnext=folder.uidnext,
            exists=max(0, len(folder.messages) + self.faults.exists_lie.get(folder.name, 0)),
            highestmodseq=folder.highestmodseq if self.condstore else None,
        )

    def _new_uidvalidity(self) -> int:
        self._uidvalidity += 1
        return self._uidvalidity

    def _next_modseq(self, folder: MemoryFolder) -> int:
        folder.highestmodseq += 1
        return folder.highestmodseq

    def _add(
        self, folder: MemoryFolder, raw: bytes, flags: frozenset[str], internal_date: Instant, email_id: str | None
    ) -> int:
        uid = folder.uidnext
        folder.uidnext += 1
        folder.messages[uid] = MemoryMessage(uid, bytes(raw), flags, internal_date, self._next_modseq(folder), email_id)
        return uid

    def _tell(self, name: str, change: FolderChange) -> None:
        for connection in list(self.connections):
            if connection.open_name == name:
                connection.notice(change)


class MemorySource:
    """One connection to a `MemoryAccount`. Implements `connectors.port.Source`."""

    batch = 100

    def __init__(self, account: MemoryAccount) -> None:
        self._account = account
        self._down: str | None = None
        self._change: FolderChange | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self.open_name: str | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        return self._account.capabilities

    async def list_folders(self) -> list[Folder]:
        await self._step("LIST")
        folders = [
            Folder(
                name=f.name,
                delimiter=self._account.delimiter,
                attributes=frozenset(self._attributes(f)),
                special_use=f.special_use,
                selectable=f.selectable,
            )
            for f in self._account.folders.values()
        ]
        return sorted(folders, key=lambda f: (f.name != "INBOX", f.name))

    async def status(self, names: Sequence[str]) -> dict[str, FolderStatus | None]:
        await self._step("STATUS")
        found: dict[str, FolderStatus | None] = {}
        for name in names:
            folder = self._account.folders.get(name)
            refused = folder is None or not folder.selectable or name in self._account.faults.refuse
            found[name] = None if refused or folder is None else self._account.status_of(folder)
        return found

    async def open(self, name: str, qresync: QResync | None = None) -> Selected:
        self.open_name = None
        await self._step(f"EXAMINE {name}")
        if name in self._account.faults.refuse:
            raise ServerError("the server refused to open the folder", code="NOPERM")
        folder = self._account.folders.get(name)
        if folder is None or not folder.selectable:
            raise FolderGoneError("no such folder", code="NONEXISTENT")
        self.open_name, self._change = name, None
        status = self._account.status_of(folder)
        if qresync is None or not self._account.qresync or qresync.uidvalidity != folder.uidvalidity:
            return Selected(status=status, read_only=True)
        return Selected(
            status=status,
            read_only=True,
            resynced=True,
            vanished=_ranges(uid for modseq, uid in folder.expunged if modseq > qresync.modseq),
            changed=tuple(
                FlagsChange(m.uid, m.flags, m.modseq)
                for m in folder.messages.values()
                if m.modseq > qresync.modseq and not self._withheld(m.uid)
            ),
        )

    async def search_since(self, since: date) -> list[int]:
        await self._step("SEARCH SINCE")
        midnight = int(datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()) * MICROSECONDS
        return sorted(uid for uid, m in self._open_folder().messages.items() if m.internal_date >= midnight)

    async def list_uids(self) -> list[int]:
        await self._step("SEARCH ALL")
        return sorted(self._open_folder().messages)

    async def fetch_meta(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[MessageMeta]]:
        await self._step("FETCH meta")
        for batch in self._batches(uids, changed_since):
            yield [m.meta(self._account.condstore) for m in batch]
            await self._step(None)

    async def fetch_flags(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[FlagsChange]]:
        await self._step("FETCH flags")
        for batch in self._batches(uids, changed_since):
            yield [FlagsChange(m.uid, m.flags, m.modseq if self._account.condstore else None) for m in batch]
            await self._step(None)

    async def fetch_bodies(self, uids: Sequence[int], open_sink: Callable[[int], S]) -> AsyncIterator[Fetched[S]]:
        await self._step("FETCH bodies")
        for uid in sorted(set(uids)):
            message = self._open_folder().messages.get(uid)
            if message is None or self._withheld(uid):
                continue
            raw = memoryview(message.raw)
            sink = open_sink(len(raw))
            half = len(raw) // 2
            if half:
                sink.write(raw[:half])
            await self._step(None)
            sink.write(raw[half:])
            yield Fetched(message.meta(self._account.condstore), sink, len(raw))
            await self._step(None)

    async def fetch_headers(self, uids: Sequence[int]) -> AsyncIterator[tuple[MessageMeta, bytes]]:
        await self._step("FETCH headers")
        for uid in sorted(set(uids)):
            message = self._open_folder().messages.get(uid)
            if message is None or self._withheld(uid):
                continue
            yield message.meta(self._account.condstore), _header(message.raw)[:_HEADER_LIMIT]
            await self._step(None)

    async def idle(self, timeout_s: float) -> FolderChange | None:
        await self._step("IDLE")
        self._open_folder()
        if self._change is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, timeout_s)
            except TimeoutError:
                return None
            finally:
                self._waiters.discard(waiter)
        change, self._change = self._change, None
        return change

    async def noop(self) -> None:
        await self._step("NOOP")

    async def close(self) -> None:
        self.drop("closed")

    def notice(self, change: FolderChange) -> None:
        """The server says that the open folder changed; several notices become one."""
        before = self._change or FolderChange()
        self._change = FolderChange(
            exists=change.exists if change.exists is not None else before.exists,
            expunged=change.expunged or before.expunged,
            flags=change.flags or before.flags,
        )
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def drop(self, reason: str) -> None:
        """The line drops: whatever waits and whatever is asked afterwards fails."""
        if self._down is None:
            self._down = reason
        if self in self._account.connections:
            self._account.connections.remove(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(NetworkError(self._down))

    async def _step(self, command: str | None) -> None:
        """One round trip: a point where others run, where the line may be found dropped, and where it may drop."""
        if command is not None and self._down is None:
            self._account.commands.append(command)
        await asyncio.sleep(0)
        faults = self._account.faults
        if self._down is None and faults.cut_after is not None:
            if faults.cut_after <= 0:
                faults.cut_after = None
                self.drop("connection reset")
            else:
                faults.cut_after -= 1
        if self._down is not None:
            raise NetworkError(self._down)

    def _open_folder(self) -> MemoryFolder:
        folder = self._account.folders.get(self.open_name) if self.open_name is not None else None
        if folder is None:
            raise ServerError("no folder is open", code="CLIENTBUG")
        return folder

    def _withheld(self, uid: int) -> bool:
        return (self.open_name, uid) in self._account.faults.withheld

    def _batches(self, uids: Iterable[range], changed_since: int | None) -> Iterable[list[MemoryMessage]]:
        folder = self._open_folder()
        if changed_since is not None and not self._account.condstore:
            raise ValueError("changed_since needs CONDSTORE")
        wanted = [r for r in uids if len(r)]
        floor = changed_since if changed_since is not None else -1
        chosen = [
            replace(m)
            for uid, m in sorted(folder.messages.items())
            if m.modseq > floor and any(uid in r for r in wanted) and not self._withheld(uid)
        ]
        return (chosen[i : i + self.batch] for i in range(0, len(chosen), self.batch))

    @staticmethod
    def _attributes(folder: MemoryFolder) -> Iterable[str]:
        if not folder.selectable:
            yield "\\noselect"
        if folder.special_use not in (None, SpecialUse.INBOX):
            yield f"\\{folder.special_use}"


def _header(raw: bytes) -> bytes:
    """Up to and with the first empty line, as BODY[HEADER] (RFC 9051 §6.4.5.1)."""
    end = raw.find(b"\r\n\r\n")
    return raw if end < 0 else raw[: end + 4]


def _ranges(uids: Iterable[int]) -> tuple[range, ...]:
    """Ascending, disjoint, adjacent UIDs joined."""
    found: list[range] = []
    for uid in sorted(uids):
        if found and found[-1].stop == uid:
            found[-1] = range(found[-1].start, uid + 1)
        else:
            found.append(range(uid, uid + 1))
    return tuple(found)
