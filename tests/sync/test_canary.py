"""Purged means gone: words of a message that was imported, indexed, read and purged stand in no file any more (R5).

The same scan runs before the purge, where it must find nothing either (everything is encrypted), and over words that
were planted in clear, where it must find them: a scan that sees nothing would pass everything.
"""

from __future__ import annotations

import base64
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import structlog
from sqlalchemy import text

from connectors.memory import MemoryAccount
from mailgate import logs
from mailgate.actors import SYSTEM
from mailgate.blobs import packs
from mailgate.clock import DAY
from mailgate.jobs.erase import EraseWorker
from mailgate.settings import LogSettings
from mailgate.store import tenants
from mailgate.store.erasures import Erasures
from mailgate.store.expiry import Expiry
from mailgate.store.listing import MessageFilter
from mailgate.store.pins import Pins
from mailgate.store.reading import MessageReader
from mailgate.store.search import Indexer
from retention.model import Graces
from retention.policy import ClockLimits
from tests import scan
from tests.postgres import Postgres
from tests.sync.engine import NOW, Engine, mail

WHERE = ("subject", "sender", "recipient", "message-id", "header", "text", "html", "file name", "attached text", "note")
LOGGER = structlog.get_logger("mailgate.tests")


def letter(words: dict[str, str]) -> bytes:
    """A message with a word of its own in every place that a person could write to."""
    attached = base64.encodebytes(f"Attached: {words['attached text']}\r\n".encode()).decode()
    return (
        f"Message-ID: <{words['message-id']}@example.org>\r\n"
        f"From: {words['sender'].title()} <{words['sender']}@example.org>\r\nTo: {words['recipient']}@example.com\r\n"
        f"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nSubject: About {words['subject']}\r\n"
        f"X-Case: {words['header']}\r\nIn-Reply-To: <{words['header']}@example.org>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        f"--b\r\nContent-Type: text/plain\r\n\r\nDear {words['text']},\r\n{words['text']}.\r\n"
        f"--b\r\nContent-Type: text/html\r\n\r\n<p>Dear <b>{words['html']}</b></p>\r\n"
        f'--b\r\nContent-Type: text/plain; name="{words["file name"]}.txt"\r\nContent-Transfer-Encoding: base64\r\n'
        f'Content-Disposition: attachment; filename="{words["file name"]}.txt"\r\n\r\n{attached}--b--\r\n'
    ).encode()


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Everything is logged to a file, and temporary files lie where they are looked for."""
    folder = tmp_path / "traces"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    with (folder / "gateway.log").open("w", encoding="utf-8") as stream:
        logs.configure(LogSettings(format="json", level="debug"), stream)
        yield folder
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


class Files:
    """What a database and the gateway leave on a disk."""

    def __init__(self, engine: Engine, url: str, folder: Path, cluster: Postgres | None) -> None:
        self._engine = engine
        self._url = url
        self._cluster = cluster
        self._places = [folder]

    def holding(self, words: dict[str, str]) -> dict[str, set[Path]]:
        """Where each of the words is found, by its place in the message; what is in no file is left out."""
        found = scan.find(words.values(), self._places)
        return {place: found[word] for place, word in words.items() if found[word]}

    async def settle(self) -> None:
        """Everything that the database holds back is written, and what it deleted is swept: VACUUM and a checkpoint."""
        if self._cluster is None:
            assert await self._engine.db.truncate_wal()
            return
        line = await asyncpg.connect(self._url)
        try:
            await line.execute("VACUUM")
            await line.execute("CHECKPOINT")
            oid = await line.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
            data = self._cluster.folder / "data"
            own = (data / "base" / str(oid), data / "base" / "pgsql_tmp", data / "pg_wal", data / "pg_stat")
            self._places[1:] = [*(folder for folder in own if folder.exists()), self._cluster.folder / "postgres.log"]
        finally:
            await line.close()


async def test_no_word_of_a_purged_message_is_left(
    engine: Engine,
    account: MemoryAccount,
    traces: Path,
    tmp_path: Path,
    database_url: str,
    request: pytest.FixtureRequest,
) -> None:
    cluster = None if engine.db.sqlite else request.getfixturevalue("postgres")
    files = Files(engine, database_url, tmp_path, cluster)
    words = scan.canaries(WHERE)
    account.append("INBOX", letter(words), internal_date=NOW - 80 * DAY)
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    await engine.sync()
    copy, other = sorted(await engine.rows("messages"), key=lambda row: int(row.anchor_at))
    assert packs.place_of(copy.blob_id) == (other.blob_id[:24], 0)  # what is purged is cut out of a file that stays
    assert await Indexer(engine.db, engine.ring, engine.blobs, engine.clock, "test").work() == 2

    # Somebody found it, read it, and wrote a note about it.
    expiry = Expiry(engine.subscriptions, Graces())
    pins = Pins(engine.db, engine.ring, engine.log, expiry)
    reader = MessageReader(
        engine.db, engine.ring, engine.blobs, expiry, pins, clock_limits=ClockLimits(), parse_bytes=1 << 20,
        parses_at_once=1,
    )  # fmt: skip
    tenant = await tenants.get(engine.db, engine.tenant_id)
    for place in ("subject", "text", "file name"):
        listed = await reader.list_page(
            tenant, MessageFilter(words={"text": words[place]}), limit=9, now=engine.clock()
        )
        assert [view.id for view in listed.items] == [copy.id], place
    view = await reader.get(tenant, copy.id, engine.clock())
    assert words["subject"] in (view.summary.subject or "")
    shown = await reader.shown(tenant, copy.id, engine.clock())
    assert shown is not None
    assert words["text"] in shown.text
    await pins.put(tenant.id, copy.id, "deal", "D", note=words["note"], now=engine.clock(), actor=SYSTEM)
    await files.settle()
    assert files.holding(words) == {}, "in clear while the message is still here"

    await pins.remove(tenant.id, copy.id, "deal", "D", now=engine.clock(), actor=SYSTEM)
    engine.clock.advance(11 * 86_400)
    await engine.purge()
    assert [row.id for row in await engine.rows("messages")] == [other.id]
    worker = EraseWorker(Erasures(engine.db, engine.log), engine.blobs, engine.clock, "test")
    assert await worker.work() == (1, 0)
    await files.settle()
    assert files.holding(words) == {}, "after the purge"
    assert await engine.raw(other) == mail(1)
    LOGGER.info("scanned")

    # The control: the same words in clear, one in each place that was looked at, are found there, each in another form.
    planted = scan.canaries(("row", "deleted row", "log", "temporary"))
    async with engine.db.write() as tx:
        write = text("INSERT INTO idempotency_keys (token_id, key, fingerprint, created_at) VALUES ('t', :key, :fp, 0)")
        await tx.conn.execute(write, {"key": planted["deleted row"].upper(), "fp": b""})
    async with engine.db.write() as tx:
        await tx.conn.execute(text("DELETE FROM idempotency_keys"))
        await tx.conn.execute(text("UPDATE tenants SET name = :name"), {"name": planted["row"].title()})
    LOGGER.info("said", of=planted["log"])
    encoded = base64.b64encode(f"x{planted['temporary']}".encode())
    (traces / "left").write_bytes(bytes(8 << 20)[:-40] + encoded)
    await files.settle()
    found = files.holding(planted)
    assert found.pop("log") == {traces / "gateway.log"}
    assert found.pop("temporary") == {traces / "left"}
    assert found.pop("row")
    # What SQLite deletes is overwritten; PostgreSQL keeps it, which is why nothing may stand there in clear.
    assert (found.pop("deleted row", None) is not None) is (cluster is not None)
    assert found == {}
