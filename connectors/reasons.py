"""What is behind an error of line, TLS or login, where that can be told: what a person can do hangs on that."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Slugs; part of the HTTP interface (`verify`)."""

    NAME_NOT_FOUND = "name_not_found"
    DNS_FAILED = "dns_failed"
    ADDRESS_REFUSED = "address_refused"
    CONNECTION_REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    CLOSED = "closed"
    OTHER_PROTOCOL = "other_protocol"
    BUSY = "busy"
    NO_TLS = "no_tls"
    NO_STARTTLS = "no_starttls"
    TLS_FAILED = "tls_failed"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CERTIFICATE_OTHER_NAME = "certificate_other_name"
    LOGIN_REFUSED = "login_refused"
    APP_PASSWORD_NEEDED = "app_password_needed"  # noqa: S105 - a slug
    SERVICE_OFF = "service_off"
    NO_LOGIN_OFFERED = "no_login_offered"
    PROTECTION_NEEDED = "protection_needed"
    FOLDERS_REFUSED = "folders_refused"
    SENDER_REFUSED = "sender_refused"
    TIMED_OUT = "timed_out"


# OpenSSL's X509_V_ERR_…: not yet valid, expired; hostname and address mismatch. The others are about the issuer.
_EXPIRED: Final = frozenset({9, 10})
_OTHER_NAME: Final = frozenset({62, 64})
# What OpenSSL says of a first record that is none, such as a greeting in clear; the second since 3.2.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})

_APP_PASSWORD: Final = re.compile(
    r"application[- ]specific password|app(lication)?[- ]password|authori[sz]ation code|web login required",
    re.IGNORECASE,
)
_OFF: Final = re.compile(
    r"not enabled for imap|imap (access|service|use)?\s*(is|has been)?\s*(not enabled|disabled|off\b)|enable imap"
    r"|not allowed to use imap|imap is not available|smtpclientauthentication is disabled"
    r"|basic authentication is disabled",
    re.IGNORECASE,
)


def of_name_error(error: OSError) -> Reason:
    """Of a name that could not be resolved."""
    temporary = isinstance(error, socket.gaierror) and error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL)
    return Reason.DNS_FAILED if temporary else Reason.NAME_NOT_FOUND


def of_connect_error(error: OSError) -> Reason:
    """Of a connection that did not come about."""
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return Reason.SILENT
    return Reason.CONNECTION_REFUSED if error.errno == errno.ECONNREFUSED else Reason.UNREACHABLE


def of_tls_error(error: ssl.SSLError) -> Reason:
    """Of a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _EXPIRED:
            return Reason.CERTIFICATE_EXPIRED
        return Reason.CERTIFICATE_OTHER_NAME if error.verify_code in _OTHER_NAME else Reason.CERTIFICATE_UNTRUSTED
    return Reason.NO_TLS if speaks_no_tls(error) else Reason.TLS_FAILED


def speaks_no_tls(error: ssl.SSLError) -> bool:
    """Whether what answered is no TLS at all."""
    return error.reason in _NO_TLS


def of_login_text(text: str) -> Reason:
    """Of a refused login, by what the server says: some say what is missing."""
    if _APP_PASSWORD.search(text):
        return Reason.APP_PASSWORD_NEEDED
    return Reason.SERVICE_OFF if _OFF.search(text) else Reason.LOGIN_REFUSED
