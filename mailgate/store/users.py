"""People who sign in to the pages: a name, a password of which only the Argon2id hash is kept, a role, perhaps bound to
one tenant. They are never deleted, since the access log names them; who left is disabled.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.store.database import Database
from mailgate.store.schema import tenants, user_recovery_codes, user_sessions, users
from mailgate.store.transaction import Transaction

_U = users.c
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")


class Role(StrEnum):
    """What a person may do: `admin` everything, `compliance` look, and place and release holds."""

    ADMIN = "admin"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class User:
    """A person without password. `tenant_id` None: all tenants; `totp`: a one-time code is asked for."""

    id: str
    name: str
    role: Role
    tenant_id: str | None
    language: str | None
    created_at: Instant
    password_changed_at: Instant
    signed_in_at: Instant | None
    disabled_at: Instant | None
    totp: bool

    @property
    def actor(self) -> Actor:
        """The same as it is recorded beside a change."""
        return Actor("user", self.id)

    def reaches(self, tenant_id: str) -> bool:
        """Whether the person is for this tenant."""
        return self.tenant_id is None or self.tenant_id == tenant_id


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a person's secrets: the password's hash, sealed secrets of one-time codes."""

    password_hash: str
    totp: bytes | None
    totp_pending: bytes | None


def plain_name(name: str) -> str:
    """The name as it is looked up: case and composition of letters do not count. Raises PreconditionError."""
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    if not _NAME.fullmatch(plain):
        raise PreconditionError("a name has 1 to 200 characters and no blanks", slug="name_invalid")
    return plain


async def create(
    db: Database, *, name: str, role: Role, tenant_id: str | None, password_hash: str, now: Instant
) -> User:
    """Add a person. Raises ConflictError (user_exists), NotFoundError for an unknown tenant, PreconditionError."""
    user = User(new_id(now), plain_name(name), role, tenant_id, None, now, now, None, None, totp=False)

    async def work(tx: Transaction) -> None:
        if tenant_id is not None:
            known = await tx.conn.execute(select(tenants.c.id).where(tenants.c.id == tenant_id))
            if known.one_or_none() is None:
                raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
        values = {
            "id": user.id,
            "name": user.name,
            "role": role.value,
            "tenant_id": tenant_id,
            "password_hash": password_hash,
            "created_at": now,
            "password_changed_at": now,
        }
        added = tx.insert(users).values(values).on_conflict_do_nothing().returning(_U.id)
        if (await tx.conn.execute(added)).one_or_none() is None:
            raise ConflictError(f"there is a user {user.name} already", slug="user_exists")

    await db.transact(work)
    return user


async def find(db: Database, name: str) -> tuple[User, Kept] | None:
    """The person of that name with what is kept of the secrets, disabled or not; None when there is none."""
    try:
        plain = plain_name(name)
    except PreconditionError:
        return None
    return await _one(db, _U.name == plain)


async def get(db: Database, user_id: str) -> tuple[User, Kept]:
    """The same by id. Raises NotFoundError."""
    found = await _one(db, _U.id == user_id)
    if found is None:
        raise NotFoundError(f"there is no user {user_id}", slug="user_not_found")
    return found


async def named(db: Database, name: str) -> User:
    """The person of that name. Raises NotFoundError."""
    found = await find(db, name)
    if found is None:
        raise NotFoundError(f"there is no user {name}", slug="user_not_found")
    return found[0]


async def every(db: Database) -> list[User]:
    """All of them, by name."""
    async with db.read() as conn:
        return [_user(row) for row in await conn.execute(select(users).order_by(_U.name))]


