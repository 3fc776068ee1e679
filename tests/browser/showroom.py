"""A gateway as it is after some months, for pictures and measurements: tenants on several plans, mailboxes in every
state. Rows are written as a running gateway would have left them; no mail server is needed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from mailgate.actors import COMMAND, SCHEDULE, SYSTEM
from mailgate.app.core import Core
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.ids import new_id, new_ref
from mailgate.keys.passwords import Passwords
from mailgate.store import runs, tenants, users
from mailgate.store.bulk import insert_many
from mailgate.store.leases import LONGEST
from mailgate.store.legal_holds import Scope
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.runs import RunRecord
from mailgate.store.schema import blobs, folders, guards, leases, mailboxes, messages, quarantine
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.transaction import Transaction
from mailgate.store.users import Role
from mailgate.tenants.timeline import Status
from tests.browser.showroom_hooks import furnish_hooks
from tests.browser.showroom_samples import furnish_samples

PASSWORD = "correct horse battery"
FIRMS = ("Northwind", "Bluefield Dental", "Casa Verde", "Đại Phát", "Harbour & Sons", "Lumière", "Kestrel", "Oakline")
PEOPLE = ("ann", "ben", "carla", "dung", "elena", "farid", "gina", "hugo", "ines", "jonas", "kim", "lena")
TROUBLE = (
    ("auth_failed", "imap.mail.example refused the login: [AUTHENTICATIONFAILED] Invalid credentials"),
    ("needs_approval", "1 842 of 1 850 messages are gone from 'Clients'"),
    ("backoff", "imap.mail.example closed the connection; tried again in 4 minutes"),
    ("importing", None),
    ("connecting", None),
)
_BATCH = 5_000


@dataclass
class Showroom:
    """What was furnished: ids by what they are for."""

    tenant_ids: list[str]
    mailbox_ids: list[str]
    run_id: str = ""
    webhook_ids: list[str] = field(default_factory=list)


async def furnish(core: Core, now: Instant, *, count: int = 60, copies_each: int = 40, seed: int = 7) -> Showroom:
    """So many mailboxes, with so many copies each on average, of tenants with about eight mailboxes each; and an admin
    named `ann`.
    """
    chance = random.Random(seed)
    kept = await Passwords().hash(PASSWORD)
    await users.create(core.db, name="ann", role=Role.ADMIN, tenant_id=None, password_hash=kept, now=now)
    await users.create(core.db, name="cleo", role=Role.COMPLIANCE, tenant_id=None, password_hash=kept, now=now)
    made = Showroom([], [])
    for number in range(max(1, -(-count // 8))):
        tenant_id = await _tenant(core, number, now, chance)
        made.tenant_ids.append(tenant_id)
        wanted = min(8, count - len(made.mailbox_ids))
        made.mailbox_ids += await _mailboxes(core, tenant_id, number, wanted, copies_each, now, chance)
    made.run_id = await _purges(core, made.tenant_ids[1], now, chance)
    await core.retention.run(actor=SCHEDULE, tenant_id=made.tenant_ids[2], trigger="schedule")
    await furnish_samples(core, now)
    made.webhook_ids = await furnish_hooks(core, made.tenant_ids, now)
    for tenant_id in made.tenant_ids:
        await core.log_reader.checkpoint(await tenants.get(core.db, tenant_id), now)
    return made


async def _purges(core: Core, tenant_id: str, now: Instant, chance: random.Random) -> str:
    """A month of purges, one a night; a hold; the id of the run that the brake halted."""
    halted_id = new_id(now - 9 * DAY)

    async def work(tx: Transaction) -> None:
        for days in range(30, 0, -1):
            began, purged = now - days * DAY, int(chance.expovariate(1 / 900)) + 40
            halted = days == 9
            kept = {"pinned": 40 + 3 * (30 - days), "held": 12} | ({"brake": purged * 6} if halted else {})
            counts = {"purged": 0 if halted else purged, "failed": 0, "kept": kept, "tenants": 8}
            counts |= {"candidates": sum(kept.values()) + counts["purged"], "bytes": counts["purged"] * 46_000}  # type: ignore[operator]
            run = RunRecord(
                id=halted_id if halted else new_id(began),
                kind=runs.PURGE,
                tenant_id=None,
                mailbox_id=None,
                state=runs.HALTED if halted else runs.COMPLETED,
                trigger="schedule",
                actor=SCHEDULE,
                dry_run=False,
                now_at=began,
                started_at=began,
                finished_at=began + (800 + purged * 3) * SECOND // 1_000,
                counts=counts | ({"halted": [f"{tenant_id}: {purged * 6} of 9000 copies would go"]} if halted else {}),
                detail=f"brake: {tenant_id}: {purged * 6} of 9000 copies would go" if halted else None,
            )
            await runs.create(tx, run)

    await core.db.transact(work)
    reason = "preservation letter of 3 March"
    await core.holds.place(tenant_id, Scope(), matter="2026-114", reason=reason, now=now - 20 * DAY, actor=COMMAND)
    return halted_id


async def _tenant(core: Core, number: int, now: Instant, chance: random.Random) -> str:
    name = FIRMS[number % len(FIRMS)]
    tenant_id = f"{''.join(filter(str.isascii, name.lower().split()[0]))}-{1000 + number}"
    await tenants.put(core.db, core.ring, core.log, tenant_id, name, now - 100 * DAY, SYSTEM)
    plan = ("professional", "standard", "crm_plus", "demo", "standard")[number % 5]
    ends = now + (9 + number % 21) * DAY
    status = Status.TRIALING if plan == "demo" else Status.ACTIVE
    change = SubscriptionChange(plan, status, ends, number % 5 == 0, 12)
    await core.subscriptions.set_outright(tenant_id, change, now - 60 * DAY, SYSTEM)
    return tenant_id


async def _mailboxes(
    core: Core, tenant_id: str, firm: int, wanted: int, copies_each: int, now: Instant, chance: random.Random
) -> list[str]:
    tenant = await tenants.get(core.db, tenant_id)
    domain = f"{tenant_id.partition('-')[0]}.example"
    specs = [
        MailboxSpec(
            address=f"{PEOPLE[(firm + n) % len(PEOPLE)]}@{domain}",
            owner=PEOPLE[(firm + n) % len(PEOPLE)],
            imap={"host": "imap.mail.example", "port": 993, "security": "tls", "username": f"{firm}.{n}@{domain}"},
            secrets={"imap": {"password": "x"}},
        )
        for n in range(wanted)
    ]
    rows: dict[str, list[tuple[Any, ...]]] = {"messages": [], "folders": [], "leases": [], "events": []}
    states: list[dict[str, Any]] = []
    ids = []
    sealed = core.ring.seal(b"{}", "showroom")
    for n, spec in enumerate(specs):
        mailbox_id = new_id(now - 90 * DAY + n)
        ids.append(mailbox_id)
        trouble = firm < 2 or chance.random() < 0.01
        state, reason = TROUBLE[(n + firm) % len(TROUBLE)] if trouble and n in (2, 4, 5) else ("live", None)
        if n == 7 and firm % 3 == 0:
            state, reason = "disabled", "switched off"
        total = max(1, int(chance.expovariate(1 / copies_each)))
        done = total * 61 // 100 if state == "importing" else total
        progress = (7_563, 12_400) if state == "importing" else (done, total)
        states.append(_values(spec, core, tenant, mailbox_id, state, reason, progress, now, chance, sealed))
        if state not in ("disabled", "auth_failed"):
            rows["leases"].append((f"mailbox:{mailbox_id}", "showroom", 1, now + LONGEST - DAY))
        for folder, use in (("INBOX", "inbox"), ("Clients", None), ("Sent", "sent"), ("Spam", "junk")):
            share = {"INBOX": total - total // 4 - total // 8, "Clients": total // 4, "Sent": total // 8}.get(folder, 0)
            seen_at = now - chance.randrange(90) * SECOND
            head = (new_id(now), tenant_id, mailbox_id, folder, use, True, use != "junk", 7)
            rows["folders"].append((*head, share, share, share, now - 80 * DAY, seen_at))
        for k in range(done):
            size = 1_500 + int(chance.expovariate(1 / 45_000))
            rows["messages"].append((mailbox_id, now - chance.randrange(1, 58 * DAY), size, k))
    await _write(core, tenant_id, rows, states, now)
    return ids


def _values(
    spec: MailboxSpec,
    core: Core,
    tenant: tenants.Tenant,
    mailbox_id: str,
    state: str,
    reason: str | None,
    progress: tuple[int, int],
    now: Instant,
    chance: random.Random,
    sealed: bytes,
) -> dict[str, Any]:
    imported = state != "importing"
    return {
        "id": mailbox_id,
        "tenant_id": tenant.id,
        "address": spec.address,
        "owner": spec.owner,
        "shared": False,
        "enabled": state != "disabled",
        "imap": dict(spec.imap),
        "smtp": None,
        "folder_rules": {},
        "secrets": sealed,
        "account_ref": core.ring.tenant(tenant.ref).mac("account", mailbox_id.encode()),
        "state": state,
        "state_reason": reason,
        "state_changed_at": now - chance.randrange(1, 300) * MINUTE,
        "progress_done": progress[0],
        "progress_total": progress[1],
        "progress_started_at": now - 42 * SECOND if not imported else now - 90 * DAY,
        "imported_at": now - 90 * DAY if imported else None,
        "last_checked_at": now - chance.randrange(2, 55) * (SECOND if state == "live" else 20 * MINUTE)
        if imported
        else None,
        "created_at": now - 90 * DAY,
    }


async def _write(
    core: Core, tenant_id: str, rows: dict[str, list[tuple[Any, ...]]], states: list[dict[str, Any]], now: Instant
) -> None:
    blob_id = new_id(now)

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(mailboxes.insert(), states)
        await insert_many(tx.conn, folders, _FOLDER, rows["folders"], sqlite=tx.sqlite)
        await insert_many(tx.conn, leases, ("name", "owner", "fence", "expires_at"), rows["leases"], sqlite=tx.sqlite)
        blob = {
            "id": blob_id,
            "tenant_id": tenant_id,
            "content_token": b"t",
            "size": 1,
            "stored_size": sum(size for _, _, size, _ in rows["messages"]) * 6 // 10,
            "data_key": b"k",
            "key_epoch": 1,
            "refs": len(rows["messages"]),
            "created_at": now,
        }
        await tx.conn.execute(blobs.insert(), [blob])
        copies = [_copy(tenant_id, blob_id, *row) for row in rows["messages"]]
        for at in range(0, len(copies), _BATCH):
            await insert_many(tx.conn, messages, _COPY, copies[at : at + _BATCH], sqlite=tx.sqlite)
        tx.count(tenant_id, copies=len(copies), storage_bytes=sum(size for _, _, size, _ in rows["messages"]))
        for values in states:
            await _past(tx, tenant_id, values, now)

    await core.db.transact(work)


_FOLDER = (
    *("id", "tenant_id", "mailbox_id", "name", "special_use", "selectable", "followed", "uidvalidity"),
    *("exists_count", "progress_done", "progress_total", "imported_at", "last_pass_at"),
)
_COPY = (
    *("id", "tenant_id", "mailbox_id", "item_ref", "anchor_at", "anchor_source", "internal_date_at", "stored_at"),
    *("size", "flags", "seen", "flagged", "has_files", "thread_id", "header_token", "content_commit", "msgid_commit"),
    *("summary", "data_key", "key_epoch", "blob_id", "indexed"),
)


def _copy(tenant_id: str, blob_id: str, mailbox_id: str, anchor: Instant, size: int, number: int) -> tuple[Any, ...]:
    id_ = new_id(anchor)
    head = (id_, tenant_id, mailbox_id, new_ref(), anchor, "internaldate", anchor, anchor, size, "[]", True, False)
    return (*head, False, id_, b"h%d" % number, b"c" * 32, b"m" * 32, b"s", b"k", 1, blob_id, True)


async def _past(tx: Transaction, tenant_id: str, values: dict[str, Any], now: Instant) -> None:
    """What happened to a mailbox, and what waits for a person."""
    id_ = values["id"]
    for hours, state in ((400, "connecting"), (399, "importing"), (398, "live"), (52, "backoff"), (51, "live")):
        why = {"reason": "imap.mail.example closed the connection"} if state == "backoff" else {}
        payload = {"state": state} | why
        tx.emit(tenant_id, "mailbox.state_changed", at=now - hours * HOUR, mailbox_id=id_, payload=payload)
    if values["state"] != "live":
        payload = {"state": values["state"]}
        if values["state_reason"]:
            payload["reason"] = values["state_reason"]
        tx.emit(tenant_id, "mailbox.state_changed", at=values["state_changed_at"], mailbox_id=id_, payload=payload)
    if values["state"] not in ("needs_approval", "backoff"):
        return
    folder = folders.select().where(folders.c.mailbox_id == id_, folders.c.name == "Clients")
    folder_id = (await tx.conn.execute(folder)).one().id
    common = {
        "id": new_id(now),
        "tenant_id": tenant_id,
        "mailbox_id": id_,
        "folder_id": folder_id,
        "uidvalidity": 7,
    }
    if values["state"] == "needs_approval":
        guard = {
            **common,
            "digest": b"d",
            "known": 1_850,
            "gone": 1_842,
            "reason": "more than 30 % of the folder is gone at once",
            "raised_at": now - HOUR,
        }
        await tx.conn.execute(guards.insert(), [guard])
    entry = {
        **common,
        "uid": 4711,
        "reason": "the server ends the connection whenever this message is asked for",
        "attempts": 3,
        "first_seen_at": now - DAY,
        "last_seen_at": now - HOUR,
        "cause": "ends_the_line",
        "size": 31_000_000,
    }
    await tx.conn.execute(quarantine.insert(), [entry])
