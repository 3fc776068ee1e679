"""`python -m tests.matrix`: asks every server of the tests what it is and what it can, and prints the table of
docs/servers.md. As root, since Cyrus and Courier need that (see `unpacked`).
"""

from __future__ import annotations

import contextlib
import imaplib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.accounts import OnCourier, OnCyrus, OnDovecot, OnPymap, OverImap
from tests.contract.pymap_server import Pymap
from tests.courier import Courier
from tests.cyrus import Cyrus
from tests.dovecot import start_dovecot

RAW = b"From: a@mail.example\r\nSubject: One\r\n\r\nShort.\r\n"
WHEN = imaplib.Time2Internaldate(1_700_000_000)
CAPABILITIES = (
    "IDLE", "CONDSTORE", "QRESYNC", "ENABLE", "UIDPLUS", "MOVE", "ESEARCH", "LIST-EXTENDED", "LIST-STATUS",
    "SPECIAL-USE", "CREATE-SPECIAL-USE", "NAMESPACE", "OBJECTID", "LITERAL+", "SASL-IR", "UNSELECT", "ID", "STARTTLS",
    "COMPRESS=DEFLATE", "APPENDLIMIT",
)  # fmt: skip


class Asked:
    """One server, asked through an account of its own."""

    def __init__(self, remote: OverImap) -> None:
        self.remote = remote

    def client(self) -> imaplib.IMAP4:
        return self.remote._client()

    def greeting(self) -> str:
        with self.client() as client:
            return re.sub(r"\[[^]]*\] ?", "", (client.welcome or b"").decode()).removeprefix("* OK ")

    def capabilities(self) -> set[str]:
        with self.client() as client:
            before = {word.upper() for word in client.capabilities}
            return before | set(client.capability()[1][-1].decode().upper().split())

    def answer(self, *words: str) -> str:
        """What the server says to a command."""
        with self.client() as client:
            client.select("INBOX", readonly=True)
            return self._raw(client, " ".join(words))[-1]

    @staticmethod
    def _raw(client: imaplib.IMAP4, line: str, *, literal: bytes = b"") -> list[str]:
        client.send(b"X1 " + line.encode() + b"\r\n")
        if literal:
            client.readline()
            client.send(literal + b"\r\n")
        lines: list[str] = []
        while not lines or not lines[-1].startswith("X1 "):
            data = client.readline()
            if not data:
                return [*lines, "(hangs up)"]
            lines.append(data.decode(errors="replace").strip())
        return lines

    def uidnext_in_examine(self) -> bool:
        with self.client() as client:
            client.select("INBOX", readonly=True)
            return client.response("UIDNEXT")[1] != [None]

    def keeps_keywords(self) -> bool:
        with self.client() as client:
            client.append("INBOX", "($Forwarded)", WHEN, RAW)
            client.select("INBOX", readonly=True)
            return b"$Forwarded" in client.uid("FETCH", "1:*", "(FLAGS)")[1][-1]

    def tells_copyuid(self) -> bool:
        with self.client() as client:
            client.append("INBOX", "", WHEN, RAW)
            client.select("INBOX")
            lines = self._raw(client, f'UID COPY 1 "{self.remote.folder("Sent")}"')
            return any("COPYUID" in line for line in lines)

    def sees_its_own_append(self) -> bool:
        """Within the session that appended, with the folder open."""
        with self.client() as client:
            client.select("INBOX")
            before = len(client.uid("SEARCH", "ALL")[1][0].split())
            client.append("INBOX", "", WHEN, RAW)
            return len(client.uid("SEARCH", "ALL")[1][0].split()) == before + 1

    def identity_of_equal_content(self) -> str:
        with self.client() as client:
            if "OBJECTID" not in self.capabilities():
                return "–"
            for _ in range(2):
                client.append(self.remote.folder("Sent"), "", WHEN, RAW)
            client.select(f'"{self.remote.folder("Sent")}"')
            found = re.findall(rb"EMAILID \(+([^)]*)", b" ".join(client.uid("FETCH", "1:*", "(EMAILID)")[1]))
            return "one" if len(set(found)) < len(found) else "two"

    def push_s(self) -> float | None:
        """From another client's APPEND to what IDLE says of it."""
        with self.client() as client, self.client() as other:
            client.select("INBOX")
            client.send(b"X1 IDLE\r\n")
            while not client.readline().startswith(b"+"):
                pass
            heard = threading.Event()

            def listen() -> None:
                while (line := client.readline()) and not line.startswith(b"X1 "):
                    if b"EXISTS" in line:
                        heard.set()

            thread = threading.Thread(target=listen, daemon=True)
            thread.start()
            begun = time.monotonic()
            other.append("INBOX", "", WHEN, RAW)
            came = heard.wait(20)
            took = time.monotonic() - begun
            client.send(b"DONE\r\n")
            thread.join()
            return took if came else None

    def bad_commands_taken(self) -> int | None:
        """After how many it hangs up; None: after none of 50."""
        client = self.client()
        try:
            for count in range(1, 51):
                if self._raw(client, "NONSENSE")[-1] == "(hangs up)":
                    return count
        except (OSError, client.abort):
            return count
        finally:
            client.shutdown()
        return None

    def deleted_under_a_session(self) -> str:
        """What a session hears whose open folder another client deletes."""
        name = self.remote.folder("Doomed")
        with self.client() as other:
            other.create(f'"{name}"')
            client = self.client()
            client.select(f'"{name}"', readonly=True)
            other.delete(f'"{name}"')
        try:
            return re.sub(r"^X1 ", "", self._raw(client, "NOOP")[-1])
        finally:
            client.shutdown()

    def same_second_uidvalidity(self) -> bool:
        """Does a folder deleted and made again at once get its old UIDVALIDITY?"""
        name = f'"{self.remote.folder("Again")}"'
        values = []
        with self.client() as client:
            for _ in range(2):
                client.create(name)
                client.select(name)
                values.append(client.response("UIDVALIDITY")[1])
                client.select("INBOX")
                client.delete(name)
        return values[0] == values[1]

    def refused_login(self) -> str:
        client = imaplib.IMAP4(*self.client_address())
        try:
            return self._raw(client, "LOGIN nobody@mail.example wrong")[-1].removeprefix("X1 ")
        finally:
            client.shutdown()

    def client_address(self) -> tuple[str, int]:
        with self.client() as client:
            address: tuple[str, int] = client.sock.getpeername()[:2]
            return address


