"""A real IMAP server for the demonstration: Dovecot when it is installed, else pymap, which is a Python package.

Both read the same Maildir (with `dovecot-uidlist`), so the mail is written to disk first and the server started on it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import imaplib
import itertools
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mailgate.demo.children import Child, ChildError, free_port
from mailgate.demo.mail import Mail

_FLAGS = {r"\Draft": "D", r"\Flagged": "F", r"\Answered": "R", r"\Seen": "S", r"\Deleted": "T"}
_UIDVALIDITY = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Account:
    address: str
    password: str


Originals = dict[str, dict[int, tuple[str, str]]]
"""What the server has: folder → UID → (flags, SHA-256 of the bytes)."""


class MailServer:
    """The server, with accounts made by `add` before `start`."""

    def __init__(self, folder: Path, log: Path, *, kind: str) -> None:
        self.folder, self.log, self.kind = folder, log, kind
        self.port = 0
        self._accounts: list[Account] = []
        self._child: Child | None = None
        # Dovecot refuses to read mail as root, so it runs as nobody then.
        self._user = "nobody" if kind == "dovecot" and os.getuid() == 0 else None

    @property
    def title(self) -> str:
        if self.kind == "dovecot":
            return f"Dovecot {dovecot_version()}"
        return "pymap"

    def add(self, account: Account, mails: Iterable[Mail]) -> None:
        """Writes the account's mail to disk; UIDs follow the given order."""
        self._accounts.append(account)
        home = self.folder / "mail" / account.address
        by_folder: dict[str, list[Mail]] = {"INBOX": [], "Sent": [], "Drafts": [], "Trash": []}
        for mail in mails:
            by_folder.setdefault(mail.folder, []).append(mail)
        for name, content in by_folder.items():
            self._write(home if name == "INBOX" else home / self._directory(name), content)

    def _directory(self, name: str) -> str:
        encoded = modified_utf7(name) if self.kind == "dovecot" else name
        return "." + encoded.replace("/", ".")

    def _object_ids(self, guid: str, uid: int) -> str:
        """EMAILID and THREADID (RFC 8474), which pymap keeps in this file and can't do without."""
        return f" EM{guid[:24]}{uid:08x} TT{guid[:24]}{uid:08x}" if self.kind == "pymap" else ""

    def _write(self, maildir: Path, mails: list[Mail]) -> None:
        for part in ("cur", "new", "tmp"):
            (maildir / part).mkdir(parents=True, exist_ok=True)
        guid = hashlib.sha256(str(maildir).encode()).hexdigest()[:32]
        lines = [f"3 V{_UIDVALIDITY} N{len(mails) + 1} G{guid}"]
        for uid, mail in enumerate(mails, 1):
            flags = "".join(sorted(_FLAGS[flag] for flag in mail.flags))
            name = f"{mail.received_at // 1_000_000}.{uid}.demo,S={len(mail.raw)},W={len(mail.raw)}:2,{flags}"
            path = maildir / "cur" / name
            path.write_bytes(mail.raw)
            os.utime(path, ns=(mail.received_at * 1000, mail.received_at * 1000))
            lines.append(f"{uid}{self._object_ids(guid, uid)} :{name}")
        (maildir / "dovecot-uidlist").write_text("\n".join((*lines, "")), encoding="ascii")

    async def start(self) -> None:
        """Raises ChildError when the server does not come up."""
        self.port = free_port()
        command = self._dovecot() if self.kind == "dovecot" else self._pymap()
        if self._user:
            owner = pwd.getpwnam(self._user)
            self.folder.chmod(0o755)
            for path in itertools.chain((self.folder,), self.folder.rglob("*")):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        # pymap writes files in the temporary folder and renames them into place: it must be the same file system.
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        self._child = await Child.start(self.kind, command, self.log, env={"TMPDIR": str(temporary)}, user=self._user)
        await self._child.listening(self.port)

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()

    async def originals(self, account: Account) -> Originals:
        """Everything that the server has for this account, asked over IMAP, read-only, past the tap."""
        return await asyncio.to_thread(self._originals, account)

    def _originals(self, account: Account) -> Originals:
        client = imaplib.IMAP4("127.0.0.1", self.port, timeout=60)
        try:
            client.login(account.address, account.password)
            _, listing = client.list()
            names = [re.sub(rb'^\([^)]*\) (?:NIL|"[^"]*") ', b"", line) for line in listing if isinstance(line, bytes)]
            return {name.decode("ascii").strip('"'): self._folder(client, name) for name in names}
        finally:
            client.logout()

    @staticmethod
    def _folder(client: imaplib.IMAP4, name: bytes) -> dict[int, tuple[str, str]]:
        quoted = name if name.startswith(b'"') else b'"' + name + b'"'
        status, exists = client.select(quoted.decode("ascii"), readonly=True)
        if status != "OK" or not exists[0] or int(exists[0]) == 0:
            return {}  # empty, or a name that only holds other folders
        found: dict[int, tuple[str, str]] = {}
        _, answer = client.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")
        trailers = [item if isinstance(item, bytes) else b"" for item in answer[1:]] + [b""]
        for item, trailer in zip(answer, trailers, strict=True):
            if isinstance(item, tuple):
                # Servers may put UID and FLAGS before the body or after it.
                said = item[0] + b" " + trailer
                uid = re.search(rb"UID (\d+)", said)
                flags = re.search(rb"FLAGS \(([^)]*)\)", said)
                if uid and flags:
                    kept = sorted(set(flags[1].decode().split()) - {r"\Recent"})
                    found[int(uid[1])] = (" ".join(kept), hashlib.sha256(item[1]).hexdigest())
        return found

    def _pymap(self) -> list[str]:
        from pysasl.hashing import BuiltinHash

        base = self.folder / "mail"
        # Few rounds: these passwords live for a minute, on loopback.
        hashing = BuiltinHash(rounds=1_000)
        users = [f"{account.address}:::::{account.address}:" for account in self._accounts]
        shadow = [f"{account.address}:{hashing.hash(account.password)}:::::::" for account in self._accounts]
        (base / "pymap-etc-passwd").write_text("\n".join((*users, "")), encoding="utf-8")
        (base / "pymap-etc-shadow").write_text("\n".join((*shadow, "")), encoding="utf-8")
        program = [sys.executable, str(Path(__file__).with_name("pymap_server.py"))]
        options = ["--no-service", "admin", "--host", "127.0.0.1", "--port", str(self.port), "--no-tls"]
        return [*program, *options, "maildir", str(base)]

    def _dovecot(self) -> list[str]:
        program = find_dovecot()
        if program is None:
            raise ChildError("Dovecot is not installed")
        user = self._user or pwd.getpwuid(os.getuid()).pw_name
        entry = pwd.getpwnam(user)
        lines = (
            f"{account.address}:{{PLAIN}}{account.password}:{entry.pw_uid}:{entry.pw_gid}::{self.folder}/mail/{account.address}::\n"
            for account in self._accounts
        )
        (self.folder / "users").write_text("".join(lines), encoding="utf-8")
        config = self.folder / "dovecot.conf"
        config.write_text(_dovecot_configuration(self.folder, self.port, user, entry.pw_gid), encoding="utf-8")
        return [program, "-F", "-c", str(config)]


