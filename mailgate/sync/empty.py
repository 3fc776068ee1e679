"""Folders that are empty when they are first seen, as most of an account with thousands of folders may be: what STATUS
tells of them is all that a pass would find out, so their checkpoints are written together, and none is opened.

Only folders of which nothing is known, and only where STATUS tells everything: folders with an identity of their own
(RFC 8474 §4.2) are opened, since it is told there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from connectors.model import FolderStatus
from mailgate.clock import Instant
from mailgate.sync.context import Context
from mailgate.sync.state import Checkpoint, FolderState

WRITTEN: Final = 500
"""Checkpoints in one transaction."""


async def pass_over_empty(
    context: Context, folders: Sequence[FolderState], statuses: Mapping[str, FolderStatus | None], asked_at: Instant
) -> set[str]:
    """Those of the folders that are empty, by what STATUS told after `asked_at`, are read to their ends hereby; their
    ids.
    """
    done: set[str] = set()
    if "OBJECTID" in context.source.capabilities:
        return done
    found = [
        (folder, checkpoint)
        for folder in folders
        if (checkpoint := _checkpoint(folder, statuses.get(folder.name), asked_at)) is not None
    ]
    for start in range(0, len(found), WRITTEN):
        part = found[start : start + WRITTEN]
        reached = {folder.id: checkpoint for folder, checkpoint in part}
        written = await context.store.begin_empty(context.owner, reached, context.clock())
        context.getting_on()
        for folder, checkpoint in part:
            if folder.id in written:
                context.reached(folder, checkpoint)
        done |= written
    return done


def _checkpoint(folder: FolderState, status: FolderStatus | None, asked_at: Instant) -> Checkpoint | None:
    """Of a folder that nobody looked into before, when it is empty; else None."""
    if folder.uidvalidity is not None or folder.uidnext is not None or folder.last_error is not None:
        return None
    if status is None or status.exists or status.uidnext is None:
        return None
    return Checkpoint(status.uidvalidity, status.uidnext, status.highestmodseq, 0, asked_at)
