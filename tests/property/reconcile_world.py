"""The two sides that the state machine plays on: the CRM with a gateway of its own, and a mail account with its users.

`Far` is what another mail program can do at the server; `MemoryFar` does it to a server in memory. `World` is the
gateway over it: the CRM's users through the real use cases, passes by the real executor, and what both sides show.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import insert, select, update

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from connectors.port import Connect
from mailgate.actors import SYSTEM
from mailgate.clock import Instant
from mailgate.errors import ConflictError, GoneError, NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.settings import SyncSettings
from mailgate.store.expiry import Expiry
from mailgate.store.schema import holds, operations
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.append import Target
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.messages import MessageChange
from mailgate.store.wishes.service import Wishes
from mailgate.store.wishes.words import flags as flag_change
from retention.model import AnchorFrom, Graces
from retention.policy import ClockLimits
from tests.sync.engine import Engine

T = TypeVar("T")

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - mkdtemp makes a folder of its own there
"""Where worlds stand: they are many, and none outlives its example."""

PLANS = {0: "free", 30: "crm_plus", 60: "standard", 90: "professional"}
"""By days of retention."""

REFUSED = (ConflictError, GoneError, NotFoundError, PreconditionError)
"""What the CRM is told when it asks for what can't be: pinned, gone, not entitled, protected."""


@dataclass(frozen=True, order=True)
class Original:
    """One message at the server."""

    folder: str
    uid: int
    raw: bytes
    flags: frozenset[str]
    received_at: Instant


@dataclass(frozen=True)
class Seen:
    """One message as the CRM sees it; `folder` None: without an original."""

    id: str
    raw: bytes
    folder: str | None
    flags: frozenset[str]


class Far(Protocol):
    """A mail account, and what its users do with other programs."""

    connect: Connect

    def names(self) -> list[str]:
        """Folders, sorted."""
        ...

    def originals(self) -> list[Original]:
        """Everything, sorted."""
        ...

    def deliver(self, folder: str, raw: bytes, received_at: Instant, flags: frozenset[str]) -> None: ...

    def flag(self, at: Original, flags: frozenset[str]) -> None: ...

    def move(self, at: Original, to: str) -> None: ...

    def copy(self, at: Original, to: str) -> None: ...

    def expunge(self, at: Original) -> None: ...

    def create(self, name: str) -> None: ...

    def rename(self, name: str, to: str) -> None: ...

    def delete(self, name: str) -> None: ...

    def commands(self) -> int:
        """How many commands the server ever heard, from anybody."""
        ...


class MemoryFar:
    """A server in memory."""

    def __init__(self, kind: str, now: Instant, **abilities: Any) -> None:
        offered = {"condstore": kind != "plain", "qresync": kind == "qresync", "move": kind != "plain", **abilities}
        self.account = MemoryAccount(**offered, now=now)
        self.account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
        self.account.create_folder("Trash", special_use=SpecialUse.TRASH)
        self.connect: Connect = self.account.connect

    def names(self) -> list[str]:
        return sorted(self.account.folders)

    def originals(self) -> list[Original]:
        return sorted(
            Original(name, uid, m.raw, m.flags, m.internal_date)
            for name, folder in self.account.folders.items()
            for uid, m in folder.messages.items()
        )

    def deliver(self, folder: str, raw: bytes, received_at: Instant, flags: frozenset[str]) -> None:
        self.account.append(folder, raw, internal_date=received_at, flags=flags)

    def flag(self, at: Original, flags: frozenset[str]) -> None:
        self.account.store_flags(at.folder, at.uid, flags)

    def move(self, at: Original, to: str) -> None:
        self.account.move(at.folder, at.uid, to)

    def copy(self, at: Original, to: str) -> None:
        self.account.copy(at.folder, at.uid, to)

    def expunge(self, at: Original) -> None:
        self.account.expunge(at.folder, at.uid)

    def create(self, name: str) -> None:
        self.account.create_folder(name)

    def rename(self, name: str, to: str) -> None:
        self.account.rename_folder(name, to)

    def delete(self, name: str) -> None:
        self.account.delete_folder(name)

    def commands(self) -> int:
        return len(self.account.commands)


