"""What bounds a session in time and in memory."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.imap.wire import LINE_LIMIT, LIST_LIMIT


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All in seconds. `connect_s`: resolving, connecting, TLS and greeting. `command_s`: the longest silence while a
    command is in flight.

    `idle_s`: how long one IDLE lasts before it is issued anew (RFC 2177 asks for less than 29 minutes; many NATs
    forget sooner). `logout_s`: how long `close` waits for a polite end.

    A change at the server is over within `command_s` and `message_s` for each message that it names, a change of a
    whole folder within `folder_s`. A message that is appended goes at `octets_per_s` or faster once it was handed to
    the system.
    """

    connect_s: float = 20.0
    command_s: float = 60.0
    idle_s: float = 10 * 60.0
    logout_s: float = 1.0
    message_s: float = 0.1
    folder_s: float = 300.0
    octets_per_s: float = 10_000.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`window_bytes`: how much may have come that the caller has not taken before reading pauses. `line_bytes`: see
    `wire`.
    """

    window_bytes: int = 8 << 20
    line_bytes: int = LINE_LIMIT
    list_bytes: int = LIST_LIMIT
