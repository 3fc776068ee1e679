"""New mail that IDLE told of, taken at once: the open folder is not opened anew to see what else changed.

EXISTS alone (RFC 9051 §7.4.1) that rose by *n* since the checkpoint, and nothing of flags or expunges since the folder
was opened for the pass that made it (`Context.in_step`; opened again, it tells only what comes after): then the *n*
messages from the checkpoint's UIDNEXT on are asked for, and nothing else. The checkpoint moves on past them only if
every one of them came; its MODSEQ stays, and so does the time of the last look: what else changed is for the next pass,
which comes with the next poll. Whatever is not just so (a server that leaves UIDs out, a message that may have been
moved here, one that ends the line) is left to a pass, which does again what was begun (S4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from connectors.port import FolderChange
from mailgate.sync import asking
from mailgate.sync.context import Context
from mailgate.sync.pull import Job
from mailgate.sync.state import UNSURE, Checkpoint, FolderState

MOST: Final = 50
"""So many new messages are fetched without a look at their headers first, which may be known."""


def expected(context: Context, folder: FolderState, change: FolderChange) -> list[int]:
    """UIDs of what is new in the open folder, newest first; empty when only a pass can tell."""
    if change.exists is None or change.expunged or change.flags or folder.last_error:
        return []
    if folder.uidnext is None or folder.uidvalidity is None or folder.exists == UNSURE:
        return []
    if context.in_step != folder.id:
        return []
    came = change.exists - folder.exists
    if not 0 < came <= MOST or folder.id not in context.looked_at or context.backfill is not None:
        return []
    uids = list(range(folder.uidnext + came - 1, folder.uidnext - 1, -1))
    suspects = context.breakers.next((folder.id, folder.uidvalidity), uids) != uids
    return [] if suspects else uids


async def take(context: Context, folder: FolderState, uids: list[int]) -> bool:
    """Fetch these messages of the open folder and keep them; False when a pass has to see to it. Raises the connector's
    errors.
    """
    uidvalidity, uidnext = folder.uidvalidity, folder.uidnext
    if uidvalidity is None or uidnext is None:
        return False
    checkpoint = Checkpoint(
        uidvalidity=uidvalidity,
        uidnext=uidnext + len(uids),
        highestmodseq=folder.highestmodseq,
        exists=folder.exists + len(uids),
        looked_at=context.looked_at[folder.id],
    )
    outcome = await asking.messages(context, Job(folder, uidvalidity, uids, checkpoint=checkpoint, unlooked=True))
    if outcome.suspects:
        context.headers_first.add(folder.id)  # what is known by now is not to come a second time
    if outcome.checkpointed:
        known = replace(folder, uidnext=checkpoint.uidnext, exists=checkpoint.exists)
        context.folders[folder.id] = known
    return outcome.checkpointed
