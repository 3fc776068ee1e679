"""`item.purge` leaves by the thousand: what a run fixes is serialised once. Pure.

The bytes are those of `leaves.item_purge`, field for field; a property test holds the two equal. The fields stand in
the order of their names, as canonical JSON has them.
"""

from __future__ import annotations

import re

from .canonical import MAX_INT, CanonicalError, encode_checked, format_instant
from .leaves import ANCHOR_SOURCES, Anchor, Blobs, Common, LeafError, item_purge, parse_leaf


class ItemPurgeTemplate:
    """`leaves.item_purge` for many items of one run, plan and reason.

    `common.id` is a placeholder (each call gives its own); `common.at` stands in every leaf of the template, so a
    template serves one batch or one run, as the engine stamps them. A test holds it equal to `item_purge`.
    """

    __slots__ = ("_parts",)

    _VARIABLE = re.compile(
        r"[0-7][0-9A-HJKMNP-TV-Z]{25}\n[A-Za-z0-9._:-]{1,64}\n[A-Za-z0-9._:-]{1,64}\n[0-9a-f]{64}\n[0-9a-f]{64}",
        re.ASCII,
    )

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
        content_commit: str,
        msgid_commit: str,
        anchor: Anchor,
        due_at: int,
        blobs: Blobs,
        pins: int = 0,
        holds: int = 0,
    ) -> bytes:
        """The leaf's canonical bytes. Raises LeafError as `item_purge` does."""
        if not self._VARIABLE.fullmatch(f"{id_}\n{item_ref}\n{mailbox_ref}\n{content_commit}\n{msgid_commit}"):
            raise LeafError("item.purge: a reference or commitment is not as it must be")
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
                f'{holds},"pins":{pins}}},"content_commit":"{content_commit}",{days}{format_instant(due_at)}","id":"{id_}",'
                f'"item_ref":"{item_ref}","mailbox_ref":"{mailbox_ref}",{method}{msgid_commit}{tail}'
            ).encode()
        except CanonicalError as error:
            raise LeafError(f"item.purge: {error}") from None
