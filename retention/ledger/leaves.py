"""Leaves of the purge log: one constructor per type, each returning the canonical bytes. Pure.

Every constructor takes the `Common` part first, then its own fields by keyword. Instants are ints, microseconds since
the epoch, UTC; references are opaque random ids; commitments are 64 hex digits (`commitment`). Each raises LeafError
when a value may not stand in a leaf. `parse_leaf` reads one back; `schema.TYPES` is the whole grammar.

A run leaves: `run.open`, then `item.purge` and `item.deferred` in batches, then `run.close` or `run.abort`, whose
candidates = purged + the sum of kept + failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from .canonical import CanonicalError, encode, format_instant
from .schema import (
    ANCHOR_SOURCES,
    MAX_COVER,
    MAX_LEAF,
    PURGE_REASONS,
    REMOVE_ORIGINALS,
    VERSION,
    Leaf,
    LeafError,
    build_leaf,
    parse_leaf,
)

__all__ = [
    "ANCHOR_SOURCES",
    "MAX_COVER",
    "MAX_LEAF",
    "PURGE_REASONS",
    "Actor",
    "Anchor",
    "Blobs",
    "Build",
    "Common",
    "Leaf",
    "LeafError",
    "Policy",
    "blob_erase",
    "clock_anomaly",
    "erase_failed",
    "export",
    "hold_cover",
    "hold_place",
    "hold_release",
    "item_deferred",
    "item_lost",
    "item_purge",
    "item_remove",
    "key_rotate",
    "parse_leaf",
    "pin_add",
    "pin_remove",
    "plan_effective",
    "policy_set",
    "policy_sha256",
    "rehydrate",
    "run_abort",
    "run_close",
    "run_open",
]

UNTOUCHED = "untouched"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who caused it: `kind` such as user, token, scheduler, command, server; `ref` an id, never an address."""

    kind: str
    ref: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Under which policy: its version and the hash of its document (`policy_sha256`)."""

    ver: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Build:
    """Which program wrote it."""

    version: str
    commit: str


@dataclass(frozen=True, slots=True)
class Common:
    """The fields of every leaf. `id` is a new ULID per leaf; `run` the run's id, None for leaves of no run."""

    id: str
    at: int
    origin: str
    tenant_ref: str
    actor: Actor
    policy: Policy
    build: Build
    run: str | None = None

    def fields(self) -> Leaf:
        """The JSON object of these fields."""
        fields: Leaf = {
            "v": VERSION,
            "id": self.id,
            "at": _instant(self.at),
            "origin": self.origin,
            "tenant_ref": self.tenant_ref,
            "actor": {"kind": self.actor.kind, "ref": self.actor.ref},
            "policy": {"ver": self.policy.ver, "sha256": self.policy.sha256},
            "build": {"version": self.build.version, "commit": self.build.commit},
        }
        if self.run is not None:
            fields["run"] = self.run
        return fields


class Anchor(NamedTuple):
    """The instant from which a copy's age counts, and where it came from (ANCHOR_SOURCES)."""

    at: int
    src: str


class Blobs(NamedTuple):
    """References dropped, blobs that thereby lost their last one, and those blobs' stored bytes."""

    refs: int
    freed: int
    bytes: int


def policy_sha256(document: Mapping[str, Any]) -> str:
    """The hash of a policy's document, 64 hex digits over its canonical JSON."""
    return sha256(encode(dict(document))).hexdigest()


def _instant(at: int) -> str:
    try:
        return format_instant(at)
    except CanonicalError as error:
        raise LeafError(str(error)) from None


def _leaf(type_: str, common: Common, **fields: Any) -> bytes:
    return build_leaf({**common.fields(), "type": type_, **fields})


def policy_set(common: Common, *, document: Mapping[str, Any], effective_at: int) -> bytes:
    """A version of the policy, whole; `common.policy.sha256` is the document's hash."""
    if common.policy.sha256 != policy_sha256(document):
        raise LeafError("policy.set: the hash is not the document's")
    return _leaf("policy.set", common, document=dict(document), effective_at=_instant(effective_at))


def plan_effective(common: Common, *, plan: str, days: int, effective_at: int, cause: str, event_ref: str) -> bytes:
    """From `effective_at` on the tenant has this plan; `event_ref` names the period or event that caused it."""
    return _leaf(
        "plan.effective",
        common,
        plan=plan,
        days=days,
        effective_at=_instant(effective_at),
        cause=cause,
        event_ref=event_ref,
    )


