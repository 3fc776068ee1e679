"""Signing in to the pages, and what people do about it themselves: passwords, one-time codes, sessions.

A refusal never says which of name, password or state was wrong, and takes as long whatever it was. Attempts are counted
before they are looked at (`mailgate.store.sign_in_failures`); each one is in the access log, without the name that was
typed, which may be a password in the wrong field.
"""

from __future__ import annotations

import http
from dataclasses import dataclass

from mailgate.clock import HOUR, MINUTE, SECOND, Instant
from mailgate.errors import PreconditionError, TooManyRequestsError, UnauthorizedError
from mailgate.keys import onetime, passwords
from mailgate.store import sign_in_failures, user_sessions, users
from mailgate.store.access_log import Access, Kind
from mailgate.store.sign_in_failures import Counted
from mailgate.store.user_sessions import Session
from mailgate.store.users import User
from mailgate.usecases.parts import Services

FREE_BY_NAME = 4
FREE_BY_ADDRESS = 20
CODE_TIME: Instant = 5 * MINUTE
"""How long after the password the one-time code may be given."""

_ISSUER = "mailgate"
_ROUTE = "/admin/sign-in"


@dataclass(frozen=True, slots=True)
class From:
    """Where a request comes from: network address, and what the browser calls itself."""

    address: str | None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that began: its secret for the cookie; `passed` False: the one-time code is asked for next."""

    secret: str
    passed: bool


async def sign_in(parts: Services, name: str, password: str, whence: From) -> Begun:
    """Name and password. Raises UnauthorizedError (sign_in_refused) and TooManyRequestsError (sign_in_paused)."""
    now = parts.clock()
    by_name, by_address = _counted(parts, name, whence)
    await _count(parts, by_name, by_address, whence)
    found = await users.find(parts.db, name)
    right = await parts.passwords.matches(None if found is None else found[1].password_hash, password)
    if found is None or not right or found[0].disabled_at is not None:
        await note(parts, None if found is None else found[0], whence, http.HTTPStatus.UNAUTHORIZED)
        raise UnauthorizedError("name or password is not right", slug="sign_in_refused")
    user, kept = found
    if parts.passwords.outdated(kept.password_hash):
        await users.change(parts.db, user.id, password_hash=await parts.passwords.hash(password))
    if user.totp:
        # The failures stand until the code was right too: else who has the password could try codes without end.
        secret = await user_sessions.begin(
            parts.db, user.id, now, now + CODE_TIME, passed=False, address=whence.address, agent=whence.agent
        )
        return Begun(secret, passed=False)
    await sign_in_failures.take_back(parts.db, by_name, by_address)
    return await begin(parts, user, whence, None)


async def give_code(parts: Services, session: Session, user: User, code: str, whence: From) -> Begun:
    """The one-time code, or a recovery code, after the password. Raises as `sign_in` does."""
    by_name, by_address = _counted(parts, user.name, whence)
    await _count(parts, by_name, by_address, whence)
    if not await _is_code(parts, user, code):
        await note(parts, user, whence, http.HTTPStatus.UNAUTHORIZED)
        raise UnauthorizedError("this code is not right, or was used before", slug="sign_in_refused")
    await sign_in_failures.take_back(parts.db, by_name, by_address)
    return await begin(parts, user, whence, session.secret_hash)


async def session_of(parts: Services, secret: str, *, used: bool = True) -> tuple[Session, User] | None:
    """The session with this secret and its person; None when it is over. `used`: a person does something, in contrast
    to a page that keeps itself up to date.
    """
    idle = parts.settings.pages.idle_minutes * MINUTE
    return await user_sessions.find(parts.db, secret, parts.clock(), idle=idle, used=used)


async def sessions(parts: Services, user: User) -> list[Session]:
    """Where the person is signed in."""
    idle = parts.settings.pages.idle_minutes * MINUTE
    return await user_sessions.of_user(parts.db, user.id, parts.clock(), idle=idle)


async def change_password(parts: Services, session: Session, user: User, old: str, new: str, whence: From) -> None:
    """A new password; every other session ends. Raises UnauthorizedError (sign_in_refused), TooManyRequestsError,
    PreconditionError (password_short, password_long, password_name).
    """
    await require_password(parts, user, old, whence)
    refuse_weak(new, user.name)
    kept = await parts.passwords.hash(new)
    await users.set_password(parts.db, user.id, kept, parts.clock(), keep=session.secret_hash)


async def require_password(parts: Services, user: User, password: str, whence: From) -> None:
    """Who sits at an open session must show who they are. Raises UnauthorizedError, TooManyRequestsError."""
    by_name, by_address = _counted(parts, user.name, whence)
    await _count(parts, by_name, by_address, whence)
    _, kept = await users.get(parts.db, user.id)
    if not await parts.passwords.matches(kept.password_hash, password):
        raise UnauthorizedError("the password is not right", slug="sign_in_refused")
    await sign_in_failures.take_back(parts.db, by_name, by_address)


def refuse_weak(password: str, name: str) -> None:
    """Raise PreconditionError for what can't be a password."""
    fault = passwords.fault(password, name)
    if fault is not None:
        why = {
            "short": f"a password has at least {passwords.SHORTEST} characters; a few words are good",
            "long": f"a password has at most {passwords.LONGEST} characters",
            "name": "a password must not be the name",
        }
        raise PreconditionError(why[fault], slug=f"password_{fault}")


