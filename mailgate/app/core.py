"""What every command needs: settings turned into a database, keys, blobs and the store's use cases. It runs nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from connectors.oauth.client import TokenClient
from mailgate import __version__
from mailgate.alarms import Limits
from mailgate.app.opening import free_ended, open_installation
from mailgate.app.plans import PlanFile, policy_of, read_plans
from mailgate.app.presence import Presence
from mailgate.app.verify import tls_context
from mailgate.blobs import BlobStore
from mailgate.clock import DAY, HOUR, SECOND, Clock, system_clock
from mailgate.consents.providers import offered
from mailgate.errors import ConfigurationError
from mailgate.keys import KeyRing, master_from_text
from mailgate.reading.suspects import Suspects
from mailgate.settings import ADMIN_TOKEN_VARIABLE, MASTER_KEY_VARIABLE, Settings
from mailgate.store.alarms import Alarms
from mailgate.store.connect_links import ConnectLinks
from mailgate.store.consents import Consents
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry
from mailgate.store.feed_items import Feed
from mailgate.store.hooks.endpoints import Webhooks
from mailgate.store.key_epochs import KeyRotation
from mailgate.store.legal_holds import LegalHolds
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.pins import Pins
from mailgate.store.reading import MessageReader
from mailgate.store.restore import Behind, Restore
from mailgate.store.retention import RetentionService
from mailgate.store.sending.accept import Submissions
from mailgate.store.sending.allowance import CountedAllowance, by_plan
from mailgate.store.sending.filing import Filing
from mailgate.store.sending.queue import SendQueue
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import TenantErasures
from mailgate.store.tokens import LONGEST_SECRET
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.service import Wishes
from mailgate.store.witness import Witness
from mailgate.tenants.catalogue import Catalogue
from mailgate.tenants.timeline import SubscriptionRules
from mailgate.usecases.access_tokens import AccessTokens
from mailgate.webhooks.calling import check_url
from retention.policy import ClockLimits, Policy

_log = structlog.get_logger("mailgate.core")

_SHORTEST_ADMIN_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Secrets:
    """What has no place in a file: given by the environment."""

    admin_token: str | None = None
    master_key: bytes | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Secrets:
        """Read them. Raises ConfigurationError for a token that could be guessed, or a key that is none."""
        environ = os.environ if environ is None else environ
        token = environ.get(ADMIN_TOKEN_VARIABLE) or None
        if token is not None and len(token) < _SHORTEST_ADMIN_TOKEN:
            raise ConfigurationError(
                f"{ADMIN_TOKEN_VARIABLE} must have at least {_SHORTEST_ADMIN_TOKEN} characters; "
                "make one with `openssl rand -hex 32`"
            )
        if token is not None and len(token) > LONGEST_SECRET:
            raise ConfigurationError(
                f"{ADMIN_TOKEN_VARIABLE} has more than {LONGEST_SECRET} characters, which no request may bring; "
                "make one with `openssl rand -hex 32`"
            )
        master = environ.get(MASTER_KEY_VARIABLE) or None
        return cls(token, None if master is None else master_from_text(master))


@dataclass(frozen=True, slots=True)
class Core:
    """The store and its use cases as one process has them. `owner` names the process in leases."""

    settings: Settings
    clock: Clock
    owner: str
    presence: Presence
    suspects: Suspects
    db: Database
    ring: KeyRing
    blobs: BlobStore
    plans: PlanFile
    log: PurgeLog
    log_reader: LogReader
    subscriptions: Subscriptions
    mailboxes: Mailboxes
    expiry: Expiry
    pins: Pins
    reader: MessageReader
    holds: LegalHolds
    retention: RetentionService
    alarms: Alarms
    wishes: Wishes
    allowance: CountedAllowance
    submissions: Submissions
    tokens: AccessTokens
    send_queue: SendQueue
    feed: Feed
    webhooks: Webhooks
    links: ConnectLinks
    keys: KeyRotation
    tenant_erasures: TenantErasures
    witness: Witness
    restore: Restore
    behind: Sequence[Behind]
    """Purge logs of which more was signed than the database had when it was opened: a backup was restored."""

    @property
    def catalogue(self) -> Catalogue:
        """The plans that are in force."""
        return self.subscriptions.catalogue

    @property
    def policy(self) -> Policy:
        """The retention policy that is in force."""
        return self.retention.policy

    @classmethod
    async def open(
        cls,
        settings: Settings,
        *,
        clock: Clock = system_clock,
        secrets: Secrets | None = None,
        create: bool = True,
        restored: bool = False,
    ) -> Core:
        """Open everything, the database migrated to the newest schema. `create`: make what a new installation lacks.
        `restored`: also a database that is behind its purge logs, of which nothing may be served yet; else
        RestoredBackupError.

        Raises ConfigurationError with what is wrong and what to do, UnavailableError without a database.
        """
        catalogue = read_plans(settings)
        policy = policy_of(settings, catalogue)
        opened = await open_installation(
            settings, None if secrets is None else secrets.master_key, create=create, restored=restored
        )
        db, ring, blobs, owner = opened.db, opened.ring, opened.blobs, opened.owner
        log = PurgeLog(
            origin=opened.origin,
            policy=LogPolicy(policy.version, policy.document),
            version=__version__,
            commit=os.environ.get("SOURCE_COMMIT", "unknown"),
        )
        rules = SubscriptionRules(grace_days=settings.retention.past_due_grace_days)
        subscriptions = Subscriptions(db, log, catalogue, rules)
        if not opened.behind:
            await subscriptions.compute_anew()
        expiry = Expiry(subscriptions, policy.graces)
        pins = Pins(db, ring, log, expiry, most=settings.limits.pins_per_message)
        clock_limits = ClockLimits(
            max_backward=settings.clock.max_backward_step_s * SECOND,
            max_forward=settings.clock.max_forward_step_days * DAY,
        )
        locks = Locks(subscriptions, expiry, clock_limits, log)
        allowance = CountedAllowance(by_plan(subscriptions))
        feed = Feed(db, expiry, clock_limits)
        suspects = await asyncio.to_thread(Suspects, settings.data_dir.absolute() / "reading")
        reader = MessageReader(
            db,
            ring,
            blobs,
            expiry,
            pins,
            clock_limits=clock_limits,
            parse_bytes=settings.limits.parse_bytes,
            parses_at_once=settings.limits.parses_at_once,
            suspects=suspects,
        )
        retention = RetentionService(
            db,
            log,
            subscriptions,
            expiry,
            policy,
            clock,
            owner,
            batch=settings.retention.batch_size,
            limits=clock_limits,
        )
        log_reader = LogReader(db, origin=opened.origin, seed=ring.ledger_seed, witness=opened.witness, owner=owner)
        plans = PlanFile(settings, db, log, subscriptions, retention, clock)
        limits = Limits.of(
            purge_interval_s=settings.retention.purge_interval_s, sign_interval_s=settings.ledger.sign_interval_s
        )
        mailboxes = Mailboxes(db, ring, subscriptions)
        tenant_erasures = TenantErasures(db, ring, log, subscriptions, clock, owner, limits=clock_limits)
        return cls(
            settings=settings,
            clock=clock,
            owner=owner,
            presence=opened.presence,
            suspects=suspects,
            db=db,
            ring=ring,
            blobs=blobs,
            plans=plans,
            log=log,
            log_reader=log_reader,
            subscriptions=subscriptions,
            mailboxes=mailboxes,
            expiry=expiry,
            pins=pins,
            reader=reader,
            holds=LegalHolds(db, ring, log, expiry, release_days=policy.graces.after_release),
            retention=retention,
            alarms=Alarms(
                db,
                retention,
                subscriptions,
                log_reader,
                limits,
                plans_fault=lambda: plans.fault,
                stamps=bool(settings.ledger.timestamp_url),
            ),
            wishes=Wishes.over(
                db,
                ring,
                blobs,
                locks,
                max_bytes=settings.sync.max_message_bytes,
                anchor_from=policy.anchor,
                at_once=settings.limits.parses_at_once,
                uploads=settings.limits.uploads_at_once,
                suspects=suspects,
            ),
            allowance=allowance,
            submissions=Submissions(
                db,
                ring,
                blobs,
                locks,
                reader,
                allowance,
                max_bytes=settings.sending.max_message_bytes,
                max_recipients=settings.sending.max_recipients,
                give_up=settings.sending.give_up_hours * HOUR,
                anchor_from=policy.anchor,
                at_once=settings.limits.parses_at_once,
                suspects=suspects,
            ),
            tokens=tokens_of(db, ring, subscriptions, clock, owner, settings),
            send_queue=SendQueue(db, ring, locks, Filing(expiry, pins, policy.anchor), allowance),
            feed=feed,
            webhooks=webhooks_of(db, ring, feed, clock, settings),
            links=ConnectLinks(db, subscriptions, most_attempts=settings.onboarding.link_attempts),
            keys=KeyRotation(db, ring, log, clock, owner, keep=settings.keys.keep_epochs_days * DAY),
            tenant_erasures=tenant_erasures,
            witness=opened.witness,
            restore=Restore(
                db, blobs, log_reader, opened.witness, subscriptions, mailboxes, tenant_erasures, log, clock
            ),
            behind=opened.behind,
        )

    async def free_ended(self) -> None:
        """Free what was owned by processes that were killed since, however far off their leases end."""
        await free_ended(self.db, self.presence)

    async def close(self) -> None:
        """Give everything back."""
        self.presence.leave()
        self.suspects.close()
        await self.tokens.close()
        await self.db.close()
        self.blobs.close()
        self.ring.close()


def tokens_of(
    db: Database, ring: KeyRing, subscriptions: Subscriptions, clock: Clock, owner: str, settings: Settings
) -> AccessTokens:
    """The access tokens of mailboxes, from the providers that the settings name."""
    wanted = settings.oauth
    return AccessTokens(
        Consents(db, ring),
        subscriptions,
        offered(settings),
        TokenClient(tls_context, wanted.timeout_s),
        clock,
        owner,
        ahead_s=wanted.refresh_ahead_s,
    )


def webhooks_of(db: Database, ring: KeyRing, feed: Feed, clock: Clock, settings: Settings) -> Webhooks:
    """The endpoints, with the URLs that the settings allow."""

    def checked(url: str) -> str:
        return check_url(url, allow_http=settings.webhooks.allow_http, allow=settings.net.allow)

    return Webhooks(db, ring, feed.reader, clock, checked, most=settings.webhooks.per_tenant)
