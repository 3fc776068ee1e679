"""Gmail's labels on the wire (X-GM-EXT-1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from connectors.imap.command import Group, Str
from connectors.imap.utf7 import encode_name

_SYSTEM_LABEL = re.compile(r"\\[A-Za-z]+")


def format_labels(labels: Iterable[str]) -> Group:
    """X-GM-LABELS: system labels as they are (`\\Inbox`), others as strings in modified UTF-7. Raises ValueError."""
    words: list[str | Str] = []
    for label in sorted(labels):
        if not label:
            raise ValueError("a label without a name")
        words.append(label if _SYSTEM_LABEL.fullmatch(label) else Str(encode_name(label)))
    return Group(tuple(words))
