"""A mailbox's lease as its owner knows it: until when it lasts, and whether that is long enough for a command.

Writes to the database are fenced there. A command that changes something at a mail server can't be, so it is sent
only while the lease outlasts it: until its answer has come or its time is over, no other process may begin. The lease
is judged by the wall clock, which the other processes go by, and by the monotonic one, which nobody sets; a process
that was stopped and goes on finds by one or the other that its time has passed.

A lease is short, so that who was killed is followed soon. Before a command it is made as long as that command may take,
in the database; once all commands are answered, nothing can happen any more that another process would have to wait
for, and it is short again.
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

QUIET_S: Final = 2.0
"""So long after the last answer a lease is made short: commands that follow each other do not lengthen it each."""


_SOON_S: Final = 0.5


class OwnershipLostError(ConflictError):
    """Another process may own the mailbox by now: nothing more is sent for it."""

    default_slug = "lease_lost"


class Lease:
    """The lease of `owner`, made by `Leases`."""

    def __init__(self, leases: Leases, owner: Owner) -> None:
        self.owner = owner
        self._leases = leases
        self._at = self._until_at = 0
        self._until_s = self._needed_until_s = self._answered_s = 0.0

    @property
    def needed_s(self) -> float:
        """How long a command that is under way may still take, with the margin."""
        return max(0.0, self._needed_until_s - monotonic_s())

    def answered(self) -> None:
        """All commands that it was held for are over, and said so."""
        if self._needed_until_s:
            self._needed_until_s, self._answered_s = 0.0, monotonic_s()

    def is_long(self, lease_s: float) -> bool:
        """Whether it stands for longer than `lease_s`, and nothing has needed that for a while."""
        now_s = monotonic_s()
        quiet = not self._needed_until_s and now_s - self._answered_s >= QUIET_S
        return quiet and self._until_s - now_s > lease_s + QUIET_S

    def shorten(self, at: Instant, at_s: float, ttl_s: float) -> None:
        """It may soon stand for so long only: nothing may rely on more from now on, whatever it is told meanwhile."""
        self._until_at = min(self._until_at, at + round(ttl_s * SECOND))
        self._until_s = min(self._until_s, at_s + ttl_s)

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
            at, at_s = self.clock(), monotonic_s()
            for lease in leases:
                ttl_s = self._ttl_s(lease)
                lease.shorten(at, at_s, ttl_s)
                by_ttl.setdefault(ttl_s, []).append(lease)
            for ttl_s, group in by_ttl.items():
                at, at_s = self.clock(), monotonic_s()
                gone = set(await self._store.renew([lease.owner for lease in group], round(ttl_s * SECOND), at))
                for lease in group:
                    lease.set(at, at_s, 0.0 if lease.owner in gone else ttl_s)
                lost += gone
        return lost

    def _ttl_s(self, lease: Lease) -> float:
        """As long as what is under way needs until it is renewed the next time, and never less than a lease."""
        return max(self._lease_s, lease.needed_s + self._lease_s / 3)

    async def trim(self, leases: Sequence[Lease]) -> list[Owner]:
        """Make those short that were long for commands which are answered; the owners that lost theirs."""
        long = [lease for lease in leases if lease.is_long(self._lease_s)]
        return await self.renew(long) if long else []

    async def free_in_s(self, mailbox_id: str) -> float:
        """When to ask again for a lease that another process has: when it runs out, unless it is renewed as usual."""
        until = await self._store.leased_until(mailbox_id)
        return min(self._lease_s / 3, max(0.0, (until - self.clock()) / SECOND) + _SOON_S)

    async def give_back(self, lease: Lease) -> None:
        """Others may take it from now on."""
        await self._store.release(lease.owner)