# One-time codes.


async def offer_codes(parts: Services, user: User) -> tuple[str, str]:
    """A secret for the person's authenticator, the same until it was confirmed: (secret, otpauth:// address)."""
    _, kept = await users.get(parts.db, user.id)
    if kept.totp_pending is not None:
        secret = _opened(parts, user, kept.totp_pending)
    else:
        secret = onetime.new_secret()
        await users.change(parts.db, user.id, totp_pending=_sealed(parts, user, secret))
    return secret, onetime.address(secret, user.name, _ISSUER)


async def confirm_codes(parts: Services, user: User, code: str) -> list[str]:
    """The first code from the authenticator: from now on one is asked for. The recovery codes, to be shown once. Raises
    PreconditionError (code_wrong).
    """
    _, kept = await users.get(parts.db, user.id)
    secret = None if kept.totp_pending is None else _opened(parts, user, kept.totp_pending)
    step = None if secret is None else onetime.step_of(secret, code, parts.clock())
    if kept.totp_pending is None or step is None:
        raise PreconditionError("this code is not right; look at the clock of the device", slug="code_wrong")
    codes = onetime.new_recovery_codes()
    await users.ask_for_codes(parts.db, user.id, kept.totp_pending, step, onetime.recovery_hashes(codes))
    return codes


async def _is_code(parts: Services, user: User, code: str) -> bool:
    _, kept = await users.get(parts.db, user.id)
    if kept.totp is None:
        return False
    step = onetime.step_of(_opened(parts, user, kept.totp), code, parts.clock())
    if step is not None:
        return await users.use_step(parts.db, user.id, step)
    return await users.use_recovery_code(parts.db, user.id, onetime.recovery_hash(code))


def _sealed(parts: Services, user: User, secret: str) -> bytes:
    return parts.ring.seal(secret.encode(), f"user:{user.id}:totp")


def _opened(parts: Services, user: User, sealed: bytes) -> str:
    return parts.ring.open_sealed(sealed, f"user:{user.id}:totp").decode()


# Counting and writing down.


async def begin(
    parts: Services, user: User, whence: From, instead_of: bytes | None = None, *, route: str = _ROUTE
) -> Begun:
    """A session for who has proven who they are."""
    now = parts.clock()
    secret = await user_sessions.begin(
        parts.db,
        user.id,
        now,
        now + parts.settings.pages.session_hours * HOUR,
        passed=True,
        address=whence.address,
        agent=whence.agent,
        instead_of=instead_of,
    )
    await note(parts, user, whence, http.HTTPStatus.OK, route=route)
    return Begun(secret, passed=True)


def _counted(parts: Services, name: str, whence: From) -> tuple[Counted, Counted]:
    typed = name.strip().casefold()[:1_000].encode("utf-8", "surrogatepass")
    by_name = Counted(parts.ring.fingerprint(typed, "sign-in/name"), FREE_BY_NAME)
    address = (whence.address or "").encode()
    return by_name, Counted(parts.ring.fingerprint(address, "sign-in/address"), FREE_BY_ADDRESS)


async def _count(parts: Services, by_name: Counted, by_address: Counted, whence: From) -> None:
    now = parts.clock()
    until = await sign_in_failures.attempt(parts.db, (by_name, by_address), now)
    if until is not None:
        wait = max(1, -(-(until - now) // SECOND))
        await note(parts, None, whence, http.HTTPStatus.TOO_MANY_REQUESTS)
        raise TooManyRequestsError(
            f"too many attempts; try again in {wait} seconds", slug="sign_in_paused", retry_after_s=wait
        )


async def note(
    parts: Services, user: User | None, whence: From, status: http.HTTPStatus, *, route: str = _ROUTE
) -> None:
    """Write an attempt to sign in down; `user` None: nobody is known of it."""
    await parts.access.note(
        Access(
            kind=Kind.SIGN_IN,
            actor="user:unknown" if user is None else str(user.actor),
            tenant_id=None if user is None else user.tenant_id,
            method="POST",
            route=route,
            status=int(status),
            at=parts.clock(),
            address=whence.address,
        )
    )
