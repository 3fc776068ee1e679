"""One mailbox that may run: takes the lease, connects, runs sessions, pauses after faults.

A fault is written to the mailbox's state with its reason and the time of the next attempt. Pauses grow with each
failure, with jitter, and a server that asks for a longer one is obeyed, whoever asks for a pass meanwhile. While the
database can't be used no server is asked for anything, and looks at it follow each other within half a minute. A
refused login ends the task. The lease is held through pauses too: as long as a process has the mailbox, what its state
says is kept true.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from connectors.errors import AuthError, ConnectorError, NetworkError, ProtocolError, Retry, ThrottledError
from connectors.oauth.errors import ConsentLapsedError
from connectors.port import Connect, Connection
from connectors.searches import Searches
from mailgate.blobs.errors import BlobStoreError
from mailgate.blobs.store import BlobStore
from mailgate.clock import SECOND, Clock, Instant, to_rfc3339
from mailgate.errors import MailgateError
from mailgate.keys import KeyRing
from mailgate.reading.suspects import Suspects
from mailgate.settings import SyncSettings
from mailgate.sync.breakers import Breakers
from mailgate.sync.context import Context, import_floor
from mailgate.sync.hosts import LONGEST_PAUSE_S, Host, Hosts
from mailgate.sync.ownership import Lease, Leases
from mailgate.sync.port import SyncStore
from mailgate.sync.prepare import Preparer
from mailgate.sync.rests import Rests
from mailgate.sync.run import Session
from mailgate.sync.state import Entitled, MailboxConfig, MailboxHead, MailboxState, Owner
from mailgate.sync.turns import Turn, Turns
from mailgate.sync.wake import Wake
from mailgate.sync.workers import Workers
from mailgate.troubles import LONGEST_PAUSE_S as LONGEST_OUTAGE_PAUSE_S
from mailgate.troubles import Trouble
from retention.model import AnchorFrom

log = structlog.get_logger()

Connector: TypeAlias = Callable[[MailboxConfig], Connect]

STEADY_S: Final = 60.0
"""A session that lasted so long starts the pauses anew."""
FRUITFUL: Final = 3
"""A shorter one that brought something keeps the pauses from growing beyond so many faults: a line that breaks again
and again still makes progress.
"""
ACCESS_SLACK: Final[Instant] = 60 * SECOND
"""Servers end sessions when the token is over by their clock, or a little before."""
STOP_S: Final = 5.0
"""How long a stopped session may take to finish what it is writing."""
_UNTIL_ASKED_S: Final = 30 * 86_400.0
"""What changes only with the settings is tried again when somebody asks for it; and now and then, who knows."""
_SOON_S: Final = 1.0
"""What should not run now is about to be stopped."""


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
    suspects: Suspects = field(default_factory=Suspects)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the mailboxes of a process have together: threads, leases, what they take turns in, and what is written for
    all of them at once (`checked`: when each was last found to agree with its server).
    """

    workers: Workers
    leases: Leases
    hosts: Hosts
    connecting: Turns
    importing: Turns
    checked: dict[Owner, Instant] = field(default_factory=dict)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """The process ends: leases are given back all at once, not by each mailbox."""
    trouble: Trouble = field(default_factory=Trouble)
    """With the database: said once, not by each mailbox."""
    storing: Trouble = field(default_factory=Trouble)
    """With the place of blobs; over when a mailbox that had met it has brought everything."""


