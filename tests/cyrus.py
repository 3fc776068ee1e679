"""Debian's Cyrus as a real IMAP server for tests, run from its unpacked package (see `unpacked`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import give
from tests.unpacked import Unpacked


class Cyrus(Unpacked):
    """`port` speaks plain IMAP and STARTTLS. The separator is `/`; INBOX and its siblings share the top level."""

    name = "cyrus"
    program = "lib/cyrus/bin/imapd"

    def prepare(self) -> None:
        # Cyrus, under load, once took an ordinary folder for one of special use and would not delete it
        # (specialuse_protect): nothing here is protected.
        for part in ("conf", "conf/db", "conf/proc", "conf/socket", "run", "spool"):
            (self.folder / part).mkdir()
            give(self.folder / part, user="nobody")
        for file in (self.certificates.key, self.certificates.certificate):
            give(file, user="nobody")
        (self.folder / "imapd.conf").write_text(f"""
configdirectory: {self.folder}/conf
partition-default: {self.folder}/spool
proc_path: {self.folder}/run/proc
mboxname_lockpath: {self.folder}/run/lock
idlesocket: {self.folder}/run/idle
cyrus_user: nobody
servername: localhost
altnamespace: yes
unixhierarchysep: yes
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {self.folder}/sasldb2
sasl_mech_list: PLAIN
tls_server_cert: {self.certificates.certificate}
tls_server_key: {self.certificates.key}
allowstarttls: yes
autocreate_quota: 0
autocreate_inbox_folders: Drafts|Sent|Trash|Junk|Archive
autocreate_subscribe_folders: Drafts|Sent|Trash|Junk|Archive
xlist-drafts: Drafts
xlist-sent: Sent
xlist-trash: Trash
xlist-junk: Junk
xlist-archive: Archive
specialuse_protect: \\All
skiplist_unsafe: 1
""")

    def command(self) -> list[str]:
        programs, conf = "/usr/lib/cyrus/bin", f"-C {self.folder}/imapd.conf"
        (self.folder / "cyrus.conf").write_text(f"""
START {{
  recover cmd="{programs}/ctl_cyrusdb {conf} -r"
  idled cmd="{programs}/idled {conf}"
}}
SERVICES {{
  imap cmd="{programs}/imapd {conf} -U 100" listen="127.0.0.1:{self.port}" proto="tcp4" prefork=1 maxchild=500
}}
EVENTS {{
}}
""")
        return [
            f"{programs}/master", "-C", f"{self.folder}/imapd.conf", "-M", f"{self.folder}/cyrus.conf",
            "-p", f"{self.folder}/run/master.pid",
        ]  # fmt: skip

    def account(self) -> tuple[str, str]:
        """A new user's name and password. Cyrus makes the folders, those of special use too, at the first login."""
        name, password = f"user{next(self._names)}", "correct horse"
        self.run("saslpasswd2", "-p", "-c", "-f", f"{self.folder}/sasldb2", "-u", "localhost", name, text=password)
        give(self.folder / "sasldb2", user="nobody")
        return name, password

    def hide_passwords(self) -> None:
        """Its password database can't be read any more."""
        (self.folder / "sasldb2").chmod(0)


@pytest.fixture(scope="session")
def cyrus() -> Iterator[Cyrus]:
    """One Cyrus for the whole run; make an `account()` of your own in it. Never stop this one."""
    yield from Cyrus.fixture()


@pytest.fixture
def own_cyrus() -> Iterator[Cyrus]:
    """A Cyrus for this test alone, which may stop, kill and start it."""
    yield from Cyrus.fixture()
