"""What the purge's state machine works with: a model of a few lines, a store as a gateway has it, and two watchers that
look at everything after each step: an auditor of the purge log, and a burglar who reads what lies on the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, select

from mailgate.blobs import BlobStore
from mailgate.clock import DAY, Instant
from mailgate.keys import KeyRing
from mailgate.messages.timed import untimed
from mailgate.store import tenants
from mailgate.store.certificates import certificates
from mailgate.store.database import Database
from mailgate.store.folders import listed, views
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.recognition import recognisable
from mailgate.store.runs import RunRecord
from mailgate.store.schema import (
    blobs,
    log_leaves,
    mailboxes,
    messages,
    operations,
    origins,
    submissions,
    tenant_heads,
)
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.witness import Witness
from mailgate.sync.reconcile import decide
from mailgate.sync.state import FolderState
from mailgate.sync.views import Entry, FarPresent, Tombstoned, Window
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.ledger.certificate import check_certificate
from retention.ledger.consistency import check_consistency
from retention.ledger.export import export_directory
from retention.ledger.replay import Replay, replay_directory
from retention.ledger.report import Report, Verdict
from retention.ledger.schema import parse_leaf
from retention.ledger.tree import Frontier, leaf_hash
from retention.model import Graces, Reason, Sum
from retention.policy import Policy
from tests import scan
from tests.store.builder import Home
from tests.store.conftest import PLANS, Store

DAYS = {"free": 0, "crm_plus": 30, "standard": 60, "professional": 90}
RELEASE_DAYS = 1
POLICY = Policy(1, "ab" * 32, graces=Graces(after_release=RELEASE_DAYS))


class Held(NamedTuple):
    """A hold: on these copies, on a mailbox, or, with neither, on the tenant. `until` is set by its release."""

    ids: frozenset[str] | None
    mailbox_id: str | None
    until: Instant | None = None


@dataclass
class Model:
    """What should be there: anchors, records that pin, holds, copies whose mailbox was removed; and the plans."""

    anchors: dict[str, Instant] = field(default_factory=dict)
    pins: dict[str, set[str]] = field(default_factory=dict)
    mailbox: dict[str, str] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    removed: dict[str, bool] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    plans: dict[Instant, str] = field(default_factory=dict)  # from when on

    def days(self, now: Instant) -> int:
        return DAYS[self.plans[max(at for at in self.plans if at <= now)]]

    def kept(self, id_: str, now: Instant) -> bool:
        def covers(hold: Held) -> bool:
            if hold.until is not None and hold.until <= now:
                return False
            if hold.ids is not None:
                return id_ in hold.ids
            return hold.mailbox_id in (None, self.mailbox[id_])

        return bool(self.pins[id_]) or any(map(covers, self.holds.values()))

    def eligible(self, now: Instant, plan: str | None = None) -> set[str]:
        """What a run would purge then, by the plan that holds or by this one."""
        days = self.days(now) if plan is None else DAYS[plan]
        return {
            id_
            for id_, anchor_at in self.anchors.items()
            if id_ not in self.gone and (now >= anchor_at + days * DAY or self.removed[id_]) and not self.kept(id_, now)
        }


class CutError(Exception):
    """The process dies here."""


def cut(at: int | None) -> Callable[[str], None]:
    """A step that dies when it is called for the `at`th time; None: never."""
    left = at

    def step(_name: str) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left == 0:
                raise CutError

    return step


def open_store(url: str, folder: Path) -> Store:
    """All that one process has, with its files in this folder."""
    db = Database(url)
    ring = KeyRing.open(f"file://{folder}/keys", create=True)
    log = PurgeLog(origin="mail.example", policy=LogPolicy(1, POLICY.document), version="1", commit="test")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    witness = Witness(folder / "w")
    reader = LogReader(db, origin="mail.example", seed=ring.ledger_seed, witness=witness, owner="test")
    blob_store = BlobStore.open(f"file://{folder}/blobs")
    return Store(db, ring, blob_store, log, reader, subscriptions, Mailboxes(db, ring, subscriptions))


def sound(report: Report) -> None:
    """The verifier has nothing to say against it."""
    assert report.verdict is Verdict.OK, "\n".join(report.lines())


class Auditor:
    """Follows a tenant's log as somebody does who was there from the beginning, and forgets nothing."""

    def __init__(self, store: Store, tenant_id: str, folder: Path) -> None:
        self._store = store
        self._tenant_id = tenant_id
        self._folder = folder
        self._replay = Replay()
        self._tree = Frontier()
        self._roots: list[bytes] = [self._tree.root()]
        self.bodies: list[bytes] = []
        self.signed: dict[int, bytes] = {}

    async def follow(self) -> None:
        """What was there stands unchanged; what is new obeys the rules; the tree's edge in the head is its own."""
        leaf, head = log_leaves.c, tenant_heads.c
        query = select(leaf.body).where(leaf.tenant_id == self._tenant_id).order_by(leaf.idx)
        async with self._store.db.read() as conn:
            bodies = list((await conn.execute(query)).scalars())
            frontier = (
                await conn.execute(select(head.log_frontier).where(head.tenant_id == self._tenant_id))
            ).scalar_one()
        known = len(self.bodies)
        assert bodies[:known] == self.bodies, "the log's past was changed"
        for body in bodies[known:]:
            self._replay.feed(body)
            self._tree.append(leaf_hash(body))
            self._roots.append(self._tree.root())
        self.bodies = bodies
        sound(self._replay.finish())
        assert Frontier.from_bytes(frontier).root() == self._roots[-1], "the head knows another tree"

    def purges(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """The entries of copies that were purged, of one run or of all."""
        found = [parse_leaf(body) for body in self.bodies if b'"type":"item.purge"' in body]
        return [leaf for leaf in found if run_id in (None, leaf["run"])]

    async def sign(self, now: Instant) -> None:
        """R16: what is signed is the tree that was followed, so it continues all that was signed before."""
        tenant = await tenants.get(self._store.db, self._tenant_id)
        signed = await self._store.reader.checkpoint(tenant, now)
        await self.follow()
        assert signed.size == len(self.bodies), "what was signed is not the whole log"
        assert signed.root == self._roots[signed.size], "what was signed is another tree"
        assert self.signed.setdefault(signed.size, signed.note) == signed.note, "two states of one size were signed"

    async def certify(self, run: RunRecord, due: Mapping[Reason, Sum], now: Instant) -> None:
        """R13: the run's certificate is proven by its leaves, and tells what went and why."""
        store = self._store
        key = store.reader.verifier(await tenants.get(store.db, self._tenant_id))
        (told,) = await certificates(store.db, store.reader, run.id, self._tenant_id, now)
        check_certificate(told, key)
        counts, items = told["counts"], told["items"]
        balance = counts["purged"] + sum(counts["kept"].values()) + counts["failed"]
        assert counts["candidates"] == balance, f"the certificate does not balance: {counts}"
        assert counts == {name: run.counts[name] for name in counts}, f"the certificate is of another run: {counts}"
        reasons = {str(reason): sum_.copies for reason, sum_ in due.items() if sum_.copies}
        assert items["by_reason"] == reasons, f"the certificate names other reasons: {items}"

    async def examine(self, now: Instant) -> None:
        """The exported log, in the hands of the verifier alone: intact, by the rules, one with all that was signed."""
        await self.sign(now)
        key = self._store.reader.verifier(await tenants.get(self._store.db, self._tenant_id))
        path = self._folder / f"{self._tenant_id}-exported"
        export_directory(path, key, self.signed[len(self.bodies)], self.bodies)
        sound(replay_directory(path, key))
        for size, note in self.signed.items():
            earlier = self._folder / f"{self._tenant_id}-{size}"
            earlier.write_bytes(note)
            sound(check_consistency(earlier, path, key))


class _Stored(NamedTuple):
    blob_id: str
    keys: tuple[bytes, bytes]
    uid: int
    header_token: bytes


class Burglar:
    """R5: reads every file, and remembers of each copy with which keys it was sealed, as one does who copied the
    database while it was there.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self.words = scan.canaries(("content", "note"))
        self.stored: dict[str, _Stored] = {}

    async def note(self, id_: str) -> None:
        """A copy arrived."""
        query = (
            select(messages.c.blob_id, messages.c.data_key, blobs.c.data_key, origins.c.uid, messages.c.header_token)
            .join(blobs, blobs.c.id == messages.c.blob_id)
            .join(origins, origins.c.message_id == messages.c.id)
            .where(messages.c.id == id_)
        )
        async with self._store.db.read() as conn:
            blob_id, of_message, of_blob, uid, header_token = (await conn.execute(query)).one()
        self.stored[id_] = _Stored(blob_id, (of_message, of_blob), uid, header_token)

    async def look(self, gone: set[str]) -> None:
        """After the erasing: of what is gone neither object nor key is left, and no word was ever in clear."""
        db = self._store.db
        standing = {self.stored[id_].blob_id for id_ in self.stored.keys() - gone}
        assert set(self._store.blobs.list_ids()) == standing, "objects on the disk and copies do not agree"
        destroyed = {self.stored[id_].keys[0] for id_ in gone}
        destroyed |= {self.stored[id_].keys[1] for id_ in gone if self.stored[id_].blob_id not in standing}
        async with db.read() as conn:
            for column in (messages.c.data_key, blobs.c.data_key):
                assert not destroyed & set((await conn.execute(select(column))).scalars()), "a destroyed key is there"
        if db.sqlite:  # PostgreSQL keeps deleted rows for a while, of what only sealed objects told
            assert await db.truncate_wal()
            whole = b"".join(path.read_bytes() for path in self._folder.glob("mailgate.db*"))
            assert not [key for key in destroyed if key in whole], "a destroyed key is in the database's file"
        assert not any(scan.find(self.words.values(), [self._folder]).values()), "in clear on the disk"


class MailServer:
    """R11: one that still has every message, and shows it again. R10: one that is asked for nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._accounts: dict[str, tuple[bytes, FolderState]] = {}

    async def connect(self, home: Home) -> None:
        """One more account."""
        async with self._store.db.read() as conn:
            query = select(mailboxes.c.account_ref).where(mailboxes.c.id == home.mailbox_id)
            account = (await conn.execute(query)).scalar_one()
            (inbox,) = await listed(conn, home.mailbox_id)
        self._accounts[home.mailbox_id] = (account, inbox)

    async def shows_again(self, model: Model, burglar: Burglar, now: Instant) -> None:
        """Whatever was purged is known by its address, and, when all addresses changed, by its header, as often as it
        was purged; and sync, entitled to all of it, fetches none.
        """
        window = Window(now, floor_at=0, days=max(DAYS.values()), entitled=True)
        for mailbox_id, (account, inbox) in self._accounts.items():
            gone = {burglar.stored[id_]: id_ for id_ in model.gone if model.mailbox[id_] == mailbox_id}
            async with self._store.db.read() as conn:
                uids, tokens = sorted(each.uid for each in gone), {each.header_token for each in gone}
                found = await views(conn, account, "acme", inbox, 7, uids)
                known = await recognisable(conn, account, "acme", mailbox_id, inbox, 8, tokens)
            for each, id_ in gone.items():
                view = found.get(each.uid)
                assert view is not None, f"nobody knows any more that {id_} was purged"
                far = FarPresent(frozenset(), model.anchors[id_])
                action = decide(Entry(each.uid, view.base, view.near, far), window)
                assert action is None, f"what was purged comes back: {action}"
            graves = Counter(item.likeness.token for item in known if isinstance(item.near, Tombstoned))
            assert graves == Counter(untimed(each.header_token) for each in gone), (
                "purged mail is not known by its headers"
            )

    async def hears_nothing(self) -> None:
        """No command waits to be brought to it."""
        async with self._store.db.read() as conn:
            for table in (operations, submissions):
                count = (await conn.execute(select(func.count()).select_from(table))).scalar_one()
                assert count == 0, f"retention asked a server for something: {table.name}"
