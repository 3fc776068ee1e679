"""Leaves: canonical as RFC 8785 has it, strict when read, and the fast way the same as the slow one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from retention.ledger import canonical, leaves
from retention.ledger.certificate import RunTally
from retention.ledger.leaves import ANCHOR_SOURCES, PURGE_REASONS, Anchor, Blobs, LeafError, parse_leaf
from retention.ledger.purge_template import ItemPurgeTemplate, match_item_purge
from retention.ledger.schema import TYPES
from tests.ledger_samples import common, every_type, purge_fields, ulid
from tests.soak import examples

KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTS = st.integers(-(2**53 - 1), 2**53 - 1)
VALUES = st.recursive(
    st.one_of(STRINGS, INTS, st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)
INSTANTS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
REFS = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
COUNTS = st.integers(0, 2**53 - 1)


@given(VALUES)
def test_canonical_is_rfc_8785(value: Any) -> None:
    raw = canonical.encode(value)
    assert raw == rfc8785.dumps(value)
    assert canonical.decode(raw) == value


@pytest.mark.parametrize(
    "value", [1.0, None, 2**53, -(2**53), {"é": 1}, {1: 1}, b"x", "\ud800", {"a": [{"b": None}]}, float("nan")]
)
def test_what_a_leaf_may_not_hold(value: Any) -> None:
    with pytest.raises(canonical.CanonicalError):
        canonical.encode(value)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":01}', b'"\\u0041"', b'"\\/"', b"\xff",
        b'"\xed\xa0\x80"', b'"\\ud800"', b"[" * 60_000, b"9" * 5_000, b"NaN", b"null", b"-0", b"1e3", b"",
        b'\xef\xbb\xbf"a"',
    ],
)  # fmt: skip
def test_other_spellings_are_refused(raw: bytes) -> None:
    with pytest.raises(canonical.CanonicalError):
        canonical.decode(raw)


@given(INSTANTS)
def test_instants_round_trip(instant: int) -> None:
    text = canonical.format_instant(instant)
    assert canonical.parse_instant(text) == instant
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)
    assert len(text) == 27


def test_an_instant_as_documented() -> None:
    assert canonical.format_instant(1_767_323_045_000_006) == "2026-01-02T03:04:05.000006Z"
    for spelling in (
        "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000006+00:00", "2026-02-30T03:04:05.000006Z",
        "2026-01-02t03:04:05.000006Z", "2026-01-02T03:04:60.000000Z", "0000-01-02T03:04:05.000000Z",
        "2026-01-02T24:00:00.000000Z",
    ):  # fmt: skip
        with pytest.raises(canonical.CanonicalError):
            canonical.parse_instant(spelling)
    with pytest.raises(canonical.CanonicalError):
        canonical.format_instant(2**62)


def test_every_type_has_a_constructor_and_reads_back() -> None:
    bodies = list(every_type())
    assert {parse_leaf(body)["type"] for body in bodies} == TYPES.keys()
    assert all(rfc8785.dumps(parse_leaf(body)) == body for body in bodies)
    assert max(map(len, bodies)) < 1_200


@given(st.integers(0, len(list(every_type())) - 1), st.data())
def test_one_changed_field_is_no_leaf(which: int, draw: st.DataObject) -> None:
    """Missing, unknown, null or of another kind: each alone spoils a leaf."""
    leaf = json.loads(list(every_type())[which])
    change = draw.draw(st.sampled_from(["drop", "add", "null", "kind", "nested"]))
    field = draw.draw(st.sampled_from(sorted(leaf)))
    if change == "drop":
        if field == "run" and leaf["type"] in ("blob.erase", "erase.failed"):
            return
        del leaf[field]
    elif change == "add":
        leaf["subject"] = "Re: our secret"
    elif change == "null":
        leaf[field] = None
    elif change == "kind":
        leaf[field] = [leaf[field], leaf[field]]
    elif (
        isinstance(leaf[field], dict) and not (leaf["type"] == "policy.set" and field == "document") and field != "kept"
    ):
        leaf[field]["extra"] = 1
    else:
        return
    with pytest.raises(LeafError):
        parse_leaf(canonical._ENCODER.encode(leaf).encode())


@given(st.integers(0, len(list(every_type())) - 1), st.data())
def test_a_flipped_byte_is_another_leaf_or_none(which: int, draw: st.DataObject) -> None:
    body = list(every_type())[which]
    at = draw.draw(st.integers(0, len(body) - 1))
    flipped = body[:at] + bytes([body[at] ^ draw.draw(st.integers(1, 255))]) + body[at + 1 :]
    try:
        leaf = parse_leaf(flipped)
    except LeafError:
        return
    assert rfc8785.dumps(leaf) == flipped


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_cleanly(raw: bytes) -> None:
    with pytest.raises(LeafError):
        parse_leaf(raw)


PURGES = st.fixed_dictionaries(
    {
        "item_ref": REFS,
        "mailbox_ref": REFS,
        "content_commit": DIGESTS,
        "msgid_commit": DIGESTS,
        "anchor": st.builds(Anchor, INSTANTS, st.sampled_from(ANCHOR_SOURCES)),
        "due_at": INSTANTS,
        "pins": COUNTS,
        "holds": COUNTS,
        "blobs": st.builds(Blobs, COUNTS, COUNTS, COUNTS),
    }
)
FIXED = st.fixed_dictionaries(
    {
        "plan": st.from_regex(r"[a-z0-9_]{1,32}", fullmatch=True),
        "days": st.integers(0, 90),
        "reason": st.sampled_from(PURGE_REASONS),
        "method": st.from_regex(r"[a-z][a-z0-9_.+-]{0,63}", fullmatch=True),
    }
)


@given(st.integers(0, 2**60), INSTANTS, FIXED, PURGES)
def test_the_template_equals_the_constructor(number: int, at: int, fixed: dict[str, Any], own: dict[str, Any]) -> None:
    slow = leaves.item_purge(common(number, run=ulid(9), at=at), **fixed, **own)
    template = ItemPurgeTemplate(common(0, run=ulid(9), at=at), **fixed)
    assert template.leaf(ulid(number), **own) == slow
    raw = {name: bytes.fromhex(own[name]) for name in ("content_commit", "msgid_commit")}
    assert template.leaf(ulid(number), **(own | raw)) == slow
    assert parse_leaf(slow)["item_ref"] == own["item_ref"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_ref", 'x","type":"y'), ("item_ref", ""), ("item_ref", "a\nb"), ("item_ref", "someone@example.com"),
        ("mailbox_ref", "a b"), ("content_commit", "0" * 63), ("msgid_commit", "G" * 64), ("anchor", Anchor(0, "date")),
        ("anchor", Anchor(2**62, "stored")), ("due_at", 2**62), ("pins", -1), ("holds", True),
        ("blobs", Blobs(1, 1, 2**53)),
    ],
)  # fmt: skip
def test_template_and_constructor_refuse_the_same(field: str, value: Any) -> None:
    own: dict[str, Any] = {
        "item_ref": "i", "mailbox_ref": "m", "content_commit": "0" * 64, "msgid_commit": "0" * 64,
        "anchor": Anchor(0, "stored"), "due_at": 0, "pins": 0, "holds": 0, "blobs": Blobs(1, 1, 1),
    }  # fmt: skip
    fixed: dict[str, Any] = {"plan": "standard", "days": 60, "reason": "age", "method": "key_destroyed"}
    base = common(1, run=ulid(9))
    template = ItemPurgeTemplate(base, **fixed)
    assert template.leaf(base.id, **own) == leaves.item_purge(base, **fixed, **own)
    own[field] = value
    with pytest.raises(LeafError):
        leaves.item_purge(base, **fixed, **own)
    with pytest.raises(LeafError):
        template.leaf(base.id, **own)


@pytest.mark.parametrize("field", ["content_commit", "msgid_commit"])
@pytest.mark.parametrize("size", [0, 31, 33])
def test_the_template_takes_commitments_of_32_bytes_only(field: str, size: int) -> None:
    own: dict[str, Any] = {"content_commit": bytes(32), "msgid_commit": bytes(32), field: bytes(size)}
    template = ItemPurgeTemplate(common(1, run=ulid(9)), plan="standard", days=60, reason="age", method="key_destroyed")
    with pytest.raises(LeafError):
        template.leaf(
            ulid(1), item_ref="i", mailbox_ref="m", anchor=Anchor(0, "stored"), due_at=0, blobs=Blobs(1, 1, 1), **own
        )


@given(st.integers(0, 2**60), INSTANTS, FIXED, PURGES)
def test_what_is_recognised_reads_the_same(number: int, at: int, fixed: dict[str, Any], own: dict[str, Any]) -> None:
    """The shortcut of the verifier: whatever it recognises is a leaf, and says what parsing says."""
    body = leaves.item_purge(common(number, run=ulid(9), at=at), **fixed, **own)
    match = match_item_purge(body)
    leaf = parse_leaf(body)
    counts = [own["pins"], own["holds"], own["blobs"].refs, own["blobs"].freed, own["blobs"].bytes]
    if match is None:
        # Only what it leaves to the calendar or to big numbers on purpose.
        assert max(counts) >= 10**15 or b"-02-29T" in body
        return
    said = {name: value.decode() for name, value in match.groupdict().items()}
    assert said == {
        **{
            name: leaf[name]
            for name in ("item_ref", "mailbox_ref", "origin", "tenant_ref", "plan", "reason", "run", "at", "method")
        },
        "due_at": leaf["due_at"],
        "days": str(leaf["days"]),
        "anchor_at": leaf["anchor"]["at"],
        "anchor_src": leaf["anchor"]["src"],
        "pins": str(leaf["checks"]["pins"]),
        "holds": str(leaf["checks"]["holds"]),
        "policy": leaf["policy"]["sha256"],
        **{name: str(count) for name, count in leaf["blobs"].items()},
    }


PURGE = leaves.item_purge(common(1, run=ulid(9)), **purge_fields(1))


@examples(1_000)
@given(st.data())
def test_nothing_is_recognised_that_is_no_leaf(draw: st.DataObject) -> None:
    """Mutations of a purge: bytes replaced, cut out, put in, digits and fields exchanged."""
    body = bytearray(PURGE)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(body) - 1))
        span = draw.draw(st.integers(0, 3))
        new = draw.draw(
            st.one_of(
                st.sampled_from([b"0", b"9", b'"', b"\\", b"}", b",", b" ", b"-", b"\xc3\xa9"]), st.binary(max_size=3)
            )
        )
        body[at : at + span] = new
    if match_item_purge(bytes(body)) is not None:
        parse_leaf(bytes(body))


@pytest.mark.parametrize(
    "day", ["02-30", "02-29", "04-31", "06-31", "09-31", "11-31", "13-01", "00-10", "01-00", "01-32"]
)
def test_no_day_is_recognised_that_the_calendar_lacks(day: str) -> None:
    body = PURGE.replace(b'"at":"2026-01-02T', f'"at":"2026-{day}T'.encode())
    assert body != PURGE
    assert match_item_purge(body) is None
    with pytest.raises(LeafError):
        parse_leaf(body)


@given(st.lists(st.tuples(INSTANTS, FIXED, PURGES), max_size=5))
def test_a_run_adds_up_the_same_either_way(
    purges: list[tuple[int, dict[str, Any], dict[str, Any]]],
) -> None:
    """The shortcut of certificates: what is recognised counts as what is parsed."""
    quick, slow = RunTally(ulid(9)), RunTally(ulid(9))
    for number, (at, fixed, own) in enumerate(purges):
        body = leaves.item_purge(common(number, run=ulid(9), at=at), **fixed, **own)
        quick.feed(number, body)
        slow._other(number, body, parse_leaf(body))
    assert quick == slow
    assert sum(quick.by(0).values()) == len(purges)
