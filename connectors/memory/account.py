"""The account that tests connect to."""

from __future__ import annotations

from connectors.errors import AuthError, NetworkError
from connectors.memory.mailstore import Mailstore
from connectors.memory.source import MemorySource
from connectors.memory.target import MemoryTarget


class MemoryConnection(MemorySource, MemoryTarget):
    """One connection to a `MemoryAccount`. Implements `connectors.port.Connection`."""


class MemoryAccount(Mailstore):
    """A `Mailstore` that one can connect to."""

    async def connect(self) -> MemoryConnection:
        """A `Connect`: fails as `faults` say, else a logged-in connection."""
        self.commands.append("LOGIN")
        if self.faults.unreachable:
            raise NetworkError("connection refused")
        if self.faults.reject_login:
            raise AuthError("the server refused the user name or password")
        connection = MemoryConnection(self)
        self.connections.append(connection)
        return connection
