"""Erases the objects of blobs that nothing refers to any more, and records what became of each."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mailgate.blobs.errors import BlobStoreError
from mailgate.blobs.store import Erased
from mailgate.clock import Clock
from mailgate.store.erasures import BATCH, Erasures


class Objects(Protocol):
    """What the worker needs of a blob store."""

    async def erase_many(self, blob_ids: list[str]) -> list[Erased | BlobStoreError]:
        """Remove objects; outcomes in the same order, failures returned."""

    def settle(self) -> None:
        """Make the removals durable; blocks. Raises BlobStoreError."""


class EraseWorker:
    """Works the queue off, batch by batch."""

    def __init__(self, erasures: Erasures, objects: Objects, clock: Clock, *, batch: int = BATCH) -> None:
        self._erasures = erasures
        self._objects = objects
        self._clock = clock
        self._batch = batch

    async def work(self) -> tuple[int, int]:
        """Erase everything that is due; (erased or missing already, failed and put off)."""
        erased = failed = 0
        while claimed := await self._erasures.claim(self._clock(), self._batch):
            outcomes = await self._objects.erase_many([item.blob_id for item in claimed])
            try:
                await asyncio.to_thread(self._objects.settle)
            except BlobStoreError as error:
                outcomes = [error] * len(claimed)  # not known to be durable: the next attempt finds them missing
            put_off = await self._erasures.settle(claimed, outcomes, self._clock())
            erased += len(claimed) - put_off
            failed += put_off
            if len(claimed) < self._batch:
                break
        return erased, failed
