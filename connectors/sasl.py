"""Logging in with an access token: OAUTHBEARER (RFC 7628) and XOAUTH2 (Google's and Microsoft's forerunner of it), for
IMAP and SMTP alike. Pure.

    client                                       server
    first answer: who, and the token      →
                                          ←      success, or a challenge that tells in JSON what is wrong
    the answer that ends it               →
                                          ←      failure

A refusal is complete only when the challenge was answered (RFC 7628 §3.2.3): servers wait for that.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from connectors.errors import AuthError, clean_text
from connectors.model import BearerAuth, Endpoint

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]+")
_LONGEST_CHALLENGE: Final = 8_192


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a client says: `mechanism`, the `first` answer in base64, `last`, by which it gives in to a challenge."""

    mechanism: str
    first: str = field(repr=False)
    last: str


def exchange(auth: BearerAuth, endpoint: Endpoint, offered: Iterable[str]) -> Exchange:
    """The exchange with the best mechanism of those that are offered (upper case). Raises AuthError: none of ours is,
    or name or token can't be sent.
    """
    mechanisms = frozenset(offered)
    if not _TOKEN.fullmatch(auth.token):
        raise AuthError("the access token holds what no access token may hold")
    if not _NAME.fullmatch(auth.username):
        raise AuthError("control characters cannot be part of a user name")
    if "OAUTHBEARER" in mechanisms:
        # RFC 7628 §3.1 after the header of RFC 5801 §4, in which "," and "=" of a name are escaped.
        name = auth.username.replace("=", "=3D").replace(",", "=2C")
        where = f"host={endpoint.host}\1port={endpoint.port}"
        said = f"n,a={name},\1{where}\1auth=Bearer {auth.token}\1\1"
        return Exchange("OAUTHBEARER", _b64(said), _b64("\1"))
    if "XOAUTH2" in mechanisms:
        return Exchange("XOAUTH2", _b64(f"user={auth.username}\1auth=Bearer {auth.token}\1\1"), "")
    what = f", only {', '.join(sorted(mechanisms))}" if mechanisms else ""
    raise AuthError(f"the server takes no access tokens (OAUTHBEARER, XOAUTH2){what}")


class Dialogue:
    """The client's side of one exchange, after the mechanism was named. `initial`: the first answer went along."""

    def __init__(self, spoken: Exchange, *, initial: bool) -> None:
        self._answers = [spoken.last] if initial else [spoken.first, spoken.last]
        self._challenged = 1 if initial else 2
        self._asked = 0
        self.reason: str | None = None
        """What the server's challenge told, made safe to show."""

    def answer(self, challenge: str) -> str | None:
        """The answer in base64 to what the server asks; None: nothing more belongs to the exchange, cancel it."""
        self._asked += 1
        if self._asked >= self._challenged and self.reason is None:
            self.reason = read_challenge(challenge)
        return self._answers[self._asked - 1] if self._asked <= len(self._answers) else None

    def refusal(self, said: str) -> str:
        """The reason and what else the server said."""
        return f"{said} ({self.reason})" if self.reason else said


def read_challenge(challenge: str) -> str | None:
    """What the JSON of a challenge tells (RFC 7628 §3.2.2): `invalid_token, scope https://mail.google.com/`. None for
    one that tells nothing, or is none.
    """
    try:
        if len(challenge) > _LONGEST_CHALLENGE:
            return None
        told = json.loads(base64.b64decode(challenge.strip(), validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    status, scope = told.get("status"), told.get("scope")
    parts = [str(status)] if isinstance(status, str | int) else []
    if isinstance(scope, str) and scope:
        parts.append(f"scope {scope}")
    return clean_text(", ".join(parts), 120) or None


def replies(dialogue: Dialogue) -> Callable[[bytes], bytes]:
    """The same for IMAP: lines in answer to `+` (RFC 9051 §6.2.2; `*` cancels)."""

    def reply(challenge: bytes) -> bytes:
        said = dialogue.answer(challenge.decode("ascii", "replace"))
        return b"*\r\n" if said is None else said.encode("ascii") + b"\r\n"

    return reply


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
