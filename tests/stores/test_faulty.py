"""The fault-injecting store does to the caller, and to the data, exactly what its table says."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from cluster.stores.base import LeaseLost, Store, StoreUnavailable, StoreUnknown
from cluster.stores.faulty import WRITES, Fault, FaultKind, FaultyStore, Injected, kinds_for
from cluster.stores.memory import MemoryStore
from tests.stores.rows import SHARD, key, row


def _failing(kind: FaultKind, method: str, seconds: float = 0.0) -> tuple[FaultyStore, MemoryStore]:
    inner = MemoryStore()
    fault = Fault(kind, seconds)
    return FaultyStore(inner, lambda index, called: fault if called == method else None), inner


async def test_error_before_executes_nothing() -> None:
    store, inner = _failing(FaultKind.ERROR_BEFORE, "append")
    lease = await store.acquire(SHARD, "a")
    with pytest.raises(StoreUnavailable):
        await store.append(lease, 1, b"x")
    assert await inner.journal_bounds(SHARD) == (0, 0)
    await inner.append(lease, 1, b"the lease still holds")


async def test_error_after_executes_and_reports_the_outcome_as_unknown() -> None:
    store, inner = _failing(FaultKind.ERROR_AFTER, "append")
    lease = await store.acquire(SHARD, "a")
    with pytest.raises(StoreUnknown):
        await store.append(lease, 1, b"x")
    assert await inner.journal_bounds(SHARD) == (0, 1)


async def test_unknown_not_executed_looks_the_same_and_wrote_nothing() -> None:
    store, inner = _failing(FaultKind.UNKNOWN_NOT_EXECUTED, "checkpoint")
    lease = await store.acquire(SHARD, "a")
    with pytest.raises(StoreUnknown):
        await store.checkpoint(lease, [row(key())], [], [], 0)
    assert await inner.load(SHARD, key()) is None


async def test_lease_lost_really_fences_the_owner() -> None:
    store, inner = _failing(FaultKind.LEASE_LOST, "append")
    lease = await store.acquire(SHARD, "a")
    with pytest.raises(LeaseLost):
        await store.append(lease, 1, b"x")
    with pytest.raises(LeaseLost):
        await inner.append(lease, 1, b"x")
    assert await inner.journal_bounds(SHARD) == (0, 0)


async def test_error_after_on_a_refused_write_reports_the_refusal() -> None:
    store, inner = _failing(FaultKind.ERROR_AFTER, "append")
    lease = await store.acquire(SHARD, "a")
    await inner.acquire(SHARD, "b")
    with pytest.raises(LeaseLost):
        await store.append(lease, 1, b"x")


async def test_slow_waits_on_the_running_loop_and_then_executes(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    store, inner = _failing(FaultKind.SLOW, "append", seconds=3_600.0)
    await store.append(await store.acquire(SHARD, "a"), 1, b"x")
    assert slept == [3_600.0]
    assert await inner.journal_bounds(SHARD) == (0, 1)


async def test_the_plan_sees_each_call_by_index_and_method_and_injected_tells_what_was_done() -> None:
    seen: list[tuple[int, str]] = []
    fault = Fault(FaultKind.ERROR_BEFORE)

    def plan(index: int, method: str) -> Fault | None:
        seen.append((index, method))
        return fault if index == 2 else None

    store = FaultyStore(MemoryStore(), plan)
    await store.open()
    await store.acquire(SHARD, "a")
    await store.load(SHARD, key())
    with pytest.raises(StoreUnavailable):
        await store.metadata_list("namespace")
    await store.close()
    assert seen == [(0, "acquire"), (1, "load"), (2, "metadata_list")]
    assert store.injected == [Injected(2, "metadata_list", fault)]


async def test_a_fault_that_the_contract_does_not_allow_is_an_error_of_the_plan() -> None:
    store, _ = _failing(FaultKind.ERROR_AFTER, "load")
    with pytest.raises(ValueError, match="error_after at call 0"):
        await store.load(SHARD, key())
    assert store.injected == []


def test_every_method_of_the_contract_has_its_faults() -> None:
    methods = {name for name, member in inspect.getmembers(Store, inspect.iscoroutinefunction)} - {"open", "close"}
    wrapped = {name for name, _ in inspect.getmembers(FaultyStore, inspect.iscoroutinefunction)} - {"open", "close", "_call"}
    assert methods == wrapped
    assert methods > WRITES
    assert {method for method in methods if FaultKind.LEASE_LOST in kinds_for(method)} == {"append", "checkpoint"}
    assert all(kinds_for(method) >= {FaultKind.ERROR_BEFORE, FaultKind.SLOW} for method in methods)
