"""The sync engine's port (`mailgate.sync.port`) on the database: each method one transaction, each write fenced.

Fences and lock order: `mailgate.store.fenced`. Settings and entitlements are read; the CRM's side of a mailbox (switch,
credentials) is written by `mailgate.store.mailboxes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, bindparam, exists, func, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import Endpoint, Security
from mailgate.clock import Instant
from mailgate.consents.model import auth_of
from mailgate.store import backfills, changes, drafts, messages, operations, quarantine, recognition, sync_runs, threads
from mailgate.store import folders as folder_rows
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.log import PurgeLog
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.messages import chunks
from mailgate.store.owning import SqlOwning
from mailgate.store.pushes.store import SqlPushStore
from mailgate.store.quarantine import SqlQuarantine
from mailgate.store.returns import Return, bring_back
from mailgate.store.schema import folders, mailboxes, origins, tenants
from mailgate.store.sending import filing, returns
from mailgate.store.settling import SqlSettling
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Applied, Batch, Draft, Known, PollStart, PreparedMessage, SentToken, View
from mailgate.sync.port import BatchRefusedError
from mailgate.sync.state import (
    Backfill,
    Checkpoint,
    Entitled,
    FolderState,
    ListingChanges,
    MailboxConfig,
    MailboxState,
    Owner,
)

_FEW = 50
"""A batch of no more is committed together with what others write."""

_F = folders.c
_LOADED = (
    select(
        mailboxes,
        tenants.c.ref,
        # What a backfill that was cut left to be read.
        select(1)
        .where(_F.mailbox_id == mailboxes.c.id, _F.followed, _F.gone_at.is_(None))
        .where(_F.imported_at.is_not(None), _F.uidnext.is_(None))
        .exists()
        .label("unread"),
    )
    .join(tenants, tenants.c.id == mailboxes.c.tenant_id)
    .where(mailboxes.c.id == bindparam("mailbox"), mailboxes.c.removed_at.is_(None))
)
_REACHED = (
    update(folders)
    .where(_F.id == bindparam("folder"))
    .values(
        uidvalidity=bindparam("number"),
        uidnext=bindparam("next"),
        highestmodseq=bindparam("modseq"),
        exists_count=bindparam("count"),
        last_pass_at=bindparam("looked_at"),
        last_error=bindparam("doubt"),
        unreadable_at=None,
        imported_at=func.coalesce(_F.imported_at, bindparam("now")),
    )
)


def _reached(folder_id: str, checkpoint: Checkpoint, now: Instant) -> dict[str, Any]:
    """What `_REACHED` is about."""
    return {
        "folder": folder_id,
        "number": checkpoint.uidvalidity,
        "next": checkpoint.uidnext,
        "modseq": checkpoint.highestmodseq,
        "count": checkpoint.exists,
        "looked_at": checkpoint.looked_at,
        "doubt": checkpoint.doubt,
        "now": now,
    }


class SqlSyncStore(SqlOwning, SqlSettling, SqlQuarantine):
    """Implements `mailgate.sync.port.SyncStore`."""

    def __init__(
        self, db: Database, mailbox_settings: Mailboxes, subscriptions: Subscriptions, log: PurgeLog, expiry: Expiry
    ) -> None:
        super().__init__(db, log, subscriptions)
        self._settings = mailbox_settings
        self.pushes = SqlPushStore(db, log, expiry, mailbox_settings.ring)
        self._expiry = expiry

    # The mailbox.

    async def load(self, mailbox_id: str) -> MailboxConfig | None:
        """The mailbox with its secrets; None when it was removed."""

        async def look(conn: AsyncConnection) -> tuple[Row[Any] | None, Backfill | None]:
            row = (await conn.execute(_LOADED, {"mailbox": mailbox_id})).one_or_none()
            asked = None if row is None or row.backfill_id is None else await backfills.standing(conn, mailbox_id)
            return row, None if asked is None else asked[0]

        row, backfill = await self._db.query(look)
        if row is None:
            return None
        secrets = self._settings.unsealed(mailbox_id, row.secrets)
        imap, rules = row.imap, row.folder_rules or {}
        self._accounts[mailbox_id] = (row.ref, row.account_ref)
        return MailboxConfig(
            id=row.id,
            tenant_id=row.tenant_id,
            tenant_ref=row.ref,
            account_ref=row.account_ref,
            config_version=row.config_version,
            endpoint=Endpoint(imap["host"], imap["port"], Security(imap["security"])),
            auth=auth_of(imap["username"], secrets["imap"]),
            include=tuple(rules.get("include") or ()),
            exclude=tuple(rules.get("exclude") or ()),
            import_floor_at=row.import_floor_at,
            imported=row.imported_at is not None and not row.unread,
            state=MailboxState(row.state),
            state_reason=row.state_reason,
            progress_started_at=row.progress_started_at,
            backfill=backfill,
        )

    async def entitled(self, tenant_id: str, now: Instant) -> Entitled:
        """What the tenant may do at `now`."""
        holds = await self._subscriptions.allowed(tenant_id, now)
        return Entitled(holds.known and holds.sync, holds.retention_days)

    async def set_floor(self, owner: Owner, floor_at: Instant, now: Instant) -> Instant:
        """Fix the import floor at the first entitled connect; returns the one that stands."""

        async def work(tx: Transaction) -> Instant:
            mine = mailboxes.c.id == owner.mailbox_id
            fix = update(mailboxes).where(mine, mailboxes.c.import_floor_at.is_(None)).values(import_floor_at=floor_at)
            await tx.conn.execute(fix)
            standing: Instant = (await tx.conn.execute(select(mailboxes.c.import_floor_at).where(mine))).scalar_one()
            return standing

        return await self._owned(owner, now, work)

    async def begin_backfill(self, owner: Owner, run_id: str, now: Instant) -> list[FolderState]:
        """The backfill begins: the folders, to be read as if for the first time."""

        async def work(tx: Transaction) -> list[FolderState]:
            await backfills.begin(tx, owner.mailbox_id, run_id, now)
            return await folder_rows.listed(tx.conn, owner.mailbox_id)

        return await self._owned(owner, now, work)

    async def end_backfill(self, owner: Owner, now: Instant, failure: str | None) -> None:
        """The backfill is over; `failure` says why it is not complete."""
        await self._owned(owner, now, lambda tx: backfills.end(tx, owner.mailbox_id, now, failure))

    # Folders.

    async def poll_start(self, owner: Owner, max_bytes: int, limit: int, now: Instant) -> PollStart:
        """What a poll begins with."""

        async def look(conn: AsyncConnection) -> PollStart:
            holds = await self._subscriptions.allowed_in(conn, owner.tenant_id, now)
            return PollStart(
                folders=await folder_rows.listed(conn, owner.mailbox_id),
                entitled=Entitled(holds.known and holds.sync, holds.retention_days),
                retries=await quarantine.retries(conn, owner.mailbox_id, max_bytes, limit),
                asked=await operations.any_open(conn, owner.mailbox_id),
            )

        return await self._db.query(look)

    async def folders(self, mailbox_id: str) -> list[FolderState]:
        """The folders that the server lists, as last seen."""
        return await self._db.query(lambda conn: folder_rows.listed(conn, mailbox_id))

    async def save_listing(self, owner: Owner, listing: ListingChanges, now: Instant) -> list[FolderState]:
        """Write what changed in the list of folders, with events; originals in gone folders have vanished."""
        _, account_ref = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> list[FolderState]:
            await folder_rows.save_listing(tx, owner, account_ref, listing, now)
            return await folder_rows.listed(tx.conn, owner.mailbox_id)

        return await self._owned(owner, now, work)

    async def folder_error(self, owner: Owner, folder_id: str, error: str | None, now: Instant) -> None:
        """Why the folder can't be read, or None when it can again."""

        async def work(tx: Transaction) -> None:
            values: dict[str, Any] = {"last_error": None, "unreadable_at": None}
            if error is not None:
                values = {"last_error": error[:500], "unreadable_at": func.coalesce(folders.c.unreadable_at, now)}
            await tx.conn.execute(update(folders).where(folders.c.id == folder_id).values(values))

        await self._owned(owner, now, work)

    async def distrust(self, owner: Owner, folder: FolderState, now: Instant) -> FolderState:
        """What is known of the folder by UID is void; the folder as it stands then."""
        _, account_ref = await self._account(owner.mailbox_id)
        return await self._owned(owner, now, lambda tx: folder_rows.distrust(tx, owner, account_ref, folder, now))

    async def identified(self, owner: Owner, folder: FolderState, object_id: str, now: Instant) -> FolderState:
        """The server's own identity of the folder; the folder as it stands then."""
        named = update(folders).where(_F.id == folder.id).values(object_id=object_id)
        await self._owned(owner, now, lambda tx: tx.conn.execute(named))
        return replace(folder, object_id=object_id)

    async def sample(self, folder_id: str, uidvalidity: int, limit: int) -> dict[int, tuple[bytes, Instant | None]]:
        """Header token and INTERNALDATE of a few copies that stand in the folder, newest first."""
        return await self._db.query(lambda conn: recognition.sample(conn, folder_id, uidvalidity, limit))

    async def views(self, owner: Owner, folder: FolderState, uidvalidity: int, uids: Sequence[int]) -> dict[int, View]:
        """The views of these UIDs; UIDs of which nothing is known are missing."""
        if not uids:
            return {}  # with each new mail alone
        _, account_ref = await self._account(owner.mailbox_id)
        return await self._db.query(
            lambda conn: folder_rows.views(conn, account_ref, owner.tenant_id, folder, uidvalidity, uids)
        )

    async def standing(self, owner: Owner, folder: FolderState, uidvalidity: int, above: int, limit: int) -> list[int]:
        """UIDs above that of copies that are believed to stand in the folder, ascending."""
        return await self._db.query(lambda conn: folder_rows.standing(conn, folder.id, uidvalidity, above, limit))

    async def marked(self, owner: Owner, folder: FolderState, uidvalidity: int) -> list[int]:
        """UIDs of tombstones whose original may stand, and of messages set aside, ascending."""
        _, account_ref = await self._account(owner.mailbox_id)
        return await self._db.query(
            lambda conn: folder_rows.marked(conn, account_ref, owner.tenant_id, folder, uidvalidity)
        )

    async def has_free(self, owner: Owner, folder: FolderState, uidvalidity: int) -> bool:
        """Whether anything waits to be recognised in this folder."""
        _, account_ref = await self._account(owner.mailbox_id)
        return await self._db.query(
            lambda conn: recognition.has_free(conn, account_ref, owner.tenant_id, owner.mailbox_id, folder, uidvalidity)
        )

    async def has_gone(self, owner: Owner) -> bool:
        """Whether any original of the mailbox is gone and waits, since it may have been moved."""
        return await self._db.query(lambda conn: recognition.has_gone(conn, owner.mailbox_id))

    async def recognisable(
        self, owner: Owner, folder: FolderState, uidvalidity: int, tokens: Iterable[bytes]
    ) -> list[Known]:
        """Copies of the mailbox and tombstones of its account that have one of these header tokens."""
        _, account_ref = await self._account(owner.mailbox_id)
        return await self._db.query(
            lambda conn: recognition.recognisable(
                conn, account_ref, owner.tenant_id, owner.mailbox_id, folder, uidvalidity, tokens
            )
        )

    async def sent_unfiled(self, owner: Owner, now: Instant) -> bool:
        """Whether anything that was sent from here stands nowhere yet."""
        return await self._db.query(lambda conn: filing.any_unfiled(conn, owner.mailbox_id, now))

    async def pair_sent(self, owner: Owner, tokens: Sequence[SentToken], now: Instant) -> dict[int, Draft]:
        """Which of what was sent each of these messages is, by UID."""
        return await self._db.query(lambda conn: filing.pair_sent(conn, owner.mailbox_id, tokens, now))

    async def drafts_gone(
        self, owner: Owner, folder: FolderState, uidvalidity: int, msgid_tokens: Iterable[bytes]
    ) -> dict[bytes, Draft]:
        """Drafts with these Message-IDs that went from the folder and stand nowhere."""
        return await self._db.query(lambda conn: drafts.gone(conn, owner.mailbox_id, folder, uidvalidity, msgid_tokens))

    async def begin_empty(self, owner: Owner, reached: Mapping[str, Checkpoint], now: Instant) -> set[str]:
        """Folders, by id, that were met as empty ones: up to here they are known; those to which that was written."""

        async def work(tx: Transaction) -> set[str]:
            found: set[str] = set()
            for chunk in chunks(sorted(reached)):
                # An operation of the CRM may have put a message there meanwhile.
                new = _F.uidvalidity.is_(None) & _F.uidnext.is_(None) & ~exists().where(origins.c.folder_id == _F.id)
                found.update((await tx.conn.execute(select(_F.id).where(_F.id.in_(chunk), new))).scalars())
            if found:
                rows = [_reached(folder_id, reached[folder_id], now) for folder_id in sorted(found)]
                await tx.conn.execute(_REACHED, rows)
            return found

        return await self._owned(owner, now, work)

    async def commit(self, owner: Owner, batch: Batch) -> Applied:
        """Write a batch about one folder."""
        tenant_ref, account_ref = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> Applied:
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, batch.now)
            if batch.messages and (batch.actions or any(item.replaces or item.returns for item in batch.messages)):
                await threads.lock(tx, owner.tenant_id)  # before what these lock
            applied = await changes.apply_actions(tx, owner, batch, horizon)
            returned, refused = await self._bring_back(tx, owner, tenant_ref, batch, horizon)
            fresh = [message for message in batch.messages if not message.returns]
            uids = [message.uid for message in fresh]
            known = await folder_rows.known_among(tx, account_ref, owner, batch.folder, batch.uidvalidity, uids)
            new = [message for message in fresh if message.uid not in known]
            place = messages.Place(owner.tenant_id, owner.mailbox_id, batch.folder.id, batch.uidvalidity)
            versions = [message for message in new if message.replaces]
            added = [message for message in new if not message.replaces]
            await drafts.replace(tx, place, batch.uidvalidity, versions, horizon)
            told = {} if batch.initial else await returns.answered(tx, owner.tenant_id, added)
            await messages.add(tx, place, added, horizon=horizon, initial=batch.initial, told=told)
            if any(message.bounce is not None for message in added):
                keys = self._settings.ring.tenant(tenant_ref)
                await returns.bounced(tx, owner.tenant_id, owner.mailbox_id, keys, added, batch.now)
            await filing.settled(tx, [message.id for message in versions])
            unused = [*batch.discarded, *(message.blob for message in fresh if message.uid in known)]
            unused += [message.blob for message in refused]
            await messages.discard(tx, owner.tenant_id, unused, batch.now)
            if batch.backfill is not None and (added or returned):
                await backfills.count(tx, batch.backfill, new=len(added), rehydrated=len(returned))
            new += returned
            aside = {item.uid for item in batch.aside}
            stored = [message.uid for message in new if message.uid not in aside]
            await quarantine.resolve(tx, batch, stored)
            await quarantine.set_aside(tx, owner, batch, batch.aside, {message.id for message in new})
            if batch.others_gone:
                await changes.vanish_renumbered(tx, owner, account_ref, batch)
            await self._move_folder_on(tx, owner, batch)
            return Applied(created=len(added) + len(returned), changed=len(versions)) + applied

        try:
            return await self._owned(owner, batch.now, work, long=len(batch.messages) + len(batch.actions) > _FEW)
        except (DataError, IntegrityError, StatementError) as error:
            if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
                raise  # the database failed, not the values
            raise BatchRefusedError(type(error).__name__) from error

    async def _bring_back(
        self, tx: Transaction, owner: Owner, tenant_ref: str, batch: Batch, horizon: Horizon
    ) -> tuple[list[PreparedMessage], list[PreparedMessage]]:
        """Purged copies that a backfill found again: (those that are here now, those that may not be any more)."""
        wanted = [message for message in batch.messages if message.returns]
        if not wanted:
            return [], []
        run_id = batch.backfill
        actor = None if run_id is None else await backfills.asker(tx, owner.mailbox_id, run_id)
        place = messages.Place(owner.tenant_id, owner.mailbox_id, batch.folder.id, batch.uidvalidity)
        returned: list[PreparedMessage] = []
        for message in wanted:
            if actor is not None:
                asked = Return(actor, initial=batch.initial)
                if await bring_back(tx, self._log, tenant_ref, place, message, asked, horizon):
                    returned.append(message)
        return returned, [message for message in wanted if message not in returned]

    async def _move_folder_on(self, tx: Transaction, owner: Owner, batch: Batch) -> None:
        """Checkpoint and progress: in the transaction of the last effect that they cover (S3)."""
        values: dict[str, Any] = {}
        checkpoint = batch.checkpoint
        if checkpoint is not None:
            renumbered = batch.folder.uidvalidity not in (None, checkpoint.uidvalidity)
            if renumbered:
                payload = {"folder_id": batch.folder.id}
                tx.emit(owner.tenant_id, "folder.reset", at=batch.now, mailbox_id=owner.mailbox_id, payload=payload)
                await quarantine.forget_folder(tx, batch.folder.id, but=checkpoint.uidvalidity)
            await tx.conn.execute(_REACHED, _reached(batch.folder.id, checkpoint, batch.now))
        elif batch.folder.uidvalidity is None:
            values["uidvalidity"] = func.coalesce(folders.c.uidvalidity, batch.uidvalidity)
        progress = batch.progress
        if progress is not None:
            values |= {"progress_done": progress.folder_done, "progress_total": progress.folder_total}
            whole = {
                "progress_done": progress.done,
                "progress_total": progress.total,
                "progress_started_at": progress.started_at,
            }
            await tx.conn.execute(update(mailboxes).where(mailboxes.c.id == owner.mailbox_id).values(whole))
        if values:
            await tx.conn.execute(update(folders).where(folders.c.id == batch.folder.id).values(values))

    # Passes that somebody asked for.

    async def request_run(self, mailbox_id: str, tenant_id: str, actor: str, now: Instant) -> str:
        """Queue one pass over the mailbox; the id of the run. One that is queued already is returned again."""
        return await self._db.transact(lambda tx: sync_runs.request(tx, mailbox_id, tenant_id, actor, now))

    async def queued_runs(self) -> dict[str, list[str]]:
        """Runs that wait, by mailbox."""
        return await self._db.query(lambda conn: sync_runs.queued(conn))

    async def begin_runs(self, owner: Owner, run_ids: Sequence[str], now: Instant) -> list[str]:
        """The runs begin; those that did: the others were begun before."""
        return await self._owned(owner, now, lambda tx: sync_runs.begin(tx, owner.mailbox_id, run_ids, now))

    async def finish_runs(
        self, run_ids: Sequence[str], now: Instant, counts: Mapping[str, Any], failure: str | None
    ) -> None:
        """The runs ended; `failure` says why they failed."""
        await self._db.transact(lambda tx: sync_runs.finish(tx, run_ids, now, counts, failure))
