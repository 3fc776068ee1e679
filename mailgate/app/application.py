"""What a serving process runs: synchronization, sending, schedule, search index and HTTP, over one `Core`.

Started in the order in which they need each other, stopped in the opposite one. Every part may also be killed at any
moment: what it was doing is finished or undone by the next start, here or in another process.
"""

from __future__ import annotations

import asyncio
import ssl

import structlog
from fastapi import FastAPI

from connectors.web import Pool
from mailgate.actors import SYSTEM
from mailgate.admin import application as pages
from mailgate.api.application import create_app
from mailgate.app.core import Core, Secrets
from mailgate.app.health import checks
from mailgate.app.outside import (
    authority_roots,
    deliverer_of,
    elsewhere_of,
    finder_of,
    imap_connector,
    sender_of,
    smtp_connector,
    supervisor_of,
)
from mailgate.app.sampling import Sampler
from mailgate.app.upkeep import Upkeep, intervals_of
from mailgate.app.verify import SmtpVerifier, Verifier, tls_context
from mailgate.clock import Instant
from mailgate.errors import MailgateError
from mailgate.jobs.erase import EraseWorker
from mailgate.jobs.publish import Publishing
from mailgate.jobs.scheduler import Jobs
from mailgate.jobs.stamp import Stamper
from mailgate.jobs.worker import Worker
from mailgate.metrics import Metrics
from mailgate.store import leftovers, overview
from mailgate.store.access_log import AccessLog
from mailgate.store.billing import StripeBook
from mailgate.store.erasures import Erasures
from mailgate.store.feed import Publisher
from mailgate.store.outages import outage
from mailgate.store.plan_watch import PlanWatch
from mailgate.store.restore import refusal
from mailgate.store.search import Indexer
from mailgate.store.signals import Signals
from mailgate.sync.supervisor import Connector, Supervisor
from mailgate.troubles import Trouble
from mailgate.usecases import staging
from mailgate.usecases.parts import Services, Verify, check_places, export_places, reader_places
from mailgate.webhooks.calling import Caller

_log = structlog.get_logger("mailgate.app")

_HOUSEKEEPING_S = 2.0
_RESTORE_LOOK_S = 2.0


