"""A small CRM with its mail in mailgate: deals, a table of messages that follows the feed, replies, deletions.

Written from docs/ alone, and of the gateway it knows nothing but the address and a token. What it has stands in one
SQLite file. It may be stopped at any moment, and so may the gateway: requests are repeated until they are answered,
those that make something with an `Idempotency-Key`; what an event asks for is written down with the event's cursor and
done afterwards.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

Json = dict[str, Any]

_TABLES = """
CREATE TABLE place (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), cursor TEXT, retention TEXT);
CREATE TABLE deals (id TEXT PRIMARY KEY, title TEXT NOT NULL, address TEXT NOT NULL, deleted INTEGER DEFAULT 0);
CREATE TABLE mail (id TEXT PRIMARY KEY, row TEXT NOT NULL);
CREATE TABLE holds (id TEXT PRIMARY KEY, row TEXT NOT NULL);
CREATE TABLE known (id TEXT PRIMARY KEY, rfc_message_id TEXT, subject TEXT, sender TEXT);
CREATE TABLE events (n INTEGER PRIMARY KEY, id TEXT UNIQUE, type TEXT, mailbox_id TEXT, body TEXT);
CREATE TABLE chores (message_id TEXT PRIMARY KEY);
CREATE TABLE hooks (n INTEGER PRIMARY KEY, webhook_id TEXT UNIQUE, id TEXT, type TEXT, mailbox_id TEXT);
"""


class Refused(Exception):  # noqa: N818 - it is an answer
    """The gateway said no: `status`, and the word in `type` of the problem document."""

    def __init__(self, response: httpx.Response) -> None:
        is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
        self.problem: Json = response.json() if is_problem else {}
        self.status, self.word = response.status_code, str(self.problem.get("type", ""))
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")


class Client:
    """Requests that are repeated while the gateway is away, is busy, or asks to wait."""

    def __init__(self, url: str, token: str, *, patience_s: float = 120) -> None:
        self._http = httpx.Client(base_url=f"{url}/v1", headers={"Authorization": f"Bearer {token}"}, timeout=90)
        self._patience_s = patience_s
        self.repeated, self._closing = 0, threading.Event()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer. Raises Refused; what makes something is made once, however often it has to be asked."""
        headers = dict(more.pop("headers", {}))
        if method == "POST":
            headers.setdefault("Idempotency-Key", str(uuid.uuid4()))
        deadline = time.monotonic() + self._patience_s
        while True:
            response = None
            try:
                response = self._http.request(method, path, headers=headers, **more)
            except httpx.TransportError:
                if time.monotonic() > deadline or self._closing.is_set():
                    raise
            if response is not None and (response.status_code not in (429, 503) or time.monotonic() > deadline):
                if response.is_error:
                    raise Refused(response)
                return response
            self.repeated += 1
            time.sleep(0.05 if response is None else min(1.0, float(response.headers.get("Retry-After", 1))))

    def json(self, method: str, path: str, **more: Any) -> Json:
        found: Json = self.ask(method, path, **more).json()
        return found

    def items(self, path: str, **params: Any) -> Iterator[Json]:
        """Everything that a list has, page after page."""
        cursor: str | None = None
        while True:
            page = self.json("GET", path, params={"limit": 100, **params} | ({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def leave(self) -> None:
        """What is asked for is not asked again."""
        self._closing.set()

    def close(self) -> None:
        self._http.close()


class Crm:
    """One customer of it: `tenant`. `now` is the CRM's clock, in UTC."""

    def __init__(self, file: Path, url: str, token: str, tenant: str, now: Callable[[], datetime]) -> None:
        self.client, self.tenant, self.now = Client(url, token), tenant, now
        self._feed = Client(url, token)  # waits for a minute at a time, so it has a line of its own
        self._file, self._lock = file, threading.Lock()
        self._stop, self._follower = threading.Event(), None
        self.failure: Exception | None = None
        with self.database() as db:
            db.executescript(_TABLES)

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """A transaction of one thread at a time."""
        with self._lock:
            db = sqlite3.connect(self._file)
            db.row_factory = sqlite3.Row
            try:
                with db:
                    yield db
            finally:
                db.close()

    @property
    def base(self) -> str:
        return f"/tenants/{self.tenant}"

    # What people do

    def open_deal(self, deal: str, title: str, address: str) -> None:
        """A deal with somebody: mail from and to this address is attached to it from now on, and what is here is."""
        with self.database() as db:
            db.execute("INSERT INTO deals (id, title, address) VALUES (?, ?, ?)", (deal, title, address))
        for direction in ("from", "to"):
            for message in self.client.items(f"{self.base}/messages", **{direction: address}):
                self.attach(message["id"], deal)

    def attach(self, message_id: str, deal: str) -> bool:
        """Whether it was in time: what is attached is kept for as long as the deal."""
        path = f"{self.base}/messages/{message_id}/pins/deal/{quote(deal, safe='')}"
        try:
            self.client.ask("PUT", path, json={})
        except Refused as refused:
            if refused.word in ("purged", "expired", "deleted", "message_not_found"):
                return False
            raise
        return True

    def delete_deal(self, deal: str) -> int:
        """The deal is gone, and so are its attachments; how many there were."""
        with self.database() as db:
            db.execute("UPDATE deals SET deleted = 1 WHERE id = ?", (deal,))
        return int(self.client.json("DELETE", f"{self.base}/pins/deal/{quote(deal, safe='')}")["removed"])

    def reply(self, mailbox_id: str, message_id: str, text: str, **more: Any) -> str:
        """Answer a message; the submission's id."""
        message = self.message(message_id)
        letter = {
            "to": message["from"],
            "subject": f"Re: {message['subject']}",
            "text": text,
            "in_reply_to_message_id": message_id,
            "pin_to_parent": True,
            **more,
        }
        return self.send(mailbox_id, letter)

    def send(self, mailbox_id: str, letter: Json) -> str:
        path = f"{self.base}/mailboxes/{mailbox_id}/submissions"
        return str(self.client.json("POST", path, json=letter)["id"])

    def submission(self, mailbox_id: str, submission_id: str) -> Json:
        return self.client.json("GET", f"{self.base}/mailboxes/{mailbox_id}/submissions/{submission_id}")

    def message(self, message_id: str) -> Json:
        return self.client.json("GET", f"{self.base}/messages/{message_id}")

    def search(self, words: str) -> list[Json]:
        return list(self.client.items(f"{self.base}/messages", q=words))

    def deal_page(self, deal: str) -> Json:
        """What the page of a deal shows: its mail by thread. The table has which, the gateway what it says."""
        with self.database() as db:
            (title,) = db.execute("SELECT title FROM deals WHERE id = ? AND NOT deleted", (deal,)).fetchone()
        attached = [row for row in self.visible().values() if {"entity_type": "deal", "entity_id": deal} in row["pins"]]
        threads: dict[str, list[Json]] = {}
        for row in sorted(attached, key=lambda row: (row["anchor_at"], row["id"])):
            threads.setdefault(row["thread_id"], []).append(self.message(row["id"]))
        return {"title": title, "threads": list(threads.values())}

    # The table of messages (docs/events.md, "A table of your own")

    def begin(self) -> None:
        """Take a snapshot, and follow the feed from there in a thread."""
        self._take_snapshot()
        self._follower = threading.Thread(target=self._follow, name="crm feed")
        self._follower.start()

    def end(self) -> None:
        self._stop.set()
        self._feed.leave()
        if self._follower is not None:
            self._follower.join(100)
        for client in (self.client, self._feed):
            client.close()

    def _take_snapshot(self) -> None:
        pages: list[Json] = []
        while not pages or pages[-1]["next_cursor"]:
            cursor = {"cursor": pages[-1]["next_cursor"]} if pages else {}
            pages.append(self._feed.json("GET", "/snapshot", params={"tenant": self.tenant, **cursor}))
        first = pages[0]
        with self.database() as db:
            db.execute("DELETE FROM mail")
            db.execute("DELETE FROM holds")
            db.execute(
                "INSERT OR REPLACE INTO place VALUES (1, ?, ?)", (first["event_cursor"], json.dumps(first["retention"]))
            )
            db.executemany("INSERT INTO holds VALUES (?, ?)", [(h["id"], json.dumps(h)) for h in first["holds"]])
            rows = {row["id"]: json.dumps(row) for page in pages for row in page["items"]}
            db.executemany("INSERT INTO mail VALUES (?, ?)", rows.items())
            db.executemany("INSERT OR IGNORE INTO chores VALUES (?)", [(id_,) for id_ in rows])

    def cursor(self) -> str:
        with self.database() as db:
            return str(db.execute("SELECT cursor FROM place").fetchone()[0])

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                self._do_chores()
                params = {"tenant": self.tenant, "after": self.cursor(), "wait": 2}
                try:
                    page = self._feed.json("GET", "/events", params=params)
                except Refused as refused:
                    if refused.word not in ("cursor_expired", "bad_cursor"):
                        raise
                    self._take_snapshot()
                    continue
                self._apply(page)
        except Exception as error:  # noqa: BLE001 - seen by who asks the CRM next
            self.failure = error

    def _apply(self, page: Json) -> None:
        with self.database() as db:
            for event in page["items"]:
                what = (event["id"], event["type"], event.get("mailbox_id"), json.dumps(event))
                db.execute("INSERT OR IGNORE INTO events (id, type, mailbox_id, body) VALUES (?, ?, ?, ?)", what)
                if "message_id" in event:
                    if event["message"] is None:
                        db.execute("DELETE FROM mail WHERE id = ?", (event["message_id"],))
                    else:
                        row = (event["message_id"], json.dumps(event["message"]))
                        db.execute("INSERT OR REPLACE INTO mail VALUES (?, ?)", row)
                if event["type"] == "message.created":
                    db.execute("INSERT OR IGNORE INTO chores VALUES (?)", (event["message_id"],))
                if event.get("retention"):
                    db.execute("UPDATE place SET retention = ?", (json.dumps(event["retention"]),))
                if event.get("hold"):
                    hold = (event["hold"]["id"], json.dumps(event["hold"]))
                    db.execute("INSERT OR REPLACE INTO holds VALUES (?, ?)", hold)
            db.execute("UPDATE place SET cursor = ?", (page["next_cursor"],))

    def _do_chores(self) -> None:
        """Look at what is new, and attach it to the deals of those whom it is from or to."""
        for message_id in self.chores():
            try:
                message = self._feed.json("GET", f"{self.base}/messages/{message_id}")
            except Refused as refused:
                if refused.status not in (404, 410):
                    raise
                message = None
            if message is not None:
                people = {person["address"] for field in ("from", "to", "cc") for person in message[field]}
                with self.database() as db:
                    deals = db.execute("SELECT id, address FROM deals WHERE NOT deleted").fetchall()
                for deal in deals:
                    if deal["address"] in people:
                        self.attach(message_id, deal["id"])
            with self.database() as db:
                db.execute("DELETE FROM chores WHERE message_id = ?", (message_id,))
                if message is not None:
                    sender = message["from"][0]["address"] if message["from"] else None
                    row = (message_id, message["rfc_message_id"], message["subject"], sender)
                    db.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", row)

    def chores(self) -> list[str]:
        """Messages that are still to be looked at."""
        with self.database() as db:
            return [row["message_id"] for row in db.execute("SELECT message_id FROM chores")]

    def rows(self) -> dict[str, Json]:
        with self.database() as db:
            return {row["id"]: json.loads(row["row"]) for row in db.execute("SELECT * FROM mail")}

    def events(self) -> list[Json]:
        with self.database() as db:
            return [json.loads(row["body"]) for row in db.execute("SELECT body FROM events ORDER BY n")]

    def known(self) -> dict[str, sqlite3.Row]:
        """What was seen of each message when it came, by id; of purged ones too."""
        with self.database() as db:
            return {row["id"]: row for row in db.execute("SELECT * FROM known")}

    # What to hide (docs/events.md, "What to hide")

    def visible(self) -> dict[str, Json]:
        """Messages that are shown now."""
        now = self.now()
        with self.database() as db:
            retention = json.loads(db.execute("SELECT retention FROM place").fetchone()[0])
            holds = [json.loads(row["row"]) for row in db.execute("SELECT row FROM holds")]
        shown = {}
        for id_, row in self.rows().items():
            held = any(_protects(hold, row, now) for hold in holds)
            due_at = None if row["pins"] or held else _due_at(row, retention, now)
            if due_at is None or now < due_at:
                shown[id_] = row
        return shown


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _protects(hold: Mapping[str, Any], row: Json, now: datetime) -> bool:
    until = hold["protects_until_at"]
    if until is not None and now >= instant(until):
        return False
    if hold["scope"] == "tenant":
        return True
    return hold["id"] in row["hold_ids"] if hold["scope"] == "messages" else hold["mailbox_id"] == row["mailbox_id"]


def _due_at(row: Json, retention: Json, now: datetime) -> datetime | None:
    """When a message that is neither pinned nor held is hidden. This operator has set no graces."""
    begun = [step for step in retention["steps"] if instant(step["at"]) <= now] or retention["steps"][:1]
    days = begun[-1]["days"]
    due = None if days is None else instant(row["anchor_at"]) + timedelta(days=days)
    if due is not None and row["keep_until_at"] is not None:
        due = max(due, instant(row["keep_until_at"]))
    if row["mailbox_removed_at"] is not None:
        removed = instant(row["mailbox_removed_at"])
        due = removed if due is None else min(due, removed)
    return due
