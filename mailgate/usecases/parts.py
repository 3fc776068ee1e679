"""What use cases work with, made by the composition root; every part can be replaced in a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from connectors.autoconfig.model import Discovery
from connectors.model import BearerAuth, Endpoint, PasswordAuth
from mailgate.blobs.store import BlobStore
from mailgate.clock import Clock, Instant
from mailgate.errors import MailgateError, TooManyRequestsError, UnavailableError
from mailgate.keys import KeyRing
from mailgate.keys.passwords import Passwords
from mailgate.metrics import Metrics
from mailgate.settings import Settings
from mailgate.store.access_log import AccessLog
from mailgate.store.alarms import Alarms
from mailgate.store.billing import StripeBook
from mailgate.store.connect_links import ConnectLinks
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry
from mailgate.store.feed_items import Feed
from mailgate.store.hooks.endpoints import Webhooks
from mailgate.store.legal_holds import LegalHolds
from mailgate.store.log import PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.pins import Pins
from mailgate.store.reading import MessageReader
from mailgate.store.retention import RetentionService
from mailgate.store.sending.accept import Submissions
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import TenantErasures
from mailgate.store.wishes.service import Wishes
from mailgate.usecases.access_tokens import AccessTokens
from mailgate.webhooks.calling import Call

if TYPE_CHECKING:
    from mailgate.usecases.signing_in_elsewhere import Elsewhere


class SyncControl(Protocol):
    """What the interface asks of the running synchronization. None of it waits for a mail server."""

    def changed(self, mailbox_id: str | None = None) -> None:
        """A mailbox, or a tenant's plan, was changed: look at it now."""
        ...

    async def request_run(self, mailbox_id: str, tenant_id: str, actor: str, now: Instant) -> str:
        """Queue one pass over the mailbox; the id of the run."""
        ...


class Step(NamedTuple):
    """One step of trying an account's settings: what it came to in the server's words, and why it failed as a slug of
    `connectors.reasons`.
    """

    step: str
    ok: bool
    detail: str = ""
    reason: str | None = None


Told = Callable[[Step], None]
"""Hears of each step when it is over."""


def untold(_step: Step) -> None:
    """For nobody who listens."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What trying an account's settings came to: each step that was taken; of each server the last one failed unless
    `ok`.
    """

    ok: bool
    steps: tuple[Step, ...]


class Verify(Protocol):
    """Tries settings for reading."""

    async def __call__(
        self, endpoint: Endpoint, auth: PasswordAuth | BearerAuth, *, told: Told = untold
    ) -> Verification:
        """Bounded in time. Raises nothing that a mail server can bring about."""
        ...


class VerifySmtp(Protocol):
    """Tries settings for sending, as the address `sender` if one is given. Nothing is sent."""

    async def __call__(
        self, endpoint: Endpoint, auth: PasswordAuth | BearerAuth, *, sender: str | None = None, told: Told = untold
    ) -> Verification:
        """See `Verify`."""
        ...


class Find(Protocol):
    """Finds settings for an address (`connectors.autoconfig`). `ask` False: nobody outside is asked."""

    async def __call__(self, address: str, *, ask: bool = True) -> Discovery:
        """Bounded in time. Raises NoAddressError."""
        ...


class Places:
    """Places for what goes on for long at the same time: each holds a connection and a task. Half of them at most are
    one tenant's, so that nobody takes all. `what`: goes on in all of them, the setting `setting` says how many.
    """

    def __init__(self, most: int, error: Callable[[str], MailgateError], what: str, setting: str) -> None:
        self.taken = 0
        self._most = most
        self._error = error
        self._what = what
        self._setting = setting
        self._by_tenant: Counter[str] = Counter()

    @contextmanager
    def place(self, tenant_id: str | None) -> Iterator[None]:
        """Take a place for as long as the block lasts; None: for no tenant in particular. Raises the error."""
        whose = tenant_id or ""
        if self.taken >= self._most or (whose and self._by_tenant[whose] >= max(1, self._most // 2)):
            why = f"{self.taken} {self._what} already ({self._setting}; half for one tenant); try again in a moment"
            raise self._error(why)
        self.taken += 1
        self._by_tenant[whose] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._by_tenant -= Counter([whose])  # keeps nothing of who has none


def check_places(most: int) -> Places:
    """For checks of accounts, which are connections to strangers' servers."""
    error = partial(UnavailableError, slug="too_many_checks")
    return Places(most, error, "accounts are being checked", "onboarding.checks_at_once")


def reader_places(most: int) -> Places:
    """For readers that wait for events or are streamed to."""
    error = partial(UnavailableError, slug="too_many_readers")
    return Places(most, error, "readers wait for events here", "events.readers")


def export_places(most: int) -> Places:
    """For purge logs that are handed out: each lies on the disk until it is sent."""
    error = partial(UnavailableError, slug="too_many_exports")
    return Places(most, error, "purge logs are being handed out", "limits.exports_at_once")


def upload_places(most: int) -> Places:
    """For letters that are larger than other requests may be: each is held in memory."""
    error = partial(TooManyRequestsError, slug="too_many_uploads", retry_after_s=5)
    return Places(most, error, "letters are being taken", "limits.uploads_at_once")


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a part works; `detail` is for an operator: what is wrong, or what is worth knowing. Of a part that is not
    `needed`, the gateway does its work although something is wrong.
    """

    ok: bool
    detail: str | None = None
    needed: bool = True


HealthCheck = Callable[[], Awaitable[Health]]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running gateway as routes and pages see them."""

    settings: Settings
    clock: Clock
    db: Database
    ring: KeyRing
    blobs: BlobStore
    log: PurgeLog
    log_reader: LogReader
    subscriptions: Subscriptions
    stripe: StripeBook
    expiry: Expiry
    mailboxes: Mailboxes
    reader: MessageReader
    pins: Pins
    holds: LegalHolds
    retention: RetentionService
    alarms: Alarms
    tenant_erasures: TenantErasures
    wishes: Wishes
    submissions: Submissions
    tokens: AccessTokens
    feed: Feed
    sync: SyncControl
    verify: Verify
    verify_smtp: VerifySmtp
    find: Find
    links: ConnectLinks
    metrics: Metrics
    webhooks: Webhooks
    call: Call
    access: AccessLog
    health: dict[str, HealthCheck] = field(default_factory=dict)
    admin_token: str | None = field(default=None, repr=False)
    closed: Callable[[], str | None] = lambda: None
    """Why nothing is served yet; None when everything is."""
    readers: Places = field(default_factory=lambda: reader_places(200))
    checks: Places = field(default_factory=lambda: check_places(20))
    exports: Places = field(default_factory=lambda: export_places(4))
    passwords: Passwords = field(default_factory=Passwords)
    elsewhere: Elsewhere | None = None
    """Where people sign in to the pages beside here."""
