"""The reading side of a connection to an account in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

from connectors.errors import FolderGoneError, ServerError
from connectors.memory.line import MemoryLine
from connectors.memory.mailstore import MemoryFolder, MemoryMessage
from connectors.model import (
    MICROSECONDS,
    FlagsChange,
    Folder,
    FolderStatus,
    MessageMeta,
    QResync,
    Selected,
    SpecialUse,
)
from connectors.port import Fetched, FolderChange, S

_HEADER_LIMIT = 1 << 20


class MemorySource(MemoryLine):
    """Implements `connectors.port.Source`."""

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
            if f.name not in self._account.faults.unlisted
        ]
        return sorted(folders, key=lambda f: (f.name != "INBOX", f.name))

    async def status(self, names: Sequence[str]) -> dict[str, FolderStatus | None]:
        await self._step("STATUS")
        found: dict[str, FolderStatus | None] = {}
        for name in names:
            folder = self._account.folders.get(name)
            if name not in self._account.faults.refuse:
                found[name] = self._account.status_of(folder) if folder is not None and folder.selectable else None
        return found

    async def open(self, name: str, qresync: QResync | None = None) -> Selected:
        self.open_name, self._selected = None, False
        await self._step(f"EXAMINE {name}")
        if name in self._account.faults.refuse:
            raise ServerError("the server refused to open the folder", code="NOPERM")
        folder = self._account.folders.get(name)
        if folder is None or not folder.selectable:
            raise FolderGoneError("no such folder", code="NONEXISTENT")
        self.open_name, self._change = name, None
        status = self._account.status_of(folder)
        if qresync is None or not self._account.qresync or qresync.uidvalidity != folder.uidvalidity:
            return Selected(status=status, read_only=True, object_id=folder.object_id)
        return Selected(
            status=status,
            read_only=True,
            object_id=folder.object_id,
            resynced=True,
            vanished=_ranges(uid for modseq, uid in folder.expunged if modseq > qresync.modseq),
            changed=tuple(
                m.change(condstore=True)
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
            yield [m.change(self._account.condstore) for m in batch]
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
                async with asyncio.timeout(timeout_s):
                    await waiter
            except TimeoutError:
                return None
            finally:
                self._waiters.discard(waiter)
        change, self._change = self._change, None
        return change

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
