"""A connection to a real mail server: the port's two sides over one IMAP session."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from connectors.imap.connect import open_session
from connectors.imap.settings import Limits, Timeouts
from connectors.imap.source import ImapSource
from connectors.imap.target import ImapTarget
from connectors.model import BearerAuth, Endpoint, PasswordAuth
from connectors.net import Network, Reached, Resolver, resolve_host, unheard


class ImapConnection(ImapSource, ImapTarget):
    """One authenticated connection. Implements `connectors.port.Connection`."""


async def connect_imap(
    endpoint: Endpoint,
    auth: PasswordAuth | BearerAuth,
    *,
    ssl_context: ssl.SSLContext | None,
    allow_networks: Sequence[Network] = (),
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    resolver: Resolver = resolve_host,
    reached: Reached = unheard,
) -> ImapConnection:
    """Resolves, checks the address, connects, secures and logs in. See `connect.open_session` for what it raises."""
    session = await open_session(
        endpoint,
        auth,
        ssl_context=ssl_context,
        allow_networks=allow_networks,
        timeouts=timeouts,
        limits=limits,
        resolver=resolver,
        reached=reached,
    )
    connection = ImapConnection(session)
    if isinstance(auth, BearerAuth):
        connection.access_until = auth.expires_at
    try:
        await connection.enable_extensions()
    except BaseException:
        await connection.close()
        raise
    return connection