def servers() -> Iterator[tuple[str, OverImap]]:
    """Each server's name and an account on it."""

    @contextlib.contextmanager
    def pymap() -> Iterator[Pymap]:
        folder = Path(tempfile.mkdtemp(prefix="mailgate-pymap-"))
        server = Pymap(folder)
        try:
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

    made: list[tuple[str, Any, Callable[[Any], OverImap]]] = [
        ("Dovecot", contextlib.contextmanager(start_dovecot)(), lambda server: OnDovecot(server, condstore=True)),
        ("Cyrus", contextlib.contextmanager(Cyrus.fixture)(), OnCyrus),
        ("Courier", contextlib.contextmanager(Courier.fixture)(), OnCourier),
        ("pymap", pymap(), OnPymap),
    ]
    for name, starting, account in made:
        with starting as server:
            yield name, account(server)


def main() -> None:
    rows: dict[str, list[str]] = {}

    def note(row: str, value: object) -> None:
        shown = {True: "yes", False: "–", None: "–"}.get(value, value) if isinstance(value, bool | None) else value
        rows.setdefault(row, []).append(str(shown).replace("|", "\\|"))

    names = []
    for name, remote in servers():
        names.append(name)
        asked = Asked(remote)
        note("greeting", f"`{asked.greeting()[:60]}`")
        offered = asked.capabilities()
        for word in CAPABILITIES:
            note(word, any(have == word or have.startswith(word + "=") for have in offered))
        note("UIDNEXT told with EXAMINE", asked.uidnext_in_examine())
        note("keywords kept", asked.keeps_keywords())
        note("COPYUID told", asked.tells_copyuid())
        note("a session sees its own APPEND", asked.sees_its_own_append())
        note("EMAILIDs of two deliveries of equal bytes", asked.identity_of_equal_content())
        took = asked.push_s()
        note("IDLE tells of new mail after", "not in 20 s" if took is None else f"{took:.1f} s")
        note("hangs up after bad commands", asked.bad_commands_taken())
        note("EXAMINE of no folder", f"`{asked.answer('EXAMINE', remote.folder('nowhere'))[3:]}`")
        note("wrong password", f"`{asked.refused_login()}`")
        note("the open folder is deleted", f"`{asked.deleted_under_a_session()}`")
        note("a folder made again at once has its old UIDVALIDITY", asked.same_second_uidvalidity())
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for row, values in rows.items():
        print(f"| {row} | {' | '.join(values)} |")


if __name__ == "__main__":
    try:
        main()
    except (pytest.skip.Exception, pytest.fail.Exception) as reason:
        raise SystemExit(str(reason)) from None
