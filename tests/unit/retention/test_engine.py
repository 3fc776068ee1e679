from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import pytest

from retention.engine import Engine
from retention.model import DAY, SCHEDULER, Brake, Copy, Counts, Rules, Sum, Supposed
from retention.port import Run
from tests.contract.memory_purge_store import MemoryStore, State, Unit, pinned

T = TypeVar("T")

NOW = 20_000 * DAY


def a_run(tenant_id: str | None = None, id_: str = "R1", policy: str = "p") -> Run:
    return Run(id_, tenant_id, NOW, NOW, "request", SCHEDULER, 1, policy)


def a_store(*, plans: dict[str, int | None], ages: list[int]) -> MemoryStore:
    store = MemoryStore()
    for tenant, days in plans.items():
        store.state.rules[tenant] = Rules("plan", days)
        for number, age in enumerate(ages):
            at = NOW - age * DAY
            store.add(tenant, Copy(f"{tenant}-{number:03}", at, at), size=10)
    return store


def engine(store: MemoryStore, batch: int = 3, **more: object) -> Engine:
    return Engine(store, lambda: NOW, batch=batch, **more)  # type: ignore[arg-type]


def ids(store: MemoryStore, tenant: str) -> list[str]:
    return sorted(store.state.copies[tenant])


async def test_each_tenant_is_purged_by_its_own_plan() -> None:
    store = a_store(plans={"a": 30, "b": 60, "c": 90, "f": 0}, ages=[1, 31, 61, 91])
    counts = await engine(store).run(a_run())
    assert ids(store, "a") == ["a-000"]
    assert ids(store, "b") == ["b-000", "b-001"]
    assert ids(store, "c") == ["c-000", "c-001", "c-002"]
    assert ids(store, "f") == []
    assert (counts.purged, counts.bytes, counts.balanced) == (3 + 2 + 1 + 4, 100, True)


async def test_a_tenants_log_has_one_opening_one_closing_and_one_leaf_per_item_between() -> None:
    store = a_store(plans={"a": 30, "b": 30}, ages=[40] * 7)
    store.state.copies["a"]["a-003"] = pinned(store.state.copies["a"]["a-003"])
    await engine(store).run(a_run())
    log = [entry[1:] for entry in store.state.log if entry[0] == "a"]
    assert log[0] == ("run.open", "R1")
    assert [entry[2] for entry in log[1:-1]] == [f"a-00{n}" for n in (0, 1, 2, 4, 5, 6)]
    assert log[-1] == (
        "run.close",
        "R1",
        {"candidates": 7, "purged": 6, "failed": 0, "bytes": 60, "kept": {"pinned": 1}},
    )


async def test_a_run_of_one_tenant_touches_no_other() -> None:
    store = a_store(plans={"a": 30, "b": 30}, ages=[40])
    await engine(store).run(a_run("b"))
    assert ids(store, "a") == ["a-000"]
    assert {entry[0] for entry in store.state.log} == {"b"}


async def test_a_tenant_with_nothing_of_age_is_not_opened() -> None:
    store = a_store(plans={"a": 30}, ages=[1])
    await engine(store).run(a_run())
    assert store.state.log == []
    assert store.state.runs["R1"][2] == "completed"


async def test_an_unknown_plan_keeps_everything_and_says_so() -> None:
    store = a_store(plans={"a": None}, ages=[1, 400])
    store.add("a", pinned(Copy("a-pinned", NOW, NOW)))
    preview = await engine(store).preview("a", NOW)
    assert (preview.due, set(preview.kept)) == ({}, {"plan_unknown", "pinned"})
    counts = await engine(store).run(a_run("a"))
    assert counts == preview.counts == Counts(candidates=3, kept={"plan_unknown": 2, "pinned": 1})


async def test_a_pin_that_comes_between_selection_and_judgement_keeps_the_copy() -> None:
    store = a_store(plans={"a": 30}, ages=[40] * 4)

    def pin(state: State) -> None:
        state.copies["a"]["a-001"] = pinned(state.copies["a"]["a-001"])

    store.between = pin
    counts = await engine(store).run(a_run())
    assert ids(store, "a") == ["a-001"]
    assert counts.kept == {"pinned": 1}
    assert counts.balanced


async def test_what_another_transaction_has_locked_is_left_for_the_next_run() -> None:
    store = a_store(plans={"a": 30}, ages=[40] * 4)
    store.locked = {"a-002"}
    counts = await engine(store).run(a_run())
    assert (counts.purged, counts.kept) == (3, {"locked": 1})
    store.locked.clear()
    assert (await engine(store).run(a_run(id_="R2"))).purged == 1


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 100])
async def test_a_copy_that_the_store_refuses_is_deferred_and_the_rest_goes(batch: int, followed: bool) -> None:
    store = a_store(plans={"a": 30}, ages=[40] * 9)
    store.followed = followed
    store.refused = {"a-004", "a-008"}
    counts = await engine(store, batch).run(a_run())
    assert ids(store, "a") == ["a-004", "a-008"]
    assert (counts.purged, counts.failed, counts.candidates, counts.balanced) == (7, 2, 9, True)
    deferred = [entry[3] for entry in store.state.log if entry[1] == "item.deferred"]
    assert deferred == ["a-004", "a-008"]


