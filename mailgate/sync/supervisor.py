"""All mailboxes of a process as one tree of tasks, kept in step with the table of mailboxes.

At least every second, and whenever `wake` is called, the table is read (ever more seldom while that fails): who may run
(switched on, entitled now, settings changed) runs, who may not is stopped and has no connection from that moment on.
Each running mailbox is owned by a lease with a fencing number, renewed together; whoever loses its lease stops at once,
and its writes are refused anyway.

    disabled, not_entitled           not running; no connection, not one command
    connecting → importing → live    or polling, where the server has no IDLE, or mailboxes take turns
    backoff                          a fault: tried again after a pause that grows, with jitter; an address that is not
                                     allowed: when settings change, or in another process
    auth_failed                      refused login: not tried again before settings or credentials change
    needs_approval                   running; a guard refused to believe deletions

A transient fault never switches a mailbox off. What goes wrong in one mailbox, a defect of ours included, ends that
mailbox's session only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import structlog

from mailgate.errors import ConflictError, NotFoundError
from mailgate.sync.hosts import Hosts
from mailgate.sync.mailbox import Connector, MailboxTask, Parts, Shared
from mailgate.sync.ownership import Leases
from mailgate.sync.state import MailboxHead, MailboxState
from mailgate.sync.turns import Turns
from mailgate.sync.workers import Workers
from mailgate.troubles import Trouble

__all__ = ["Connector", "Parts", "Supervisor"]

log = structlog.get_logger()

TICK_S: Final = 1.0


class Supervisor:
    """Runs until cancelled; `sync_once` runs one mailbox by itself, for the command line."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running: dict[str, MailboxTask] = {}
        self._hopeless: dict[str, int] = {}  # mailbox id → config version with which nothing more is tried
        self._rested: dict[str, MailboxState] = {}  # what was said of mailboxes that may not run
        self._wake = asyncio.Event()
        settings = parts.settings
        self._shared = Shared(
            workers=Workers(),
            leases=Leases(parts.store, parts.process, settings.lease_s, parts.clock),
            hosts=Hosts(settings),
            connecting=Turns(settings.connects_at_once),
            importing=Turns(settings.imports_at_once),
        )
        self._renewed_s = 0.0
        self._trouble = Trouble()

    @property
    def workers(self) -> Workers:
        """Who prepares what arrives."""
        return self._shared.workers

    def wake(self) -> None:
        """Something changed in the table: look now. Call it in the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Keep all mailboxes running that may, until cancelled; then close every connection and give leases back."""
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:  # noqa: BLE001 - a database that fails for a while must not end all sync
                    self._bear(error)
                else:
                    if times := self._trouble.over():
                        log.info("supervisor_resumed", times=times)
                # Not wait_for: it loses a cancellation that comes with the wake (Python 3.11).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(TICK_S, self._trouble.pause_s)):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            await self._close()

    def _bear(self, error: Exception) -> None:
        """Say what is wrong, once; where it happened only if nobody can know what it is."""
        why = self._parts.store.outage(error)
        if self._trouble.met(why or repr(error)):
            log.error("supervisor_failed", why=why, exc_info=why is None)

    async def _close(self) -> None:
        """End everything in order; states say what is, also afterwards."""
        parts, mailboxes = self._parts, list(self._running.values())
        self._shared.closing.set()
        await self._stop(mailboxes)
        self._shared.workers.close()
        owners = [mailbox.lease.owner for mailbox in mailboxes if mailbox.lease is not None]
        try:
            await self._tell_checked()
            await parts.store.let_go(owners, "the gateway was stopped", parts.clock())
        except Exception as error:  # noqa: BLE001 - ending must not fail for want of a database: leases run out
            log.warning("state_not_written", error=str(error))

    async def sync_now(self, mailbox_id: str, tenant_id: str, actor: str) -> str:
        """Ask for one pass over a mailbox, by whichever process owns it; the run's id."""
        parts = self._parts
        run_id = await parts.store.request_run(mailbox_id, tenant_id, actor, parts.clock())
        self.wake()
        return run_id

    async def sync_once(self, mailbox_id: str, run_ids: Sequence[str] = ()) -> None:
        """One complete pass in this process, without `run`. Raises ConnectorError and MailgateError; `lease_busy` when
        another process has the mailbox (which then does the queued run).
        """
        head = next((h for h in await self._parts.store.heads(self._parts.clock()) if h.id == mailbox_id), None)
        if head is None:
            raise NotFoundError(f"there is no mailbox {mailbox_id}", slug="mailbox_not_found")
        if not head.enabled:
            raise ConflictError(f"mailbox {mailbox_id} is switched off", slug="mailbox_disabled")
        mailbox = MailboxTask(self._parts, self._shared, head)
        mailbox.request(run_ids)
        try:
            await mailbox.once()
        finally:
            self._shared.workers.close()

    async def _look(self) -> None:
        parts = self._parts
        now = parts.clock()
        heads = {head.id: head for head in await parts.store.heads(now)}
        stop = [m for m in self._running.values() if not _may_run(heads.get(m.id)) or _changed(heads.get(m.id), m)]
        await self._stop(stop)
        await self._renew()
        await self._tell_checked()
        asked = await parts.store.open_operations()
        queued = await parts.store.queued_runs()
        for head in heads.values():
            runs = queued.get(head.id, ())
            if not head.enabled:
                await self._rest(head, MailboxState.DISABLED, "switched off", runs)
            elif not head.entitled:
                await self._rest(head, MailboxState.NOT_ENTITLED, f"plan {head.plan} has no synchronization", runs)
            elif head.id in self._running:
                self._running[head.id].request(runs)
                if head.id in asked:
                    self._running[head.id].push(asked[head.id])
            elif not self._is_hopeless(head):
                self._start(head, runs)
            elif runs:
                await self._refuse(runs, head.state_reason or "the mailbox waits for other settings or credentials")

    def _is_hopeless(self, head: MailboxHead) -> bool:
        """Whether nothing changed since the login was refused: changed settings or credentials reset the state."""
        return head.state == MailboxState.AUTH_FAILED or self._hopeless.get(head.id) == head.config_version

    async def _rest(self, head: MailboxHead, state: MailboxState, reason: str, runs: Sequence[str]) -> None:
        if head.state != state.value and self._rested.get(head.id) is not state:
            await self._parts.store.set_state(head.id, state, reason, self._parts.clock())
        self._rested[head.id] = state
        if runs:
            await self._refuse(runs, reason)

    async def _refuse(self, run_ids: Sequence[str], reason: str) -> None:
        """Passes that were asked for and can't be made end at once, and say why."""
        await self._parts.store.finish_runs(run_ids, self._parts.clock(), {}, reason)

    async def _tell_checked(self) -> None:
        """Write when mailboxes were last found to agree with their servers: many in one transaction."""
        checked = dict(self._shared.checked)
        if checked:
            await self._parts.store.checked_many(checked)
            for owner, at in checked.items():
                if self._shared.checked.get(owner) == at:
                    del self._shared.checked[owner]

    def _start(self, head: MailboxHead, run_ids: Sequence[str]) -> None:
        mailbox = MailboxTask(self._parts, self._shared, head)
        mailbox.request(run_ids)
        self._rested.pop(head.id, None)
        self._running[head.id] = mailbox
        mailbox.task = asyncio.create_task(mailbox.run(), name=f"mailbox {head.id}")
        mailbox.task.add_done_callback(lambda _: self._ended(mailbox))

    def _ended(self, mailbox: MailboxTask) -> None:
        if self._running.get(mailbox.id) is mailbox:
            del self._running[mailbox.id]
        if mailbox.hopeless:
            self._hopeless[mailbox.id] = mailbox.config_version

    async def _stop(self, mailboxes: Sequence[MailboxTask]) -> None:
        for mailbox in mailboxes:
            self._running.pop(mailbox.id, None)
        await asyncio.gather(*(mailbox.stop() for mailbox in mailboxes))

    async def _renew(self) -> None:
        """Extend all leases together, at a third of their time; shorten at once what need not be long any more."""
        now_s = asyncio.get_running_loop().time()
        held = {m.lease.owner: m for m in self._running.values() if m.lease is not None}
        leases = [mailbox.lease for mailbox in held.values() if mailbox.lease is not None]
        due = now_s - self._renewed_s >= self._parts.settings.lease_s / 3
        lost = await (self._shared.leases.renew if due else self._shared.leases.trim)(leases)
        for owner in lost:
            log.warning("lease_lost", mailbox_id=owner.mailbox_id)
        await self._stop([held[owner] for owner in lost])
        if due:
            self._renewed_s = now_s


def _may_run(head: MailboxHead | None) -> bool:
    return head is not None and head.enabled and head.entitled


def _changed(head: MailboxHead | None, mailbox: MailboxTask) -> bool:
    return head is not None and head.config_version != mailbox.config_version
