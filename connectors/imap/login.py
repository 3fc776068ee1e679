"""Logging in (RFC 9051 §6.2.2, §6.2.3; SASL PLAIN: RFC 4616; access tokens: `connectors.sasl`; SASL-IR: RFC 4959)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from connectors.errors import AuthError
from connectors.imap.command import Str
from connectors.imap.refusal import login_error, redact
from connectors.imap.responses import Status
from connectors.model import BearerAuth, Endpoint
from connectors.reasons import Reason
from connectors.sasl import Dialogue, exchange, replies

if TYPE_CHECKING:
    from connectors.imap.session import Session


async def login(session: Session, username: str, password: str) -> Status:
    """AUTHENTICATE PLAIN where offered, since it alone says which charset is meant (UTF-8); else LOGIN.

    Returns the OK. Raises AuthError, ThrottledError, ProtocolError or NetworkError; none shows the password.
    """
    if "\0" in username or "\0" in password:
        raise AuthError("NUL cannot be part of a user name or password")
    await session.ask_capabilities()
    plain = "AUTH=PLAIN" in session.capabilities
    if not plain and "LOGINDISABLED" in session.capabilities:
        why = "the server takes no password on this connection (LOGINDISABLED): use TLS"
        raise AuthError(why, reason=Reason.PROTECTION_NEEDED)
    answer = base64.b64encode(f"\0{username}\0{password}".encode()).decode("ascii")
    session.secrets = (password, answer)
    session.forget_capabilities()
    try:
        status = await (_authenticate_plain(session, answer) if plain else _login(session, username, password))
        if status.condition != "OK":
            raise login_error(status, session.secrets)
    finally:
        session.secrets = ()
    return status


async def login_by_token(session: Session, auth: BearerAuth, endpoint: Endpoint) -> Status:
    """AUTHENTICATE with an access token. Returns the OK; raises as `login` does, and AuthError where the server takes
    no tokens; none shows the token.
    """
    await session.ask_capabilities()
    offered = (word.removeprefix("AUTH=") for word in session.capabilities if word.startswith("AUTH="))
    spoken = exchange(auth, endpoint, offered)
    initial = "SASL-IR" in session.capabilities
    dialogue = Dialogue(spoken, initial=initial)
    session.secrets = (auth.token, spoken.first)
    session.forget_capabilities()
    try:
        arguments = [spoken.mechanism, spoken.first] if initial else [spoken.mechanism]
        status = await session.wait_for(session.start("AUTHENTICATE", *arguments, reply=replies(dialogue)))
        if status.condition != "OK":
            raise login_error(status, session.secrets, told=redact(dialogue.reason or "", session.secrets))
    finally:
        session.secrets = ()
    return status


async def _authenticate_plain(session: Session, answer: str) -> Status:
    if "SASL-IR" in session.capabilities:
        # What is asked after the initial response is no part of PLAIN: cancel (RFC 9051 §6.2.2).
        command = session.start("AUTHENTICATE", "PLAIN", answer, reply=lambda _: b"*\r\n")
    else:
        replies = iter([answer.encode("ascii") + b"\r\n"])
        command = session.start("AUTHENTICATE", "PLAIN", reply=lambda _: next(replies, b"*\r\n"))
    return await session.wait_for(command)


async def _login(session: Session, username: str, password: str) -> Status:
    command = session.start("LOGIN", Str(username.encode()), Str(password.encode()))
    return await session.wait_for(command)
