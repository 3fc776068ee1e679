"""What goes wrong at mail servers, as rows: deletions that were refused, and messages that are set aside."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import update

from mailgate.ids import new_id
from mailgate.store import guards, quarantine
from mailgate.store.schema import origins, submissions
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Aside, Batch, Cause
from mailgate.sync.state import FolderState, Owner, PendingCount
from tests.api.mail import UIDVALIDITY, Postman


async def vanish(post: Postman, message_ids: Collection[str], folder: str = "INBOX") -> str:
    """These are gone at the server, which is refused; the guard's id."""
    core, now = post.gateway.core, post.gateway.clock()
    folder_id = await post.folder(folder)
    owner = Owner(post.mailbox_id, post.tenant_id, "test", 1)
    count = PendingCount(folder_id, folder, None, len(message_ids), len(message_ids), now)

    async def work(tx: Transaction) -> str:
        gone = update(origins).where(origins.c.message_id.in_(message_ids))
        await tx.conn.execute(gone.values(vanished_at=now))
        return (await guards.stand(tx, owner, count, f"the folder {folder!r} is empty at the server", now)).id

    return await core.db.transact(work)


async def set_aside(
    post: Postman, uid: int, cause: Cause = Cause.NOT_SENT, *, message_id: str | None = None, folder: str = "INBOX"
) -> str:
    """The message of this UID is set aside, perhaps with its bytes; the entry's id."""
    core, now = post.gateway.core, post.gateway.clock()
    state = FolderState(await post.folder(folder), folder, None, True, True, UIDVALIDITY)
    owner = Owner(post.mailbox_id, post.tenant_id, "test", 1)
    item = Aside(uid, f"it is {cause}", cause, 1000, None, new_id(now).encode(), message_id)

    async def work(tx: Transaction) -> None:
        batch = Batch(state, UIDVALIDITY, now)
        await quarantine.set_aside(tx, owner, batch, [item], set() if message_id is None else {message_id})

    await core.db.transact(work)
    page = await quarantine.list_page(core.db, post.tenant_id, post.mailbox_id, limit=100)
    return next(entry.id for entry in page.items if entry.uid == uid)


async def fail_to_send(post: Postman) -> str:
    """A letter that was refused: the submission's id. Afterwards the mailbox can send."""
    client = post.gateway.client
    mailbox = f"/v1/tenants/{post.tenant_id}/mailboxes/{post.mailbox_id}"
    smtp = {"host": "127.0.0.1", "port": 1, "username": "ann", "auth": {"password": "hunter2-smtp"}}
    patched = await client.patch(mailbox, json={"smtp": smtp})
    assert patched.status_code == 200, patched.text
    made = await client.post(f"{mailbox}/submissions", json={"to": ["bob@other.example"], "subject": "Hi"})
    assert made.status_code == 202, made.text

    async def work(tx: Transaction) -> None:
        mine = submissions.c.id == made.json()["id"]
        await tx.conn.execute(update(submissions).where(mine).values(state="failed", finished_at=post.gateway.clock()))

    await post.gateway.core.db.transact(work)
    return str(made.json()["id"])
