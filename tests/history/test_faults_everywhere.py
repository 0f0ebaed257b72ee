"""One store fault at every call index of a whole story: the clients' retries end in the same history as without faults.

The most telling fault is "executed, but reported as failed" (error_after); the others must do no harm either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from chaos.sim.loop import running_loop, simulate
from cluster.config import ShardConfig
from cluster.core.errors import CallerError, Code
from cluster.core.state import checksum
from cluster.stores.base import StoreError
from cluster.stores.faulty import Fault, FaultKind, FaultyStore, kinds_for
from cluster.stores.memory import MemoryStore
from tests.history.world import World, activity, complete, continue_as_new, timer

T = TypeVar("T")

# A checkpoint every second and no idle runs in memory: every path to the store is taken.
BUSY = ShardConfig(checkpoint_interval_ns=1_000_000_000, idle_runs_in_memory_max=0, timer_horizon_ns=2_000_000_000)
STORY_NAMES = [
    ["WorkflowExecutionStarted", "WorkflowTaskScheduled", "WorkflowExecutionSignaled", "WorkflowTaskStarted", "WorkflowTaskCompleted"],
    ["ActivityTaskScheduled", "TimerStarted", "ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"],
    ["WorkflowTaskStarted", "WorkflowTaskCompleted", "TimerFired", "WorkflowTaskScheduled", "WorkflowTaskStarted"],
    ["WorkflowTaskCompleted", "WorkflowExecutionContinuedAsNew"],
]


class OneFault:
    """The plan: this kind at this call, nothing else. Counts the calls, so that a first run tells how many there are."""

    def __init__(self, index: int = -1, kind: FaultKind | None = None) -> None:
        self.index, self.kind = index, kind
        self.methods: list[str] = []
        self.first = 0

    def __call__(self, index: int, method: str) -> Fault | None:
        self.methods.append(method)
        if self.kind is None or len(self.methods) - 1 - self.first != self.index or self.kind not in kinds_for(method):
            return None
        return Fault(self.kind, seconds=3.0)


async def insist(call: Callable[[], Coroutine[Any, Any, T]], done: tuple[Code, ...] = ()) -> T | None:
    """As a client does. done: answers that say that an earlier try was done."""
    until = running_loop().time() + 60
    while True:
        try:
            return await call()
        except CallerError as error:
            if error.code in done:
                return None
            assert error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), error
            assert running_loop().time() < until, "no answer within a minute"
        await asyncio.sleep(0.1)


async def tell(world: World) -> None:
    """The story: a worker whose answers get lost takes the next task that comes, as a real one does."""
    run_id = await insist(lambda: world.start("w"))
    assert run_id
    await insist(lambda: world.signal("w", "a"))
    await worker_answers(world, lambda: [activity("a"), timer("t", 5)])
    await until_activity_is_complete(world)
    await worker_answers(world, lambda: [])
    await asyncio.sleep(8)
    await worker_answers(world, lambda: [continue_as_new()])
    names = await insist(lambda: world.event_names("w", run_id))
    assert names == [name for part in STORY_NAMES for name in part]
    await worker_answers(world, lambda: [complete()])
    names = await insist(lambda: world.event_names("w"))
    assert names is not None and names[-1] == "WorkflowExecutionCompleted"
    await asyncio.sleep(5)
    assert sorted((await world.listed()).values()) == ["COMPLETED", "CONTINUED_AS_NEW"]


async def worker_answers(world: World, commands: Callable[[], list[Any]]) -> None:
    task = await insist(lambda: world.take_task(wait_s=9))
    assert task is not None and task.task_token, "no task came"
    await insist(lambda: world.answer(task, *commands()), done=(Code.NOT_FOUND,))


async def until_activity_is_complete(world: World) -> None:
    task = await insist(lambda: world.take_activity(wait_s=9))
    assert task is not None and task.task_token, "no activity came"
    await insist(lambda: world.complete_activity(task), done=(Code.NOT_FOUND,))


async def run_story(plan: OneFault) -> None:
    disk = MemoryStore()
    world = World(FaultyStore(disk, plan), config=BUSY)
    await world.begin()
    plan.first = len(plan.methods)
    await tell(world)
    states = {key.run_id: checksum(run.state) for key, run in world.shard.runs.items()}
    plan.kind = None
    await world.restart()
    for run_id, digest in states.items():
        stored = await world.stored("w", run_id)
        run = world.shard.runs.get(next(iter(world.shard.runs), None)) if stored is None else None  # type: ignore[arg-type]
        assert stored is not None or run is not None
        assert stored is None or checksum(stored) == digest
    assert (await world.event_names("w"))[-1] == "WorkflowExecutionCompleted"
    assert not world.failed_jobs, world.failed_jobs
    world.crash()


def calls_of_the_story() -> list[str]:
    plan = OneFault()
    simulate(run_story(plan))
    return plan.methods[plan.first :]


@pytest.mark.parametrize(
    "kind", [FaultKind.ERROR_BEFORE, FaultKind.ERROR_AFTER, FaultKind.UNKNOWN_NOT_EXECUTED, FaultKind.LEASE_LOST, FaultKind.SLOW]
)
def test_one_fault_at_any_call_changes_nothing(kind: FaultKind) -> None:
    methods = calls_of_the_story()
    assert {"append", "checkpoint", "load", "current_run", "history", "due"} <= set(methods), "the story takes every path"
    injected = 0
    for index, method in enumerate(methods):
        if kind not in kinds_for(method):
            continue
        plan = OneFault(index, kind)
        try:
            simulate(run_story(plan))
        except (AssertionError, StoreError) as failure:
            raise AssertionError(f"{kind} at call {index} ({method})") from failure
        injected += 1
    assert injected >= 10, "nothing was injected"