class World:
    """A gateway over an account, and the CRM over the gateway. Opened on a copy of a migrated database."""

    def __init__(self, far: Far, template: Path, clock: Any, settings: SyncSettings) -> None:
        self.far = far
        self._runner = asyncio.Runner()
        self._folder = Path(tempfile.mkdtemp(prefix="mailgate-world-", dir=FAST))
        shutil.copyfile(template, self._folder / "mailgate.db")
        url = f"sqlite:///{self._folder / 'mailgate.db'}"
        account = far.account if isinstance(far, MemoryFar) else MemoryAccount()
        self.engine = self.run(
            Engine.open(url, self._folder, account, connect=far.connect, clock=clock, settings=settings)
        )
        engine = self.engine
        locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
        self._wishes = Wishes.over(
            engine.db,
            engine.ring,
            engine.blobs,
            locks,
            max_bytes=1 << 20,
            anchor_from=AnchorFrom.RECEIVED,
            at_once=1,
        )
        self._raws: dict[str, bytes] = {}

    def run(self, work: Awaitable[T]) -> T:
        async def call() -> T:
            return await work

        return self._runner.run(call())

    def close(self) -> None:
        """The store checks itself."""
        try:
            self.run(self.engine.close())
        finally:
            self._runner.close()
            shutil.rmtree(self._folder)

    def rows(self, table: str) -> list[Any]:
        return self.run(self.engine.rows(table))

    def raw(self, row: Any) -> bytes:
        """The bytes of a copy; they never change, so they are read once."""
        if row.id not in self._raws:
            self._raws[row.id] = self.run(self.engine.raw(row))
        return self._raws[row.id]

    def raw_of(self, message_id: str) -> bytes:
        """Of a copy, or of one that there was."""
        for row in self.rows("messages") if message_id not in self._raws else ():
            self.raw(row)
        return self._raws[message_id]

    # What both sides show.

    def visible(self) -> list[Seen]:
        """What the CRM sees, in the order of creation."""
        folders = {row.id: row for row in self.rows("folders")}
        places: dict[str, str] = {}
        for origin in self.rows("origins"):
            if origin.vanished_at is None:
                places[origin.message_id] = folders[origin.folder_id].name
        found: list[Seen] = []
        for row in self.rows("messages"):
            if row.deleted_at is None:
                place = places.get(row.id) if row.moving_to is None else folders[row.moving_to].name
                found.append(Seen(row.id, self.raw(row), place, frozenset(row.flags)))
        order = self.created()  # ids are random
        return sorted(found, key=lambda seen: order.index(seen.id))

    def copies(self) -> Counter[bytes]:
        """Copies by content, hidden ones too."""
        return Counter(self.raw(row) for row in self.rows("messages"))

    def operations(self) -> list[Any]:
        """All operations, in order."""

        async def read() -> list[Any]:
            async with self.engine.db.read() as conn:
                return list((await conn.execute(select(operations).order_by(operations.c.seq))).all())

        return self.run(read())

    def open_operations(self) -> list[Any]:
        return [row for row in self.operations() if row.finished_at is None]

    def crm_folders(self) -> list[tuple[str, str]]:
        """(name, id) of the folders that the CRM sees."""
        rows = [row for row in self.rows("folders") if row.gone_at is None and row.on_its_way != "delete"]
        return sorted((row.wanted_name or row.name, row.id) for row in rows)

    # What the CRM's users do. Each answers whether it was accepted.

    def _ask(self, wish: Awaitable[object]) -> bool:
        try:
            self.run(wish)
        except REFUSED:
            return False
        return True

    def crm_flags(self, id_: str, add: Sequence[str], remove: Sequence[str]) -> bool:
        change = MessageChange(flags=flag_change(add, remove))
        return self._ask(self._wishes.messages.change(self.engine.tenant_id, id_, change, self.engine.clock(), SYSTEM))

    def crm_move(self, id_: str, folder_id: str) -> bool:
        change = MessageChange(folder_id=folder_id)
        return self._ask(self._wishes.messages.change(self.engine.tenant_id, id_, change, self.engine.clock(), SYSTEM))

    def crm_delete(self, id_: str, *, permanent: bool) -> bool:
        return self._ask(
            self._wishes.messages.delete(
                self.engine.tenant_id, id_, permanent=permanent, now=self.engine.clock(), actor=SYSTEM
            )
        )

    def crm_append(self, folder_id: str, raw: bytes, received_at: Instant, flags: Sequence[str]) -> bool:
        async def append() -> None:
            engine, now = self.engine, self.engine.clock()
            taken = await self._wishes.appends.take(engine.tenant_id, _chunks(raw), now)
            target = Target(engine.mailbox_id, folder_id, tuple(sorted(flags)), received_at)
            await self._wishes.appends.put(engine.tenant_id, target, taken, now, SYSTEM)

        return self._ask(append())

    def crm_create_folder(self, name: str) -> bool:
        engine = self.engine
        return self._ask(self._wishes.folders.create(engine.tenant_id, engine.mailbox_id, name, engine.clock(), SYSTEM))

    def crm_rename_folder(self, folder_id: str, name: str) -> bool:
        engine = self.engine
        return self._ask(
            self._wishes.folders.rename(engine.tenant_id, engine.mailbox_id, folder_id, name, engine.clock(), SYSTEM)
        )

    def crm_delete_folder(self, folder_id: str, *, permanent: bool) -> bool:
        engine = self.engine
        return self._ask(
            self._wishes.folders.delete(
                engine.tenant_id, engine.mailbox_id, folder_id, permanent=permanent, now=engine.clock(), actor=SYSTEM
            )
        )

    def set_plan(self, days: int) -> None:
        """The plan with so many days."""
        self.run(self.engine.plan(PLANS[days]))

    def switch(self, *, on: bool) -> None:
        """The mailbox's switch."""
        self.run(self.engine.enable(on))

    def purge(self) -> None:
        """One run of the purge over everything."""
        self.run(self.engine.purge())

    def created(self) -> list[str]:
        """Ids of the messages that were announced, in order."""
        return [event.message_id for event in self.run(self.engine.events("message.created"))]

    def pin(self, id_: str) -> bool:
        return self._ask(self.engine.pin(id_))

    def hold(self) -> None:
        """A stop on purging for the whole tenant."""
        row = {"scope": "tenant", "matter": "M", "reason": "r", "placed_at": self.engine.clock(), "placed_by": "x"}

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(insert(holds).values(id=new_id(0), tenant_id=self.engine.tenant_id, **row))

        self.run(self.engine.db.transact(work))

    def release(self) -> None:
        """Every hold ends, at once."""
        now = self.engine.clock()

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(holds).values(released_at=now, released_by="x", protects_until_at=now))

        self.run(self.engine.db.transact(work))

    def sync(self) -> None:
        """One pass over everything, as `mailgate sync --once`."""
        self.run(self.engine.sync())

    def written(self) -> list[Any]:
        """Everything that a pass writes when something changed."""
        tables = ["messages", "origins", "tombstones", "quarantine", "events", "blobs"]
        return [sorted(map(tuple, self.rows(name)), key=repr) for name in tables]


async def _chunks(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
