"""A week of a CRM, on Dovecot and Postfix, with a gateway that is killed: the acceptance of the whole.

`make test` runs one week with little mail, `make soak` three with much.
"""

from __future__ import annotations

import ast
import collections
import email
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.crm.crm import Crm, Refused
from tests.crm.desk import Desk
from tests.crm.world import World, running
from tests.postfix import NOWHERE
from tests.soak import SOAK

pytestmark = [pytest.mark.server, pytest.mark.crash, pytest.mark.timeout(3_600 if SOAK else 600)]

ANN, SAM = "ann@acme.example", "sam@acme.example"
BOB, EVE = "bob@other.example", "eve@other.example"
OLD = 400 if SOAK else 40
HERE = Path(__file__).parent


class Week:
    """The company acme, its CRM, and what the test itself remembers of what it did."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.admin = world, world.admin()
        self.admin.ask("PUT", "/tenants/acme", json={"name": "Acme"})
        self.plan("standard")
        body = {"name": "the CRM", "scopes": ["crm"], "tenant_id": "acme"}
        token = self.admin.json("POST", "/tokens", json=body)["token"]
        self.crm = Crm(folder / "crm.sqlite", world.url, token, "acme", world.clock)
        self.desk = Desk(self.crm)
        url = f"http://127.0.0.1:{self.desk.port}/hooks/mail"
        hook = {"url": url, "tenant_id": "acme"}
        made = self.crm.client.json("POST", "/webhooks", json=hook)
        self.hook_id, self.desk.secret = made["id"], made["secret"]
        self.crm.begin()
        self.mailboxes: dict[str, str] = {}
        self.submissions: list[tuple[str, str]] = []
        self.too_old: set[str] = set()

    def close(self) -> None:
        self.crm.end()
        self.desk.close()
        self.admin.close()

    # Steps

    def plan(self, plan: str) -> None:
        self.admin.ask("PUT", "/tenants/acme/subscription", json={"plan": plan})

    def connect(self, address: str, **more: Any) -> None:
        account = self.world.accounts[address]
        servers = {
            protocol: {
                "host": "127.0.0.1",
                "port": port,
                "security": "none",
                "username": address,
                "auth": {"password": account.password},
            }
            for protocol, port in (("imap", self.world.dovecot.port), ("smtp", self.world.postfix.port))
        }
        body = {"address": address, **servers, **more}
        self.mailboxes[address] = self.crm.client.json("POST", "/tenants/acme/mailboxes", json=body)["id"]

    def mailbox(self, address: str) -> dict[str, Any]:
        return self.crm.client.json("GET", f"/tenants/acme/mailboxes/{self.mailboxes[address]}")

    def live(self) -> None:
        """Waits until the mailboxes are, and the CRM has looked at all that came."""
        for address in self.mailboxes:
            self.world.until(partial(self._is_live, address), f"{address} is live")
        self.read()

    def _is_live(self, address: str) -> bool:
        return self.mailbox(address)["state"] == "live"

    def arrived(self, rfc_message_id: str) -> dict[str, Any]:
        """The message with this Message-ID, once the CRM has looked at it."""

        def look() -> list[str]:
            assert self.crm.failure is None, self.crm.failure
            return [id_ for id_, row in self.crm.known().items() if row["rfc_message_id"] == rfc_message_id]

        self.world.until(look, f"{rfc_message_id} is in the CRM")
        (id_,) = look()
        return self.crm.message(id_)

    def delivered(self, address: str, subject: str) -> EmailMessage:
        """The one message of this subject in somebody's INBOX."""

        def look() -> list[Any]:
            parsed = [email.message_from_bytes(raw) for _, raw in self.world.accounts[address].originals().values()]
            return [message for message in parsed if message["Subject"] == subject]

        self.world.until(look, f"{address} has {subject!r}")
        (found,) = look()
        return found

    def sent(self, address: str, submission_id: str) -> dict[str, Any]:
        """The submission, once it is sent."""
        self.submissions.append((address, submission_id))
        self.world.until(
            lambda: self.crm.submission(self.mailboxes[address], submission_id)["state"] == "sent",
            f"submission {submission_id} is sent",
        )
        return self.crm.submission(self.mailboxes[address], submission_id)

    def applied(self, answer: dict[str, Any]) -> None:
        for id_ in answer.get("operation_ids") or [answer["operation_id"]]:
            self.world.until(partial(self._is_applied, id_), f"operation {id_} is applied")

    def _is_applied(self, operation_id: str) -> bool:
        return self.crm.client.json("GET", f"/tenants/acme/operations/{operation_id}")["state"] == "applied"

    def purge(self, *, killed: bool = False) -> dict[str, Any]:
        run = self.admin.json("POST", "/retention/runs", json={"tenant": "acme"})
        if killed:
            self.world.kill()

        def over() -> bool:
            return self.admin.json("GET", f"/retention/runs/{run['id']}")["state"] not in ("queued", "running")

        self.world.until(over, "the purge is over")
        return self.admin.json("GET", f"/retention/runs/{run['id']}")

    def read(self) -> None:
        """Waits until the CRM has read all that the feed has, and looked at what is new."""

        def all_of_it() -> bool:
            assert self.crm.failure is None, self.crm.failure
            params = {"tenant": "acme", "after": self.crm.cursor(), "limit": 1}
            return not self.crm.client.json("GET", "/events", params=params)["items"] and not self.crm.chores()

        self.world.until(all_of_it, "the CRM has read the feed")

    def caught_up(self) -> None:
        """The same, and that the webhook's receiver has as much."""
        self.read()
        self.world.until(lambda: self.hooks() >= self.told(), "the receiver has what the feed has")

    def told(self) -> set[str]:
        return {event["id"] for event in self.crm.events()}

    def hooks(self) -> set[str]:
        with self.crm.database() as db:
            return {row["id"] for row in db.execute("SELECT id FROM hooks")}


