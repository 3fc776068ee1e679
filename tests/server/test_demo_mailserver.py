"""The demonstration's mail servers serve exactly the mail that was written for them."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.demo.mail import account_mail
from mailgate.demo.mailserver import Account, MailServer, find_dovecot, modified_utf7
from tests.servers import leave_out

NOW = 1_790_000_000_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: Dovecot runs as another user, who must be able to walk there.
    with tempfile.TemporaryDirectory(prefix="mailgate-demo-test-") as name:
        yield Path(name)


@pytest.mark.parametrize("kind", ["pymap", pytest.param("dovecot", marks=pytest.mark.server)])
async def test_serves_what_was_generated(kind: str, folder: Path) -> None:
    if kind == "dovecot" and find_dovecot() is None:
        leave_out("Dovecot", "dovecot-imapd")
    server = MailServer(folder, folder / "log", kind=kind)
    accounts = [Account(f"user{number}@tenant.example", f"secret {number}") for number in range(2)]
    mails = {}
    for number, account in enumerate(accounts):
        mails[account] = account_mail("Ada Lindqvist", account.address, seed=number, count=60, now=NOW)
        server.add(account, mails[account])
    await server.start()
    try:
        for account in accounts:
            first = await server.originals(account)
            wanted = Counter(modified_utf7(mail.folder) for mail in mails[account])
            assert {name: len(content) for name, content in first.items() if content} == wanted
            assert await server.originals(account) == first
            for name, content in first.items():
                there = [mail for mail in mails[account] if modified_utf7(mail.folder) == name]
                assert [" ".join(sorted(mail.flags)) for mail in there] == [content[uid][0] for uid in sorted(content)]
            if kind == "dovecot":  # pymap writes messages anew when it serves them
                served = Counter(digest for content in first.values() for _, digest in content.values())
                assert served == Counter(hashlib.sha256(mail.raw).hexdigest() for mail in mails[account])
    finally:
        await server.stop()
