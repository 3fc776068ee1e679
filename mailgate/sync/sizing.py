"""How much a first import will bring, before it begins: so that its progress has a total that stays.

Each folder that is not empty is opened and searched, INBOX first, for a second at most: the first message is to be seen
soon. What is not counted by then is taken for as large as the server says it is, until its turn comes; so is a folder
over which the line ended. After a cut line the figures of the last attempt stand. A folder that is the only one with
messages is counted by its own pass, which comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from connectors.errors import ConnectorError, NetworkError, ProtocolError, Scope
from connectors.model import FolderStatus
from mailgate.clock import monotonic_s
from mailgate.sync.context import Context, Meter
from mailgate.sync.snapshot import inside, look
from mailgate.sync.state import FolderState

COUNTING_S: Final = 1.0


def begun(context: Context) -> Meter:
    """A meter that counts what earlier attempts brought to its end."""
    meter = Meter(context.config.progress_started_at or context.clock())
    for folder in context.followed():
        if folder.uidnext is not None:
            meter.expect(folder.id, folder.progress_done, folder.progress_done)
    return meter


async def size(
    context: Context, meter: Meter, folders: Sequence[FolderState], statuses: Mapping[str, FolderStatus | None]
) -> bool:
    """What the import of `folders`, in the order in which they will be read, will bring; `statuses`: of each by name,
    as the server told a moment ago. False if that is left to the pass over the only one of them.
    """
    until_s = monotonic_s() + COUNTING_S
    filled = [folder for folder in folders if (status := statuses.get(folder.name)) is not None and status.exists]
    alone = len(filled) == 1 and not filled[0].progress_total
    for folder in folders:
        status = statuses.get(folder.name)
        if status is None or not status.exists:
            meter.expect(folder.id, 0, 0)
        elif folder.progress_total:
            meter.expect(folder.id, folder.progress_done, folder.progress_total)
        else:
            may_count = not alone and monotonic_s() < until_s and not context.rests.ended_lines(folder.id)
            counted = await _count(context, folder) if may_count else None
            meter.expect(folder.id, 0, status.exists if counted is None else counted)
    return not alone


async def _count(context: Context, folder: FolderState) -> int | None:
    """Messages inside the window; None when the folder can't be read now."""
    try:
        seen = await look(context.source, folder, context.clock(), all_flags=False)
        return len(await inside(context.source, seen, context.window()))
    except ConnectorError as error:
        if error.scope is Scope.FOLDER:
            return None
        if isinstance(error, NetworkError | ProtocolError):
            context.rests.ended_the_line(folder, context.clock())
        raise
