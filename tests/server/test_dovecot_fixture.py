"""The Dovecot fixture itself: what the other server tests stand on."""

from __future__ import annotations

import imaplib
import socket
import ssl

import pytest

from tests.dovecot import SPECIAL_USE, Account, Dovecot

pytestmark = pytest.mark.server

DAY = 86_400_000_000
RECEIVED_AT = 1_700_000_000_000_000


def message(number: int) -> bytes:
    head = f"From: a@mail.example\r\nTo: b@mail.example\r\nSubject: Number {number}\r\n"
    return f"{head}Message-ID: <{number}@mail.example>\r\n\r\nBody {number}\r\n".encode()


def test_seeded_mail_is_served_as_written(dovecot_account: Account) -> None:
    count = dovecot_account.seed((message(number), RECEIVED_AT + number * DAY) for number in range(20))
    dovecot_account.add(message(20), flags=[r"\Seen", r"\Flagged"])
    found = dovecot_account.originals()
    assert count == 20
    assert [body for _, (_, body) in sorted(found.items())] == [message(number) for number in range(21)]
    assert found[max(found)][0] == {r"\Seen", r"\Flagged"}


def test_internaldate_is_the_given_instant(dovecot_account: Account) -> None:
    dovecot_account.add(message(1), received_at=RECEIVED_AT)
    client = dovecot_account.imap(readonly_folder="INBOX")
    _, answer = client.fetch("1", "(INTERNALDATE)")
    client.logout()
    assert b'INTERNALDATE "14-Nov-2023 22:13:20 +0000"' in answer[0]


def test_folders_in_any_script_and_special_uses(dovecot_account: Account) -> None:
    dovecot_account.add(message(1), folder="Projekte/Größe & 日本語")
    assert len(dovecot_account.originals("Projekte/Größe & 日本語")) == 1
    client = dovecot_account.imap()
    _, listing = client.list()
    client.logout()
    for name, use in SPECIAL_USE.items():
        assert any(use.encode() in line and line.endswith(name.encode()) for line in listing if line), name


def test_command_log_shows_every_command_and_no_other(dovecot_account: Account) -> None:
    client = dovecot_account.imap(readonly_folder="INBOX")
    client.noop()
    client.logout()
    said = [line.split(" ", 1)[1] for line in dovecot_account.commands()]
    assert said == ["EXAMINE INBOX" if "EXAMINE INBOX" in said else 'EXAMINE "INBOX"', "NOOP", "LOGOUT"]
    assert dovecot_account.logins() == 1
    before = len(dovecot_account.commands())
    assert len(dovecot_account.commands()) == before


def test_tls_and_starttls_show_a_certificate_of_the_test_authority(dovecot: Dovecot) -> None:
    account = dovecot.account()
    for host in ("127.0.0.1", "localhost"):
        client = imaplib.IMAP4_SSL(host, dovecot.tls_port, ssl_context=dovecot.ssl_context())
        client.login(account.name, account.password)
        client.logout()
    upgraded = imaplib.IMAP4("localhost", dovecot.port)
    upgraded.starttls(dovecot.ssl_context())
    upgraded.login(account.name, account.password)
    upgraded.logout()
    with socket.create_connection(("127.0.0.1", dovecot.tls_port)) as line, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(line, server_hostname="localhost")


def test_changed_password_is_refused_and_accepted_at_once(dovecot: Dovecot) -> None:
    account = dovecot.account(password="old")
    account.imap().logout()
    account.set_password("new")
    client = imaplib.IMAP4("127.0.0.1", dovecot.port)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        client.login(account.name, "old")
    client.shutdown()
    account.imap().logout()
    assert account.logins() == 2


def test_connections_and_sessions_are_counted(own_dovecot: Dovecot) -> None:
    account = own_dovecot.account()
    assert own_dovecot.connections() == 0
    clients = [account.imap() for _ in range(3)]
    assert own_dovecot.connections() == 3
    assert own_dovecot.sessions(account) == 3
    for client in clients:
        client.logout()
    assert own_dovecot.sessions(account) == 0


def test_kill_drops_the_line_and_start_brings_the_same_mail_back(own_dovecot: Dovecot) -> None:
    account = own_dovecot.account()
    account.add(message(1))
    client = account.imap(readonly_folder="INBOX")
    own_dovecot.kill()
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        client.noop()
    client.shutdown()
    own_dovecot.start()
    assert len(account.originals()) == 1


def test_poorer_server_offers_no_condstore(plain_dovecot: Dovecot) -> None:
    client = plain_dovecot.account().imap()
    _, answer = client.capability()
    client.logout()
    assert b"CONDSTORE" not in answer[0]
    assert b"UIDPLUS" in answer[0]