def modified_utf7(name: str) -> str:
    """A folder's name as RFC 3501 §5.1.3 writes it."""
    out: list[str] = []
    for plain, run in itertools.groupby(name, lambda char: 0x20 <= ord(char) <= 0x7E):
        text = "".join(run)
        if plain:
            out.append(text.replace("&", "&-"))
        else:
            out.append("&" + base64.b64encode(text.encode("utf-16-be")).decode().rstrip("=").replace("/", ",") + "-")
    return "".join(out)


def find_dovecot() -> str | None:
    """Debian keeps it outside the PATH of ordinary users."""
    return shutil.which("dovecot", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))


def dovecot_version() -> str:
    """Like `2.3.19`; empty when it is not installed or does not say."""
    program = find_dovecot()
    if program is None or shutil.which("setpriv") is None:
        return ""
    asked = [program, "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout  # noqa: S603 - found above
    found = re.match(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else ""


def _dovecot_configuration(folder: Path, port: int, user: str, gid: int) -> str:
    import grp

    group = grp.getgrgid(gid).gr_name
    uses = (
        ("Sent", r"\Sent"),
        ("Drafts", r"\Drafts"),
        ("Trash", r"\Trash"),
        ("Junk", r"\Junk"),
        ("Archive", r"\Archive"),
    )
    special = "".join(f"  mailbox {name} {{\n    special_use = {use}\n    auto = create\n  }}\n" for name, use in uses)
    if tuple(map(int, dovecot_version().split(".")[:2])) >= (2, 4):
        specific = f"""
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = ~/
passdb passwd-file {{
  passwd_file_path = {folder}/users
}}
userdb passwd-file {{
  passwd_file_path = {folder}/users
}}
"""
    else:
        specific = f"""
disable_plaintext_auth = no
mail_location = maildir:~/
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
"""
    return f"""{specific}
protocols = imap
listen = 127.0.0.1
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
first_valid_gid = 1
ssl = no
mail_max_userip_connections = 100
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
namespace inbox {{
  inbox = yes
  separator = /
{special}}}
"""
