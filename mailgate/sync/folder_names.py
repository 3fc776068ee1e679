"""Which folder has which name now, where the server gives each an identity of its own (RFC 8474 §4.2 MAILBOXID).

It is told with each SELECT and EXAMINE, and stays with the folder when it is renamed: whatever else two folders have in
common, they are told apart, also when they swap their names. So a name is opened where it may be another folder's by
now: one that appeared, and one that was met with another identity than its folder has. Where that shows that a folder
left its name, the name is opened in turn; where it leaves a folder without one, all names with its UIDVALIDITY are.

A server that contradicts itself is not believed: one identity under two names tells nothing, and one that nobody has
had is only another reason to look at what stands in the folder (`execute`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from connectors.errors import ConnectorError, Scope
from connectors.model import Folder
from mailgate.sync import listing
from mailgate.sync.context import Context
from mailgate.sync.state import FolderState


async def told(context: Context, known: Sequence[FolderState], listed: Sequence[Folder]) -> dict[str, str | None]:
    """By name: the identity of the folder that is called so now, where that may have changed; None where there is none.
    Empty where no folder has one.
    """
    found: dict[str, str | None] = {}
    named = [state for state in known if state.object_id is not None]
    if not named:
        return found
    names = {folder.name for folder in listed if folder.selectable}
    ask = names - {state.name for state in known}
    ask |= {state.name for state in known if state.id in context.misnamed} & names
    widened = False
    while ask or not widened:
        for name in sorted(ask):
            found[name] = await _identity(context, name)
        moved = listing.moved(named, found)
        ask = {state.name for state in named if state.id in moved} & names - found.keys()
        if not ask and not widened:
            widened = True
            lost = [state for state in named if state.id not in moved and _left(state, found, names)]
            ask = await _numbered(context, names - found.keys(), {state.uidvalidity for state in lost})
    return found


def _left(state: FolderState, found: dict[str, str | None], names: Collection[str]) -> bool:
    """Whether the folder is not what its name stands for."""
    return state.name not in names or found.get(state.name) not in (None, state.object_id)


async def _numbered(context: Context, names: Collection[str], uidvalidities: Collection[int | None]) -> set[str]:
    """Those of the folders that have one of these."""
    if not names or not uidvalidities:
        return set()
    statuses = await context.source.status(sorted(names))
    return {name for name, status in statuses.items() if status is not None and status.uidvalidity in uidvalidities}


async def _identity(context: Context, name: str) -> str | None:
    try:
        return (await context.source.open(name)).object_id
    except ConnectorError as error:
        if error.scope is not Scope.FOLDER:
            raise
        return None  # gone again, or not to be read
