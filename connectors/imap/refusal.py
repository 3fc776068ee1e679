"""What a NO, BAD or BYE means for us: one error class per meaning (RFC 5530 codes first, known servers' words second).
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from connectors.errors import (
    AuthError,
    ConnectorError,
    FolderGoneError,
    NetworkError,
    ProtocolError,
    Retry,
    ServerError,
    ThrottledError,
    clean_text,
)
from connectors.imap.quirks import BACKOFF, GONE, LOGIN_FAILS_INSIDE, OVER_LIMITS, REFUSED_CHANGE, THROTTLED
from connectors.imap.responses import Status

_LATER_CODES: Final = frozenset({"UNAVAILABLE", "INUSE", "LIMIT", "THROTTLED", "SERVERBUG"})
_REFUSED_CODES: Final = frozenset(
    {"AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED", "PRIVACYREQUIRED", "CONTACTADMIN"}
)
_GONE_CODES: Final = frozenset({"NONEXISTENT", "TRYCREATE"})

# For changes, where LIMIT means that what is asked for is too much: asking again does not help.
_PAUSE_CODES: Final = frozenset({"UNAVAILABLE", "INUSE", "THROTTLED"})
_CHANGE_RETRY: Final = {"EXPUNGEISSUED": Retry.NOW, "SERVERBUG": Retry.LATER, "CORRUPTION": Retry.LATER}

_HIDDEN = "***"


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets that a server may echo, also when its end was cut off in the middle of one."""
    for secret in secrets:
        for form in {secret, clean_text(secret, len(secret) + 1)} - {""}:
            text = text.replace(form, _HIDDEN)
            if text.endswith("…"):
                kept = text[:-1]
                cut = next((n for n in range(min(len(form), len(kept)), 0, -1) if kept.endswith(form[:n])), 0)
                text = kept[: len(kept) - cut] + "…"
    return text


def _pause_s(text: str) -> float | None:
    match = BACKOFF.find(text)
    return int(match[1]) / 1000 if match is not None else None


def _is_later(status: Status) -> bool:
    said = status.code in (None, "ALERT") and THROTTLED.find(status.text) is not None
    return said or status.code in _LATER_CODES or _is_over_limits(status)


def _is_over_limits(status: Status) -> bool:
    """Whether OVERQUOTA means what was asked for within a time, and not the room that messages take."""
    return status.code in (None, "ALERT", "OVERQUOTA") and OVER_LIMITS.find(status.text) is not None


def _words(status: Status, secrets: Iterable[str] = ()) -> str:
    return redact(status.text, secrets) or status.condition


def command_error(status: Status, name: str) -> ConnectorError:
    """For NO or BAD to any command but those that log in."""
    text = f"{name} was answered {status.condition}: {_words(status)}"
    if _is_later(status):
        return ThrottledError(text, retry_after_s=_pause_s(status.text))
    return ServerError(text, code=status.code)


def open_error(status: Status, name: str) -> ConnectorError:
    """For NO or BAD to EXAMINE, SELECT or STATUS (RFC 5530 NONEXISTENT; Dovecot, Cyrus and Courier also say it in
    words).
    """
    error = command_error(status, name)
    if type(error) is ServerError and _is_gone(status):
        return FolderGoneError(str(error), code=status.code)
    return error


def change_error(status: Status, name: str) -> ConnectorError:
    """For NO or BAD to a command that changes something: ThrottledError (later), FolderGoneError, or ServerError.

    A ServerError's `retry` is NEVER when the server means it, NOW when only somebody else's expunge was in the way,
    LATER when something broke at the server. A reason that is given in words alone gets the code that fits.
    """
    text = f"{name} was answered {status.condition}: {_words(status)}"
    code = status.code
    if code in (None, "ALERT") and status.condition == "NO":
        code = next((known for known, words in REFUSED_CHANGE if words.search(status.text)), code)
    if code in _PAUSE_CODES or _is_over_limits(status):
        return ThrottledError(text, retry_after_s=_pause_s(status.text))
    if status.condition == "NO" and code in _GONE_CODES:
        return FolderGoneError(text, code=code)
    return ServerError(text, code=code, retry=_CHANGE_RETRY.get(code or "", Retry.NEVER))


def _is_gone(status: Status) -> bool:
    said = status.code is None and GONE.find(status.text) is not None
    return status.condition == "NO" and (said or status.code in _GONE_CODES)


def login_error(status: Status, secrets: Iterable[str], *, told: str | None = None) -> ConnectorError:
    """For NO or BAD to LOGIN or AUTHENTICATE. `told`: what a challenge said of an access token, None for passwords.

    A NO without a reason counts as wrong credentials: trying again would lock accounts. A BAD is our syntax or the
    server's defect.
    """
    text = _words(status, secrets)
    if _is_later(status) or (status.code is None and LOGIN_FAILS_INSIDE.find(status.text)):
        return ThrottledError(f"the server asks to log in later: {text}", retry_after_s=_pause_s(status.text))
    if status.condition == "NO" or status.code in _REFUSED_CODES:
        what = "user name or password" if told is None else "access token" + (f" ({told})" if told else "")
        return AuthError(f"the server refused the {what}: {text}")
    return ProtocolError(f"the server did not understand the login: {text}")


def bye_error(status: Status, secrets: Iterable[str] = ()) -> ConnectorError:
    """For BYE: the line is about to drop (§7.1.5)."""
    text = f"the server ended the connection: {_words(status, secrets)}"
    if _is_later(status):
        return ThrottledError(text, retry_after_s=_pause_s(status.text))
    return NetworkError(text)