async def test_a_plan_raised_during_the_run_spares_what_is_left() -> None:
    store = a_store(plans={"a": 30}, ages=[80, 70, 50, 40])
    seen = 0

    def step(name: str) -> None:
        nonlocal seen
        seen += name == "batch"
        if name == "batch" and seen == 1:
            store.state.rules["a"] = replace(store.state.rules["a"], days=60)

    counts = await engine(store, batch=1, step=step).run(a_run())
    assert ids(store, "a") == ["a-002", "a-003"]
    assert (counts.purged, counts.balanced) == (2, True)


class CutError(Exception):
    """The process dies here."""


def _steps_of_a_run() -> int:
    store = a_store(plans={"a": 30, "b": 0}, ages=[20, 40, 41, 42, 43])
    names: list[str] = []
    asyncio.run(engine(store, 2, step=names.append).run(a_run()))
    return len(names)


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("cut_at", range(_steps_of_a_run()))
async def test_cut_at_any_step_the_run_goes_on_to_the_state_of_an_uncut_one(cut_at: int, followed: bool) -> None:
    def fresh() -> MemoryStore:
        store = a_store(plans={"a": 30, "b": 0}, ages=[20, 40, 41, 42, 43])
        store.followed = followed
        store.state.copies["b"]["b-002"] = pinned(store.state.copies["b"]["b-002"])
        return store

    whole = fresh()
    await engine(whole, 2).run(a_run())

    store = fresh()
    left = cut_at

    def step(_name: str) -> None:
        nonlocal left
        if left == 0:
            raise CutError
        left -= 1

    with pytest.raises(CutError):
        await engine(store, 2, step=step).run(a_run())
    await engine(store, 2).resume("p")
    assert store.state == whole.state
    assert await engine(store).resume("p") is None


async def test_a_cut_run_is_aborted_when_the_policy_is_another_by_now() -> None:
    store = a_store(plans={"a": 30}, ages=[40] * 5)

    def step(name: str) -> None:
        if name == "batch":
            raise CutError

    with pytest.raises(CutError):
        await engine(store, 2, step=step).run(a_run())
    found = await engine(store, 2).resume("another")
    assert found is not None
    assert found[1].purged == 2
    assert [entry[1] for entry in store.state.log] == ["run.open", "item.purge", "item.purge", "run.abort"]
    assert store.state.runs["R1"][2] == "failed"


async def test_an_error_that_is_not_the_batchs_own_leaves_the_run_to_be_resumed() -> None:
    store = a_store(plans={"a": 30}, ages=[40] * 3)

    def full_disk(_state: State) -> None:
        raise OSError("no space left")

    store.between = full_disk
    with pytest.raises(OSError, match="no space"):
        await engine(store).run(a_run())
    assert len(ids(store, "a")) == 3
    store.between = None
    found = await engine(store).resume("p")
    assert found is not None
    assert found[1].purged == 3


class Repeating(MemoryStore):
    """Undoes the first batch after it said where it ends, and finds a copy locked when it repeats it."""

    units = 0

    async def transact(
        self, run: Run, tenant_id: str, work: Callable[[Unit], Awaitable[T]], *, ahead: bool = False
    ) -> T:
        async def twice(unit: Unit) -> T:
            self.units += 1
            if self.units == 2:  # the first one opens
                await work(Unit(self, deepcopy(self.state), run, tenant_id))
                await asyncio.sleep(0)  # the next batch begins, if it may
                self.locked = {"a-001"}
            return await work(unit)

        return await super().transact(run, tenant_id, twice, ahead=ahead)


async def test_a_batch_that_supposed_another_end_of_the_one_before_begins_anew() -> None:
    store = Repeating()
    store.state = a_store(plans={"a": 30}, ages=[50 - n for n in range(9)]).state
    store.followed = True
    names: list[str] = []
    counts = await engine(store, 3, step=names.append).run(a_run())
    assert ids(store, "a") == ["a-001"]
    assert (counts.purged, counts.kept, counts.balanced) == (8, {"locked": 1}, True)
    assert names.count("candidates locked") == 1 + names.count("purged")


async def test_a_run_that_is_cancelled_ends_its_batches_first() -> None:
    store = a_store(plans={"a": 30}, ages=[40] * 9)
    store.followed = True
    run: asyncio.Task[Counts]

    def step(name: str) -> None:
        if name == "purged":
            run.cancel()

    others = asyncio.all_tasks()
    run = asyncio.create_task(engine(store, step=step).run(a_run()))
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.all_tasks() == others


def braked(store: MemoryStore, **more: object) -> Engine:
    return engine(store, brake=Brake(minimum=3, share=50), **more)


