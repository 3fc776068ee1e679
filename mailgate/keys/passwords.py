"""Passwords of people: Argon2id (RFC 9106) with the library's parameters; 64 MiB and some tens of milliseconds each.

Hashing runs in threads, few at a time, so that many who try cost neither the event loop nor memory.
"""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST = 12
LONGEST = 1_000
_AT_ONCE = 2


class Passwords:
    """Hashes and compares. `hasher` can be a cheaper one in tests. Make it inside a running event loop."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._place = asyncio.Semaphore(_AT_ONCE)
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """What is kept of the password."""
        async with self._place:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether this is the password. Without `kept`, since nobody has that name, it takes as long and is False."""
        if len(password) > LONGEST:
            return False
        if self._nobody is None:
            self._nobody = await self.hash("the password of nobody")
        async with self._place:
            same = await asyncio.to_thread(self._verify, self._nobody if kept is None else kept, password)
        return same and kept is not None

    def outdated(self, kept: str) -> bool:
        """Whether it should be hashed anew, now that the password is at hand."""
        return self._hasher.check_needs_rehash(kept)

    def _verify(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


def fault(password: str, name: str) -> str | None:
    """Why this can't be a password: `short`, `long` or `name`; None when it can. Nothing is asked of its letters:
    length is what counts (NIST SP 800-63B §3.1.1.2).
    """
    if len(password) < SHORTEST:
        return "short"
    if len(password) > LONGEST:
        return "long"
    return "name" if password.casefold() == name.casefold() else None
