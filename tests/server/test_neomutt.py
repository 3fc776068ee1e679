"""What NeoMutt is used for in stories about two hands: what its keys do at the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dovecot import Dovecot
from tests.server.neomutt import Neomutt
from tests.servers import find_program, leave_out

pytestmark = pytest.mark.server


def test_its_keys_move_mark_and_delete(dovecot: Dovecot, tmp_path: Path) -> None:
    if find_program("neomutt") is None:
        leave_out("neomutt", "neomutt")
    account = dovecot.account()
    person = Neomutt(dovecot.port, account.name, account.password, tmp_path)
    with account.imap() as line:
        line.create("Work")
        for number in (1, 2, 11):
            line.append("INBOX", "", None, b"Subject: Number %d\r\n\r\nText.\r\n" % number)

        def standing(folder: str) -> list[tuple[bytes, bool]]:
            """Subjects, and whether they are flagged."""
            if line.select(folder)[1] == [b"0"]:
                return []
            items = line.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
            return [(i[1].strip(), b"\\Flagged" in i[0]) for i in items if isinstance(i, tuple)]

        person.move("Number 1", "INBOX", "Work")
        person.mark("Number 2", "INBOX")
        assert standing("INBOX") == [(b"Subject: Number 2", True), (b"Subject: Number 11", False)]
        assert standing("Work") == [(b"Subject: Number 1", False)]
        person.delete("Number 1", "Work")
        person.mark("Number 2", "INBOX")
        assert standing("INBOX") == [(b"Subject: Number 2", False), (b"Subject: Number 11", False)]
        assert standing("Work") == []