async def test_a_run_that_would_take_improbably_many_takes_none_and_goes_on_with_the_next_tenant() -> None:
    store = a_store(plans={"a": 30, "b": 60}, ages=[1, 2, 31, 32, 33, 34, 61])
    counts = await braked(store).run(a_run())
    assert len(ids(store, "a")) == 7
    assert len(ids(store, "b")) == 6
    assert counts == Counts(candidates=6, purged=1, bytes=10, kept={"brake": 5})
    assert [entry[1:4] for entry in store.state.log if entry[0] == "a"] == [
        ("run.open", "R1"),
        ("run.abort", "R1", "brake"),
    ]
    assert store.state.runs["R1"][2] == "halted"
    assert "a: 5 of 7 copies would go" in store.details["R1"]


@pytest.mark.parametrize(
    ("ages", "goes"), [([1, 31, 31, 31], 3), ([1, 1, 1, 1, 31, 31, 31, 31], 4), ([1, 1, 1, 31, 31, 31, 31], 0)]
)
async def test_the_brake_is_more_than_a_number_and_more_than_a_share(ages: list[int], goes: int) -> None:
    store = a_store(plans={"a": 30}, ages=ages)
    assert (await braked(store).run(a_run())).purged == goes


async def test_an_approval_or_a_change_of_plan_opens_the_brake() -> None:
    store = a_store(plans={"a": 30}, ages=[31] * 9)
    store.change_explains = {"a"}
    assert (await braked(store).run(a_run())).purged == 9
    store = a_store(plans={"a": 30}, ages=[31] * 9)
    assert (await braked(store).run(a_run())).purged == 0
    assert (await braked(store).run(replace(a_run(id_="R2"), approved=("brake",)))).purged == 9
    assert store.state.runs["R2"][2] == "completed"


async def test_what_a_halted_run_says_is_short_whatever_the_number_of_tenants() -> None:
    store = a_store(plans={f"tenant-{n:03}": 30 for n in range(60)}, ages=[31] * 4)
    await braked(store).run(a_run())
    assert len(store.details["R1"]) <= 1_000
    assert "60 tenants" in store.details["R1"]


@pytest.mark.parametrize("cut_at", range(6))
async def test_a_cut_run_remembers_for_whom_it_halted(cut_at: int) -> None:
    store = a_store(plans={"a": 30, "b": 60}, ages=[31, 32, 33, 34, 61])
    left = cut_at

    def step(_name: str) -> None:
        nonlocal left
        if left == 0:
            raise CutError
        left -= 1

    with pytest.raises(CutError):
        await braked(store, step=step).run(a_run())
    await braked(store).resume("p")
    assert store.state.runs["R1"][2] == "halted"
    assert (len(ids(store, "a")), len(ids(store, "b"))) == (5, 4)
    assert [entry[1] for entry in store.state.log if entry[0] == "a"] == ["run.open", "run.abort"]


async def test_a_preview_says_what_a_run_then_does_and_changes_nothing() -> None:
    store = a_store(plans={"a": 30}, ages=[1, 40, 50, 60])
    store.state.copies["a"]["a-001"] = pinned(store.state.copies["a"]["a-001"])
    before = str(store.state)
    preview = await engine(store).preview("a", NOW)
    assert str(store.state) == before
    assert preview.counts == await engine(store).run(a_run())
    assert (await engine(store).preview("nobody", NOW)).rules is None


async def test_a_preview_of_all_says_what_a_run_then_does() -> None:
    store = a_store(plans={"a": 30, "b": 60, "c": 90, "d": None}, ages=[1, 40, 70])
    preview = await engine(store).preview_all(NOW)
    assert preview.due == {"age": Sum(3, 30)}
    assert preview.kept == {"not_due": Sum(6, 60), "plan_unknown": Sum(3, 30)}
    assert preview.going == Sum(3, 30)
    supposed = await engine(store).preview_all(NOW, supposed=Supposed("free", 0))
    assert (supposed.due, supposed.kept) == ({"plan_end": Sum(12, 120)}, {})
    assert preview.counts == await engine(store).run(a_run())


async def test_a_preview_under_a_doubtful_clock_purges_nothing() -> None:
    store = a_store(plans={"a": 30}, ages=[40])
    preview = await engine(store).preview("a", NOW, clock_fault="forward")
    assert (preview.counts.kept, preview.due, preview.kept) == ({"clock": 1}, {}, {"clock": Sum(1, 10)})
    early = await engine(store).preview("a", NOW - 20 * DAY, clock_fault="forward")
    assert (early.counts.kept, early.kept) == ({}, {"not_due": Sum(1, 10)})


def test_a_batch_needs_a_copy() -> None:
    with pytest.raises(ValueError, match="at least one"):
        engine(MemoryStore(), 0)


def test_counts_survive_json() -> None:
    counts = Counts(5, 2, 1, 99, {"pinned": 2})
    assert Counts.from_json(counts.to_json()) == counts
    with pytest.raises(TypeError):
        Counts.from_json({**counts.to_json(), "kept": 3})
    with pytest.raises(TypeError):
        Counts.from_json({**counts.to_json(), "purged": "two"})
