"""A long purge log: years of nightly purges of one tenant, written as the store writes them."""

from __future__ import annotations

from collections.abc import Iterator

from mailgate.app.core import Core
from mailgate.clock import DAY, HOUR, Instant
from mailgate.ids import new_id
from mailgate.store import tenants
from mailgate.store.transaction import Leaf, Transaction
from retention.ledger import leaves
from retention.ledger.leaves import Common
from retention.ledger.purge_template import ItemPurgeTemplate
from tests.ledger_samples import common, purge_fields

_BATCH = 20_000
_A_NIGHT = 1_000


async def write_history(core: Core, tenant_id: str, count: int, now: Instant) -> str:
    """At least `count` entries, a thousand purges a night until yesterday, each night signed; the id of a purge in the
    middle.
    """
    nights = -(-count // (_A_NIGHT + 2))
    run_ids = [new_id(now - (nights - night) * DAY) for night in range(nights)]
    tenant = await tenants.get(core.db, tenant_id)
    batch: list[Leaf] = []

    async def work(tx: Transaction) -> None:
        for leaf in batch:
            tx.log(tenant_id, leaf)

    for night, run_id in enumerate(run_ids):
        batch += _purge(now - (nights - night) * DAY, run_id, night)
        if len(batch) >= _BATCH or night == nights - 1:
            await core.db.transact(work)
            batch.clear()
            await core.log_reader.checkpoint(tenant, now - (nights - night) * DAY + HOUR)
    return run_ids[nights // 2]


def _purge(at: Instant, run_id: str, night: int) -> Iterator[Leaf]:
    def said(number: int) -> Common:
        made: Common = common(number, run=run_id)
        return made

    yield Leaf(leaves.run_open(said(0), now=at, trigger="schedule"), "run.open", at, run_id)
    fields = purge_fields(7)
    fixed = {name: fields.pop(name) for name in ("plan", "days", "reason", "method")}
    template = ItemPurgeTemplate(said(0), **fixed)
    for number in range(_A_NIGHT):
        item = f"{night:08d}{number:06d}"
        yield Leaf(template.leaf(new_id(at), **{**fields, "item_ref": item}), "item.purge", at, run_id, item)
    closed = leaves.run_close(said(1), candidates=_A_NIGHT, purged=_A_NIGHT, kept={}, failed=0, bytes_=0)
    yield Leaf(closed, "run.close", at, run_id)
