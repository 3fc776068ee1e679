"""What a leaf may say: every type, every field, every value. Pure.

A leaf is read strictly: canonical form, a known type, all required fields, no others, each value of its kind. What is
not foreseen here does not enter the log, so no subject, address, file name or Message-ID can: references match `REF`
(no `@`, no spaces) and whatever a person wrote stands as a commitment. The one exception is a hold's `matter`, the
case number by which people ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .canonical import MAX_INT, CanonicalError, check_value, encode_checked, parse_instant, read

VERSION = 1
MAX_LEAF = 0xFFFF
"""Bytes of a leaf at most: its length is a uint16 in entry bundles."""
MAX_COVER = 500
"""Items of one `hold.cover` leaf at most."""

PURGE_REASONS = ("age", "plan_end", "erasure_request", "mailbox_removed", "offboarding")
ANCHOR_SOURCES = ("internaldate", "stored", "rehydrated")
REMOVE_ORIGINALS = {
    "remote_expunged": ("gone",),
    "user_deleted": ("expunged_by_user", "untouched"),
    "append_refused": ("none",),
}
"""Why a copy was removed → what may have become of its original; the first is what is meant when nothing is said."""

LOST_REASONS = ("backup_restored",)
"""Why a copy that had been brought back is not there any more, though nobody took it."""

Check = Callable[[Any], bool]
Leaf = dict[str, Any]
"""A parsed leaf: its JSON object. Instants in it are texts (`canonical.parse_instant`)."""


class LeafError(ValueError):
    """The bytes are no leaf, or the values can't make one."""


def matching(pattern: str) -> Check:
    """A check for strings that match an ASCII pattern as a whole."""
    full = re.compile(pattern, re.ASCII).fullmatch
    return lambda value: type(value) is str and full(value) is not None


def one_of(*values: str) -> Check:
    """A check for one of some strings."""
    allowed = frozenset(values)
    return lambda value: type(value) is str and value in allowed


def exactly(fields: Mapping[str, Check]) -> Check:
    """A check for an object with exactly these fields."""
    return lambda value: (
        type(value) is dict
        and len(value) == len(fields)
        and all(k in fields and fields[k](v) for k, v in value.items())
    )


def list_of(check: Check, least: int, most: int) -> Check:
    """A check for a list of so many values of a kind, none twice."""
    return lambda value: (
        type(value) is list and least <= len(value) <= most and all(map(check, value)) and len(set(value)) == len(value)
    )


def is_count(value: Any) -> bool:
    """An integer from 0 to 2**53 - 1."""
    return type(value) is int and 0 <= value <= MAX_INT


def is_instant(value: Any) -> bool:
    """The text of an instant."""
    if type(value) is not str:
        return False
    try:
        parse_instant(value)
    except CanonicalError:
        return False
    return True


def is_text(value: Any) -> bool:
    """1 to 200 printable characters."""
    return type(value) is str and 0 < len(value) <= 200 and value.isprintable()


def _is_document(value: Any) -> bool:
    try:
        check_value(value)
    except CanonicalError:
        return False
    return type(value) is dict


def _is_kept(value: Any) -> bool:
    return type(value) is dict and all(SLUG(k) and is_count(v) for k, v in value.items())


def _is_scope(value: Any) -> bool:
    kind = value.get("kind") if type(value) is dict else None
    check = _SCOPES.get(kind) if type(kind) is str else None
    return check is not None and check(value)


REF_PATTERN = r"[A-Za-z0-9._:-]{1,64}"
ULID_PATTERN = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
SLUG_PATTERN = r"[a-z][a-z0-9_.+-]{0,63}"
PLAN_PATTERN = r"[a-z0-9_]{1,32}"
DIGEST_PATTERN = r"[0-9a-f]{64}"
WORD_PATTERN = r"[A-Za-z0-9._+-]{1,64}"
TENANT_PATTERN = r"[A-Za-z0-9._-]{1,64}"

