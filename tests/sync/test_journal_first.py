"""Whatever changes something at the server was written down before: who comes after a kill knows that it may have been
done. A command's way back is cut in other tests; here each is looked at when it is about to be sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.memory.target import MemoryTarget
from tests.sync.crm import Crm
from tests.sync.engine import Opened
from tests.sync.test_push import again, server, start

COMMANDS = (
    "append",
    "copy",
    "create_folder",
    "delete_folder",
    "expunge",
    "move",
    "rename_folder",
    "store_flags",
    "store_labels",
)
Sent = list[tuple[str, str, bool]]
"""Commands, each with the state of its operation, and whether the journal said that a mark may be ours."""


def watch(patch: pytest.MonkeyPatch, crm: Crm) -> Sent:
    seen: Sent = []

    def watched(name: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(self: MemoryTarget, *args: Any, **more: Any) -> Any:
            (row,) = [row for row in await crm.operations() if row.finished_at is None]
            seen.append((name, row.state, bool((row.journal or {}).get("marks"))))
            return await real(self, *args, **more)

        return call

    for name in COMMANDS:
        patch.setattr(MemoryTarget, name, watched(name, getattr(MemoryTarget, name)))
    return seen


WISHES: dict[str, Callable[[Crm], Awaitable[object]]] = {
    "store_flags": lambda crm: crm.flags(0, add=["\\Flagged"]),
    "store_labels": lambda crm: crm.labels(0, add=["Deal"]),
    "move": lambda crm: crm.move(0, "Archive"),
    "expunge": lambda crm: crm.delete(0),
    "append": lambda crm: crm.append(60, "Archive"),
    "create_folder": lambda crm: crm.create("Deals"),
    "rename_folder": lambda crm: crm.rename("Work", "Jobs"),
    "delete_folder": lambda crm: crm.remove("Empty"),
}


@pytest.mark.parametrize("command", WISHES)
async def test_it_is_written_down(opened: Opened, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    crm = await start(opened, server(labels=command == "store_labels"))
    seen = watch(monkeypatch, crm)
    await WISHES[command](crm)
    await again(crm)
    assert seen == [(command, "sent", False)]
    assert await crm.states() == ["applied"]


async def test_both_halves_of_a_move_are(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    crm = await start(opened, server(move=False))
    seen = watch(monkeypatch, crm)
    await crm.move(0, "Archive")
    await again(crm)
    assert seen == [("copy", "sent", False), ("expunge", "sent", True)]
    assert await crm.states() == ["applied"]


async def test_so_is_the_end_of_a_copy_that_nobody_wants_any_more(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original went between the halves: what was copied goes again, and a mark that is met on it may be ours."""
    account: MemoryAccount = server(move=False)
    crm = await start(opened, account)
    seen = watch(monkeypatch, crm)
    copy = MemoryTarget.copy

    async def and_it_goes(self: MemoryTarget, *args: Any) -> Any:
        placed = await copy(self, *args)
        account.expunge("INBOX", 1)
        return placed

    monkeypatch.setattr(MemoryTarget, "copy", and_it_goes)
    await crm.move(0, "Archive")
    await again(crm)
    assert seen == [("copy", "sent", False), ("expunge", "sent", True)]
    assert account.folders["Archive"].messages == {}
