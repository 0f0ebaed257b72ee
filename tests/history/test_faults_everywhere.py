"""One store fault at every call index of a whole story: the clients' retries end in the same history as without faults.

The most telling fault is "executed, but reported as failed" (error_after); the others must do no harm either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from temporalio.api.command.v1 import Command

from chaos.sim.loop import running_loop, simulate
from cluster.config import ShardConfig
from cluster.core.errors import CallerError, Code
from cluster.core.state import checksum
from cluster.stores.base import StoreError
from cluster.stores.faulty import Fault, FaultKind, FaultyStore, kinds_for
from cluster.stores.memory import MemoryStore
from tests.history.commands import activity, complete, continue_as_new, timer
from tests.history.world import World, name_of

T = TypeVar("T")
RUNNING = 1

# A checkpoint every second and no idle runs in memory: every path to the store is taken.
BUSY = ShardConfig(checkpoint_interval_ns=1_000_000_000, idle_runs_in_memory_max=0, timer_horizon_ns=2_000_000_000)
# What the story leaves in the first run's history, whatever workflow tasks were lost on the way.
LASTING = [
    "ActivityTaskCompleted",
    "ActivityTaskScheduled",
    "ActivityTaskStarted",
    "TimerFired",
    "TimerStarted",
    "WorkflowExecutionContinuedAsNew",
    "WorkflowExecutionSignaled",
    "WorkflowExecutionStarted",
]
LOST_TASK_S = 30  # a task whose answer was lost comes again after its time-out of 10 s


class OneFault:
    """The plan: this kind at this call, nothing else. Counts the calls, so that a first run tells how many there are."""

    def __init__(self, index: int = -1, kind: FaultKind | None = None) -> None:
        self.index, self.kind = index, kind
        self.methods: list[str] = []
        self.is_armed = False

    def __call__(self, index: int, method: str) -> Fault | None:
        if not self.is_armed:
            return None
        self.methods.append(method)
        if self.kind is None or len(self.methods) - 1 != self.index or self.kind not in kinds_for(method):
            return None
        return Fault(self.kind, seconds=3.0)


async def insist(call: Callable[[], Coroutine[Any, Any, T]], done: tuple[Code, ...] = ()) -> T:
    """As a client does. done: answers that say that an earlier try was done."""
    until = running_loop().time() + 60
    while True:
        try:
            return await call()
        except CallerError as error:
            if error.code in done:
                return None  # type: ignore[return-value]
            assert error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), error
            assert running_loop().time() < until, "no answer within a minute"
        await asyncio.sleep(0.1)


async def tell(world: World) -> None:
    """The story: a worker whose answers get lost takes the next task that comes, as a real one does."""
    run_id = await insist(lambda: world.start("w"))
    assert run_id
    await insist(lambda: world.signal("w", "a"))
    await worker_answers(world, lambda seen: [activity("a"), timer("t", 5)])
    await until_activity_is_complete(world)

    def once_both_came(seen: set[str]) -> list[Command]:
        return [continue_as_new()] if {"TimerFired", "ActivityTaskCompleted"} <= seen else []

    while (await insist(lambda: world.describe("w", run_id))).workflow_execution_info.status == RUNNING:
        await worker_answers(world, once_both_came)
    names = await insist(lambda: world.event_names("w", run_id))
    assert sorted(name for name in names if not name.startswith("WorkflowTask")) == LASTING
    await worker_answers(world, lambda seen: [complete()])
    names = await insist(lambda: world.event_names("w"))
    assert names[-1] == "WorkflowExecutionCompleted"
    await asyncio.sleep(5)
    assert await insist(lambda: world.event_names("w", run_id))
    assert sorted((await world.listed()).values()) == ["COMPLETED", "CONTINUED_AS_NEW"]


async def worker_answers(world: World, decide: Callable[[set[str]], list[Command]]) -> None:
    task = await insist(lambda: world.take_task(wait_s=LOST_TASK_S))
    assert task.task_token, "no task came"
    commands = decide({name_of(event) for event in task.history.events})
    await insist(lambda: world.answer(task, *commands), done=(Code.NOT_FOUND,))


async def until_activity_is_complete(world: World) -> None:
    task = await insist(lambda: world.take_activity(wait_s=LOST_TASK_S))
    assert task.task_token, "no activity came"
    await insist(lambda: world.complete_activity(task), done=(Code.NOT_FOUND,))


async def run_story(plan: OneFault) -> None:
    disk = MemoryStore()
    world = World(FaultyStore(disk, plan), config=BUSY)
    await world.begin()
    plan.is_armed = True
    await tell(world)
    plan.is_armed = False
    last = checksum((await world.current("w")).state)
    await world.restart()
    assert checksum((await world.current("w")).state) == last, "stored and replayed, it is another"
    assert (await world.event_names("w"))[-1] == "WorkflowExecutionCompleted"
    assert not world.failed_jobs, world.failed_jobs
    world.crash()


def calls_of_the_story() -> list[str]:
    plan = OneFault()
    simulate(run_story(plan))
    return plan.methods


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
