"""Where a user's own folders stand, as NAMESPACE says it or LIST lets guess. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.imap.folders import folder_name
from connectors.imap.responses import ListItem
from connectors.model import Namespace


def namespace_of(items: Sequence[ListItem]) -> Namespace:
    """What LIST lets guess, for servers without NAMESPACE: where all folders but INBOX stand inside it, new ones do."""
    delimiter = next((item.delimiter for item in items if item.delimiter is not None), None)
    names = [name for item in items if (name := folder_name(item.name)) != "INBOX"]
    inside = f"INBOX{delimiter}"
    within = delimiter is not None and bool(names) and all(name.startswith(inside) for name in names)
    return Namespace(inside if within else "", delimiter)
