"""A mailbox's lease as its owner knows it: until when it lasts, and whether that is long enough for a command.

Writes to the database are fenced there. A command that changes something at a mail server can't be, so it is sent
only while the lease outlasts it: until its answer has come or its time is over, no other process may begin. The lease
is judged by the wall clock, which the other processes go by, and by the monotonic one, which nobody sets; a process
that was stopped and goes on finds by one or the other that its time has passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from mailgate.clock import SECOND, Clock, Instant, monotonic_s
from mailgate.errors import ConflictError
from mailgate.sync.port import SyncStore
from mailgate.sync.state import Owner

MARGIN_S: Final = 5.0
"""By so much a lease outlasts a command: the clocks of two machines are never quite equal."""


class OwnershipLostError(ConflictError):
    """Another process may own the mailbox by now: nothing more is sent for it."""

    default_slug = "lease_lost"


class Lease:
    """The lease of `owner`, made by `Leases`."""

    def __init__(self, leases: Leases, owner: Owner) -> None:
        self.owner = owner
        self._leases = leases
        self._at = self._until_at = 0
        self._until_s = self._needed_until_s = 0.0

    @property
    def needed_s(self) -> float:
        """How long a command that is under way may still take, with the margin."""
        return max(0.0, self._needed_until_s - monotonic_s())

    def set(self, at: Instant, at_s: float, ttl_s: float) -> None:
        """It stands for `ttl_s` seconds from `at`, which was read with `at_s` before the database was asked."""
        self._at, self._until_at, self._until_s = at, at + round(ttl_s * SECOND), at_s + ttl_s

    def lasts(self, seconds: float) -> bool:
        """Whether it lasts that long from now, as far as this process knows. Not if the clock was set back meanwhile:
        others may take it for nobody's then.
        """
        now = self._leases.clock()
        return monotonic_s() + seconds < self._until_s and self._at <= now < self._until_at - seconds * SECOND

    async def hold(self, seconds: float) -> None:
        """See that it lasts so long and a margin. Raises OwnershipLostError when it is lost or can't be made to."""
        self._needed_until_s = max(self._needed_until_s, monotonic_s() + seconds + MARGIN_S)
        if self.lasts(seconds + MARGIN_S):
            return
        if await self._leases.renew([self]) or not self.lasts(seconds + MARGIN_S):
            raise OwnershipLostError(f"mailbox {self.owner.mailbox_id} may have another owner by now")


class Leases:
    """The leases of one process: taken and renewed for `lease_s` seconds, for longer while a command needs it."""

    def __init__(self, store: SyncStore, process: str, lease_s: float, clock: Clock) -> None:
        self.clock = clock
        self._store = store
        self._process = process
        self._lease_s = lease_s
        # One renewal at a time: a short one must not overtake the longer one that a command asked for.
        self._turn = asyncio.Lock()

    async def take(self, mailbox_id: str, tenant_id: str) -> Lease | None:
        """The mailbox's lease; None while another process has it."""
        at, at_s = self.clock(), monotonic_s()
        ttl = round(self._lease_s * SECOND)
        owner = await self._store.acquire(mailbox_id, tenant_id, self._process, ttl, at)
        if owner is None:
            return None
        lease = Lease(self, owner)
        lease.set(at, at_s, self._lease_s)
        return lease

    async def renew(self, leases: Sequence[Lease]) -> list[Owner]:
        """Extend them, all of the same length in one transaction; the owners that lost theirs."""
        lost: list[Owner] = []
        async with self._turn:
            by_ttl: dict[float, list[Lease]] = {}
            for lease in leases:
                by_ttl.setdefault(self._lease_s + lease.needed_s, []).append(lease)
            for ttl_s, group in by_ttl.items():
                at, at_s = self.clock(), monotonic_s()
                gone = set(await self._store.renew([lease.owner for lease in group], round(ttl_s * SECOND), at))
                for lease in group:
                    lease.set(at, at_s, 0.0 if lease.owner in gone else ttl_s)
                lost += gone
        return lost

    async def give_back(self, lease: Lease) -> None:
        """Others may take it from now on."""
        await self._store.release(lease.owner)
