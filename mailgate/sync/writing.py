"""What a pass over one folder decides, collected and written in batches; the checkpoint goes with the last (S3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailgate.sync.actions import Action, Pull, Return
from mailgate.sync.context import Context
from mailgate.sync.incoming import Aside, Batch
from mailgate.sync.reconcile import reconcile
from mailgate.sync.state import Checkpoint, FolderState
from mailgate.sync.views import Entry, Snapshot

CHUNK: Final = 500
"""Messages that are compared, recognised or written at a time."""


class Writer:
    """Decides and writes about one folder under one UIDVALIDITY."""

    def __init__(self, context: Context, folder: FolderState, uidvalidity: int) -> None:
        self._context = context
        self._folder = folder
        self._uidvalidity = uidvalidity
        self._actions: list[Action] = []
        self._others_gone = False

    async def decide(self, entries: Sequence[Entry]) -> list[int]:
        """Collect what to write about these; the UIDs of what is to be fetched."""
        pulls: list[int] = []
        for action in reconcile(Snapshot(self._context.window(self._folder), entries)):
            if isinstance(action, Pull | Return):
                pulls.append(action.uid)
            else:
                self._actions.append(action)
        if len(self._actions) >= CHUNK:
            await self.write()
        return pulls

    def others_are_gone(self) -> None:
        """Every message at the server was met: what stands under other numbers has vanished."""
        self._others_gone = True

    async def write(self, checkpoint: Checkpoint | None = None) -> None:
        """Write what was decided; with a checkpoint, when it says something new."""
        if checkpoint is not None and not self._actions and self._stands(checkpoint):
            self._context.looked_at[self._folder.id] = checkpoint.looked_at
            return
        if self._actions or self._others_gone or checkpoint is not None:
            actions, self._actions = self._actions, []
            await self._commit(actions, (), checkpoint)

    async def set_aside(self, items: Sequence[Aside]) -> None:
        """Put messages into quarantine."""
        await self._commit((), items, None)

    def _stands(self, checkpoint: Checkpoint) -> bool:
        folder = self._folder
        return folder.last_error == checkpoint.doubt and (
            (folder.uidvalidity, folder.uidnext, folder.highestmodseq, folder.exists)
            == (checkpoint.uidvalidity, checkpoint.uidnext, checkpoint.highestmodseq, checkpoint.exists)
        )

    async def _commit(self, actions: Sequence[Action], aside: Sequence[Aside], checkpoint: Checkpoint | None) -> None:
        context = self._context
        now = context.clock()
        meter = context.meter
        batch = Batch(
            folder=self._folder,
            uidvalidity=self._uidvalidity,
            now=now,
            actions=actions,
            aside=aside,
            checkpoint=checkpoint,
            progress=meter.due(now, last=checkpoint is not None) if meter is not None else None,
            others_gone=self._others_gone,
        )
        self._others_gone = False
        context.applied += await context.store.commit(context.owner, batch)
