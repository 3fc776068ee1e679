"""pymap, an IMAP server in Python, as a second real server for the contract: other answers to the same questions."""

from __future__ import annotations

import imaplib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.demo import pymap_server as program_of_pymap
from tests.servers import Server, free_port, leave_out, listening


class Pymap:
    """The server, on 127.0.0.1:`port`, without TLS; mail in Maildir."""

    def __init__(self, folder: Path) -> None:
        from pysasl.hashing import BuiltinHash

        self._hash = BuiltinHash(rounds=1_000)  # few: these passwords live for a minute
        self._mail = folder / "mail"
        self._mail.mkdir()
        for name in ("passwd", "shadow", "group"):
            (self._mail / f"pymap-etc-{name}").touch()
        self._names = itertools.count(1)
        self.port = free_port()
        program = [sys.executable, program_of_pymap.__file__]
        options = ["--no-service", "admin", "--host", "127.0.0.1", "--port", str(self.port), "--no-tls"]
        # pymap renames temporary files into the mail folder, so they must lie on the same file system.
        temporary = folder / "tmp"
        temporary.mkdir()
        environment = ["env", f"TMPDIR={temporary}"]
        self._server = Server([*environment, *program, *options, "maildir", str(self._mail)], folder / "pymap.log")
        self._server.wait_until(lambda: listening(self.port))

    def account(self) -> tuple[str, str]:
        """A new user's name and password."""
        name, password = f"user{next(self._names)}", "correct horse"
        for file, line in (
            ("passwd", f"{name}:::::{name}:"),
            ("shadow", f"{name}:{self._hash.hash(password)}:::::::"),
        ):
            with (self._mail / f"pymap-etc-{file}").open("a") as out:
                out.write(line + "\n")
        return name, password

    def client(self, name: str, password: str) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", self.port)
        client.login(name, password)
        return client

    def stop(self) -> None:
        self._server.kill()  # asked to end, it waits for its sessions


@pytest.fixture(scope="session")
def pymap_server() -> Iterator[Pymap]:
    if not _installed():
        leave_out("pymap", "it is the extra `demo` of this project")
    folder = Path(tempfile.mkdtemp(prefix="mailgate-pymap-"))
    try:
        server = Pymap(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _installed() -> bool:
    try:
        import pymap  # noqa: F401 - only whether it is there
    except ImportError:
        return False
    return True