class MailboxTask:
    """One mailbox that may run: connects, runs sessions, pauses after faults."""

    def __init__(self, parts: Parts, shared: Shared, head: MailboxHead) -> None:
        self._parts = parts
        self._shared = shared
        self._session: Session | None = None
        self._source: Connection | None = None
        self._host: Host | None = None
        self._wanted = Wake()
        self._run_ids: list[str] = []
        self._stopping = self._obeying = False
        self._told: tuple[MailboxState, str | None] | None = None
        self._breakers = Breakers()
        self._rests = Rests(parts.settings.poll_interval_s)
        self._searches = Searches()
        self._access_over_at: Instant | None = None
        self._renewing = False  # connecting anew with another token, of which nobody needs to hear
        self._faults = 0  # in a row, less what good sessions made up for
        self._outage = False  # the last fault was the database's
        self._unstored = False  # what it brought could not be stored
        self.id = head.id
        self.tenant_id = head.tenant_id
        self.config_version = head.config_version
        self.lease: Lease | None = None
        self.hopeless = False
        """Nothing changes before settings or credentials do."""
        self.task: asyncio.Task[None] | None = None

    def request(self, run_ids: Sequence[str]) -> None:
        """These runs are wanted now; a pause after a fault ends, unless the server asked for it."""
        if not run_ids:
            return
        if self._session is not None:
            self._session.request(run_ids)
        else:
            self._run_ids.extend(run_id for run_id in run_ids if run_id not in self._run_ids)
        self._wanted.set()

    def push(self, op_seq: int) -> None:
        """The last change that the CRM asked for and that is not finished has this number. While there is no session
        nothing can be sent, and the next one begins with what is open.
        """
        if self._session is not None:
            self._session.push(op_seq)

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
        """Sessions and pauses, until stopped, or until nothing can change by itself."""
        try:
            while not self._over():
                pause_s = await self._attempt()
                if self._over():
                    return
                self._wanted.clear()
                if self._obeying:
                    await asyncio.sleep(pause_s)
                else:
                    await self._wanted.cut(asyncio.sleep(pause_s))
        finally:
            await self._give_back()

    def _over(self) -> bool:
        return self._stopping or self.hopeless

    async def once(self) -> None:
        """One complete pass; faults are the caller's."""
        lease = self.lease = await self._shared.leases.take(self.id, self.tenant_id)
        if lease is None:
            raise MailgateError("another process has this mailbox and does what was asked for", slug="lease_busy")
        renewing = asyncio.create_task(self._keep(lease))
        try:
            config = await self._parts.store.load(self.id)
            if config is not None:
                await self._session_of(lease, config, once=True)
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
        self._obeying = False
        try:
            await self._own()
            if self.lease is None:
                return await self._shared.leases.free_in_s(self.id)  # another process has it: see whether it still does
            config = await self._parts.store.load(self.id)
            if config is None:
                return _SOON_S
            if config.state is MailboxState.AUTH_FAILED:
                self.hopeless = True  # another process was refused a moment ago
                return 0.0
            self._told = self._told or (config.state, config.state_reason)
            return await self._session_of(self.lease, config, once=False)
        except ConnectorError as error:
            if not self._stopping:
                if self._is_end_of_access(error):
                    return 0.0
                return await self._fault(error, error.retry_after_s)
        except MailgateError as error:
            if error.slug in ("lease_lost", "mailbox_disabled") or self._stopping:
                await self._give_back()
                return settings.lease_s / 3
            return await self._fault(error, None)
        except Exception as error:
            away = self._parts.store.outage(error)
            if away is not None:
                return await self._away(away)
            log.exception("session_failed", mailbox_id=self.id)
            return await self._fault(error, None)
        return 0.0

    async def _own(self) -> None:
        """Take the lease, if nobody has it; where the database could not be used, see first that it takes something."""
        leases = self._shared.leases
        if self._outage and self.lease is not None and await leases.renew([self.lease]):
            self.lease = None
        if self.lease is None:
            self.lease = await leases.take(self.id, self.tenant_id)
            self._told = None
        if not self._outage:
            return
        self._outage = False
        if times := self._shared.trouble.over():
            log.info("database_usable", times=times)

    async def _away(self, why: str) -> float:
        """The database can't be used: how long to pause. What it can't be told now is told by the next attempt."""
        known, self._outage = self._outage, True
        if known:
            pause_s = min(LONGEST_OUTAGE_PAUSE_S, self._parts.settings.backoff_max_s) * _jitter()
        else:
            pause_s = self._next_pause_s()
        reason = f"{why}; tried again {self._at(pause_s)}"
        if self._shared.trouble.met(why):
            log.warning("mailbox_fault", mailbox_id=self.id, state=str(MailboxState.BACKOFF), reason=reason)
        with contextlib.suppress(Exception):
            await self._tell(MailboxState.BACKOFF, reason, why)
        return pause_s

    def _is_end_of_access(self, error: ConnectorError) -> bool:
        """Whether the server ended a session because its access token is over, which is no fault: there is another one.
        Once for each token, and only of sessions that had begun.
        """
        over_at, self._access_over_at = self._access_over_at, None
        if over_at is None or isinstance(error, AuthError | ThrottledError) or error.retry is Retry.NEVER:
            return False
        self._renewing = self._parts.clock() >= over_at
        return self._renewing

    async def _give_back(self) -> None:
        if self._shared.closing.is_set():
            return
        lease, self.lease = self.lease, None
        if lease is not None:
            try:
                await asyncio.shield(self._shared.leases.give_back(lease))
            except Exception as error:  # noqa: BLE001 - a lease that can't be given back runs out by itself
                log.warning("lease_not_released", mailbox_id=self.id, error=str(error))

    async def _session_of(self, lease: Lease, config: MailboxConfig, *, once: bool) -> float:
        """Wait for a connection, connect and run; how long to pause. The connection is closed whatever happens."""
        parts = self._parts
        self.config_version = config.config_version
        entitled = await parts.store.entitled(config.tenant_id, parts.clock())
        if not entitled.sync or entitled.days is None:
            return _SOON_S  # not one command to the server
        host = self._host = self._shared.hosts.of(config.endpoint.host)
        if not once and not self._renewing:
            await self._report(*_before(config, host))
        self._renewing = False
        async with Turn(host.places, self.tenant_id):
            if self._over():
                return 0.0
            source = self._source = await self._open(config, host)
            source.searches = self._searches
            began_s = asyncio.get_running_loop().time()
            try:
                if self._over():
                    return 0.0
                self._access_over_at = _access_over(source.access_until, self._parts.clock())
                await self._run(lease, config, entitled, source, once=once)
            finally:
                if asyncio.get_running_loop().time() - began_s >= STEADY_S:
                    self._faults = 0
                if self._session is not None:
                    self._run_ids = self._session.waiting_runs
                    if self._session.fruitful:
                        self._faults = min(self._faults, FRUITFUL)
                self._session = self._source = None
                await source.close()
        if once:
            return 0.0
        await self._report(MailboxState.POLLING, _turns(host))
        return parts.settings.poll_interval_s

    async def _run(
        self, lease: Lease, config: MailboxConfig, entitled: Entitled, source: Connection, *, once: bool
    ) -> None:
        parts = self._parts
        floor_at = config.import_floor_at
        if floor_at is None:
            now = parts.clock()
            floor_at = await parts.store.set_floor(lease.owner, import_floor(now, entitled.days or 0), now)
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
                suspects=parts.suspects,
            ),
            workers=self._shared.workers,
            settings=parts.settings,
            clock=parts.clock,
            anchor_from=parts.anchor_from,
            floor_at=floor_at,
            entitled=entitled,
            breakers=self._breakers,
            rests=self._rests,
            backfill=config.backfill,
        )
        slot = Turn(self._shared.importing, self.tenant_id)
        session = self._session = Session(context, self._report, slot, imported=config.imported)
        if not once:
            session.checked = self._checked
            session.crowded = self._crowded
        session.request(self._run_ids)
        self._run_ids = []
        await session.run(once=once)

    async def _open(self, config: MailboxConfig, host: Host) -> Connection:
        """A connection, when it is our turn and the server did not ask to be left alone."""
        quiet = False
        while True:
            if (quiet_s := host.quiet_s) > 0:
                quiet = True
                reason = f"{host.name} asked for a pause; tried again {self._at(quiet_s)}"
                await self._report(MailboxState.BACKOFF, reason)
                await asyncio.sleep(quiet_s)
                continue
            if quiet:  # the time that it told has passed, and there may be a queue
                await self._report(MailboxState.CONNECTING, None)
            async with Turn(host.opening, self.tenant_id), Turn(self._shared.connecting, self.tenant_id):
                if host.quiet_s > 0:
                    continue
                try:
                    source = await self._connect(config)
                except (NetworkError, ProtocolError):
                    host.failed()
                    raise
                host.let_in()
                return source

    async def _connect(self, config: MailboxConfig) -> Connection:
        """Connected and logged in. A server that keeps talking without ever letting us in holds no place for ever."""
        settings = self._parts.settings
        limit_s = settings.connect_timeout_s + settings.command_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._parts.connector(config)()
        except TimeoutError:
            raise NetworkError(f"the login was not completed within {limit_s:g} s") from None

    def _next_pause_s(self) -> float:
        """Twice the last one, with jitter."""
        settings = self._parts.settings
        grown = settings.backoff_min_s * 2.0 ** min(self._faults, 30)
        self._faults += 1
        return min(settings.backoff_max_s, grown) * _jitter()

    def _at(self, pause_s: float) -> str:
        """When a pause will be over: unlike how long it lasts, that stays true."""
        second = (self._parts.clock() + round(pause_s * SECOND)) // SECOND + 1
        return f"at {to_rfc3339(second * SECOND)}"

    # What the session tells.

    async def _report(self, state: MailboxState, reason: str | None) -> None:
        """Write the state, if it is another than was told last; only its owner speaks for a mailbox."""
        if self.lease is not None and not self._stopping and self._told != (state, reason):
            # Credentials that were given anew meanwhile must not be called wrong.
            version = self.config_version if state is MailboxState.AUTH_FAILED else None
            now, owner = self._parts.clock(), self.lease.owner
            await self._parts.store.set_state(self.id, state, reason, now, owner, config_version=version)
            self._told = state, reason

    def _checked(self) -> None:
        """Everything agrees with the server now: written with what others say, within a second."""
        if self.lease is not None:
            self._shared.checked[self.lease.owner] = self._parts.clock()
        if self._unstored:
            self._unstored = False
            if times := self._shared.storing.over():
                log.info("blobs_usable", times=times)

    def _crowded(self) -> bool:
        """Whether others wait for this mailbox's place."""
        return self._host is not None and self._host.places.waiting

    async def _fault(self, error: Exception, retry_after_s: float | None) -> float:
        """Say what is wrong and how long to pause; what can't change by itself is not tried again."""
        pause_s, news = 0.0, True
        if isinstance(error, AuthError):
            self.hopeless = True
            said = str(error) if isinstance(error, ConsentLapsedError) else f"{error}; enter the credentials again"
            state, reason = MailboxState.AUTH_FAILED, said
        elif isinstance(error, ConnectorError) and error.retry is Retry.NEVER:
            pause_s = _UNTIL_ASKED_S
            state, reason = MailboxState.BACKOFF, f"{error}; tried again when the settings change, or at the next start"
        else:
            if isinstance(error, ThrottledError) and self._host is not None:
                self._host.throttled(self.id, retry_after_s)
            wish_s = min(retry_after_s or 0.0, LONGEST_PAUSE_S)
            self._obeying = isinstance(error, ThrottledError) or wish_s > 0
            pause_s = max(self._next_pause_s(), wish_s)
            if isinstance(error, BlobStoreError):
                self._unstored = True
                news = self._shared.storing.met("unstored")
                pause_s = min(pause_s, LONGEST_OUTAGE_PAUSE_S * _jitter())
            what = str(error) if isinstance(error, ConnectorError | MailgateError) else type(error).__name__
            state, reason = MailboxState.BACKOFF, f"{what}; tried again {self._at(pause_s)}"
        tell = log.warning if news else log.debug
        tell("mailbox_fault", mailbox_id=self.id, state=str(state), reason=reason)
        try:
            await self._tell(state, reason, str(error))
        except Exception as failure:  # noqa: BLE001 - without a database nothing can be told; the next attempt will
            why = self._parts.store.outage(failure) or str(failure)
            log.warning("state_not_written", mailbox_id=self.id, error=why)
        return pause_s

    async def _tell(self, state: MailboxState, reason: str, why: str) -> None:
        """The state; and the end of the passes that were asked for, and why."""
        run_ids, self._run_ids = self._run_ids, []
        if run_ids:
            await self._parts.store.finish_runs(run_ids, self._parts.clock(), {}, why)
        await self._report(state, reason)


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _access_over(until_at: Instant | None, now: Instant) -> Instant | None:
    """From when on the end of a session that begins now is no surprise; None: it always is."""
    return None if until_at is None else until_at - min(ACCESS_SLACK, max(0, until_at - now) // 4)


def _before(config: MailboxConfig, host: Host) -> tuple[MailboxState, str | None]:
    """What a mailbox says of itself while it waits for its connection."""
    if not host.places.full:
        return MailboxState.CONNECTING, None
    return (MailboxState.POLLING if config.imported else MailboxState.CONNECTING), _turns(host)


def _turns(host: Host) -> str:
    return f"takes turns with other mailboxes at {host.name} (sync.host_connections)"
