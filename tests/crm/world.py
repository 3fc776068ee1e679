"""What the CRM's week goes on in: Dovecot, Postfix in front of it, and the gateway, a process that is killed."""

from __future__ import annotations

import mmap
import smtplib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path

import httpx

from tests.crm.crm import Client
from tests.dovecot import Account, Dovecot, start_dovecot
from tests.forks import Forked, fork
from tests.postfix import Postfix, mail_server, sasl_settings
from tests.servers import free_port

ADMIN = "an-admin-token-of-the-week"
PATIENCE_S = 180


class Clock:
    """The time of gateway and CRM: the machine's, and what the test put on top of it."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 8)
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def forward(self, **by: float) -> None:
        self._ahead += timedelta(**by)
        self._shared[:] = (self._ahead // timedelta(microseconds=1)).to_bytes(8, "little", signed=True)


class World:
    """Everything that runs. `kills` counts how often the gateway was ended by kill -9."""

    def __init__(self, folder: Path, dovecot: Dovecot, postfix: Postfix, accounts: dict[str, Account]) -> None:
        self.dovecot, self.postfix, self.accounts = dovecot, postfix, accounts
        self.clock = Clock(folder / "clock")
        self.kills = 0
        self.port = free_port()
        self._job = {
            "clock": str(folder / "clock"),
            "token": ADMIN,
            "settings": {
                "data_dir": str(folder / "data"),
                "http": {"port": self.port},
                "net": {"allow": "127.0.0.0/8"},
                "webhooks": {"allow_http": True},
                # Only the test purges, and in many small steps, so that a kill finds one half done.
                "retention": {"purge_interval_s": 86_400, "batch_size": 5},
                "sync": {"backoff_min_s": 0.1, "backoff_max_s": 1, "batch_messages": 10, "lease_s": 5},
                "ledger": {"origin": "mailgate.week.example"},
                "log": {"level": "warning"},
            },
        }
        self.gateway: Forked | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.gateway = fork("tests.crm.gateway_process", **self._job)
        self.until(self._alive, "the gateway serves")

    def _alive(self) -> bool:
        assert self.gateway is not None
        if self.gateway.poll() is not None:
            raise AssertionError(f"the gateway ended by itself: {self.gateway.communicate()[1]}")
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill -9, and start again."""
        assert self.gateway is not None
        self.gateway.kill()
        self.gateway.wait(200)
        self.kills += 1
        self.start()

    def stop(self) -> None:
        if self.gateway is not None:
            self.gateway.kill()
            self.gateway.wait(200)

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, f"still waiting: {what}"
            time.sleep(0.05)  # between two looks at the condition

    def write(self, sender: str, to: str, subject: str, text: str, *, answers: EmailMessage | None = None) -> str:
        """Somebody sends mail through the SMTP server; its Message-ID. `answers`: what it answers."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = sender, to, subject
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = make_msgid(domain=sender.partition("@")[2])
        if answers is not None:
            message["In-Reply-To"] = answers["Message-ID"]
            message["References"] = f"{answers['References'] or ''} {answers['Message-ID']}".strip()
        message.set_content(text)
        with smtplib.SMTP("127.0.0.1", self.postfix.port) as smtp:
            smtp.login(sender, self.accounts[sender].password)
            smtp.send_message(message)
        return str(message["Message-ID"])

    def admin(self) -> Client:
        """Whoever runs the gateway: plans, purges, tokens."""
        return Client(self.url, ADMIN, patience_s=PATIENCE_S)


@contextmanager
def running(*names: str) -> Iterator[World]:
    """A world in which these people have accounts; all of it is gone at the end."""
    sasl_port = free_port()
    with tempfile.TemporaryDirectory(prefix="mailgate-week-", ignore_cleanup_errors=True) as name:
        servers = start_dovecot(settings=sasl_settings(sasl_port))
        try:
            dovecot = next(servers)
            accounts = {name: dovecot.account(name) for name in names}
            for account in accounts.values():
                account.maildir()
            with mail_server(dovecot, sasl_port=sasl_port, accounts=accounts.values()) as postfix:
                world = World(Path(name), dovecot, postfix, accounts)
                try:
                    yield world
                finally:
                    world.stop()
        finally:
            servers.close()
