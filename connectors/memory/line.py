"""One line to an account in memory: round trips, what is heard in between, and how it drops."""

from __future__ import annotations

import asyncio

from connectors.errors import NetworkError, ServerError
from connectors.memory.mailstore import Mailstore, MemoryFolder
from connectors.model import Instant
from connectors.port import Abilities, FolderChange
from connectors.searches import Searches


class MemoryLine:
    """What reading and writing share. At most one folder is open, for writing or not."""

    batch = 100

    def __init__(self, account: Mailstore) -> None:
        self._account = account
        self._down: str | None = None
        self._change: FolderChange | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._selected = False
        self.open_name: str | None = None
        self.access_until: Instant | None = None
        self.searches = Searches()

    @property
    def capabilities(self) -> frozenset[str]:
        return self._account.capabilities

    @property
    def abilities(self) -> Abilities:
        account = self._account
        return Abilities(move=account.can_move, expunge=account.uidplus, places=account.uidplus, labels=account.labels)

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
        self._check_up()

    def _check_up(self) -> None:
        if self._down is not None:
            raise NetworkError(self._down)

    def _open_folder(self) -> MemoryFolder:
        folder = self._account.folders.get(self.open_name) if self.open_name is not None else None
        if folder is None:
            raise ServerError("no folder is open", code="CLIENTBUG")
        return folder
