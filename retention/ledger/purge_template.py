"""`item.purge` leaves by the thousand: written and recognised without going through JSON. Pure.

Nearly every leaf of a log records a purge, and all of one run differ in few places. Written, their bytes are those of
`leaves.item_purge`, field for field; recognised, they are a subset of what `parse_leaf` accepts. Property tests hold
both. The fields stand in the order of their names, as canonical JSON has them.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .canonical import MAX_INT, CanonicalError, encode_checked, format_instant
from .leaves import ANCHOR_SOURCES, PURGE_REASONS, Anchor, Blobs, Common, LeafError, item_purge, parse_leaf
from .schema import (
    DIGEST_PATTERN,
    PLAN_PATTERN,
    REF_PATTERN,
    SLUG_PATTERN,
    TENANT_PATTERN,
    ULID_PATTERN,
    WORD_PATTERN,
)

_IDS = re.compile(f"{ULID_PATTERN}\n{REF_PATTERN}").fullmatch
_DIGEST = re.compile(DIGEST_PATTERN).fullmatch
_is_ref = lru_cache(maxsize=1024)(re.compile(REF_PATTERN).fullmatch)  # of mailboxes, which are few

# Narrower than the schema where that saves work: what does not match is parsed. 29 February is left to the calendar.
_COUNT = r"(?:0|[1-9][0-9]{0,14})"
_DAY = r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_INSTANT = rf"(?!0000)[0-9]{{4}}-{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{{6}}Z"

match_item_purge = re.compile(
    (
        rf'\{{"actor":\{{"kind":"{SLUG_PATTERN}","ref":"{REF_PATTERN}"\}},'
        rf'"anchor":\{{"at":"(?P<anchor_at>{_INSTANT})","src":"(?P<anchor_src>{"|".join(ANCHOR_SOURCES)})"\}},'
        rf'"at":"(?P<at>{_INSTANT})","blobs":\{{"bytes":(?P<bytes>{_COUNT}),"freed":(?P<freed>{_COUNT}),"refs":(?P<refs>{_COUNT})\}},'
        rf'"build":\{{"commit":"{WORD_PATTERN}","version":"{WORD_PATTERN}"\}},'
        rf'"checks":\{{"holds":(?P<holds>{_COUNT}),"pins":(?P<pins>{_COUNT})\}},"content_commit":"{DIGEST_PATTERN}",'
        rf'"days":(?P<days>{_COUNT}),"due_at":"(?P<due_at>{_INSTANT})","id":"{ULID_PATTERN}",'
        rf'"item_ref":"(?P<item_ref>{REF_PATTERN})","mailbox_ref":"(?P<mailbox_ref>{REF_PATTERN})",'
        rf'"method":"(?P<method>{SLUG_PATTERN})","msgid_commit":"{DIGEST_PATTERN}",'
        rf'"origin":"(?P<origin>[!#-*,-\[\]-~]{{1,200}}/purge/(?P<tenant_ref>{TENANT_PATTERN}))","original":"untouched",'
        rf'"plan":"(?P<plan>{PLAN_PATTERN})","policy":\{{"sha256":"(?P<policy>{DIGEST_PATTERN})","ver":{_COUNT}\}},'
        rf'"reason":"(?P<reason>{"|".join(PURGE_REASONS)})","run":"(?P<run>{ULID_PATTERN})",'
        r'"tenant_ref":"(?P=tenant_ref)","type":"item\.purge","v":1\}'
    ).encode()
).fullmatch
"""Bytes → a match whose groups are the fields that the rules need, or None: then `parse_leaf` decides."""


class ItemPurgeTemplate:
    """`leaves.item_purge` for many items of one run, plan and reason.

    `common.id` is a placeholder (each call gives its own); `common.at` stands in every leaf of the template, so a
    template serves one batch or one run, as the engine stamps them. A test holds it equal to `item_purge`.
    """

    __slots__ = ("_parts",)

    def __init__(self, common: Common, *, plan: str, days: int, reason: str, method: str) -> None:
        # The slow constructor checks whatever this template fixes, and shows where the variable fields stand.
        whole = item_purge(
            common,
            item_ref="i",
            mailbox_ref="m",
            content_commit="0" * 64,
            msgid_commit="0" * 64,
            anchor=Anchor(0, "stored"),
            plan=plan,
            days=days,
            due_at=0,
            reason=reason,
            pins=0,
            holds=0,
            blobs=Blobs(0, 0, 0),
            method=method,
        )
        fixed = {field: encode_checked(value).decode() for field, value in parse_leaf(whole).items()}
        self._parts = (
            f'{{"actor":{fixed["actor"]},"anchor":{{"at":"',
            f'"}},"at":{fixed["at"]},"blobs":{{"bytes":',
            f'}},"build":{fixed["build"]},"checks":{{"holds":',
            f'"days":{fixed["days"]},"due_at":"',
            f'"method":{fixed["method"]},"msgid_commit":"',
            (
                f'","origin":{fixed["origin"]},"original":{fixed["original"]},"plan":{fixed["plan"]},'
                f'"policy":{fixed["policy"]},"reason":{fixed["reason"]},"run":{fixed["run"]},'
                f'"tenant_ref":{fixed["tenant_ref"]},"type":"item.purge","v":{fixed["v"]}}}'
            ),
        )

    def leaf(
        self,
        id_: str,
        *,
        item_ref: str,
        mailbox_ref: str,
        content_commit: str | bytes,
        msgid_commit: str | bytes,
        anchor: Anchor,
        due_at: int,
        blobs: Blobs,
        pins: int = 0,
        holds: int = 0,
    ) -> bytes:
        """The leaf's canonical bytes. Raises LeafError as `item_purge` does; takes commitments as 32 bytes too."""
        if not _IDS(f"{id_}\n{item_ref}") or not _is_ref(mailbox_ref):
            raise LeafError("item.purge: a reference is not as it must be")
        content, msgid = _digest(content_commit), _digest(msgid_commit)
        if anchor.src not in ANCHOR_SOURCES:
            raise LeafError("item.purge: anchor is not as it must be")
        refs, freed, size = blobs.refs, blobs.freed, blobs.bytes
        for count in (refs, freed, size, pins, holds):
            if type(count) is not int or not 0 <= count <= MAX_INT:
                raise LeafError("item.purge: a count is not as it must be")
        head, at, build, days, method, tail = self._parts
        try:
            return (
                f'{head}{format_instant(anchor.at)}","src":"{anchor.src}{at}{size},"freed":{freed},"refs":{refs}{build}'
                f'{holds},"pins":{pins}}},"content_commit":"{content}",{days}{format_instant(due_at)}","id":"{id_}",'
                f'"item_ref":"{item_ref}","mailbox_ref":"{mailbox_ref}",{method}{msgid}{tail}'
            ).encode()
        except CanonicalError as error:
            raise LeafError(f"item.purge: {error}") from None


def _digest(value: str | bytes) -> str:
    if isinstance(value, bytes) and len(value) == 32:
        return value.hex()
    if isinstance(value, bytes) or not _DIGEST(value):
        raise LeafError("item.purge: a commitment is not as it must be")
    return value
