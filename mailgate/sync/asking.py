"""Asking one folder for headers and messages, with care for those that end the line (`mailgate.sync.breakers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from connectors.errors import ConnectorError
from connectors.model import MessageMeta
from mailgate.sync.context import Context
from mailgate.sync.incoming import Aside, Cause
from mailgate.sync.pull import Job, Outcome, Puller
from mailgate.sync.snapshot import closing
from mailgate.sync.state import FolderState

FEW: Final = 50
"""So many headers are read beside everything else; more go where imports go."""


def given_up(context: Context, folder: FolderState, uidvalidity: int, uids: Sequence[int]) -> list[Aside]:
    """Those that ended the line again and again: they are set aside, not asked for once more."""
    found = context.breakers.given_up((folder.id, uidvalidity), uids)
    return [Aside(uid, reason, Cause.ENDS_THE_LINE) for uid, reason in found.items()]


async def headers(
    context: Context, folder_id: str, uidvalidity: int, uids: Sequence[int]
) -> Mapping[int, tuple[MessageMeta, bytes]]:
    """Metadata and header token of each message in the open folder; those that do not answer are missing."""
    where = folder_id, uidvalidity
    metas: list[MessageMeta] = []
    blocks: list[bytes] = []
    todo = list(uids)
    while todo:
        part = context.breakers.next(where, todo)
        try:
            async with closing(context.source.fetch_headers(part)) as messages:
                async for meta, block in messages:
                    context.getting_on()
                    metas.append(meta)
                    blocks.append(block)
        except ConnectorError as error:
            # Headers that came are not kept: the next session asks for all of them again.
            context.breakers.ended(where, part, len(part), error)
            raise
        context.breakers.came(where)
        todo = [] if len(part) == len(todo) else [uid for uid in todo if uid != part[0]]
    tokens = await context.workers.run(lambda: context.preparer.header_tokens(blocks), bulk=len(blocks) > FEW)
    return {meta.uid: (meta, token) for meta, token in zip(metas, tokens, strict=True)}


async def messages(context: Context, job: Job) -> Outcome:
    """Fetch and keep messages."""
    where = job.folder.id, job.uidvalidity
    puller = Puller(context, job)
    try:
        outcome = await puller.run()
    except ConnectorError as error:
        context.breakers.ended(where, job.uids, puller.waiting, error)
        raise
    context.breakers.came(where)
    return outcome
