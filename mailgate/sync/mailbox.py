"""One mailbox that may run: takes the lease, connects, runs sessions, pauses after faults.

A fault is written to the mailbox's state with its reason and the time of the next attempt. Pauses grow with each
failure, with jitter, and a server that asks for a longer one is obeyed. A refused login ends the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from connectors.errors import AuthError, ConnectorError, NetworkError, Retry
from connectors.port import Connect, Connection
from mailgate.blobs.store import BlobStore
from mailgate.clock import Clock
from mailgate.errors import MailgateError
from mailgate.keys import KeyRing
from mailgate.settings import SyncSettings
from mailgate.sync.breakers import Breakers
from mailgate.sync.context import Context, import_floor
from mailgate.sync.ownership import Lease, Leases
from mailgate.sync.port import MailboxConfig, MailboxHead, MailboxState, SyncStore
from mailgate.sync.prepare import Preparer, Workers
from mailgate.sync.run import Session
from retention.model import AnchorFrom

log = structlog.get_logger()

Connector: TypeAlias = Callable[[MailboxConfig], Connect]

STEADY_S: Final = 60.0
"""A session that lasted so long starts the pauses anew."""
FRUITFUL: Final = 3
"""A shorter one that brought something keeps the pauses from growing beyond so many faults: a line that breaks again
and again still makes progress.
"""
LONGEST_WISH_S: Final = 6 * 3600.0
"""The longest pause that a server is granted: what asks for more is a mistake or malice."""
STOP_S: Final = 5.0
"""How long a stopped session may take to finish what it is writing."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the supervisor is composed of. `process` names this process in leases, unlike any other."""

    store: SyncStore
    connector: Connector
    ring: KeyRing
    blobs: BlobStore
    settings: SyncSettings
    clock: Clock
    process: str
    anchor_from: AnchorFrom = AnchorFrom.RECEIVED


@dataclass(frozen=True, slots=True)
class Shared:
    """What the mailboxes of a process have together: threads, leases, and what they take turns in."""

    workers: Workers
    leases: Leases
    connecting: asyncio.Semaphore
    importing: asyncio.Semaphore


