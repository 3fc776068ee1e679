"""The CRM's side: what its users ask for, as rows: the near side changed, and an operation that is to follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, insert, select, update

from connectors.model import MessageMeta, SpecialUse
from mailgate.actors import Actor
from mailgate.clock import SECOND, Instant
from mailgate.ids import new_id
from mailgate.store import messages as copies
from mailgate.store import operations, tenants
from mailgate.store.expiry import Expiry
from mailgate.store.schema import folders, log_leaves, messages
from mailgate.store.schema import operations as operations_table
from mailgate.store.transaction import Transaction
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.operations import OperationKind
from mailgate.sync.prepare import Preparer
from retention.model import AnchorFrom, Graces
from tests.sync.engine import Engine, mail

USER = Actor("token", "T1")


class Crm:
    """Asks things of one engine's mailbox. Messages are named by their number (`mail(n)`)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # Looking.

    async def id(self, n: int) -> str:
        """The id of the copy of `mail(n)`, whatever line ends the server gave it."""
        rows = await self.engine.rows("messages")
        wanted = mail(n).splitlines()
        (found,) = [row.id for row in rows if (await self.engine.raw(row)).splitlines() == wanted]
        return found

    async def message(self, n: int) -> Any:
        """Its row."""
        id_ = await self.id(n)
        return (await self.engine.rows("messages", lambda c: c.id == id_))[0]

    async def folder(self, name: str) -> str:
        """The id of the folder that is called so, or is to be."""
        rows = await self.engine.rows("folders", lambda c: c.gone_at.is_(None))
        return next(row.id for row in rows if name in (row.name, row.wanted_name))

    async def stands(self, n: int) -> list[tuple[str, int]]:
        """Where the original of a message is believed to stand: (folder name, UID)."""
        id_ = await self.id(n)
        names = {row.id: row.name for row in await self.engine.rows("folders")}
        rows = await self.engine.rows("origins", lambda c: (c.message_id == id_) & c.vanished_at.is_(None))
        return sorted((names[row.folder_id], row.uid) for row in rows)

    async def operations(self) -> list[Any]:
        """All rows, in order."""
        async with self.engine.db.read() as conn:
            return list((await conn.execute(select(operations_table).order_by(operations_table.c.seq))).all())

    async def states(self) -> list[str]:
        """What became of the operations, in order: the state, and the code if there is one."""
        return [row.state if row.code is None else f"{row.state} {row.code}" for row in await self.operations()]

    async def removals(self) -> list[bytes]:
        """The purge log's `item.remove` entries."""
        async with self.engine.db.read() as conn:
            query = select(log_leaves.c.body).where(log_leaves.c.type == "item.remove")
            return list((await conn.execute(query.order_by(log_leaves.c.idx))).scalars())

    # Asking.

    async def flags(self, n: int, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Other flags."""
        await self.flags_id(await self.id(n), add=add, remove=remove)

    async def flags_id(self, message_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """The same of the message with this id."""
        (row,) = await self.engine.rows("messages", lambda c: c.id == message_id)
        flags = sorted((set(row.flags) - set(remove)) | set(add))
        near = {"flags": flags, "seen": "\\Seen" in flags, "flagged": "\\Flagged" in flags}
        detail = {"add": sorted(add), "remove": sorted(remove)}
        await self._ask(OperationKind.FLAGS, near, row.id, detail=detail, from_folder_id=await self._stands_in(row))

    async def labels(self, n: int, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Other labels."""
        row = await self.message(n)
        near = {"labels": sorted((set(row.labels) - set(remove)) | set(add))}
        detail = {"add": sorted(add), "remove": sorted(remove)}
        await self._ask(OperationKind.LABELS, near, row.id, detail=detail, from_folder_id=await self._stands_in(row))

    async def move(self, n: int, to: str) -> None:
        """Another folder."""
        await self.move_id(await self.id(n), to)

    async def move_id(self, message_id: str, to: str) -> None:
        """The same of the message with this id."""
        (row,) = await self.engine.rows("messages", lambda c: c.id == message_id)
        folder_id = await self.folder(to)
        where = {"folder_id": folder_id, "from_folder_id": await self._stands_in(row)}
        await self._ask(OperationKind.MOVE, {"moving_to": folder_id}, row.id, **where)

    async def delete(self, n: int) -> None:
        """For ever."""
        row = await self.message(n)
        near = {"deleted_at": self.engine.clock()}
        await self._ask(OperationKind.DELETE, near, row.id, from_folder_id=await self._stands_in(row))

    async def append(
        self,
        n: int,
        to: str,
        *,
        flags: Sequence[str] = (),
        received_at: Instant | None = None,
        raw: bytes | None = None,
    ) -> str:
        """A new message; its id."""
        engine, now = self.engine, self.engine.clock()
        folder_id = await self.folder(to)
        tenant = await tenants.get(engine.db, engine.tenant_id)
        keys = engine.ring.tenant(tenant.ref)
        preparer = Preparer(engine.tenant_id, keys, engine.blobs, max_bytes=1 << 20, anchor_from=AnchorFrom.RECEIVED)
        at = now - now % SECOND if received_at is None else received_at
        sink = MemorySink()
        sink.write(memoryview(raw or mail(n)))
        arrived = Arrived(MessageMeta(0, frozenset(flags), at, sink.size), sink, sink.size)
        preparer.add_tokens([arrived])
        prepared = preparer.prepare([arrived], now).messages
        preparer.settle(prepared)

        async def work(tx: Transaction) -> str:
            horizon = await Expiry(engine.subscriptions, Graces()).horizon(tx.conn, engine.tenant_id, now)
            place = copies.Place(engine.tenant_id, engine.mailbox_id, folder_id, None)
            await copies.add(tx, place, prepared, horizon=horizon, initial=False)
            detail = {"flags": sorted(flags), "received_at": at}
            await self._row(tx, OperationKind.APPEND, prepared[0].id, folder_id=folder_id, detail=detail)
            return prepared[0].id

        return await engine.db.transact(work)

    async def create(self, name: str, special_use: SpecialUse | None = None) -> str:
        """A new folder; its id."""
        engine = self.engine
        folder_id = new_id(engine.clock())
        near = {
            "id": folder_id,
            "tenant_id": engine.tenant_id,
            "mailbox_id": engine.mailbox_id,
            "name": name,
            "delimiter": "/",
            "special_use": special_use,
            "selectable": True,
            "followed": True,
            "on_its_way": "create",
        }

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(insert(folders).values(near))
            detail = {"name": name, "special_use": special_use}
            await self._row(tx, OperationKind.FOLDER_CREATE, None, folder_id=folder_id, detail=detail)

        await engine.db.transact(work)
        return folder_id

    async def rename(self, name: str, to: str) -> None:
        """Another name for a folder."""
        detail = {"name": to, "from": name}
        await self._ask_folder(OperationKind.FOLDER_RENAME, await self.folder(name), {"wanted_name": to}, detail)

    async def remove(self, name: str, exists: int = 0) -> None:
        """The folder goes, with so many messages as the user saw in it."""
        detail = {"name": name, "exists": exists}
        await self._ask_folder(OperationKind.FOLDER_DELETE, await self.folder(name), {"on_its_way": "delete"}, detail)

    async def _stands_in(self, row: Any) -> str | None:
        """Where the near side has it."""
        if row.moving_to is not None:
            return str(row.moving_to)
        found = await self.engine.rows("origins", lambda c: c.message_id == row.id)
        return found[0].folder_id if found else None

    async def _ask(self, kind: OperationKind, near: Mapping[str, Any], message_id: str, **about: Any) -> None:
        await self._change(messages, message_id, kind, near, message_id, **about)

    async def _ask_folder(
        self, kind: OperationKind, folder_id: str, near: Mapping[str, Any], detail: Mapping[str, Any]
    ) -> None:
        await self._change(folders, folder_id, kind, near, None, folder_id=folder_id, detail=detail)

    async def _change(
        self, table: Table, id_: str, kind: OperationKind, near: Mapping[str, Any], message_id: str | None, **about: Any
    ) -> None:
        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(table).where(table.c.id == id_).values(near))
            await self._row(tx, kind, message_id, **about)

        await self.engine.db.transact(work)

    async def _row(self, tx: Transaction, kind: OperationKind, message_id: str | None, **about: Any) -> None:
        engine = self.engine
        await operations.ask(
            tx,
            tenant_id=engine.tenant_id,
            mailbox_id=engine.mailbox_id,
            kind=kind,
            now=engine.clock(),
            actor=USER,
            message_id=message_id,
            **about,
        )