async def names(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """Names by id."""
    async with db.read() as conn:
        return {row.id: row.name for row in await conn.execute(select(_U.id, _U.name).where(_U.id.in_(ids)))}


async def any_admin(db: Database) -> bool:
    """Whether an admin could sign in; None yet: the sign-in page says how to make one."""
    query = select(func.count()).where(_U.role == Role.ADMIN.value, _U.disabled_at.is_(None))
    async with db.read() as conn:
        return bool((await conn.execute(query)).scalar_one())


async def change(db: Database, user_id: str, **values: Any) -> None:
    """Set columns of a person. Raises NotFoundError."""

    async def work(tx: Transaction) -> None:
        changed = update(users).where(_U.id == user_id).values(values).returning(_U.id)
        if (await tx.conn.execute(changed)).one_or_none() is None:
            raise NotFoundError(f"there is no user {user_id}", slug="user_not_found")

    await db.transact(work)


async def set_password(db: Database, user_id: str, password_hash: str, now: Instant, *, keep: bytes | None) -> None:
    """Replace the password and end every session but the one whose hash is `keep`: who had the old one is out."""

    async def work(tx: Transaction) -> None:
        values = {"password_hash": password_hash, "password_changed_at": now}
        await tx.conn.execute(update(users).where(_U.id == user_id).values(values))
        await _end_sessions(tx, user_id, keep)

    await db.transact(work)


async def disable(db: Database, user_id: str, now: Instant) -> None:
    """The person can't sign in any more and is out at once; doing it again changes nothing."""

    async def work(tx: Transaction) -> None:
        off = update(users).where(_U.id == user_id, _U.disabled_at.is_(None)).values(disabled_at=now)
        await tx.conn.execute(off)
        await _end_sessions(tx, user_id, None)

    await db.transact(work)


async def enable(db: Database, user_id: str) -> None:
    """The person can sign in again."""
    await change(db, user_id, disabled_at=None)


# One-time codes.


async def ask_for_codes(db: Database, user_id: str, sealed: bytes, step: int, hashes: Sequence[bytes]) -> None:
    """The first code proved it: from now on one is asked for. The recovery codes replace those that there were."""

    async def work(tx: Transaction) -> None:
        values = {"totp": sealed, "totp_pending": None, "totp_step": step}
        await tx.conn.execute(update(users).where(_U.id == user_id).values(values))
        await _replace_codes(tx, user_id, hashes)

    await db.transact(work)


async def forget_codes(db: Database, user_id: str) -> None:
    """No code is asked for any more."""

    async def work(tx: Transaction) -> None:
        values = {"totp": None, "totp_pending": None}
        await tx.conn.execute(update(users).where(_U.id == user_id).values(values))
        await _replace_codes(tx, user_id, [])

    await db.transact(work)


async def use_step(db: Database, user_id: str, step: int) -> bool:
    """Take the code of this time step; False when it, or a later one, was taken before."""

    async def work(tx: Transaction) -> bool:
        taken = update(users).where(_U.id == user_id, _U.totp_step < step).values(totp_step=step).returning(_U.id)
        return (await tx.conn.execute(taken)).one_or_none() is not None

    return await db.transact(work)


async def use_recovery_code(db: Database, user_id: str, code_hash: bytes) -> bool:
    """Take a recovery code; False when there is none, or none any more."""
    codes = user_recovery_codes.c

    async def work(tx: Transaction) -> bool:
        mine = delete(user_recovery_codes).where(codes.user_id == user_id, codes.code_hash == code_hash)
        return (await tx.conn.execute(mine)).rowcount > 0

    return await db.transact(work)


async def recovery_codes_left(db: Database, user_id: str) -> int:
    """How many recovery codes were not used."""
    query = select(func.count()).where(user_recovery_codes.c.user_id == user_id)
    async with db.read() as conn:
        return int((await conn.execute(query)).scalar_one())


async def _replace_codes(tx: Transaction, user_id: str, hashes: Sequence[bytes]) -> None:
    await tx.conn.execute(delete(user_recovery_codes).where(user_recovery_codes.c.user_id == user_id))
    if hashes:
        rows = [{"user_id": user_id, "code_hash": code} for code in hashes]
        await tx.conn.execute(insert(user_recovery_codes), rows)


async def _end_sessions(tx: Transaction, user_id: str, keep: bytes | None) -> None:
    mine = user_sessions.c.user_id == user_id
    if keep is not None:
        mine &= user_sessions.c.secret_hash != keep
    await tx.conn.execute(delete(user_sessions).where(mine))


async def _one(db: Database, which: Any) -> tuple[User, Kept] | None:
    async with db.read() as conn:
        row = (await conn.execute(select(users).where(which))).one_or_none()
    return None if row is None else (_user(row), Kept(row.password_hash, row.totp, row.totp_pending))


def _user(row: Row[Any]) -> User:
    return User(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        tenant_id=row.tenant_id,
        language=row.language,
        created_at=row.created_at,
        password_changed_at=row.password_changed_at,
        signed_in_at=row.signed_in_at,
        disabled_at=row.disabled_at,
        totp=row.totp is not None,
    )


def user_of(row: Row[Any]) -> User:
    """The person that a row of `users` is."""
    return _user(row)
