"""Gmail's labels on the wire (X-GM-EXT-1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from connectors.imap.command import Group, Str
from connectors.imap.utf7 import encode_name
from connectors.model import Folder, SpecialUse

_SYSTEM_LABEL = re.compile(r"\\[A-Za-z]+")

_VIEWS: Final[dict[SpecialUse, str | None]] = {
    SpecialUse.ALL: None,
    SpecialUse.TRASH: None,
    SpecialUse.JUNK: None,
    SpecialUse.INBOX: "\\Inbox",
    SpecialUse.SENT: "\\Sent",
    SpecialUse.DRAFTS: "\\Draft",
    SpecialUse.FLAGGED: "\\Starred",
}


def label_of(folder: Folder) -> str | None:
    """The label that all messages of a folder have, and X-GM-LABELS leaves out while it is open; None: it has none."""
    if "\\important" in folder.attributes:
        return "\\Important"
    return folder.name if folder.special_use is None else _VIEWS.get(folder.special_use, folder.name)


def format_labels(labels: Iterable[str]) -> Group:
    """X-GM-LABELS: system labels as they are (`\\Inbox`), others as strings in modified UTF-7. Raises ValueError."""
    words: list[str | Str] = []
    for label in sorted(labels):
        if not label:
            raise ValueError("a label without a name")
        words.append(label if _SYSTEM_LABEL.fullmatch(label) else Str(encode_name(label)))
    return Group(tuple(words))
