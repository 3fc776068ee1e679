"""Erases the objects of blobs that nothing refers to any more, and records what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from mailgate.blobs import Erased
from mailgate.blobs.errors import BlobStoreError
from mailgate.clock import Clock
from mailgate.store.erasures import BATCH, Erasures, Queued

_PARTS = 4
"""Batches that are read at once: of so many all but the first are removed while another is recorded."""


class Objects(Protocol):
    """What the worker needs of a blob store."""

    async def erase_many(self, blob_ids: list[str], beside: Mapping[str, int]) -> list[Erased | BlobStoreError]:
        """Remove objects; outcomes in the same order, failures returned. `beside`: what stays near them, with its
        sizes.
        """

    def settle(self) -> None:
        """Make the removals durable; blocks. Raises BlobStoreError."""


class EraseWorker:
    """Works the queue off; one process at a time.

    What was read is removed part by part. A part's outcomes are recorded, after its removals are durable, while the
    next part is removed: the database and the blob store work at the same time, and no entry is settled early.
    """

    def __init__(self, erasures: Erasures, objects: Objects, clock: Clock, owner: str, *, batch: int = BATCH) -> None:
        self._erasures = erasures
        self._objects = objects
        self._clock = clock
        self._owner = owner
        self._batch = batch

    async def work(self) -> tuple[int, int]:
        """Erase everything that is due; (erased or missing already, failed and put off)."""
        erased = failed = 0
        try:
            while await self._erasures.acquire(self._owner, self._clock()):
                queued = await self._erasures.due(self._clock(), self._batch * _PARTS)
                if queued:
                    put_off = await self._erase(queued)
                    erased += len(queued) - put_off
                    failed += put_off
                if len(queued) < self._batch:
                    break
        finally:
            await self._erasures.release(self._owner)
        return erased, failed

    async def _erase(self, queued: Sequence[Queued]) -> int:
        """How many failed."""
        failed = 0
        recording: asyncio.Task[int] | None = None
        try:
            for start in range(0, len(queued), self._batch):
                part = queued[start : start + self._batch]
                outcomes = await self._remove(part)
                if recording is not None:
                    failed += await recording
                recording = asyncio.create_task(self._erasures.settle(part, outcomes, self._clock()))
            return failed if recording is None else failed + await recording
        except BaseException:
            if recording is not None and not recording.done():
                await asyncio.wait({recording})  # what is gone is recorded, if that is still possible
            raise

    async def _remove(self, part: Sequence[Queued]) -> list[Erased | BlobStoreError]:
        beside = await self._erasures.beside(part)
        outcomes = await self._objects.erase_many([item.blob_id for item in part], beside)
        try:
            await asyncio.to_thread(self._objects.settle)
        except BlobStoreError as error:
            return [error] * len(part)  # not known to be durable: the next attempt finds them missing
        return outcomes
