"""Errors of handing a message over. Those of the line, TLS and login are `connectors.errors`.

ConnectorError
├── RefusedError          a command was answered with 4yz or 5yz                   (message; later or never)
├── CannotCarryError      the server does not offer what the message needs         (message, never)
└── UnknownOutcomeError   all of it was sent and no answer came                    (message, by request only)
"""

from __future__ import annotations

from connectors.errors import ConnectorError, Retry, Scope
from connectors.smtp.model import Reply


class RefusedError(ConnectorError):
    """The server refused at a `step`: greeting, ehlo, mail, data, content."""

    scope = Scope.MESSAGE

    def __init__(self, step: str, reply: Reply) -> None:
        super().__init__(f"{step}: {reply}")
        self.step = step
        self.reply = reply
        self.retry = Retry.LATER if reply.transient else Retry.NEVER


class CannotCarryError(ConnectorError):
    """The message needs an extension, or a size, that the server does not offer. `code` is a slug."""

    scope = Scope.MESSAGE
    retry = Retry.NEVER

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnknownOutcomeError(ConnectorError):
    """The end of the message was sent and its answer is not known: it may have been accepted (RFC 5321 §6.1)."""

    scope = Scope.MESSAGE
    retry = Retry.NEVER
