"""Comparing all flags of a huge folder takes a few bytes a message, whatever the server says."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Iterable
from typing import Any

from connectors.model import FlagsChange, FolderStatus, Selected
from mailgate.sync.snapshot import FolderLook
from mailgate.sync.state import FolderState

MESSAGES = 200_000


class Huge:
    """As much of a source as a look needs."""

    async def fetch_flags(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[FlagsChange]]:
        for start in range(1, MESSAGES + 1, 500):
            yield [FlagsChange(uid, frozenset()) for uid in range(start, start + 500)]


async def test_a_folder_of_any_size_is_compared_in_bounded_memory() -> None:
    folder = FolderState("f", "INBOX", None, True, True, 1, MESSAGES + 1, None, MESSAGES)
    source: Any = Huge()
    selected = Selected(FolderStatus(1, MESSAGES + 1, MESSAGES, None), True)
    look = FolderLook(source, folder, selected, 0, all_flags=True)
    tracemalloc.start()
    try:
        async for _ in look.changes():
            pass
        gone, untold = await look.gone(())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert gone == [range(MESSAGES + 1, 1 << 32)]
    assert untold == ()
    assert peak < 16 * MESSAGES