class MailboxTask:
    """One mailbox that may run: connects, runs sessions, pauses after faults."""

    def __init__(self, parts: Parts, shared: Shared, head: MailboxHead) -> None:
        self._parts = parts
        self._shared = shared
        self._session: Session | None = None
        self._source: Connection | None = None
        self._wanted = asyncio.Event()
        self._run_ids: list[str] = []
        self._stopping = False
        self._breakers = Breakers()
        self._faults = 0  # in a row, less what good sessions made up for
        self.id = head.id
        self.tenant_id = head.tenant_id
        self.config_version = head.config_version
        self.lease: Lease | None = None
        self.login_refused = False
        self.task: asyncio.Task[None] | None = None

    def request(self, run_ids: Sequence[str]) -> None:
        """These runs are wanted now; a pause after a fault ends."""
        if not run_ids:
            return
        if self._session is not None:
            self._session.request(run_ids)
        else:
            self._run_ids.extend(run_id for run_id in run_ids if run_id not in self._run_ids)
        self._wanted.set()

    async def stop(self) -> None:
        """Drop the connection at once, let what is being written end, give the lease back."""
        self._stopping = True
        resting = self._session is None or self._session.resting
        if self._source is not None:
            await self._source.close()
        if self.task is not None and not self.task.done():
            if resting:
                self.task.cancel()
            await asyncio.wait({self.task}, timeout=STOP_S)
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def run(self) -> None:
        """Sessions and pauses, until stopped, or until the login is refused."""
        while not self._over():
            pause_s = await self._attempt()
            if self._over():
                return
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause_s)

    def _over(self) -> bool:
        return self._stopping or self.login_refused

    async def once(self) -> None:
        """One complete pass; faults are the caller's."""
        lease = self.lease = await self._shared.leases.take(self.id, self.tenant_id)
        if lease is None:
            raise MailgateError("another process has this mailbox and does what was asked for", slug="lease_busy")
        renewing = asyncio.create_task(self._keep(lease))
        try:
            await self._session_of(lease, once=True)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._shared.leases.give_back(lease)

    async def _keep(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._parts.settings.lease_s / 3)
            if await self._shared.leases.renew([lease]) and self._source:
                await self._source.close()

    async def _attempt(self) -> float:
        """One session, from lease to fault; how long to pause, in seconds."""
        settings = self._parts.settings
        try:
            self.lease = await self._shared.leases.take(self.id, self.tenant_id)
            if self.lease is None:
                return settings.lease_s / 3  # another process has it: see later whether it still does
            await self._report(MailboxState.CONNECTING, None)
            await self._session_of(self.lease, once=False)
        except ConnectorError as error:
            if not self._stopping:
                return await self._fault(error, error.retry_after_s)
        except MailgateError as error:
            if error.slug in ("lease_lost", "mailbox_disabled") or self._stopping:
                return settings.lease_s / 3
            return await self._fault(error, None)
        except Exception as error:
            log.exception("session_failed", mailbox_id=self.id)
            return await self._fault(error, None)
        finally:
            await self._give_back()
        return 0.0

    async def _give_back(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            try:
                await asyncio.shield(self._shared.leases.give_back(lease))
            except Exception as error:  # noqa: BLE001 - a lease that can't be given back runs out by itself
                log.warning("lease_not_released", mailbox_id=self.id, error=str(error))

    async def _session_of(self, lease: Lease, *, once: bool) -> None:
        """Connect and run. The connection is closed whatever happens."""
        parts = self._parts
        config = await parts.store.load(self.id)
        if config is None:
            return
        self.config_version = config.config_version
        now = parts.clock()
        entitled = await parts.store.entitled(config.tenant_id, now)
        if not entitled.sync or entitled.days is None:
            return  # not one command to the server
        floor_at = config.import_floor_at
        source = self._source = await self._connect(config)
        began_s = asyncio.get_running_loop().time()
        try:
            if self._over():
                return
            if floor_at is None:
                floor_at = await parts.store.set_floor(lease.owner, import_floor(now, entitled.days), now)
            context = Context(
                config=config,
                lease=lease,
                source=source,
                store=parts.store,
                blobs=parts.blobs,
                preparer=Preparer(
                    config.tenant_id,
                    parts.ring.tenant(config.tenant_ref),
                    parts.blobs,
                    max_bytes=parts.settings.max_message_bytes,
                    anchor_from=parts.anchor_from,
                ),
                workers=self._shared.workers,
                settings=parts.settings,
                clock=parts.clock,
                anchor_from=parts.anchor_from,
                floor_at=floor_at,
                entitled=entitled,
                breakers=self._breakers,
            )
            imported = config.imported_at is not None
            session = self._session = Session(context, self._report, self._shared.importing, imported=imported)
            session.request(self._run_ids)
            self._run_ids = []
            await session.run(once=once)
        finally:
            if asyncio.get_running_loop().time() - began_s >= STEADY_S:
                self._faults = 0
            if self._session is not None:
                self._run_ids = self._session.waiting_runs
                if self._session.fruitful:
                    self._faults = min(self._faults, FRUITFUL)
            self._session = self._source = None
            await source.close()

    async def _connect(self, config: MailboxConfig) -> Connection:
        """Connected and logged in. A server that keeps talking without ever letting us in holds no place for ever."""
        settings = self._parts.settings
        limit_s = settings.connect_timeout_s + settings.command_timeout_s
        async with self._shared.connecting:
            try:
                async with asyncio.timeout(limit_s):
                    return await self._parts.connector(config)()
            except TimeoutError:
                raise NetworkError(f"the login was not completed within {limit_s:g} s") from None

    def _next_pause_s(self, *, never: bool) -> float:
        """Twice the last one, with jitter. `never`: nothing changes by itself, so the longest."""
        settings = self._parts.settings
        grown = settings.backoff_min_s * 2 ** min(self._faults, 30)
        self._faults += 1
        longest = settings.backoff_max_s
        return (longest if never else min(longest, grown)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    async def _report(self, state: MailboxState, reason: str | None) -> None:
        if not self._stopping:
            owner = None if self.lease is None else self.lease.owner
            await self._parts.store.set_state(self.id, state, reason, self._parts.clock(), owner)

    async def _fault(self, error: Exception, retry_after_s: float | None) -> float:
        """Say what is wrong and how long to pause; a refused login is not tried again with the same credentials."""
        if isinstance(error, AuthError):
            self.login_refused = True
            state, reason = MailboxState.AUTH_FAILED, f"{error}; enter the credentials again"
            pause_s = 0.0
        else:
            never = isinstance(error, ConnectorError) and error.retry is Retry.NEVER
            pause_s = max(self._next_pause_s(never=never), min(retry_after_s or 0.0, LONGEST_WISH_S))
            what = str(error) if isinstance(error, ConnectorError | MailgateError) else type(error).__name__
            state, reason = MailboxState.BACKOFF, f"{what}; tried again in {max(1, round(pause_s))} s"
        log.warning("mailbox_fault", mailbox_id=self.id, state=str(state), reason=reason)
        run_ids, self._run_ids = self._run_ids, []
        try:
            if run_ids:
                await self._parts.store.finish_runs(run_ids, self._parts.clock(), {}, str(error))
            await self._report(state, reason)
        except Exception as failure:  # noqa: BLE001 - without a database nothing can be told; the next attempt will
            log.warning("state_not_written", mailbox_id=self.id, error=str(failure))
        return pause_s