def old_mail(week: Week, *, rng: random.Random) -> None:
    """Mail of the last two months, of which the plan keeps sixty days: some of it becomes due on each day to come."""
    now = datetime.now(UTC)
    ann = week.world.accounts[ANN]
    for n in range(OLD):
        age = timedelta(days=rng.uniform(1, 66), seconds=rng.uniform(0, 60))
        sender = (BOB, EVE, "news@paper.example")[n % 3]
        letter = EmailMessage()
        letter["From"], letter["To"], letter["Subject"] = sender, ANN, f"Old letter {n}"
        letter["Date"] = format_datetime(now - age)
        letter["Message-ID"] = f"<old-{n}@paper.example>"
        letter.set_content(f"This is letter number {n}, and the word of it is wort{n:04}.\n")
        at = int((now - age).timestamp()) * 1_000_000
        folder = "Projects" if n % 4 == 0 else "INBOX"
        flags = ["\\Seen"] if n % 2 else []
        raw = letter.as_bytes().replace(b"\n", b"\r\n")
        ann.add(raw, folder=folder, received_at=at, flags=flags)
        if age > timedelta(days=60):
            week.too_old.add(f"<old-{n}@paper.example>")


@pytest.fixture
def world() -> Iterator[World]:
    with running(ANN, SAM, BOB, EVE) as world:
        world.start()
        yield world


def test_a_week(world: World, tmp_path: Path) -> None:
    week = Week(world, tmp_path)
    try:
        for n in range(3 if SOAK else 1):
            story(week, n)
            compare(week)
    finally:
        week.close()
    assert world.kills >= 6