REF = matching(REF_PATTERN)
ULID = matching(ULID_PATTERN)
SLUG = matching(SLUG_PATTERN)
PLAN = matching(PLAN_PATTERN)
DIGEST = matching(DIGEST_PATTERN)
ORIGIN = matching(r"[!-*,-~]{1,200}/purge/" + TENANT_PATTERN)
KEY_TEXT = matching(r"[!-~]{1,400}")
WORD = matching(WORD_PATTERN)

_ANCHOR = exactly({"at": is_instant, "src": one_of(*ANCHOR_SOURCES)})
_BLOBS = exactly({"refs": is_count, "freed": is_count, "bytes": is_count})
_CHECKS = exactly({"pins": is_count, "holds": is_count})
_SCOPES: dict[str, Check] = {
    "tenant": exactly({"kind": one_of("tenant")}),
    "mailbox": exactly({"kind": one_of("mailbox"), "mailbox_ref": REF}),
    "messages": exactly({"kind": one_of("messages"), "items": is_count}),
}

COMMON: dict[str, Check] = {
    "v": lambda value: type(value) is int and value == VERSION,
    "type": lambda value: type(value) is str,
    "id": ULID,
    "at": is_instant,
    "origin": ORIGIN,
    "tenant_ref": matching(TENANT_PATTERN),
    "actor": exactly({"kind": SLUG, "ref": REF}),
    "policy": exactly({"ver": is_count, "sha256": DIGEST}),
    "build": exactly({"version": WORD, "commit": WORD}),
}

_ITEM: dict[str, Check] = {"item_ref": REF, "mailbox_ref": REF, "content_commit": DIGEST, "msgid_commit": DIGEST}
_COUNTS: dict[str, Check] = {"candidates": is_count, "purged": is_count, "kept": _is_kept, "failed": is_count}

TYPES: dict[str, dict[str, Check]] = {
    "policy.set": {"document": _is_document, "effective_at": is_instant},
    "plan.effective": {"plan": PLAN, "days": is_count, "effective_at": is_instant, "cause": SLUG, "event_ref": REF},
    "pin.add": {"item_ref": REF, "pin_ref": REF, "entity_type": REF, "entity_commit": DIGEST},
    "pin.remove": {"item_ref": REF, "pin_ref": REF, "reason": SLUG},
    "hold.place": {"hold_ref": REF, "scope": _is_scope, "matter": is_text, "reason_commit": DIGEST},
    "hold.cover": {"hold_ref": REF, "items": list_of(REF, 1, MAX_COVER)},
    "hold.release": {"hold_ref": REF, "matter": is_text, "reason_commit": DIGEST, "grace_until": is_instant},
    "run.open": {"now": is_instant, "trigger": SLUG, "approved": list_of(one_of("brake", "clock"), 0, 2)},
    "item.purge": {
        **_ITEM,
        "anchor": _ANCHOR,
        "plan": PLAN,
        "days": is_count,
        "due_at": is_instant,
        "reason": one_of(*PURGE_REASONS),
        "checks": _CHECKS,
        "blobs": _BLOBS,
        "method": SLUG,
        "original": one_of("untouched"),
    },
    "item.remove": {
        **_ITEM,
        "reason": one_of(*REMOVE_ORIGINALS),
        "checks": _CHECKS,
        "blobs": _BLOBS,
        "method": SLUG,
        "original": one_of(*(original for originals in REMOVE_ORIGINALS.values() for original in originals)),
    },
    "item.lost": {"item_ref": REF, "mailbox_ref": REF, "reason": one_of(*LOST_REASONS)},
    "item.deferred": {"item_ref": REF, "mailbox_ref": REF, "reason": SLUG},
    "blob.erase": {"blob_ref": REF, "outcome": one_of("erased", "missing"), "bytes": is_count},
    "erase.failed": {"blob_ref": REF, "attempt": is_count, "error": SLUG},
    "run.close": {**_COUNTS, "bytes": is_count},
    "run.abort": {**_COUNTS, "reason": SLUG},
    "rehydrate": {**_ITEM, "anchor": _ANCHOR, "until": is_instant, "pins": is_count},
    "clock.anomaly": {
        "direction": one_of("back", "forward"),
        "last_at": is_instant,
        "now": is_instant,
        "limit_s": is_count,
    },
    "key.rotate": {"key": SLUG, "old": KEY_TEXT, "new": KEY_TEXT},
    "export": {"format": one_of("tlog", "ndjson", "csv"), "size": is_count, "root": DIGEST},
}
"""Type → its own fields, all required. The common ones are in COMMON; `run` is ruled by the two sets below."""

