"""Folders that can have none inside them: Dovecot's, where each is a file (mbox)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.errors import Retry, ServerError
from tests.contract.accounts import OnDovecot
from tests.dovecot import Dovecot, Version, start_dovecot
from tests.servers import find_program, leave_out

pytestmark = pytest.mark.server


@pytest.fixture
def mbox() -> Iterator[Dovecot]:
    program = find_program("dovecot")
    if program is None:
        leave_out("Dovecot", "dovecot-imapd")
    version = Version.installed(program)
    newer = (version.major, version.minor) >= (2, 4)
    yield from start_dovecot(
        settings="mail_driver = mbox\nmail_path = ~/mbox\n" if newer else "mail_location = mbox:~/mbox\n"
    )


async def test_the_refusal_names_the_folder_that_allows_none(mbox: Dovecot) -> None:
    remote = OnDovecot(mbox, condstore=True)
    line = await remote.connect()
    for name in ("Work", "Other"):
        await line.create_folder(name)
    assert "\\noinferiors" in next(f.attributes for f in await line.list_folders() if f.name == "Work")
    with pytest.raises(ServerError, match="the server allows no folders inside 'Work': CREATE was answered") as refused:
        await line.create_folder("Work/Inner")
    assert (refused.value.code, refused.value.retry) == ("CANNOT", Retry.NEVER)
    with pytest.raises(ServerError, match="the server allows no folders inside 'Work': RENAME was answered"):
        await line.rename_folder("Other", "Work/Other")
    await line.close()