def pin_add(common: Common, *, item_ref: str, pin_ref: str, entity_type: str, entity_commit: str) -> bytes:
    """A pin was accepted. `pin_ref` is random; `entity_commit` commits to the entity id, field `entity`."""
    return _leaf(
        "pin.add", common, item_ref=item_ref, pin_ref=pin_ref, entity_type=entity_type, entity_commit=entity_commit
    )


def pin_remove(common: Common, *, item_ref: str, pin_ref: str, reason: str) -> bytes:
    """A pin went: `unpinned`, `record_deleted`…"""
    return _leaf("pin.remove", common, item_ref=item_ref, pin_ref=pin_ref, reason=reason)


def hold_place(
    common: Common,
    *,
    hold_ref: str,
    matter: str,
    reason_commit: str,
    mailbox_ref: str | None = None,
    items: int | None = None,
) -> bytes:
    """A hold stands: on a mailbox, on `items` messages (named by the `hold.cover` leaves that follow), or on all."""
    if mailbox_ref is not None and items is not None:
        raise LeafError("hold.place: a mailbox or messages, not both")
    scope: dict[str, Any] = {"kind": "tenant"}
    if mailbox_ref is not None:
        scope = {"kind": "mailbox", "mailbox_ref": mailbox_ref}
    elif items is not None:
        scope = {"kind": "messages", "items": items}
    return _leaf("hold.place", common, hold_ref=hold_ref, scope=scope, matter=matter, reason_commit=reason_commit)


def hold_cover(common: Common, *, hold_ref: str, items: Sequence[str]) -> bytes:
    """At most 500 of the items that a hold on messages covers."""
    return _leaf("hold.cover", common, hold_ref=hold_ref, items=list(items))


def hold_release(common: Common, *, hold_ref: str, matter: str, reason_commit: str, grace_until: int) -> bytes:
    """A hold was released; what it covered stays at least until `grace_until`."""
    return _leaf(
        "hold.release",
        common,
        hold_ref=hold_ref,
        matter=matter,
        reason_commit=reason_commit,
        grace_until=_instant(grace_until),
    )


def run_open(
    common: Common, *, now: int, trigger: str, approved: Sequence[str] = (), approved_up_to: int | None = None
) -> bytes:
    """A purge run begins and judges by `now`; `approved` names what a person allowed (`brake`, `clock`), and
    `approved_up_to` of how many items.
    """
    bound = _given(approved_up_to=approved_up_to)
    return _leaf("run.open", common, now=_instant(now), trigger=trigger, approved=list(approved), **bound)


def item_purge(
    common: Common,
    *,
    item_ref: str,
    mailbox_ref: str,
    content_commit: str,
    msgid_commit: str,
    anchor: Anchor,
    plan: str,
    days: int,
    due_at: int,
    reason: str,
    pins: int,
    holds: int,
    blobs: Blobs,
    method: str,
) -> bytes:
    """A copy was purged. `pins` and `holds` are what the judgement under lock counted."""
    return _leaf(
        "item.purge",
        common,
        item_ref=item_ref,
        mailbox_ref=mailbox_ref,
        content_commit=content_commit,
        msgid_commit=msgid_commit,
        anchor={"at": _instant(anchor.at), "src": anchor.src},
        plan=plan,
        days=days,
        due_at=_instant(due_at),
        reason=reason,
        checks={"pins": pins, "holds": holds},
        blobs={"refs": blobs.refs, "freed": blobs.freed, "bytes": blobs.bytes},
        method=method,
        original=UNTOUCHED,
    )


def item_remove(
    common: Common,
    *,
    item_ref: str,
    mailbox_ref: str,
    content_commit: str,
    msgid_commit: str,
    reason: str,
    pins: int,
    holds: int,
    blobs: Blobs,
    method: str,
    original: str | None = None,
) -> bytes:
    """A copy went, and not by retention. Belongs to no run.

    `remote_expunged`: its original is gone. `user_deleted`: a person deleted it, and the original with it, or the copy
    only (`original` is `untouched`). `append_refused`: it never had one, the server did not take it.
    """
    originals = REMOVE_ORIGINALS.get(reason, ("",))
    return _leaf(
        "item.remove",
        common,
        item_ref=item_ref,
        mailbox_ref=mailbox_ref,
        content_commit=content_commit,
        msgid_commit=msgid_commit,
        reason=reason,
        checks={"pins": pins, "holds": holds},
        blobs={"refs": blobs.refs, "freed": blobs.freed, "bytes": blobs.bytes},
        method=method,
        original=originals[0] if original is None else original,
    )