class Application:
    """One serving process. Make it in a running event loop; `connector`, `verify` and the `context`, which says whom
    mail servers' certificates must come from, can be replaced by tests.
    """

    def __init__(
        self,
        core: Core,
        *,
        secrets: Secrets | None = None,
        connector: Connector | None = None,
        verify: Verify | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.core = core
        context = context or tls_context()
        self.supervisor = supervisor_of(core, connector or imap_connector(core, context))
        self.metrics = Metrics()
        self._indexer = Indexer(core.db, core.ring, core.blobs, core.clock, core.owner, core.suspects)
        self._stamper = Stamper(core.db, core.settings.ledger.timestamp_url, authority_roots(core.settings))
        self._sampler = Sampler(core.db, core.owner, core.clock)
        upkeep = Upkeep(core)
        self.jobs = Jobs(
            retention=core.retention,
            plans=PlanWatch(core.db, core.subscriptions),
            erase=EraseWorker(Erasures(core.db, core.log), core.blobs, core.clock, core.owner),
            sign=upkeep.sign,
            stamp=self._stamper.work,
            prune=upkeep.prune,
            plans_file=core.plans.look,
            notices=upkeep.give_notices,
            alarms=upkeep.look_at_alarms,
            keys=upkeep.rotate_keys,
            erasures=core.tenant_erasures.work,
            sample=self._sampler.work,
            consents=core.tokens.renew_due,
            ended=core.free_ended,
            clock=core.clock,
            intervals=intervals_of(core.settings),
        )
        self.supervisor.workers.on_lost = lambda: self.metrics.count("preparing_processes_lost_total")
        core.tokens.on_lapsed = self.supervisor.wake
        core.holds.on_logged = lambda: self.jobs.wake("sign")
        core.tenant_erasures.on_begun = self._erasure_begun
        core.tenant_erasures.on_purged = lambda: self.jobs.wake("erase")
        self._index = Worker("index", self._index_behind)
        self.sender = sender_of(core, smtp_connector(core, context), self.metrics)
        self._send = Worker("send", self.sender.work)
        self.sender.wake = core.submissions.on_queued = self._send.wake
        self._publishing = Publishing(
            Publisher(core.db, core.owner),
            core.feed.reader,
            core.feed.arrivals,
            core.clock,
            signals=None if core.db.sqlite else Signals(core.db),
            poll_interval_s=core.settings.events.poll_interval_s,
        )
        core.db.on_events = self._publishing.wake
        self._lookups = Pool(
            context, allow=core.settings.net.allow, timeout_s=core.settings.onboarding.lookup_timeout_s
        )
        self._caller = Caller(
            context,
            allow=core.settings.net.allow,
            timeout_s=core.settings.webhooks.timeout_s,
            at_once=core.settings.webhooks.at_once,
        )
        self.deliverer = deliverer_of(core, self._caller, self.metrics)
        self.deliverer.on_paused = lambda: self.jobs.wake("alarms")
        core.webhooks.on_changed = self.deliverer.wake
        self._tasks: list[asyncio.Task[None]] = []
        self._closed: str | None = None
        self._begun = False
        self._syncing: asyncio.Task[None] | None = None
        sync = _Sync(self.supervisor, self.jobs)
        self.access = AccessLog(core.db, core.clock)
        self.api: FastAPI = create_app(
            Services(
                settings=core.settings,
                clock=core.clock,
                db=core.db,
                ring=core.ring,
                blobs=core.blobs,
                log=core.log,
                log_reader=core.log_reader,
                subscriptions=core.subscriptions,
                stripe=StripeBook(core.db, core.subscriptions, core.clock, sync.changed),
                expiry=core.expiry,
                mailboxes=core.mailboxes,
                reader=core.reader,
                pins=core.pins,
                holds=core.holds,
                retention=core.retention,
                alarms=core.alarms,
                tenant_erasures=core.tenant_erasures,
                wishes=core.wishes,
                submissions=core.submissions,
                tokens=core.tokens,
                feed=core.feed,
                sync=sync,
                verify=verify or Verifier(core.settings, context),
                verify_smtp=SmtpVerifier(core.settings, context),
                find=finder_of(core.settings, self._lookups),
                links=core.links,
                metrics=self.metrics,
                webhooks=core.webhooks,
                call=self._caller,
                access=self.access,
                elsewhere=elsewhere_of(core),
                health=checks(core, self.running, self.why_closed, lambda: self.supervisor.workers.fault),
                closed=self.why_closed,
                admin_token=None if secrets is None else secrets.admin_token,
                readers=reader_places(core.settings.events.readers),
                checks=check_places(core.settings.onboarding.checks_at_once),
                exports=export_places(core.settings.limits.exports_at_once),
            )
        )
        pages.install(self.api, self.api.state.services)
        self._uses = Worker("token_uses", self._write_uses)

    def running(self) -> dict[str, bool]:
        """Whether each part that runs by itself does."""
        syncing = self._syncing is not None and not self._syncing.done()
        parts = {
            "index": self._index.healthy,
            "publisher": self._publishing.healthy,
            "send": self._send.healthy,
            "webhooks": self.deliverer.healthy,
            "sync": syncing,
        }
        found = {**self.jobs.health, **parts}
        return found if self._begun else dict.fromkeys(found, False)

    async def start(self) -> None:
        """Begin everything but HTTP, whose server is the caller's. Over a database that was restored and is behind its
        purge logs nothing begins, and nothing is served, until `mailgate restore` was run.
        """
        refused = refusal(self.core.behind)
        if refused is None:
            await self._begin()
            return
        self._closed = refused.detail
        _log.error("backup_restored", detail=refused.detail)
        self._tasks.append(asyncio.create_task(self._wait_for_restore(), name="restore"))

    def why_closed(self) -> str | None:
        """Why nothing is served yet; None when everything is."""
        return self._closed

    async def _wait_for_restore(self) -> None:
        trouble = Trouble()
        while not await self._look_whether_restored(trouble):  # noqa: ASYNC110 - what is asked for stands in the database
            await asyncio.sleep(max(_RESTORE_LOOK_S, trouble.pause_s))
        self._closed = None
        _log.info("restored")

    async def _look_whether_restored(self, trouble: Trouble) -> bool:
        """Begin if it was. A look may fail, as while a restore holds the database: the next one finds out."""
        try:
            if (refused := refusal(await self.core.restore.behind())) is not None:
                self._closed = refused.detail
            else:
                await self.core.subscriptions.compute_anew()
                await self._begin()
        except Exception as error:  # noqa: BLE001 - who gave up here would serve nothing until somebody starts it anew
            why = outage(error) or (error.detail if isinstance(error, MailgateError) else None)
            if trouble.met(why or repr(error)):
                _log.error("restore_not_seen", why=why, exc_info=why is None)
            return False
        trouble.over()
        return refused is None

    async def _begin(self) -> None:
        core = self.core
        self._begun = True
        await asyncio.to_thread(core.ring.sweep)
        await asyncio.to_thread(staging.sweep, core.settings.exports_dir)
        await core.log.announce_everywhere(core.db, at=core.clock(), actor=SYSTEM)
        await core.keys.announce_master(SYSTEM)
        self._publishing.start()
        self._index.start()
        self._send.start()
        self.deliverer.start()
        self._uses.start()
        self.jobs.start()
        self._syncing = asyncio.create_task(self.supervisor.run(), name="sync")
        self._tasks.append(asyncio.create_task(self._keep_house(), name="housekeeping"))
        _log.info("started", owner=core.owner, database="sqlite" if core.db.sqlite else "postgresql")

    def leave(self) -> None:
        """The process will end: readers that wait for events are answered, streams end."""
        self.core.feed.arrivals.close()

    async def stop(self) -> None:
        """End everything in order; what is cut is finished by the next start."""
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._begun:
            await self._caller.close()
            await self._lookups.close()
            return
        await self.deliverer.stop()
        await self._index.stop()
        await self._send.stop()
        await self.sender.stop()
        await self._uses.stop()
        await self.jobs.stop()
        await self._sampler.leave()
        await self._indexer.release()
        await self._publishing.stop()
        await self.api.state.authenticator.flush()
        await self.access.flush()
        await self._caller.close()
        await self._lookups.close()
        _log.info("stopped", owner=self.core.owner)

    async def _keep_house(self) -> None:
        """What needs to happen now and then: index new messages, send what is due, write down when tokens were used."""
        while True:
            self._index.wake()
            self._send.wake()
            self._uses.wake()
            await asyncio.sleep(_HOUSEKEEPING_S)

    async def _write_uses(self) -> None:
        """Write down when tokens were used and what was read, of which reading itself wrote nothing."""
        await self.api.state.authenticator.flush()
        await self.access.tick()

    async def _index_behind(self) -> None:
        """Index what waits, then take out the words of what is gone; while a mailbox is being imported only a little at
        a time, so that it costs the import nothing that could be felt.
        """
        db = self.core.db
        while await self._indexer.work(batches=1) or await leftovers.sweep(db, pieces=1):
            if await overview.importing(db):
                break

    def _erasure_begun(self) -> None:
        """Connections are closed by who has them, which is now."""
        self.supervisor.wake()
        self.jobs.wake("erasures")


class _Sync:
    """What the interface asks of the supervisor and the schedule."""

    def __init__(self, supervisor: Supervisor, jobs: Jobs) -> None:
        self._supervisor = supervisor
        self._jobs = jobs

    def changed(self, mailbox_id: str | None = None) -> None:
        """Look now, instead of at the next tick: at the mailboxes, and after a change of plan at what it made due."""
        self._supervisor.wake()
        if mailbox_id is None:
            self._jobs.wake("plans")

    async def request_run(self, mailbox_id: str, tenant_id: str, actor: str, now: Instant) -> str:
        """Queue one pass, to be made by whichever process owns the mailbox."""
        return await self._supervisor.sync_now(mailbox_id, tenant_id, actor)
