"""What connects to the outside, made over a core as its settings say: to mail servers, webhooks and providers."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.x509 import Certificate

from connectors.autoconfig.discover import Finder
from connectors.autoconfig.names import Dns
from connectors.autoconfig.providers import providers
from connectors.imap.connection import connect_imap
from connectors.imap.session import Timeouts
from connectors.model import BearerAuth, Endpoint, PasswordAuth
from connectors.port import Connect, Connection
from connectors.smtp.session import SmtpSession, open_session
from connectors.smtp.session import Timeouts as SmtpTimeouts
from connectors.web import Pool
from mailgate.app.core import Core
from mailgate.clock import HOUR
from mailgate.consents.model import Consented
from mailgate.errors import ConfigurationError
from mailgate.jobs.deliver import Deliverer, HookLimits
from mailgate.jobs.send import ConnectSmtp, Sender, SendLimits
from mailgate.metrics import Metrics
from mailgate.settings import Settings
from mailgate.store.hooks.journal import Journal
from mailgate.store.sync import SqlSyncStore
from mailgate.sync.state import MailboxConfig
from mailgate.sync.supervisor import Connector, Supervisor
from mailgate.sync.supervisor import Parts as SyncParts
from mailgate.timestamps import load_roots
from mailgate.usecases.signing_in_elsewhere import Elsewhere
from mailgate.webhooks.calling import Call


def supervisor_of(core: Core, connector: Connector) -> Supervisor:
    """The synchronization over this core; also for one pass from the command line."""
    return Supervisor(
        SyncParts(
            store=SqlSyncStore(core.db, core.mailboxes, core.subscriptions, core.log, core.expiry),
            connector=connector,
            ring=core.ring,
            blobs=core.blobs,
            settings=core.settings.sync,
            clock=core.clock,
            process=core.owner,
            anchor_from=core.policy.anchor,
            suspects=core.suspects,
        )
    )


def elsewhere_of(core: Core) -> Elsewhere | None:
    """Where people sign in to the pages beside here."""
    wanted = core.settings.oidc
    return Elsewhere(wanted, core.settings.public_url, core.tokens.client) if wanted.issuer else None


def imap_connector(core: Core, context: ssl.SSLContext) -> Connector:
    """Connects to real mail servers; one TLS context is shared by all connections."""
    settings = core.settings
    timeouts = Timeouts(
        connect_s=settings.sync.connect_timeout_s,
        command_s=settings.sync.command_timeout_s,
        idle_s=settings.sync.idle_reissue_s,
    )

    def connector(config: MailboxConfig) -> Connect:
        async def by(auth: PasswordAuth | BearerAuth) -> Connection:
            return await connect_imap(
                config.endpoint,
                auth,
                ssl_context=context,
                allow_networks=settings.net.allow,
                timeouts=timeouts,
            )

        async def connect() -> Connection:
            if isinstance(config.auth, Consented):
                return await core.tokens.logged_in(config.id, config.auth.username, by)
            return await by(config.auth)

        return connect

    return connector


def sender_of(core: Core, connect: ConnectSmtp, metrics: Metrics) -> Sender:
    """The sending over this core."""
    sending = core.settings.sending
    return Sender(
        core.send_queue,
        core.blobs,
        connect,
        core.mailboxes.secrets,
        core.clock,
        core.owner,
        metrics,
        SendLimits(sending.at_once, sending.host_connections),
    )


def smtp_connector(core: Core, context: ssl.SSLContext) -> ConnectSmtp:
    """Connects to real submission servers, with the same trust as to mail servers."""
    settings = core.settings
    timeouts = SmtpTimeouts(
        connect_s=settings.sync.connect_timeout_s,
        command_s=settings.sending.command_timeout_s,
        end_s=settings.sending.end_timeout_s,
    )

    async def connect(mailbox_id: str, endpoint: Endpoint, auth: PasswordAuth | Consented) -> SmtpSession:
        async def by(auth: PasswordAuth | BearerAuth) -> SmtpSession:
            return await open_session(
                endpoint, auth, ssl_context=context, allow_networks=settings.net.allow, timeouts=timeouts
            )

        if isinstance(auth, Consented):
            return await core.tokens.logged_in(mailbox_id, auth.username, by)
        return await by(auth)

    return connect


def finder_of(settings: Settings, web: Pool) -> Finder:
    """What finds the mail servers of addresses."""
    wanted = settings.onboarding
    names = Dns(servers=wanted.dns_servers, timeout_s=wanted.lookup_timeout_s)
    return Finder(providers(), names, web, allow=settings.net.allow, timeout_s=wanted.lookup_timeout_s)


def deliverer_of(core: Core, call: Call, metrics: Metrics) -> Deliverer:
    """The delivering of webhooks over this core."""
    wanted = core.settings.webhooks
    limits = HookLimits(wanted.at_once, wanted.give_up_hours * HOUR, core.settings.events.poll_interval_s)
    journal = Journal(core.db, core.feed.reader, core.owner)
    return Deliverer(journal, core.webhooks, core.feed, call, core.clock, metrics, limits)


def _reason(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def authority_roots(settings: Settings) -> list[Certificate]:
    """The roots by which stamps are verified. Raises ConfigurationError for a file that can't be read."""
    file = settings.ledger.timestamp_ca
    if not file:
        return []
    try:
        return load_roots(Path(file))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"ledger.timestamp_ca: {file} can't be read: {_reason(error)}") from None
