"""The journal's writing end: groups, durability, and that a failure reaches everybody who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chaos.sim.loop import simulate
from cluster.config import ShardConfig
from cluster.core.entry import ENTRY_FORMAT
from cluster.core.errors import CallerError, Code
from cluster.history.journal import Group, Journal
from cluster.seams import JobSet
from cluster.stores.base import LeaseLost, ShardId, StoreError, StoreUnavailable, StoreUnknown
from tests.history.held_store import BrokenStore, HeldStore

SHARD = ShardId(0)


class Bench:
    """A journal on a store that can be held."""

    def __init__(self) -> None:
        self.store = HeldStore()
        self.durable: list[int] = []
        self.failures: list[StoreError] = []
        self.failed_jobs: list[BaseException] = []
        self.journal: Journal

    async def open(self, config: ShardConfig | None = None) -> Journal:
        lease = await self.store.acquire(SHARD, "owner")
        self.journal = Journal(
            self.store,
            lease,
            0,
            config or ShardConfig(),
            JobSet(lambda name, failure: self.failed_jobs.append(failure)),
            self._on_durable,
            self.failures.append,
        )
        return self.journal

    def _on_durable(self, group: Group) -> None:
        self.durable.append(group.position)

    async def records(self) -> list[int]:
        """How many entries each record has."""
        found = await self.store.inner.read_journal(SHARD, 0)
        assert [record.position for record in found] == list(range(1, len(found) + 1)), "positions are dense"
        assert all(record.data[0] == ENTRY_FORMAT for record in found)
        return [int.from_bytes(record.data[2:6], "big") for record in found]


def play(story: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    simulate(story(Bench()))


async def outcome(future: asyncio.Future[None]) -> str:
    try:
        await future
    except CallerError as error:
        assert error.code is Code.UNAVAILABLE
        return "failed"
    return "durable"


def test_what_comes_in_during_an_append_forms_the_next_group() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        bench.store.hold("append")
        waits = [journal.durable(journal.add(b"\xc0"))]
        await asyncio.sleep(0)
        waits += [journal.durable(journal.add(b"\xc0")) for _ in range(5)]
        assert not any(wait.done() for wait in waits)
        bench.store.let_one_go("append")
        await waits[0]
        assert not any(wait.done() for wait in waits[1:]), "the second group is not written yet"
        bench.store.release("append")
        await asyncio.gather(*waits)
        assert await bench.records() == [1, 5]
        assert bench.durable == [1, 2]

    play(story)


def test_entries_of_one_transition_share_a_record_whatever_the_bound_of_a_group() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open(ShardConfig(group_entries_max=1, group_bytes_max=1))
        first = journal.add(b"\xc0", b"\xc0")
        second = journal.add(b"\xc0")
        await journal.durable(second)
        assert first != second
        assert await bench.records() == [2, 1]

    play(story)


def test_after_a_seal_entries_join_a_later_group() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        bench.store.hold("append")
        journal.add(b"\xc0")
        assert journal.seal() == 1
        assert journal.add(b"\xc0") == 2
        assert journal.seal() == journal.seal() == 2, "sealing nothing changes nothing"
        bench.store.release("append")
        await journal.durable(2)
        assert await bench.records() == [1, 1]

    play(story)


def test_a_position_that_is_durable_needs_no_waiting() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        assert journal.durable(0).done()
        await journal.durable(journal.add(b"\xc0"))
        assert journal.durable(1).done() and journal.last_position == journal.durable_position == 1

    play(story)


@pytest.mark.parametrize("error", [StoreUnknown("?"), StoreUnavailable("no"), LeaseLost("stolen")])
def test_the_first_failure_reaches_all_who_wait_and_ends_the_journal(error: StoreError) -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        bench.store.hold("append")
        bench.store.fail("append", error)
        waits = [journal.durable(journal.add(b"\xc0"))]
        await asyncio.sleep(0)
        waits.append(journal.durable(journal.add(b"\xc0")))
        bench.store.release("append")
        assert [await outcome(wait) for wait in waits] == ["failed", "failed"]
        assert bench.failures == [error], "told once"
        with pytest.raises(CallerError):
            journal.add(b"\xc0")
        assert await outcome(journal.durable(1)) == "failed"
        assert bench.durable == [] and bench.store.count("append") == 1

    play(story)


def test_a_store_that_breaks_its_contract_does_not_leave_anybody_waiting() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        bench.store.fail("append", BrokenStore("a bug"))
        assert await outcome(journal.durable(journal.add(b"\xc0"))) == "failed"
        assert isinstance(bench.failures[0], StoreUnknown)
        await asyncio.sleep(0)
        assert isinstance(bench.failed_jobs[0], BrokenStore), "and it is reported"

    play(story)


def test_an_append_that_ends_well_after_the_journal_was_given_up_makes_nothing_durable() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        bench.store.hold("append")
        wait = journal.durable(journal.add(b"\xc0"))
        await asyncio.sleep(0)
        journal.end(StoreUnavailable("shard closed"))
        bench.store.release("append")
        assert await outcome(wait) == "failed"
        await asyncio.sleep(1)
        assert bench.durable == [] and journal.durable_position == 0

    play(story)


def test_a_waiter_that_was_cancelled_does_not_disturb_the_others() -> None:
    async def story(bench: Bench) -> None:
        journal = await bench.open()
        bench.store.hold("append")
        position = journal.add(b"\xc0")
        gone, there = journal.durable(position), journal.durable(position)
        await asyncio.sleep(0)
        gone.cancel()
        bench.store.release("append")
        assert await outcome(there) == "durable"

    play(story)
