"""What the leaves refuse: things that would say too much, counts that do not balance, runs where none belongs."""

from __future__ import annotations

import json

import pytest

from retention.ledger import leaves
from retention.ledger.canonical import CanonicalError, encode
from retention.ledger.leaves import Actor, Blobs, LeafError, parse_leaf
from retention.ledger.schema import RUN_OPTIONAL, RUN_REQUIRED, TYPES
from tests.ledger_samples import DIGEST, DOCUMENT, NOW, common, every_type, purge_fields, ulid


def test_item_purge_word_for_word() -> None:
    """The bytes that auditors' own tools will meet."""
    body = leaves.item_purge(common(7, run=ulid(8)), **purge_fields(1))
    commits = {k: v for k, v in purge_fields(1).items() if k.endswith("_commit")}
    assert json.loads(body) == {
        "v": 1,
        "type": "item.purge",
        "id": "01JGK6CCWQ0000000000000007",
        "at": "2026-01-02T03:00:00.000000Z",
        "origin": "mail.example.com/purge/t-7f3a",
        "tenant_ref": "t-7f3a",
        "run": "01JGK6CCWQ0000000000000008",
        "actor": {"kind": "scheduler", "ref": "purge"},
        "policy": {"ver": 1, "sha256": leaves.policy_sha256(DOCUMENT)},
        "build": {"version": "0.1.0", "commit": "0123abcd"},
        "item_ref": "item00000001",
        "mailbox_ref": "box1",
        **commits,
        "anchor": {"at": "2025-11-03T02:59:59.999999Z", "src": "internaldate"},
        "plan": "standard",
        "days": 60,
        "due_at": "2026-01-02T02:59:59.999999Z",
        "reason": "age",
        "checks": {"pins": 0, "holds": 0},
        "blobs": {"refs": 1, "freed": 1, "bytes": 4322},
        "method": "key_destroyed",
        "original": "untouched",
    }


def test_runs_stand_where_they_belong() -> None:
    for body in every_type():
        leaf = parse_leaf(body)
        without = {k: v for k, v in leaf.items() if k != "run"}
        for variant in (without, {**leaf, "run": ulid(5)}):
            allowed = (
                leaf["type"] in RUN_OPTIONAL
                or ("run" in variant and leaf["type"] in RUN_REQUIRED)
                or ("run" not in variant and leaf["type"] not in RUN_REQUIRED)
            )
            if allowed:
                parse_leaf(encode(variant))
            else:
                with pytest.raises(LeafError):
                    parse_leaf(encode(variant))
    assert TYPES.keys() >= RUN_REQUIRED | RUN_OPTIONAL


def test_counts_must_balance() -> None:
    base = common(1, run=ulid(2))
    leaves.run_close(base, candidates=6, purged=3, kept={"pinned": 2}, failed=1, bytes_=0)
    with pytest.raises(LeafError):
        leaves.run_close(base, candidates=7, purged=3, kept={"pinned": 2}, failed=1, bytes_=0)
    with pytest.raises(LeafError):
        leaves.run_abort(base, candidates=5, purged=3, kept={"pinned": 2}, failed=1, reason="brake")


def test_an_origin_is_its_tenants() -> None:
    leaf = parse_leaf(next(every_type()))
    with pytest.raises(LeafError):
        parse_leaf(encode({**leaf, "origin": "mail.example.com/purge/another"}))
    with pytest.raises(LeafError):
        parse_leaf(encode({**leaf, "tenant_ref": "another"}))


@pytest.mark.parametrize("ref", ["ann@example.com", "Ann Example", "", "x" * 65, "a\nb", "ä"])
def test_an_actor_is_an_id_and_no_address(ref: str) -> None:
    base = common(1)
    odd = leaves.Common(base.id, base.at, base.origin, base.tenant_ref, Actor("user", ref), base.policy, base.build)
    with pytest.raises(LeafError):
        leaves.pin_remove(odd, item_ref="i", pin_ref="p", reason="unpinned")


def test_item_remove_knows_what_became_of_the_original() -> None:
    own = {
        k: v for k, v in purge_fields(1).items() if k in ("item_ref", "mailbox_ref", "content_commit", "msgid_commit")
    }
    tail = {"pins": 0, "holds": 0, "blobs": Blobs(1, 1, 1), "method": "key_destroyed"}

    def original(reason: str, **given: str) -> str:
        return str(parse_leaf(leaves.item_remove(common(1), **own, **tail, reason=reason, **given))["original"])

    assert original("user_deleted") == "expunged_by_user"
    assert original("user_deleted", original="untouched") == "untouched"
    assert original("remote_expunged") == "gone"
    assert original("append_refused") == "none"
    for reason, odd in (("remote_expunged", "untouched"), ("user_deleted", "gone"), ("append_refused", "untouched")):
        with pytest.raises(LeafError):
            original(reason, original=odd)
    with pytest.raises(LeafError):
        original("age")
    with pytest.raises(LeafError):
        leaves.item_remove(common(1, run=ulid(1)), **own, **tail, reason="user_deleted")


def test_limits_of_lists_and_length() -> None:
    items = [f"item{n}" for n in range(501)]
    leaves.hold_cover(common(1), hold_ref="h", items=items[:500])
    for bad in (items, [], ["a", "a"]):
        with pytest.raises(LeafError):
            leaves.hold_cover(common(1), hold_ref="h", items=bad)
    longest = leaves.hold_cover(common(1), hold_ref="h" * 64, items=[f"{n:064d}" for n in range(500)])
    assert len(longest) <= leaves.MAX_LEAF
    document = {"x": "y" * 70_000}
    policy = leaves.Policy(2, leaves.policy_sha256(document))
    base = common(1)
    long = leaves.Common(base.id, base.at, base.origin, base.tenant_ref, base.actor, policy, base.build)
    with pytest.raises(LeafError, match="65 535"):
        leaves.policy_set(long, document=document, effective_at=NOW)


def test_a_policys_hash_is_its_documents() -> None:
    with pytest.raises(LeafError):
        leaves.policy_set(common(1), document={**DOCUMENT, "anchor": "stored"}, effective_at=NOW)


def test_a_hold_has_one_scope() -> None:
    own = {"hold_ref": "h", "matter": "M", "reason_commit": DIGEST.hex()}
    scopes = [
        parse_leaf(leaves.hold_place(common(1), **own))["scope"],
        parse_leaf(leaves.hold_place(common(1), **own, mailbox_ref="box1"))["scope"],
        parse_leaf(leaves.hold_place(common(1), **own, items=3))["scope"],
    ]
    assert scopes == [
        {"kind": "tenant"},
        {"kind": "mailbox", "mailbox_ref": "box1"},
        {"kind": "messages", "items": 3},
    ]
    with pytest.raises(LeafError):
        leaves.hold_place(common(1), **own, mailbox_ref="box1", items=3)


@pytest.mark.parametrize("matter", ["", "a\nb", "x" * 201, "\u202e"])
def test_a_matter_is_one_printable_line(matter: str) -> None:
    with pytest.raises(LeafError):
        leaves.hold_place(common(1), hold_ref="h", matter=matter, reason_commit=DIGEST.hex())


def test_what_is_nested_too_deep_is_refused_in_words() -> None:
    """From Python 3.12 on the standard library reads more levels than a function may call itself."""
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(CanonicalError, match="too deep"):
        encode({"document": deep})
