"""Debian's Postfix as a real SMTP server for tests, run from its unpacked package (see `unpacked`).

It delivers into the Maildir folders of a Dovecot of the tests, asks the same Dovecot who may log in, and takes mail for
`nowhere.example`, of which it finds out only behind the answer that nobody there exists: a delivery report comes back.
Mail for anywhere else it refuses, so nothing ever leaves the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.dovecot import Account, Dovecot
from tests.unpacked import Unpacked

NOWHERE = "nowhere.example"

_RUN = """
set -e
folder=$1 port=$2
# The package's own user and groups, which no installation made.
grep -q ^postfix: /etc/passwd || echo postfix:x:5001:5001::/var/spool/postfix:/bin/false >>/etc/passwd
for group in postfix:x:5001: postdrop:x:5002:; do
    grep -q "^${group%%:*}:" /etc/group || echo $group >>/etc/group
done
cp $folder/main.cf /etc/postfix/main.cf
sed "s/@PORT@/$port/" $folder/master.cf >/etc/postfix/master.cf
# What `postfix start-fg` makes too, after two seconds of checks.
cd /var/spool/postfix
mkdir -p active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace
chown postfix: /var/lib/postfix active bounce corrupt defer deferred flush hold incoming private saved trace
chown postfix:postdrop maildrop public
chmod 700 active bounce corrupt defer deferred flush hold incoming private saved trace
chmod 730 maildrop
chmod 710 public
exec /usr/lib/postfix/sbin/master -s
"""

_MAIN = """\
compatibility_level = 3.6
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.test.example
mydestination =
mynetworks =
alias_maps =
local_transport = error:no local mail
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {homes}
virtual_mailbox_maps = regexp:{folder}/mailboxes
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
relay_domains = {nowhere}
transport_maps = regexp:{folder}/transports
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = reject_unlisted_recipient
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:{sasl}
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtputf8_enable = no
biff = no
"""

_MASTER = """\
127.0.0.1:@PORT@ inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
"""


def sasl_settings(port: int) -> str:
    """What a Dovecot needs in its configuration so that a Postfix can ask it, on `port`, who may log in."""
    return f"service auth {{\n  inet_listener sasl {{\n    port = {port}\n  }}\n}}\nauth_mechanisms = plain login\n"


class Postfix(Unpacked):
    """`port` speaks plain SMTP with AUTH, for the accounts of `dovecot`, which was started with `sasl_settings`."""

    name = "postfix"
    program = "lib/postfix/sbin/master"

    def __init__(self, folder: Path, dovecot: Dovecot, *, sasl_port: int, domains: Iterable[str]) -> None:
        self._dovecot, self._sasl_port, self._domains = dovecot, sasl_port, tuple(domains)
        self.shared = dovecot.folder
        super().__init__(folder)

    def prepare(self) -> None:
        homes = self._dovecot.folder / "home"
        homes.mkdir(exist_ok=True)
        (self.folder / "main.cf").write_text(
            _MAIN.format(
                domains=", ".join(self._domains),
                homes=homes,
                folder=self.folder,
                uid=self._dovecot.owner[0],
                gid=self._dovecot.owner[1],
                nowhere=NOWHERE,
                sasl=self._sasl_port,
            )
        )
        (self.folder / "master.cf").write_text(_MASTER)
        (self.folder / "transports").write_text(f"/@{NOWHERE}$/ virtual:\n")
        self.know(())

    def know(self, accounts: Iterable[Account]) -> None:
        """Says who has a mailbox here; the others are refused. Before the server is asked about anybody."""
        lines = [f"/^{account.name}$/ {account.name}/Maildir/\n" for account in accounts]
        (self.folder / "mailboxes").write_text("".join(lines))

    def command(self) -> list[str]:
        return ["sh", "-c", _RUN, "sh", str(self.folder), str(self.port)]


@contextmanager
def mail_server(dovecot: Dovecot, *, sasl_port: int, accounts: Iterable[Account]) -> Iterator[Postfix]:
    """A Postfix in front of this Dovecot; gone, with its files, at the end."""
    known = list(accounts)
    domains = sorted({account.name.partition("@")[2] for account in known})
    with tempfile.TemporaryDirectory(prefix="mailgate-postfix-", ignore_cleanup_errors=True) as name:
        server = Postfix(Path(name), dovecot, sasl_port=sasl_port, domains=domains)
        try:
            server.know(known)
            yield server
        finally:
            server.close()
