"""Folders that are called, nested or changed as hardly any are, on real servers."""

from __future__ import annotations

import imaplib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.memory import MemoryAccount
from connectors.model import Folder
from mailgate.actors import SYSTEM
from mailgate.clock import system_clock
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.settings import SyncSettings
from mailgate.store.expiry import Expiry
from mailgate.store.wishes.folders import FolderWishes
from mailgate.store.wishes.locks import Locks
from retention.model import Graces
from retention.policy import ClockLimits
from tests.contract.accounts import OnCourier, OverImap, remote_of
from tests.server.test_push_matrix import received
from tests.sync.crm import Crm
from tests.sync.engine import Engine, mail

pytestmark = pytest.mark.server

STRANGE = (
    *('quo"ted', "back\\slash", "per%cent", "st*ar", "am&persand", "&-", "&AAA-", "~tilde", "#hash", "(a) [b] {3}"),
    *("trailing ", " leading", "two  blanks", "tab\there", "bell\x07", "\x7f", "NIL", "inbox.", "INBOX2", "..", "."),
    *("🙂🙃 emoji", "\u00c5 (composed)", "A\u030a (not)", "مرحبا", "zero\u200bwidth", "a\u2028b", "x" * 200),
    *(
        "ж" * 60,
        "ж" * 130,
        "🙂" * 250,
        "Inbox/child",
        "inbox/other",
        "inbox",
        "a/b/c/d/e/f/g",
        "a//b",
        "/rooted",
        "end/",
    ),
)
"""What a client may try to call a folder; servers refuse some of it."""


@pytest.fixture(params=["dovecot", "cyrus", "courier"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[OverImap]:
    async with remote_of(request) as made:
        assert isinstance(made, OverImap)
        yield made


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, remote: OverImap) -> AsyncIterator[Engine]:
    made = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=remote.connect,
        clock=system_clock,  # type: ignore[arg-type]  # real servers have the real time
        settings=SyncSettings(poll_interval_s=3_600, backoff_min_s=0.05),
    )
    yield made
    await made.close()


@pytest.fixture
def wishes(engine: Engine) -> FolderWishes:
    """What the API asks of folders."""
    return FolderWishes(
        engine.db, Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
    )


async def there(remote: OverImap) -> dict[str, Folder]:
    """What the server lists."""
    source = await remote.connect()
    try:
        return {folder.name: folder for folder in await source.list_folders()}
    finally:
        await source.close()


async def here(engine: Engine) -> set[str]:
    return {row.name for row in await engine.rows("folders") if row.gone_at is None}


async def equal(engine: Engine, remote: OverImap) -> None:
    """The same folders, and in each the same messages."""
    listed = await there(remote)
    assert await here(engine) == listed.keys()
    near = await engine.near()
    for name, folder in listed.items():
        if folder.selectable:
            if name.startswith("\u2063"):
                assert near.pop(name)  # no modified UTF-7: only the gateway can say it
                continue
            far = await remote.originals(name)
            assert near.pop(name, []) == sorted((raw, tuple(sorted(flags))) for flags, raw in far.values()), name
    assert near == {}


async def messages(engine: Engine) -> dict[bytes, str]:
    return {await engine.raw(row): row.id for row in await engine.rows("messages")}


async def passes(engine: Engine, times: int = 2) -> None:
    for _ in range(times):
        await engine.sync()


async def test_names_that_others_gave(engine: Engine, remote: OverImap, wishes: FolderWishes) -> None:
    """They come, are changed and go by whatever name they have."""
    given: list[str] = []
    # Courier takes its time over each command that it does not like.
    for name in STRANGE[::3] if isinstance(remote, OnCourier) else STRANGE:
        full = remote.folder(name)
        try:
            await remote.create_folder(full)
            await remote.append(full, mail(len(given)), received_at=received(1))
        except (imaplib.IMAP4.error, AssertionError):
            continue
        given.append(full)
    assert len(given) > (6 if isinstance(remote, OnCourier) else 15)
    await engine.sync()
    await equal(engine, remote)
    crm = Crm(engine)
    for n in range(len(given)):
        await crm.flags(n, add=["\\Flagged"])
    await passes(engine)
    assert {*await crm.states()} == {"applied"}
    names = sorted({name for n in range(len(given)) for name, _ in await crm.stands(n)})
    for number, name in enumerate(names):
        new = remote.folder(f"Plain {number}")
        if not any(other.startswith(name) for other in await here(engine) if other != name):
            await wishes.rename(
                engine.tenant_id, engine.mailbox_id, await crm.folder(name), new, engine.clock(), SYSTEM
            )
    await passes(engine)
    assert {*await crm.states()} == {"applied"}
    await equal(engine, remote)


async def test_names_that_the_crm_gives(engine: Engine, remote: OverImap, wishes: FolderWishes) -> None:
    """Refused at once, or by the server with its reason, or the folder is called so on both sides."""
    await engine.sync()
    crm = Crm(engine)
    refused, asked = [], []
    for name in STRANGE:
        try:
            id_, _ = await wishes.create(engine.tenant_id, engine.mailbox_id, name, engine.clock(), SYSTEM)
        except (PreconditionError, ConflictError) as error:
            refused.append((name, error.slug))
        else:
            asked.append((name, id_))
    await passes(engine)
    rows = {row.id: row for row in await engine.rows("folders")}
    for operation, (name, id_) in zip(await crm.operations(), asked, strict=True):
        assert operation.state in ("applied", "failed"), name
        assert (operation.state == "applied") == (rows[id_].gone_at is None), name
        assert operation.state == "applied" or operation.reason, name
    await equal(engine, remote)
    done = [
        name for operation, (name, _) in zip(await crm.operations(), asked, strict=True) if operation.state == "applied"
    ]
    assert len(done) > 10
    assert {slug for _, slug in refused} <= {"name_invalid", "folder_exists"}


