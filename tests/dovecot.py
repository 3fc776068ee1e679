"""Debian's Dovecot as a real IMAP server for tests: everything in one temporary folder, on loopback, without root's
rights.

`Dovecot` is the server, `Account` one user's mail on it. Mail is seeded by writing Maildir files (10 000 messages take
a second), and what clients said is read from Dovecot's own rawlog, so a test can prove that not one command was sent.

The configuration is written for the version that is installed: 2.4 (Debian 13) renamed most of what 2.3 (Debian 12)
had.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import imaplib
import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Certificates, make_certificates
from tests.servers import Server, find_program, free_port, give, leave_out, listening, service_user

SPECIAL_USE = {"Drafts": r"\Drafts", "Sent": r"\Sent", "Trash": r"\Trash", "Junk": r"\Junk", "Archive": r"\Archive"}
"""Folders that every account has from its first login, with their RFC 6154 attributes."""

_MAILDIR_FLAGS = {r"\Draft": "D", r"\Flagged": "F", r"\Answered": "R", r"\Seen": "S", r"\Deleted": "T"}


@dataclass(frozen=True, slots=True)
class Version:
    major: int
    minor: int

    @classmethod
    def installed(cls, program: str) -> Version:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        major, minor = text.split(maxsplit=1)[0].split(".")[:2]
        return cls(int(major), int(minor))


def modified_utf7(name: str) -> str:
    """A folder's name as RFC 3501 §5.1.3 writes it, on the wire and on Dovecot's disk."""
    out: list[str] = []
    for plain, run in itertools.groupby(name, lambda char: 0x20 <= ord(char) <= 0x7E):
        text = "".join(run)
        if plain:
            out.append(text.replace("&", "&-"))
        else:
            out.append("&" + base64.b64encode(text.encode("utf-16-be")).decode().rstrip("=").replace("/", ",") + "-")
    return "".join(out)


_ENDS_S = 20
"""What listens for longer on the ports of a server is somebody else's."""


