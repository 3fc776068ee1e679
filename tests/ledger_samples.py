"""Leaves for tests of the purge log: one of every type, and whole small logs that keep the rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

from retention.ledger import leaves
from retention.ledger.commitment import Committer
from retention.ledger.leaves import Actor, Anchor, Blobs, Build, Common, Policy

DAY = 86_400_000_000
NOW = 1_767_322_800_000_000  # 2026-01-02T03:00:00Z
TENANT_REF = "t-7f3a"
ORIGIN = f"mail.example.com/purge/{TENANT_REF}"
DOCUMENT: dict[str, Any] = {"anchor": "internaldate", "days": {"free": 0, "standard": 60}, "graces": {"unpin_s": 0}}
POLICY = Policy(ver=1, sha256=leaves.policy_sha256(DOCUMENT))
COMMITTER = Committer(sha256(b"a ledger key of a test").digest())
DIGEST = sha256(b"root").digest()

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(number: int) -> str:
    """A ULID that is the same for the same number."""
    value, text = number, ""
    for _ in range(16):
        value, digit = divmod(value, 32)
        text = _CROCKFORD[digit] + text
    return "01JGK6CCWQ" + text


def common(number: int = 0, *, run: str | None = None, at: int = NOW, tenant_ref: str = TENANT_REF) -> Common:
    """The common fields of the leaf `number`."""
    return Common(
        id=ulid(number),
        at=at,
        origin=f"mail.example.com/purge/{tenant_ref}",
        tenant_ref=tenant_ref,
        actor=Actor("scheduler", "purge"),
        policy=POLICY,
        build=Build("0.1.0", "0123abcd"),
        run=run,
    )


def purge_fields(number: int, *, at: int = NOW, days: int = 60) -> dict[str, Any]:
    """Own fields of an `item.purge` leaf that keeps the rules at `at`."""
    anchor_at = at - days * DAY - number
    item_ref = f"item{number:08d}"
    return {
        "item_ref": item_ref,
        "mailbox_ref": f"box{number % 3}",
        "content_commit": COMMITTER.commit(item_ref, "content", b"%d" % number),
        "msgid_commit": COMMITTER.commit(item_ref, "msgid", b"<%d@example.com>" % number),
        "anchor": Anchor(anchor_at, "internaldate"),
        "plan": "standard",
        "days": days,
        "due_at": anchor_at + days * DAY,
        "reason": "age",
        "pins": 0,
        "holds": 0,
        "blobs": Blobs(1, 1, 4321 + number),
        "method": "key_destroyed",
    }


def every_type(first: int = 0, tenant_ref: str = TENANT_REF) -> Iterator[bytes]:
    """A log of a dozen and a half leaves: every type, in an order that keeps the rules."""
    run = ulid(900_000 + first)
    numbers = iter(range(first, first + 100))

    def base(run: str | None = None, at: int = NOW) -> Common:
        return common(next(numbers), run=run, at=at, tenant_ref=tenant_ref)

    reason = COMMITTER.commit(ulid(first), "reason", b"subpoena")
    entity = COMMITTER.commit(ulid(first), "entity", b"deal 17")
    gone = {
        k: v for k, v in purge_fields(6).items() if k in ("item_ref", "mailbox_ref", "content_commit", "msgid_commit")
    }
    yield leaves.policy_set(base(), document=DOCUMENT, effective_at=NOW - 90 * DAY)
    yield leaves.plan_effective(
        base(), plan="standard", days=60, effective_at=NOW - 90 * DAY, cause="set", event_ref=ulid(1)
    )
    yield leaves.pin_add(base(), item_ref="item00000001", pin_ref="pin1", entity_type="deal", entity_commit=entity)
    yield leaves.pin_add(base(), item_ref="item00000002", pin_ref="pin2", entity_type="deal", entity_commit=entity)
    yield leaves.pin_remove(base(), item_ref="item00000002", pin_ref="pin2", reason="unpinned")
    yield leaves.hold_place(base(), hold_ref="hold1", matter="2026/17 Übergabe", reason_commit=reason, items=2)
    yield leaves.hold_cover(base(), hold_ref="hold1", items=["item00000003", "item00000004"])
    yield leaves.hold_place(base(), hold_ref="hold2", matter="M2", reason_commit=reason, mailbox_ref="box9")
    yield leaves.hold_place(base(), hold_ref="hold3", matter="M3", reason_commit=reason)
    yield leaves.hold_release(base(), hold_ref="hold3", matter="M3", reason_commit=reason, grace_until=NOW - DAY)
    yield leaves.clock_anomaly(base(), direction="back", last_at=NOW, now=NOW - DAY, limit_s=300)
    yield leaves.run_open(base(run), now=NOW, trigger="schedule", approved=["clock"])
    yield leaves.item_purge(base(run), **purge_fields(2))
    yield leaves.item_purge(base(run), **purge_fields(5))
    yield leaves.item_deferred(base(run), item_ref="item00000001", mailbox_ref="box1", reason="pinned")
    yield leaves.item_deferred(base(run), item_ref="item00000003", mailbox_ref="box0", reason="held")
    yield leaves.run_close(base(run), candidates=4, purged=2, kept={"pinned": 1, "held": 1}, failed=0, bytes_=8649)
    yield leaves.blob_erase(base(run), blob_ref="blob1", outcome="erased", bytes_=4323)
    yield leaves.erase_failed(base(run), blob_ref="blob2", attempt=1, error="no_space")
    yield leaves.blob_erase(base(), blob_ref="blob2", outcome="missing", bytes_=0)
    yield leaves.item_remove(
        base(), **gone, reason="remote_expunged", pins=0, holds=0, blobs=Blobs(1, 0, 0), method="key_destroyed"
    )
    yield leaves.rehydrate(
        base(),
        **{k: v for k, v in purge_fields(5).items() if k in gone},
        anchor=Anchor(NOW - 61 * DAY, "rehydrated"),
        until=NOW + 7 * DAY,
        pins=0,
    )
    yield leaves.item_lost(
        base(),
        item_ref=purge_fields(5)["item_ref"],
        mailbox_ref=purge_fields(5)["mailbox_ref"],
        reason="backup_restored",
    )
    second = ulid(910_000 + first)
    yield leaves.run_open(base(second, NOW + DAY), now=NOW + DAY, trigger="command")
    yield leaves.run_abort(base(second), candidates=0, purged=0, kept={}, failed=0, reason="cut")
    yield leaves.key_rotate(base(), key="ledger", old="epoch1", new="epoch2")
    yield leaves.export(base(), format_="tlog", size=12, root=DIGEST)


def purge_run(count: int, *, first: int = 1000, at: int = NOW) -> Iterator[bytes]:
    """`count` + 4 leaves: policy, plan, and one run that purged `count` items."""
    run = ulid(800_000 + first)
    yield leaves.policy_set(common(first, at=at), document=DOCUMENT, effective_at=at - 90 * DAY)
    yield leaves.plan_effective(
        common(first + 1, at=at), plan="standard", days=60, effective_at=at - 90 * DAY, cause="set", event_ref=ulid(1)
    )
    yield leaves.run_open(common(first + 2, run=run, at=at), now=at, trigger="schedule")
    blank = common(0, run=run, at=at)
    for number in range(first + 3, first + 3 + count):
        yield leaves.item_purge(replace(blank, id=ulid(number)), **purge_fields(number, at=at))
    yield leaves.run_close(
        common(first + 3 + count, run=run, at=at), candidates=count, purged=count, kept={}, failed=0, bytes_=0
    )
