"""What the mailboxes at one mail server have in common: how many connections it is asked for, and when to leave it
alone.

Connections are opened a few at a time; fewer while it fails or refuses, one more with each that succeeds. A server that
asks one mailbox for a pause is asked for no new connection for a short while; one that asks several, without letting
anybody in between, means all of them, and gets the pause that it asked for. Connections that are open stay.
"""

from __future__ import annotations

from typing import Final

from mailgate.clock import monotonic_s
from mailgate.settings import SyncSettings
from mailgate.sync.turns import Turns

LONGEST_PAUSE_S: Final = 6 * 3600.0
"""The longest pause that a server is granted: what asks for more is a mistake or malice."""


class Host:
    """One mail server. `places`: connections that are open; `opening`: those that are being opened."""

    def __init__(self, name: str, settings: SyncSettings) -> None:
        self.name = name
        self.places = Turns(settings.host_connections or None)
        self.opening = Turns(settings.host_connects_at_once)
        self._widest = self._width = settings.host_connects_at_once
        self._settings = settings
        self._quiet_until_s = 0.0
        self._throttled: set[str] = set()  # mailboxes that were asked for a pause since the last success

    @property
    def quiet_s(self) -> float:
        """For how long no connection is opened."""
        return max(0.0, self._quiet_until_s - monotonic_s())

    def let_in(self) -> None:
        """A connection was opened and logged in."""
        self._throttled.clear()
        self._resize(self._width + 1)

    def failed(self) -> None:
        """One could not be opened, for a reason that may concern all."""
        self._resize(self._width // 2)

    def throttled(self, mailbox_id: str, pause_s: float | None) -> None:
        """It asked this mailbox for a pause, of so many seconds if it said."""
        self._throttled.add(mailbox_id)
        self._resize(1)
        others = len(self._throttled) - 1
        settings = self._settings
        wanted_s = min(settings.backoff_max_s, settings.backoff_min_s * 2 ** min(others, 30))
        if others:
            wanted_s = max(wanted_s, min(pause_s or 0.0, LONGEST_PAUSE_S))
        self._quiet_until_s = max(self._quiet_until_s, monotonic_s() + wanted_s)

    def _resize(self, width: int) -> None:
        self._width = max(1, min(width, self._widest))
        self.opening.resize(self._width)


class Hosts:
    """The mail servers that this process connects to."""

    def __init__(self, settings: SyncSettings) -> None:
        self._settings = settings
        self._hosts: dict[str, Host] = {}

    def of(self, name: str) -> Host:
        """The server of this name; names are compared without case."""
        name = name.lower()
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name, self._settings)
        return host
