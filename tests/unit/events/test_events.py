"""Types, cursors and arrivals of the feed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from mailgate.errors import PreconditionError
from mailgate.events.arrivals import Arrivals
from mailgate.events.cursors import read_cursor, write_cursor
from mailgate.events.types import TYPES, parse_filter

STORE = Path(__file__).parents[3] / "mailgate"
IN_THE_CONTRACT = """
message.created message.updated message.moved message.deleted message.pinned message.unpinned message.purged
message.sent message.failed message.bounced mailbox.state_changed mailbox.import_finished mailbox.guard_refused
folder.created folder.renamed folder.deleted folder.reset operation.applied operation.failed message.rehydrated
alarm.raised alarm.cleared subscription.changed subscription.notice retention.run_completed retention.run_halted
hold.placed hold.released mailbox.backfill_requested mailbox.backfill_finished
"""


def test_every_type_that_readers_were_promised_is_in_the_table() -> None:
    assert set(IN_THE_CONTRACT.split()) <= set(TYPES)


def test_every_type_that_the_code_names_is_in_the_table() -> None:
    areas = "|".join(sorted({name.partition(".")[0] for name in TYPES}))
    for path in STORE.rglob("*.py"):
        for name in re.findall(rf'emit\([^)]*?"((?:{areas})\.[a-z_]+)"', path.read_text(encoding="utf-8"), re.DOTALL):
            assert name in TYPES, f"{path.name} emits {name}"


def test_filters_take_names_and_areas() -> None:
    assert parse_filter([]) is None
    wanted = parse_filter(["message.created", "hold.*"])
    assert wanted is not None
    assert set(wanted.names) == {"message.created", "hold.placed", "hold.released"}
    assert "hold.placed" in wanted
    assert "message.moved" not in wanted


@pytest.mark.parametrize("word", ["", "message", "message.", "*", "message.c*", "massage.*", "message.exploded", "*.*"])
def test_words_that_no_type_answers_to_are_refused(word: str) -> None:
    with pytest.raises(PreconditionError, match="no type of event") as refused:
        parse_filter(["message.created", word])
    assert refused.value.status == 422


@pytest.mark.parametrize("position", [0, 1, 2**40, 2**63 - 1])
def test_cursors_are_read_by_the_feed_that_wrote_them(position: int) -> None:
    cursor = write_cursor("one", position)
    assert read_cursor("one", cursor) == position
    assert read_cursor("another", cursor) is None


def test_every_cut_or_changed_cursor_is_noticed() -> None:
    cursor = write_cursor("one", 77)
    for length in range(len(cursor)):
        assert read_cursor("one", cursor[:length]) is None
    for place, letter in enumerate(cursor):
        other = "A" if letter != "A" else "B"
        changed = cursor[:place] + other + cursor[place + 1 :]
        assert read_cursor("one", changed) in (None, 77)  # the last letter has bits that mean nothing
    assert read_cursor("one", "ä") is None


async def test_what_arrives_between_looking_and_waiting_is_not_missed() -> None:
    arrivals = Arrivals()
    seen = arrivals.count
    arrivals.announce()
    assert await arrivals.wait(seen, 0)
    assert not await arrivals.wait(arrivals.count, 0)


async def test_all_who_wait_are_woken() -> None:
    arrivals = Arrivals()
    waiting = [asyncio.create_task(arrivals.wait(arrivals.count, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    arrivals.announce()
    assert await asyncio.gather(*waiting) == [True] * 3
    later = asyncio.create_task(arrivals.wait(arrivals.count, 60))
    await asyncio.sleep(0)
    arrivals.close()
    assert await later
    assert await arrivals.wait(arrivals.count, 60)  # after the end nobody waits