RUN_REQUIRED = frozenset({"run.open", "item.purge", "item.deferred", "run.close", "run.abort"})
RUN_OPTIONAL = frozenset({"blob.erase", "erase.failed", "clock.anomaly"})

_PASSED: dict[str, Check] = {"copies": is_count, "explained": one_of("plan")}
OPTIONAL: dict[str, dict[str, Check]] = {
    "run.open": {"approved_up_to": is_count},
    "run.close": _PASSED,
    "run.abort": {**_PASSED, "approved_up_to": is_count},
}
"""Type → fields that it may have besides."""

_FIELDS = {kind: {**COMMON, **own} for kind, own in TYPES.items()}


def parse_leaf(body: bytes) -> Leaf:
    """The leaf that these bytes are. Raises LeafError unless they are canonical and every field is as it must be."""
    if len(body) > MAX_LEAF:
        raise LeafError("longer than 65 535 bytes")
    try:
        leaf = read(body)
        check_leaf(leaf)
        if encode_checked(leaf) != body:
            raise LeafError("not in canonical form")
    except (CanonicalError, RecursionError) as error:
        raise LeafError(str(error)) from None
    return leaf  # type: ignore[no-any-return]  # check_leaf made sure of it


def build_leaf(leaf: Leaf) -> bytes:
    """Canonical bytes of a leaf. Raises LeafError when a field is missing, unknown or not of its kind."""
    check_leaf(leaf)
    try:
        body = encode_checked(leaf)
    except CanonicalError as error:
        raise LeafError(str(error)) from None
    if len(body) > MAX_LEAF:
        raise LeafError("longer than 65 535 bytes")
    return body


def check_leaf(leaf: object) -> None:
    """Raise LeafError unless this is the object of a leaf."""
    if type(leaf) is not dict:
        raise LeafError("not an object")
    kind = leaf.get("type")
    fields = _FIELDS.get(kind) if type(kind) is str else None
    if fields is None:
        raise LeafError("not of a known type")
    run = leaf.get("run")
    if run is None:
        if "run" in leaf or kind in RUN_REQUIRED:
            raise LeafError(f"{kind} without its run")
    elif not ULID(run) or (kind not in RUN_REQUIRED and kind not in RUN_OPTIONAL):
        raise LeafError(f"{kind}: run is not as it must be")
    more = OPTIONAL.get(str(kind))
    if more is not None:
        fields = fields | {field: check for field, check in more.items() if field in leaf}
    if len(leaf) != len(fields) + (run is not None):
        odd = sorted((fields.keys() ^ leaf.keys()) - {"run"})
        raise LeafError(f"{kind}: missing or unknown fields {odd[:5]}")
    for field, check in fields.items():
        value = leaf.get(field)
        if value is None or not check(value):
            raise LeafError(f"{kind}: {field} is missing or not as it must be")
    if not leaf["origin"].endswith("/purge/" + leaf["tenant_ref"]):
        raise LeafError(f"{kind}: origin and tenant_ref differ")
    if kind == "item.remove" and leaf["original"] not in REMOVE_ORIGINALS[leaf["reason"]]:
        raise LeafError("item.remove: original does not go with its reason")