def story(week: Week, n: int) -> None:
    crm, world, client = week.crm, week.world, week.crm.client
    roof, windows = f"D-{n}-roof", f"D-{n}-windows / 2"

    # Monday: the mailboxes are connected; the gateway is killed in the middle of the import.
    if n == 0:
        old_mail(week, rng=random.Random(4_711))
    crm.open_deal(roof, "A roof <b>for Bob</b>", BOB if n == 0 else f"bob+{n}@other.example")
    if n == 0:
        week.connect(ANN)
        world.kill()
        week.connect(SAM, shared=True)
    week.live()

    # Tuesday: Bob writes, the CRM answers, with a minute to think better of it; in that minute the gateway is killed.
    world.clock.forward(days=1)
    asked = week.arrived(world.write(BOB, ANN, f"Offer for the roof {n}", "What would it cost with Dachziegel?"))
    minute = world.clock() + timedelta(minutes=1)
    reply = crm.reply(week.mailboxes[ANN], asked["id"], "Four thousand.", send_at=minute.isoformat())
    world.kill()
    world.clock.forward(minutes=1)
    done = week.sent(ANN, reply)
    answer = week.delivered(BOB, f"Re: Offer for the roof {n}")
    assert answer["In-Reply-To"] == asked["rfc_message_id"]
    thanks = week.arrived(world.write(BOB, ANN, f"Re: Re: Offer for the roof {n}", "That is fine.", answers=answer))
    assert thanks["thread_id"] == asked["thread_id"] == crm.message(done["message_id"])["thread_id"]

    # Wednesday: a letter for tomorrow survives a kill; one to nobody comes back.
    world.clock.forward(days=1)
    tomorrow = (world.clock() + timedelta(days=1)).isoformat()
    later = crm.send(week.mailboxes[SAM], {"to": [EVE], "subject": f"Later {n}", "text": "x", "send_at": tomorrow})
    lost = crm.send(week.mailboxes[ANN], {"to": [f"zoe@{NOWHERE}"], "subject": f"Lost {n}", "text": "x"})
    week.sent(ANN, lost)
    world.kill()
    world.until(
        lambda: crm.submission(week.mailboxes[ANN], lost)["recipients"][0]["state"] == "bounced", "the letter bounced"
    )
    assert crm.submission(week.mailboxes[SAM], later)["state"] == "queued"

    # Thursday: changes by both hands; the CRM's own server is out of order meanwhile.
    world.clock.forward(days=1)
    week.desk.out_of_order = True
    week.sent(SAM, later)
    week.delivered(EVE, f"Later {n}")
    folders = {folder["name"]: folder["id"] for folder in week.mailbox(ANN)["folders"]}
    news = [week.arrived(world.write(EVE, ANN, f"News {n}.{k}", f"Neuigkeit{k}")) for k in range(4)]
    path = "/tenants/acme/messages"
    moved = client.json("PATCH", f"{path}/{news[0]['id']}", json={"folder_id": folders["Projects"]})
    marked = client.json("PATCH", f"{path}/{news[1]['id']}", json={"flags": {"add": ["\\Seen", "$Offer"]}})
    deleted = client.json("DELETE", f"{path}/{news[2]['id']}", params={"permanent": "true"})
    world.kill()
    person = world.accounts[ANN].imap()
    person.select("INBOX")
    (found,) = person.search(None, "SUBJECT", f'"News {n}.3"')[1]
    person.store(found.decode(), "+FLAGS", "(\\Flagged)")
    person.logout()
    for operation in (moved, marked, deleted):
        week.applied(operation)
    world.until(lambda: crm.message(news[3]["id"])["flags"] == ["\\Flagged"], "what the person did is seen")
    world.until(lambda: week.desk.refused > 0, "the desk refused something")
    week.desk.out_of_order = False

    # Friday: a smaller plan; the purge is killed in the middle, and goes on.
    world.clock.forward(days=1)
    crm.open_deal(windows, "Windows for Eve", EVE)
    before = set(crm.known())
    week.plan("crm_plus")
    run = week.purge(killed=True)
    assert run["state"] == "completed", run
    assert {row["id"] for row in client.items("/tenants/acme/messages", pinned="true")} <= before | set(crm.known())

    # Saturday: a larger plan brings nothing back; the deal with Eve is deleted, and its mail is due.
    world.clock.forward(days=1)
    week.plan("professional")
    attached = {row["message_id"] for row in client.items("/tenants/acme/pins", entity_type="deal", entity_id=windows)}
    assert attached
    assert crm.delete_deal(windows) == len(attached)
    week.plan("crm_plus")
    run = week.purge()
    assert run["state"] == "completed", run
    world.kill()
    week.live()

    # Sunday: somebody looks for something, and at the page of the deal.
    world.clock.forward(days=1)
    world.until(lambda: asked["id"] in {message["id"] for message in crm.search("dachziegel")}, "it is found")
    page = httpx.get(f"http://127.0.0.1:{week.desk.port}/deals/{roof}", timeout=300)
    if n == 0:
        assert "A roof &lt;b&gt;for Bob&lt;/b&gt;" in page.text
        assert page.text.count("<article>") >= 3
        assert f"Re: Offer for the roof {n}" in page.text


def message_ids(world: World, address: str, folder: str) -> list[str]:
    """Those of all messages in somebody's folder, as the server has it."""
    originals = world.accounts[address].originals(folder).values()
    return [str(email.message_from_bytes(original)["Message-ID"]) for _, original in originals]


