"""What the gateway keeps of its own last days: figures of each minute, and the processes that serve.

Every process comes by once a minute; the first one of a minute writes the minute's figures, whichever it is. What is
older than `KEPT` is forgotten on the way, so there are never more than some thousand small rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select

from mailgate.clock import HOUR, MINUTE, Instant
from mailgate.store.database import Database
from mailgate.store.schema import processes, samples
from mailgate.store.transaction import Transaction

KEPT: Final[Instant] = 72 * HOUR
SILENT: Final[Instant] = 3 * MINUTE
"""A process of which nothing was heard for so long does not serve any more."""
_PROCESSES_KEPT: Final[Instant] = HOUR

_P = processes.c


@dataclass(frozen=True, slots=True)
class Process:
    """A process that serves. `memory` in bytes (0: not known), `load` in thousandths of a processor."""

    owner: str
    version: str
    started_at: Instant
    seen_at: Instant
    memory: int
    processor_ms: int
    load: int

    @property
    def host(self) -> str:
        """The machine's name; what is unlike ours as it is."""
        return self.owner.partition(":")[0]

    @property
    def pid(self) -> str:
        """Its number on that machine."""
        return self.owner.partition(":")[2].partition(":")[0]


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of a minute."""

    at: Instant
    figures: Mapping[str, float]


def minute_of(at: Instant) -> Instant:
    """The beginning of its minute."""
    return at // MINUTE * MINUTE


async def missing(db: Database, now: Instant) -> bool:
    """Whether nobody has measured this minute yet."""
    query = select(samples.c.at).where(samples.c.at == minute_of(now))
    async with db.read() as conn:
        return (await conn.execute(query)).one_or_none() is None


async def put(db: Database, process: Process, figures: Mapping[str, float] | None, now: Instant) -> None:
    """Say that the process serves, and write the minute's figures, unless another one was quicker."""

    async def work(tx: Transaction) -> None:
        values = {
            "version": process.version,
            "started_at": process.started_at,
            "seen_at": process.seen_at,
            "memory": process.memory,
            "processor_ms": process.processor_ms,
            "load": process.load,
        }
        said = tx.insert(processes).values(owner=process.owner, **values)
        await tx.conn.execute(said.on_conflict_do_update(index_elements=[_P.owner], set_=values))
        await tx.conn.execute(delete(processes).where(_P.seen_at < now - _PROCESSES_KEPT))
        if figures is not None:
            made = tx.insert(samples).values(at=minute_of(now), figures=dict(figures))
            await tx.conn.execute(made.on_conflict_do_nothing())
            await tx.conn.execute(delete(samples).where(samples.c.at < now - KEPT))

    await db.transact(work)


async def forget(db: Database, owner: str) -> None:
    """The process ends in order."""

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(delete(processes).where(_P.owner == owner))

    await db.transact(work)


async def since(db: Database, at: Instant, now: Instant) -> Sequence[Sample]:
    """The samples from then until now, in order; what a clock that jumped wrote for later is left out."""
    query = select(samples).where(samples.c.at >= at, samples.c.at <= now).order_by(samples.c.at)
    async with db.read() as conn:
        return [Sample(row.at, row.figures) for row in await conn.execute(query)]


async def newest(db: Database, now: Instant) -> Instant | None:
    """When the last sample until now was taken."""
    async with db.read() as conn:
        found: Instant | None = (
            await conn.execute(select(func.max(samples.c.at)).where(samples.c.at <= now))
        ).scalar_one()
    return found


async def serving(db: Database, now: Instant) -> Sequence[Process]:
    """The processes that serve, by name."""
    query = select(processes).where(_P.seen_at > now - SILENT).order_by(_P.owner)
    async with db.read() as conn:
        return [
            Process(row.owner, row.version, row.started_at, row.seen_at, row.memory, row.processor_ms, row.load)
            for row in await conn.execute(query)
        ]
