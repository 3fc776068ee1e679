"""What a person is told to do about a database that can't be used."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError, ProgrammingError

from mailgate.store.outages import outage


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("database or disk is full", "make room on its disk"),
        ("attempt to write a readonly database", "let it be written"),
        ('password authentication failed for user "mg"', "names the right user, and its password"),
        ('database "mailgate" does not exist', "make it, or name another by database.url"),
        ('root certificate file "/root.crt" does not exist', "name its file by PGSSLROOTCERT"),
        ('PostgreSQL server at "h:5432" rejected SSL upgrade', "leave sslmode out of database.url"),
        ("[Errno 111] Connect call failed", "see that it runs and can be reached"),
    ],
)
def test_an_outage_says_what_to_do(said: str, remedy: str) -> None:
    told = outage(DBAPIError(None, None, Exception(said)))
    assert told is not None
    assert told.startswith(f"the database can't be used: {said}; ")
    assert remedy in told


def test_a_wrong_statement_is_no_outage() -> None:
    assert outage(ProgrammingError("SELEC", None, Exception("syntax error"))) is None
