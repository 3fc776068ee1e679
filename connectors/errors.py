"""Errors of mail servers and lines: each says how much it concerns and when to try again.

    ConnectorError
    ├── NetworkError          the line: DNS, refused, reset, timed out, closed          (mailbox, later)
    │   └── TlsError          the certificate or handshake was refused                  (server, later; says why)
    ├── AuthError             the server refused the credentials                        (mailbox, never: same ones)
    ├── ThrottledError        the server asked for a pause                              (mailbox, `retry_after_s`)
    ├── ServerError           NO or BAD to one command                                  (folder, later, or `retry`)
    │   └── FolderGoneError   the folder does not exist (any more)                      (folder, after the next LIST)
    ├── ProtocolError         an answer that is no IMAP, or contradicts itself          (mailbox, later)
    ├── MessageError          one message could not be fetched                          (message, by request)
    └── AddressRefusedError   the address is private and not allowed by configuration   (server, never)

`reason` is a slug for what is behind an error of line, TLS or login, where that is known: what a person can do about it
hangs on that.

No error text carries a secret; server texts are cut to 200 characters and freed of control characters.
"""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    MESSAGE = "message"
    FOLDER = "folder"
    MAILBOX = "mailbox"
    SERVER = "server"


class Retry(StrEnum):
    NOW = "now"
    LATER = "later"
    NEVER = "never"


class ConnectorError(Exception):
    """Base of all errors of this package; `scope` and `retry` as in the module's table."""

    scope: Scope = Scope.MAILBOX
    retry: Retry = Retry.LATER

    def __init__(self, message: str, *, retry_after_s: float | None = None, reason: str | None = None) -> None:
        super().__init__(clean_text(message))
        self.retry_after_s = retry_after_s
        self.reason = reason


class NetworkError(ConnectorError):
    """The line failed: name not found, refused, reset, timed out or closed."""


class TlsError(NetworkError):
    """The handshake failed or the certificate was not accepted."""

    scope = Scope.SERVER


class AuthError(ConnectorError):
    """The server refused the credentials; trying again with the same ones only locks accounts."""

    retry = Retry.NEVER


class ThrottledError(ConnectorError):
    """The server asked for a pause ([THROTTLED], [LIMIT], [INUSE], too many connections; RFC 5530)."""


class ServerError(ConnectorError):
    """A command was answered with NO or BAD. `code` is the response code without brackets, upper case, if any."""

    scope = Scope.FOLDER

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry: Retry = Retry.LATER,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.code = code
        self.retry = retry


class FolderGoneError(ServerError):
    """The folder can't be selected because it does not exist (RFC 5530 NONEXISTENT)."""


class ProtocolError(ConnectorError):
    """The server's bytes are no IMAP or contradict themselves; the connection is dropped."""


class MessageError(ConnectorError):
    """One message could not be fetched or had an impossible answer; the others go on."""

    scope = Scope.MESSAGE
    retry = Retry.NEVER


class AddressRefusedError(ConnectorError):
    """The host resolves to a private, loopback or link-local address that `net.allow` does not list."""

    scope = Scope.SERVER
    retry = Retry.NEVER


def clean_text(text: str, limit: int = 200) -> str:
    """A server's text made safe for logs and pages: control characters out, at most `limit` characters."""
    cleaned = "".join(c if c.isprintable() else " " for c in text)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"