class Account:
    """One user. Folders are named as people see them (`INBOX`, `Sent`, `Projekte/Größe`), the separator is `/`."""

    def __init__(self, server: Dovecot, name: str, password: str, home: Path) -> None:
        self.server, self.name, self.password, self.home = server, name, password, home
        self._sequence = itertools.count(1_000_000)

    @property
    def address(self) -> str:
        return self.name

    def set_password(self, password: str) -> None:
        """Changes what the server accepts, from the next login on; `self.password` follows. Takes up to a second."""
        self.password = password
        # Dovecot looks at the file once in each second of the clock: write it at the start of one it has not looked in
        # yet.
        second = int(time.time())
        while int(time.time()) == second:
            time.sleep(0.005)
        self.server.write_user(self)

    def maildir(self, folder: str = "INBOX") -> Path:
        """The folder's directory; made, as any mail program would, when it is not there."""
        path = self.home / "Maildir"
        if folder != "INBOX":
            path = path / modified_utf7(folder)
        for part in ("cur", "new", "tmp"):
            self._make(path / part)
        return path

    def _make(self, path: Path) -> None:
        if not path.is_dir():
            self._make(path.parent)
            path.mkdir()
            give(path, user=service_user())

    def add(
        self, raw: bytes, *, folder: str = "INBOX", received_at: int | None = None, flags: Iterable[str] = ()
    ) -> Path:
        """Delivers one message; `received_at` (microseconds, UTC; the server keeps whole seconds) becomes its
        INTERNALDATE.

        UIDs follow the order of the calls. `raw` is served as it is when its lines end in CRLF; Dovecot turns a bare
        LF into CRLF.
        """
        flag_letters = "".join(sorted(_MAILDIR_FLAGS[flag] for flag in flags))
        size = f",S={len(raw)}"
        if b"\n" not in raw.replace(b"\r\n", b""):
            size += f",W={len(raw)}"
        name = f"{next(self._sequence)}.{secrets.token_hex(6)}.test{size}:2,{flag_letters}"
        maildir = self.maildir(folder)
        temporary, final = maildir / "tmp" / name, maildir / "cur" / name
        temporary.write_bytes(raw)
        give(temporary, user=service_user())
        if received_at is not None:
            os.utime(temporary, ns=(received_at * 1000, received_at * 1000))
        temporary.rename(final)
        return final

    def renew_uidvalidity(self, folder: str = "INBOX") -> None:
        """Gives the folder a new UIDVALIDITY and its messages new UIDs in another order. The server must be stopped."""
        maildir = self.maildir(folder)
        header = (maildir / "dovecot-uidlist").read_text().split()
        old = next(int(field[1:]) for field in header[1:] if field.startswith("V"))
        for index in self.maildir().glob("dovecot*"):
            index.unlink()
        for index in maildir.glob("dovecot*"):
            index.unlink()
        for entry in (maildir / "cur").iterdir():
            entry.rename(entry.with_name("9" + entry.name))
        # Dovecot takes the clock's second for it, so that has to be another one.
        while int(time.time()) <= old:
            time.sleep(0.01)

    def seed(self, messages: Iterable[tuple[bytes, int]], *, folder: str = "INBOX", flags: Iterable[str] = ()) -> int:
        """Delivers many (raw, received_at); returns how many."""
        count = 0
        for raw, received_at in messages:
            self.add(raw, folder=folder, received_at=received_at, flags=flags)
            count += 1
        return count

    def imap(self, *, readonly_folder: str | None = None) -> imaplib.IMAP4:
        """An ordinary client, logged in: the test's own hand on the server. Its commands stand in the command log
        too.
        """
        client = imaplib.IMAP4("127.0.0.1", self.server.port)
        client.login(self.name, self.password)
        if readonly_folder is not None:
            client.select(_quoted(readonly_folder), readonly=True)
        return client

    def originals(self, folder: str = "INBOX") -> dict[int, tuple[frozenset[str], bytes]]:
        """What the server itself says: UID → (flags, bytes), with the folder opened read-only."""
        client = self.imap(readonly_folder=folder)
        try:
            found: dict[int, tuple[frozenset[str], bytes]] = {}
            _, answer = client.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")
            for item in answer:
                if isinstance(item, tuple):
                    uid = re.search(rb"UID (\d+)", item[0])
                    flags = re.search(rb"FLAGS \(([^)]*)\)", item[0])
                    assert uid is not None
                    assert flags is not None
                    found[int(uid[1])] = (frozenset(flags[1].decode().split()) - {r"\Recent"}, item[1])
            return found
        finally:
            client.logout()

    def commands(self) -> list[str]:
        """Every line that clients sent after login, in order of sessions, oldest first: Dovecot's own record of it.

        Literals (APPEND) appear as lines too. Needs `account(rawlog=True)`.
        """
        folder = self.home / "rawlog"
        assert folder.is_dir(), "this account was made without rawlog=True"
        logs = sorted(folder.glob("*.in"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        lines = itertools.chain.from_iterable(path.read_bytes().splitlines() for path in logs)
        return [re.sub(rb"^\d+\.\d+ ", b"", line).decode("utf-8", "backslashreplace") for line in lines]

    def logins(self) -> int:
        """How often anyone logged in as this user, by the server's log."""
        return len(re.findall(rf"(?:Login|Logged in): user=<{re.escape(self.name)}>", self.server.log()))

    def failed_logins(self) -> int:
        """How often somebody was refused as this user, by the server's log."""
        return len(
            re.findall(
                rf"auth failed.*user=<{re.escape(self.name)}>|Login aborted.*user=<{re.escape(self.name)}>",
                self.server.log(),
            )
        )


def _quoted(folder: str) -> str:
    return '"' + modified_utf7(folder).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Dovecot:
    """The server. `port` speaks plain IMAP and STARTTLS, `tls_port` TLS; both keep their numbers over `stop` and
    `start`.

    `settings` is added to the configuration, e.g. `imap_capability = IMAP4rev1 UIDPLUS` to hide what a poorer server
    lacks. `introspection`: where it asks whether an access token is good (RFC 7662); without it, it takes none.
    """

    def __init__(self, folder: Path, *, settings: str = "", introspection: str = "") -> None:
        program, doveadm = find_program("dovecot"), find_program("doveadm")
        if program is None or doveadm is None:
            leave_out("Dovecot", "dovecot-imapd")
        self._program, self._doveadm = program, doveadm
        self.version = Version.installed(program)
        self.folder, self._settings = folder, settings
        self._introspection = introspection
        self.port, self.tls_port = free_port(), free_port()
        self._accounts: dict[str, Account] = {}
        self._names = itertools.count(1)
        owner = service_user()
        self._uid = os.getuid() if owner is None else pwd.getpwnam(owner).pw_uid
        self._gid = os.getgid() if owner is None else pwd.getpwnam(owner).pw_gid
        give(folder, user=owner)
        folder.chmod(0o711)
        self.certificates: Certificates = make_certificates(folder)
        for file in (self.certificates.key, self.certificates.certificate):
            give(file, user=service_user())
        (folder / "users").mkdir()
        self.start()

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def owner(self) -> tuple[int, int]:
        """Numbers of the user and the group whose the mail files are."""
        return self._uid, self._gid

    def start(self) -> None:
        """Starts it, on new ports when another process took the old ones before the first start."""
        self._until_nobody_listens()
        for attempt in range(3):
            config = self.folder / "dovecot.conf"
            config.write_text(self._configuration())
            self._server = Server(
                [self._program, "-F", "-c", str(config)], self.folder / "stderr.log", user=service_user()
            )
            try:
                self._server.wait_until(lambda: listening(self.port) and listening(self.tls_port))
            except RuntimeError as error:
                if attempt == 2 or "in use" not in self.log() or self._accounts:
                    raise RuntimeError(f"{error}\n{self.log()}") from error
                self.port, self.tls_port = free_port(), free_port()
            else:
                return

    def stop(self) -> None:
        """Ends it in order: clients get a BYE."""
        self._server.stop()

    def kill(self) -> None:
        """Ends it as a power cut would: no BYE, connections reset; its child processes are killed too."""
        children = self._descendants(self._server.pid)
        self._server.kill()
        for pid in children:
            # Only our own children, remembered before their parent died; one may have ended by itself.
            if self._belongs(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _descendants(pid: int) -> list[int]:
        found: list[int] = []
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found += [child, *Dovecot._descendants(child)]
        return found

    def _belongs(self, pid: int) -> bool:
        try:
            return b"dovecot" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def account(
        self,
        name: str | None = None,
        *,
        password: str = "correct horse battery",  # noqa: S107 - of a server on loopback that lives for one test run
        rawlog: bool = False,
    ) -> Account:
        """A new user with an empty mailbox; with `rawlog` the server writes down every command of that user."""
        name = name or f"user{next(self._names)}@mail.example"
        home = self.folder / "home" / name
        home.mkdir(parents=True)
        for path in (home.parent, home):
            give(path, user=service_user())
        if rawlog:
            (home / "rawlog").mkdir()
            give(home / "rawlog", user=service_user())
        account = Account(self, name, password, home)
        self._accounts[name] = account
        self.write_user(account)
        return account

    def write_user(self, account: Account) -> None:
        """One passwd-file per user: a new one is never hidden by what Dovecot remembers of another."""
        new = self.folder / f"user-{account.name}.new"
        new.write_text(f"{account.name}:{{PLAIN}}{account.password}::::{account.home}\n")
        new.chmod(0o644)
        new.rename(self.folder / "users" / account.name)

    def log(self) -> str:
        path = self.folder / "dovecot.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def connections(self) -> int:
        """Connections that are open now, logged in or not."""
        return self._sockets("01")

    def _until_nobody_listens(self) -> None:
        """Its processes end a moment after the first of them, and hold the ports until then."""
        end = time.monotonic() + _ENDS_S
        while self._sockets("0A") and time.monotonic() < end:
            time.sleep(0.005)  # between two looks at the condition

    def _sockets(self, state: str) -> int:
        """How many on its ports are in this state, by the kernel's own table."""
        ports = {f"{port:04X}" for port in (self.port, self.tls_port)}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(1 for row in rows if row[1].rpartition(":")[2] in ports and row[3] == state)

    def sessions(self, account: Account) -> int:
        """Sessions of one user that are logged in now, by `doveadm who`."""
        done = subprocess.run(
            [self._doveadm, "-c", str(self.folder / "dovecot.conf"), "-f", "tab", "who", "-1", account.name],
            capture_output=True,
            text=True,
            check=False,
        )
        return sum(1 for line in done.stdout.splitlines()[1:] if line.split("\t")[0] == account.name)

    def kick(self, account: Account) -> None:
        """End all sessions of one user, as servers do when an access token is over."""
        command = [self._doveadm, "-c", str(self.folder / "dovecot.conf"), "kick", account.name]
        subprocess.run(command, capture_output=True, check=True)

    def ssl_context(self) -> ssl.SSLContext:
        """A client's context that trusts this server."""
        return ssl.create_default_context(cafile=str(self.certificates.ca))

    @property
    def _is_24(self) -> bool:
        return (self.version.major, self.version.minor) >= (2, 4)

    def _configuration(self) -> str:
        user, group = pwd.getpwuid(self._uid).pw_name, grp.getgrgid(self._gid).gr_name
        common = f"""
protocols = imap
listen = 127.0.0.1
base_dir = {self.folder}/run
state_dir = {self.folder}/state
log_path = {self.folder}/dovecot.log
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
default_client_limit = 6000
default_vsz_limit = {"unlimited" if self._is_24 else "0"}
first_valid_uid = 1
first_valid_gid = 1
ssl = yes
mail_max_userip_connections = 5000
auth_failure_delay = 0
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  chroot =
  {"restart_request_count = unlimited" if self._is_24 else "service_count = 0"}
  process_min_avail = 1
  client_limit = 6000
  inet_listener imap {{
    port = {self.port}
  }}
  inet_listener imaps {{
    port = {self.tls_port}
    ssl = yes
  }}
}}
service imap {{
  process_limit = 6000
}}
namespace inbox {{
  inbox = yes
  separator = /
{"".join(self._special_use(name, use) for name, use in SPECIAL_USE.items())}
}}
"""
        specific = self._for_24() if self._is_24 else self._for_23()
        return specific + common + self._oauth2() + self._settings + "\n"

    def _oauth2(self) -> str:
        """Access tokens beside passwords."""
        if not self._introspection:
            return ""
        asks = {
            "introspection_mode": "post",
            "introspection_url": self._introspection,
            "username_attribute": "username",
            "active_attribute": "active",
            "active_value": "true",
        }
        if self._is_24:
            lines = "".join(f"  {name} = {value}\n" for name, value in asks.items() if not name.startswith("active"))
            passdb = "passdb oauth2 {\n  mechanisms_filter = xoauth2 oauthbearer\n}\n"
            return f"auth_mechanisms = plain xoauth2 oauthbearer\noauth2 {{\n{lines}}}\n{passdb}"
        file = self.folder / "oauth2.conf"
        file.write_text("".join(f"{name} = {value}\n" for name, value in asks.items()))
        give(file, user=service_user())
        return f"""
auth_mechanisms = plain xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {file}
}}
"""

    @staticmethod
    def _special_use(name: str, use: str) -> str:
        return f"  mailbox {name} {{\n    special_use = {use}\n    auto = subscribe\n  }}\n"

    def _for_23(self) -> str:
        return f"""
ssl_cert = <{self.certificates.certificate}
ssl_key = <{self.certificates.key}
ssl_min_protocol = TLSv1.2
disable_plaintext_auth = no
mail_location = maildir:~/Maildir:LAYOUT=fs
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {self.folder}/users/%u
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {self.folder}/users/%u
  default_fields = uid={os.getuid() if service_user() is None else "nobody"} gid={
            os.getgid() if service_user() is None else "nogroup"
        }
}}
protocol imap {{
  rawlog_dir = {self.folder}/home/%u/rawlog
}}
"""

    def _for_24(self) -> str:
        return f"""
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = {self.certificates.certificate}
ssl_server_key_file = {self.certificates.key}
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = ~/Maildir
mailbox_list_layout = fs
passdb passwd-file {{
  default_password_scheme = PLAIN
  passwd_file_path = {self.folder}/users/%{{user}}
}}
userdb passwd-file {{
  passwd_file_path = {self.folder}/users/%{{user}}
  fields {{
    uid:default = {self._uid}
    gid:default = {self._gid}
  }}
}}
protocol imap {{
  rawlog_dir = {self.folder}/home/%{{user}}/rawlog
}}
"""


def start_dovecot(*, settings: str = "", introspection: str = "") -> Iterator[Dovecot]:
    """For fixtures: a server that is gone, with its files, when the fixture ends."""
    folder = Path(tempfile.mkdtemp(prefix="mailgate-dovecot-"))
    try:
        server = Dovecot(folder, settings=settings, introspection=introspection)
        try:
            yield server
        finally:
            server.kill()  # nobody is left to hear a BYE, and Dovecot waits six seconds for whoever is connected
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def dovecot() -> Iterator[Dovecot]:
    """One Dovecot for the whole run; make an `account()` of your own in it. Never stop this one."""
    yield from start_dovecot()


@pytest.fixture
def own_dovecot() -> Iterator[Dovecot]:
    """A Dovecot for this test alone, which may stop, kill and start it."""
    yield from start_dovecot()


@pytest.fixture(scope="session")
def plain_dovecot() -> Iterator[Dovecot]:
    """A Dovecot that hides what poorer servers lack: no CONDSTORE, QRESYNC, MOVE, LIST-STATUS or ESEARCH; UIDPLUS and
    IDLE stay.
    """
    yield from start_dovecot(settings="imap_capability = IMAP4rev1 LITERAL+ IDLE UIDPLUS NAMESPACE SPECIAL-USE")


@pytest.fixture
def dovecot_account(dovecot: Dovecot) -> Account:
    """A new user on the shared server, with its command log on."""
    return dovecot.account(rawlog=True)
