"""What a person can do when an account's settings fail, by the reason. The pages translate it where they show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from connectors.reasons import Reason


def marked(text: str) -> str:
    """Marks a text for translation where it stands."""
    return text


REMEDIES: Final[Mapping[str, str]] = {
    Reason.NAME_NOT_FOUND: marked("No server has this name. Look for a slip, or ask the provider for the right name."),
    Reason.DNS_FAILED: marked("Names can't be looked up at the moment. Try again in a minute."),
    Reason.ADDRESS_REFUSED: marked(
        "This name leads into a private network. If that is meant, whoever runs the gateway must allow it (net.allow)."
    ),
    Reason.CONNECTION_REFUSED: marked(
        "Nothing answers on this port. Usual ports: 993 or 143 for reading, 465 or 587 for sending."
    ),
    Reason.UNREACHABLE: marked("There is no way to this server from here. Check its name, and whether it is up."),
    Reason.SILENT: marked(
        "The server does not answer. Check port and protection; a firewall in between may swallow the connection."
    ),
    Reason.CLOSED: marked("The server hung up. Check port and protection, and try again in a moment."),
    Reason.OTHER_PROTOCOL: marked("Something else answers on this port. Check the port."),
    Reason.BUSY: marked("The server asks to come back later. Wait some minutes, then try again."),
    Reason.NO_TLS: marked(
        "This port does not begin with TLS. Choose STARTTLS, or the port for TLS (993 for reading, 465 for sending)."
    ),
    Reason.NO_STARTTLS: marked(
        "The server offers no STARTTLS here. Choose TLS and its port (993 for reading, 465 for sending)."
    ),
    Reason.TLS_FAILED: marked("The protected connection failed. The server must speak TLS 1.2 or later."),
    Reason.CERTIFICATE_EXPIRED: marked(
        "The server's certificate is out of date. Its owner must renew it; until then it can't be trusted."
    ),
    Reason.CERTIFICATE_UNTRUSTED: marked(
        "Nobody who is trusted vouches for the server's certificate. Its owner must get one from a public authority."
    ),
    Reason.CERTIFICATE_OTHER_NAME: marked(
        "The server's certificate is for another name. Write the server's name as the provider gives it."
    ),
    Reason.LOGIN_REFUSED: marked(
        "User name or password is not right. Many providers want a password that is made for this purpose."
    ),
    Reason.APP_PASSWORD_NEEDED: marked(
        "The usual password is not taken here. Make an app password at the provider, and use that."
    ),
    Reason.SERVICE_OFF: marked(
        "The provider has this access switched off. Switch it on in the mailbox's settings, or ask its administrator."
    ),
    Reason.NO_LOGIN_OFFERED: marked(
        "The server takes no password here. Check the port, or sign in through the provider where that is offered."
    ),
    Reason.PROTECTION_NEEDED: marked("The server takes a password over a protected connection only: choose TLS."),
    Reason.FOLDERS_REFUSED: marked("The login is right, but the folders can't be read. Ask the provider."),
    Reason.SENDER_REFUSED: marked(
        "This account may not send from this address. Use the account's own address, or ask the provider."
    ),
    Reason.TIMED_OUT: marked("It took too long. Try again in a moment; if it stays so, ask the provider."),
}


def remedy_of(reason: str | None) -> str | None:
    """What to do; None when nothing is wrong."""
    return None if reason is None else REMEDIES.get(reason)
