"""A gateway process that changes things and publishes until it is killed: what test_feed_crash.py starts.

    python -m tests.crash.feed_process JOB     (JSON: url, owner, tenants, seed, die_after)

Its clock runs twenty times too fast, so that the lease of a killed publisher ends soon. With `die_after` (0: never) it
kills itself inside the transaction of that many publications, when the events have places that nobody sees yet.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from typing import Any

import uvloop

from mailgate.clock import Instant, system_clock
from mailgate.store.database import Database
from mailgate.store.feed import Publisher
from mailgate.store.transaction import Transaction


def clock() -> Instant:
    return 20 * system_clock()


class Mortal(Publisher):
    """Dies in the middle of its work."""

    def __init__(self, db: Database, owner: str, die_after: int) -> None:
        super().__init__(db, owner)
        self._left = die_after

    async def _give(self, tx: Transaction, base: int, limit: int, where: Any) -> int:
        given = await super()._give(tx, base, limit, where)
        self._left -= given > 0
        if given and self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return given


async def main(job: dict[str, Any]) -> None:
    db = Database(job["url"])
    chance = random.Random(job["seed"])
    publisher = Mortal(db, job["owner"], job["die_after"])

    async def change() -> None:
        while True:
            names = sorted(chance.sample(job["tenants"], chance.randint(1, 2)))

            async def work(tx: Transaction, names: list[str] = names) -> None:
                for name in names:
                    for _ in range(chance.randint(1, 3)):
                        tx.emit(name, "mailbox.import_finished", at=system_clock())

            await db.transact(work)

    async def publish() -> None:
        while True:
            await publisher.publish(clock(), limit=chance.randint(1, 20))
            await asyncio.sleep(0)

    await asyncio.gather(publish(), *(change() for _ in range(3)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
