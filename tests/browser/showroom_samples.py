"""What a gateway of the showroom measured in its last days: quiet nights, busy mornings, an hour without it."""

from __future__ import annotations

import math
import random

from sqlalchemy import insert

from mailgate import __version__
from mailgate.app.core import Core
from mailgate.clock import DAY, HOUR, MINUTE, Instant
from mailgate.store import figures
from mailgate.store.samples import KEPT, minute_of
from mailgate.store.schema import processes, samples
from mailgate.store.transaction import Transaction

_SILENCE = (3 * HOUR, 2 * HOUR)
"""How long before now nothing was measured."""


async def furnish_samples(core: Core, now: Instant, seed: int = 11) -> None:
    """A sample of each minute that is kept."""
    kept = await figures.stored(core.db, 0)
    chance, rows, position = random.Random(seed), [], 4_000
    size = kept.size * 9 // 10
    for back in range(KEPT // MINUTE, 0, -1):
        at = minute_of(now) - back * MINUTE
        busy = 0.5 + 0.5 * math.sin((at % DAY) / DAY * 2 * math.pi - math.pi / 2)  # least at midnight, most at noon
        position += round(60 * busy * chance.uniform(0.5, 1.5))
        size += round(kept.size * busy / 5 / (KEPT // MINUTE))
        if _SILENCE[1] < now - at < _SILENCE[0]:
            continue
        measured = {
            "flowing": 51,
            "trouble": 4 if back < 90 else 2,
            "lag_s": round(2 + 20 * busy * chance.random(), 1),
            "worst_lag_s": 48.0,
            "passes": 0,
            "pushes": round(6 * busy * chance.random()),
            "letters": round(3 * chance.random()),
            "deliveries": 3 if back < 180 else 0,
            "erasures": 900 - 15 * (back % 60) if at // HOUR % 24 == 2 else 0,
            "events": 0,
            "position": position,
            "copies": kept.copies,
            "size": size,
            "entries": 9_000,
            "processes": 2,
            "load": round(0.05 + 0.7 * busy * chance.random(), 3),
            "memory": round((210 + 60 * busy) * (1 << 20)),
        } | ({"blobs": size * 6 // 10} if back % 60 == 0 else {})
        rows.append({"at": at, "figures": measured})

    other = {"owner": "showroom", "version": __version__, "started_at": now - 3 * DAY, "seen_at": now + DAY}

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(insert(samples), rows)
        figures_ = {"memory": 236 << 20, "processor_ms": 40_000_000, "load": 180}
        await tx.conn.execute(insert(processes).values(other | figures_))

    await core.db.transact(work)
