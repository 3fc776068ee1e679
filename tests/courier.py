"""Debian's Courier as a real IMAP server for tests, run from its unpacked package (see `unpacked`).

The configuration is the package's own but for three settings: where it listens, that accounts come from a list, and
that an idling session looks at its folder every second instead of every minute.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import give
from tests.unpacked import Unpacked

_RUN = """
set -e
folder=$1 port=$2
mkdir -p /run/courier/authdaemon
# The package's own user, for TLS.
grep -q ^courier: /etc/passwd || sed -n 's/^nobody:/courier:/p' /etc/passwd >>/etc/passwd
grep -q ^courier: /etc/group || sed -n 's/^nogroup:/courier:/p' /etc/group >>/etc/group
sed -i 's/^authmodulelist=.*/authmodulelist="authuserdb"/' /etc/courier/authdaemonrc
cp $folder/userdb /etc/courier/userdb
chmod 600 /etc/courier/userdb
makeuserdb
/usr/sbin/authdaemond start
# It goes to the background before it listens.
tries=0
until [ -n "$(find /run /var/lib/courier -type s)" ] || [ $tries = 250 ]; do tries=$((tries + 1)); sleep 0.02; done
set -a
. /etc/courier/imapd-ssl
. /etc/courier/imapd
IMAP_STARTTLS=YES TLS_CERTFILE=$folder/both.pem TLS_CACHEFILE=
IMAP_IDLE_TIMEOUT=1
exec couriertcpd -address=127.0.0.1 -maxprocs=500 -maxperip=500 $TCPDOPTS $port \
    /usr/lib/courier/courier/imaplogin /usr/bin/imapd Maildir
"""


class Courier(Unpacked):
    """`port` speaks plain IMAP and STARTTLS. All folders but INBOX lie below it; the separator is `.`."""

    name = "courier"
    program = "lib/courier/courier/imaplogin"

    def prepare(self) -> None:
        both = self.folder / "both.pem"
        both.write_bytes(self.certificates.certificate.read_bytes() + self.certificates.key.read_bytes())
        give(both, user="nobody")
        (self.folder / "userdb").touch()
        (self.folder / "mail").mkdir()
        give(self.folder / "mail", user="nobody")
        self._hash = ""

    def command(self) -> list[str]:
        return ["sh", "-c", _RUN, "sh", str(self.folder), str(self.port)]

    def account(self) -> tuple[str, str]:
        """A new user's name and password, with an empty INBOX and the folders that mail programs make."""
        name, password = f"user{next(self._names)}", "correct horse"
        home = self.folder / "mail" / name
        for part in (home, *(home / "Maildir" / sub for sub in ("", "cur", "new", "tmp"))):
            part.mkdir()
            give(part, user="nobody")
        self._hash = self._hash or self.run("userdbpw", "-md5", text=password).strip()
        owner = home.stat()
        with (self.folder / "userdb").open("a") as users:
            users.write(
                f"{name}\thome={home}|mail={home}/Maildir|uid={owner.st_uid}|gid={owner.st_gid}|systempw={self._hash}\n"
            )
        self.run("sh", "-ec", f"cp {self.folder}/userdb /etc/courier/userdb; makeuserdb")
        return name, password


@pytest.fixture(scope="session")
def courier() -> Iterator[Courier]:
    """One Courier for the whole run; make an `account()` of your own in it. Never stop this one."""
    yield from Courier.fixture()