async def test_parents_that_hold_nothing(engine: Engine, remote: OverImap, wishes: FolderWishes) -> None:
    """A folder that was deleted while others stand below it is shown, and refuses what can't be; made anew it holds
    mail.
    """
    parent, child = remote.folder("Parent"), remote.folder("Parent", "Child")
    await remote.create_folder(parent)
    await remote.create_folder(child)
    await remote.append(child, mail(1), received_at=received(1))
    await engine.sync()
    crm = Crm(engine)
    try:
        await remote.delete_folder(parent)
    except (imaplib.IMAP4.error, AssertionError):
        pytest.skip("the server deletes no folder with others below it")
    await passes(engine)
    await equal(engine, remote)
    if parent not in await here(engine):
        await wishes.create(engine.tenant_id, engine.mailbox_id, parent, engine.clock(), SYSTEM)
    elif not (await there(remote))[parent].selectable:
        await crm.append(2, parent)
        await passes(engine)
        assert (await crm.states())[-1].startswith("failed")
        with pytest.raises((ConflictError, NotFoundError)):
            await wishes.delete(
                engine.tenant_id,
                engine.mailbox_id,
                await crm.folder(parent),
                permanent=False,
                now=engine.clock(),
                actor=SYSTEM,
            )
        hidden = await crm.folder(parent)
        made = await wishes.create(engine.tenant_id, engine.mailbox_id, parent, engine.clock(), SYSTEM)
        assert made[0] == hidden
        await passes(engine, 1)
        assert (await crm.states())[-1] == "applied"
        assert (await there(remote))[parent].selectable
    await passes(engine)
    await crm.append(3, parent)
    await passes(engine)
    assert (await crm.states())[-1] == "applied"
    await equal(engine, remote)


async def test_a_parent_that_nobody_made(engine: Engine, remote: OverImap, wishes: FolderWishes) -> None:
    """It is there only since another stands below it, listed or not; made, it holds mail, and what is below stays."""
    parent, child = remote.folder("Above"), remote.folder("Above", "Below")
    await remote.create_folder(child)
    await remote.append(child, mail(1), received_at=received(1))
    await engine.sync()
    crm = Crm(engine)
    if parent in (listed := await there(remote)):
        if listed[parent].selectable:
            pytest.skip("the server makes those above as well")
        hidden = await crm.folder(parent)
    else:
        hidden = None
    made, _ = await wishes.create(engine.tenant_id, engine.mailbox_id, parent, engine.clock(), SYSTEM)
    assert hidden in (None, made)
    await crm.append(2, parent)
    await passes(engine)
    assert await crm.states() == ["applied", "applied"]
    assert (await there(remote))[parent].selectable
    assert await crm.folder(parent) == made
    await equal(engine, remote)


BOTH = ("rename", "rename alike", "delete", "create", "take the name", "swap")


@pytest.mark.parametrize("what", BOTH)
async def test_both_sides_change_folders_at_once(
    engine: Engine, remote: OverImap, wishes: FolderWishes, what: str
) -> None:
    one, two, new, other = (remote.folder(name) for name in ("One", "Two", "New", "Other"))
    for number, name in enumerate((one, two)):
        await remote.create_folder(name)
        for n in range(3):
            await remote.append(name, mail(10 * number + n), received_at=received(1))
    await engine.sync()
    crm, before = Crm(engine), await messages(engine)
    folder = await crm.folder(one)

    async def rename(to: str) -> None:
        await wishes.rename(engine.tenant_id, engine.mailbox_id, folder, to, engine.clock(), SYSTEM)

    match what:
        case "rename":
            await rename(new)
            await remote.rename_folder(one, other)
        case "rename alike":
            await rename(new)
            await remote.rename_folder(one, new)
        case "delete":
            await rename(new)
            await remote.delete_folder(one)
        case "create":
            await wishes.create(engine.tenant_id, engine.mailbox_id, new, engine.clock(), SYSTEM)
            await remote.create_folder(new)
            await remote.append(new, mail(50), received_at=received(1))
        case "take the name":
            await rename(new)
            await remote.rename_folder(two, new)
        case "swap":
            await crm.delete(1)
            await crm.flags(11, add=["\\Flagged"])
            for name, to in ((one, other), (two, one), (other, two)):
                await remote.rename_folder(name, to)
    await passes(engine, 4)
    await equal(engine, remote)
    assert all(state.startswith(("applied", "failed")) for state in await crm.states())
    left = Counter(raw for entries in (await engine.near()).values() for raw, _ in entries)
    lost = {"delete": {0, 1, 2}, "swap": {1}}.get(what, set())
    assert left == Counter(mail(n) for n in {0, 1, 2, 10, 11, 12} - lost | ({50} if what == "create" else set()))
    after = await messages(engine)
    assert {raw: after.get(raw) for raw in before if raw in left} == {raw: before[raw] for raw in before if raw in left}