def compare(week: Week) -> None:
    """What the CRM has, what the gateway says and what the mail server holds is the same."""
    crm, client = week.crm, week.crm.client
    week.live()
    world = week.world
    world.until(lambda: not list(client.items("/tenants/acme/operations", state="pending")), "no operation is pending")
    week.caught_up()
    served = {message["id"]: message for message in client.items("/tenants/acme/messages")}

    # The CRM's table is what the gateway serves.
    shown = crm.visible()
    assert set(shown) == set(served)
    for id_, message in served.items():
        row = shown[id_]
        assert sorted(row["flags"]) == sorted(message["flags"])
        assert row["thread_id"] == message["thread_id"]
        assert sorted(row["folder_ids"]) == sorted(folder["id"] for folder in message["folders"])
        pins = {(pin["entity_type"], pin["entity_id"]) for pin in message["pins"]}
        assert {(pin["entity_type"], pin["entity_id"]) for pin in row["pins"]} == pins
        assert row["origin_present"] == message["origin"]["present"]

    # What the gateway serves is what the mail server holds, byte for byte.
    purged = {event["message_id"] for event in crm.events() if event["type"] == "message.purged"}
    known = crm.known()
    for address, mailbox_id in week.mailboxes.items():
        folders = {folder["id"]: folder["name"] for folder in week.mailbox(address)["folders"]}
        held = {name: world.accounts[address].originals(name) for name in folders.values()}
        claimed: collections.Counter[tuple[str, int]] = collections.Counter()
        for message in served.values():
            if message["mailbox_id"] != mailbox_id:
                continue
            raw = client.ask("GET", f"/tenants/acme/messages/{message['id']}/raw").content
            for place in message["origin"]["locations"]:
                if place["present"]:
                    flags, original = held[folders[place["folder_id"]]][place["uid"]]
                    assert original == raw
                    assert sorted(flags) == sorted(message["flags"])
                    claimed[folders[place["folder_id"]], place["uid"]] += 1
        assert set(claimed.values()) <= {1}
        hidden = set(crm.rows()) - set(shown)  # due, and not purged yet
        gone = week.too_old | {known[id_]["rfc_message_id"] for id_ in purged | hidden}
        for name, messages in held.items():
            for uid, (_, original) in messages.items():
                if (name, uid) not in claimed:
                    assert email.message_from_bytes(original)["Message-ID"] in gone, (name, uid)

    # The purge reached no mail server, and each purge has its one entry in the log.
    there = {*message_ids(world, ANN, "INBOX"), *message_ids(world, ANN, "Projects")}
    assert {known[id_]["rfc_message_id"] for id_ in purged if known[id_]["subject"].startswith("Old")} <= there
    leaves = list(week.admin.items("/purge-log", tenant="acme", type="item.purge"))
    assert len(leaves) == len(purged) > 0
    assert purged.isdisjoint(served)

    # Each letter was sent once and stands in Sent once; the webhooks told what the feed told, each mailbox's in order.
    for address, submission_id in week.submissions:
        submission = crm.submission(week.mailboxes[address], submission_id)
        assert message_ids(world, address, "Sent").count(submission["rfc_message_id"]) == 1
        recipient = submission["recipients"][0]
        if recipient["state"] == "accepted":
            assert message_ids(world, recipient["address"], "INBOX").count(submission["rfc_message_id"]) == 1
    events = crm.events()
    assert week.hooks() == {event["id"] for event in events}
    with crm.database() as db:
        hooks = db.execute("SELECT id, mailbox_id FROM hooks ORDER BY n").fetchall()
    for mailbox_id in {event.get("mailbox_id") for event in events}:
        in_feed = [event["id"] for event in events if event.get("mailbox_id") == mailbox_id]
        assert [hook["id"] for hook in hooks if hook["mailbox_id"] == mailbox_id] == in_feed
    numbers = [int(event["id"].rpartition(":")[2]) for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert client.json("GET", f"/webhooks/{week.hook_id}")["state"] == "enabled"


@pytest.mark.parametrize("name", ["crm.py", "desk.py"])
def test_the_crm_knows_nothing_of_the_gateway(name: str) -> None:
    """What the docs and HTTP do not say, it can't use."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse((HERE / name).read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    assert not [module for module in imported if module.split(".")[0] in ("mailgate", "connectors", "retention")]
    assert {module for module in imported if module.startswith("tests")} <= {"tests.crm.crm"}


def test_refusals_carry_their_word() -> None:
    request = httpx.Request("GET", "http://gateway.test/v1/tenants/acme")
    problem = httpx.Response(
        404, request=request, headers={"content-type": "application/problem+json"}, json={"type": "tenant_not_found"}
    )
    assert Refused(problem).word == "tenant_not_found"
