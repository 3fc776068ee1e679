"""A database that can't be used now, in contrast to a statement that is wrong: how it is told apart, and what to do."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

OUTAGES: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
"""What a database that can't be used raises, whichever it is."""

_REMEDIES: Final = (
    (("is full", "no space left", "quota"), "make room on its disk"),
    (("readonly", "read-only"), "let it be written: its file system or the server is read-only"),
    (("disk i/o",), "look at its disk, and at the system's log"),
    (("root certificate",), "put the certificate of its authority there, or name its file by PGSSLROOTCERT"),
    (("ssl upgrade",), "set up TLS there, or leave sslmode out of database.url"),
    (("authentication", "role "), "see that database.url names the right user, and its password"),
    (("does not exist",), "make it, or name another by database.url"),
    (("unable to open",), "see that its file is there and may be read and written"),
)
_OTHERWISE: Final = "see that it runs and can be reached"


def is_outage(error: Exception) -> bool:
    """Whether the database could not be used now, in contrast to what a wrong statement raises."""
    if isinstance(error, ExceptionGroup):  # of what was done side by side
        return all(map(is_outage, error.exceptions))
    unable = isinstance(error, OSError | OperationalError | InterfaceError | PoolTimeoutError)
    return unable or type(error) is DBAPIError  # asyncpg's refusals at connecting have no class of their own


def outage(error: Exception) -> str | None:
    """What is wrong with the database, and what to do; None when the error is of another kind."""
    if not is_outage(error):
        return None
    said = first_line(error)
    found = (remedy for words, remedy in _REMEDIES if any(word in said.lower() for word in words))
    return f"the database can't be used: {said}; {next(found, _OTHERWISE)}"


def first_line(error: Exception) -> str:
    """What the database said, without the statement and its parameters."""
    if isinstance(error, ExceptionGroup):
        return first_line(error.exceptions[0])
    text = str(getattr(error, "orig", None) or error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:200]
