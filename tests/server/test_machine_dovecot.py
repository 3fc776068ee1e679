"""The sync machine (`tests.property.reconcile_machine`) against a real Dovecot: another mail program on one side,
the CRM on the other, and both equal when they stop.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from connectors.imap.connection import connect_imap
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connection
from mailgate.clock import Instant
from tests.dovecot import Account, Dovecot
from tests.property.reconcile_machine import Machine
from tests.property.reconcile_world import Far, Original
from tests.soak import SOAK

pytestmark = pytest.mark.server

LOOPBACK = parse_networks(["127.0.0.0/8"])
_DATE = re.compile(rb'INTERNALDATE "([^"]+)"')
_UID = re.compile(rb"UID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
_NAME = re.compile(rb'"([^"]*)"\Z|(\S+)\Z')


class DovecotFar:
    """One account on a Dovecot, and a client of its own on it."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._connects = 0
        self._client = account.imap()
        for name in ("Archive", "Trash"):
            self._client.create(name)

    async def connect(self) -> Connection:
        """A `Connect` for the gateway; each is counted."""
        self._connects += 1
        endpoint = Endpoint("127.0.0.1", self._account.server.port, Security.NONE)
        auth = PasswordAuth(self._account.name, self._account.password)
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK)

    def close(self) -> None:
        self._client.logout()

    def commands(self) -> int:
        return self._connects

    def names(self) -> list[str]:
        found = []
        for line in self._ok(self._client.list()):
            named = _NAME.search(line)
            assert named is not None
            if b"\\noselect" not in line.lower():
                found.append((named[1] or named[2]).decode())
        return sorted(found)

    def originals(self) -> list[Original]:
        found: list[Original] = []
        for name in self.names():
            count = int(self._ok(self._client.select(_quoted(name), readonly=True))[0])
            if not count:
                continue
            answer = self._ok(self._client.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE BODY.PEEK[])"))
            found += [_original(name, *item) for item in answer if isinstance(item, tuple)]
        return sorted(found)

    def deliver(self, folder: str, raw: bytes, received_at: Instant, flags: frozenset[str]) -> None:
        at = datetime.fromtimestamp(received_at / 1e6, UTC)
        self._ok(self._client.append(_quoted(folder), f"({' '.join(sorted(flags))})", at, raw))  # type: ignore[arg-type]

    def flag(self, at: Original, flags: frozenset[str]) -> None:
        self._open(at)
        self._ok(self._client.uid("STORE", str(at.uid), "FLAGS.SILENT", f"({' '.join(sorted(flags))})"))

    def move(self, at: Original, to: str) -> None:
        self._open(at)
        self._ok(self._client.uid("MOVE", str(at.uid), _quoted(to)))

    def copy(self, at: Original, to: str) -> None:
        self._open(at)
        self._ok(self._client.uid("COPY", str(at.uid), _quoted(to)))

    def expunge(self, at: Original) -> None:
        self._open(at)
        self._ok(self._client.uid("STORE", str(at.uid), "+FLAGS.SILENT", "(\\Deleted)"))
        self._ok(self._client.uid("EXPUNGE", str(at.uid)))

    def create(self, name: str) -> None:
        self._ok(self._client.create(_quoted(name)))

    def rename(self, name: str, to: str) -> None:
        """Dovecot lists folders with a special use whether they are there or not; those it does not rename."""
        self._leave()
        kind, data = self._client.rename(_quoted(name), _quoted(to))
        assert kind == "OK" or b"[NONEXISTENT]" in data[0], data

    def delete(self, name: str) -> None:
        self._leave()
        self._ok(self._client.delete(_quoted(name)))

    def _open(self, at: Original) -> None:
        self._ok(self._client.select(_quoted(at.folder)))

    def _leave(self) -> None:
        if self._client.state == "SELECTED":
            self._ok(self._client.unselect())

    @staticmethod
    def _ok(answer: Any) -> Any:
        kind, data = answer
        assert kind == "OK", answer
        return [item for item in data if item is not None]


def _quoted(name: str) -> str:
    """The machine's names are plain words."""
    return f'"{name}"'


def _original(name: str, head: bytes, raw: bytes) -> Original:
    uid, flags, date = _UID.search(head), _FLAGS.search(head), _DATE.search(head)
    assert uid is not None
    assert flags is not None
    assert date is not None
    at = datetime.strptime(date[1].decode().strip(), "%d-%b-%Y %H:%M:%S %z")
    shown = frozenset(flags[1].decode().split()) - {"\\Recent"}
    return Original(name, int(uid[1]), raw, shown, int(at.timestamp()) * 1_000_000)


def test_users_on_both_sides_of_a_dovecot(dovecot: Dovecot) -> None:
    class DovecotMachine(Machine):
        far: DovecotFar

        def make_far(self) -> Far:
            return DovecotFar(dovecot.account())

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                self.far.close()

    limits = settings() if SOAK else settings(max_examples=5, stateful_step_count=15)
    run_state_machine_as_test(DovecotMachine, settings=settings(limits, suppress_health_check=list(HealthCheck)))