def item_lost(common: Common, *, item_ref: str, mailbox_ref: str, reason: str) -> bytes:
    """A copy that had been brought back is not there any more, with its pins, and nobody took it.

    `backup_restored`: the database that was restored has it as purged, as it was before. It may be brought back once
    more.
    """
    return _leaf("item.lost", common, item_ref=item_ref, mailbox_ref=mailbox_ref, reason=reason)


def item_deferred(common: Common, *, item_ref: str, mailbox_ref: str, reason: str) -> bytes:
    """A candidate that this run kept or could not purge, and why."""
    return _leaf("item.deferred", common, item_ref=item_ref, mailbox_ref=mailbox_ref, reason=reason)


def blob_erase(common: Common, *, blob_ref: str, outcome: str, bytes_: int) -> bytes:
    """A blob's object is gone from the store: `erased` now, or `missing` already."""
    return _leaf("blob.erase", common, blob_ref=blob_ref, outcome=outcome, bytes=bytes_)


def erase_failed(common: Common, *, blob_ref: str, attempt: int, error: str) -> bytes:
    """An attempt to erase a blob failed and will be repeated; `error` is a slug, never the store's own text."""
    return _leaf("erase.failed", common, blob_ref=blob_ref, attempt=attempt, error=error)


def run_close(
    common: Common,
    *,
    candidates: int,
    purged: int,
    kept: Mapping[str, int],
    failed: int,
    bytes_: int,
    copies: int | None = None,
    explained: str | None = None,
) -> bytes:
    """A run ended; its counts balance. `copies`: how many there were, what went among them, when the brake last let it
    go on; `explained` (`plan`): because of a change of the plan.
    """
    _check_balance("run.close", candidates, purged, kept, failed)
    counts = {"candidates": candidates, "purged": purged, "kept": dict(kept), "failed": failed}
    return _leaf("run.close", common, **counts, bytes=bytes_, **_given(copies=copies, explained=explained))


def run_abort(
    common: Common,
    *,
    candidates: int,
    purged: int,
    kept: Mapping[str, int],
    failed: int,
    reason: str,
    copies: int | None = None,
    explained: str | None = None,
    approved_up_to: int | None = None,
) -> bytes:
    """A run was stopped (`brake`, `clock`, `cut`…) after so much; its counts balance. The rest as in `run_close`, and
    what the brake stopped although a person approved so many, as in `run_open`.
    """
    _check_balance("run.abort", candidates, purged, kept, failed)
    counts = {"candidates": candidates, "purged": purged, "kept": dict(kept), "failed": failed}
    more = _given(copies=copies, explained=explained, approved_up_to=approved_up_to)
    return _leaf("run.abort", common, **counts, reason=reason, **more)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _check_balance(type_: str, candidates: int, purged: int, kept: Mapping[str, int], failed: int) -> None:
    if candidates != purged + sum(kept.values()) + failed:
        raise LeafError(f"{type_}: candidates are not purged + kept + failed")


def rehydrate(
    common: Common,
    *,
    item_ref: str,
    mailbox_ref: str,
    content_commit: str,
    msgid_commit: str,
    anchor: Anchor,
    until: int,
    pins: int,
) -> bytes:
    """A purged item was brought back on request, under its old item_ref and with the anchor that it had; unpinned it
    stays at least until `until`, whatever its age. By a backfill it stays for its age: `until` is then.

    `pins` were made in the same commit and have their own `pin.add` leaves right after.
    """
    return _leaf(
        "rehydrate",
        common,
        item_ref=item_ref,
        mailbox_ref=mailbox_ref,
        content_commit=content_commit,
        msgid_commit=msgid_commit,
        anchor={"at": _instant(anchor.at), "src": anchor.src},
        until=_instant(until),
        pins=pins,
    )


def clock_anomaly(common: Common, *, direction: str, last_at: int, now: int, limit_s: int) -> bytes:
    """The clock went `back` or too far `forward` since `last_at`; nothing was purged by it."""
    return _leaf(
        "clock.anomaly",
        common,
        direction=direction,
        last_at=_instant(last_at),
        now=_instant(now),
        limit_s=limit_s,
    )


def key_rotate(common: Common, *, key: str, old: str, new: str) -> bytes:
    """A key was replaced; for `signing`, `old` and `new` are vkeys, else names or epochs. Never a secret."""
    return _leaf("key.rotate", common, key=key, old=old, new=new)


def export(common: Common, *, format_: str, size: int, root: bytes) -> bytes:
    """The log was handed out up to `size`, as `tlog`, `ndjson` or `csv`."""
    return _leaf("export", common, format=format_, size=size, root=root.hex())
