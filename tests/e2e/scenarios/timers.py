"""Timers that fire and timers that are cancelled."""

from __future__ import annotations

import asyncio

from temporalio import workflow

from tests.e2e import commands
from tests.e2e.environment import Env, run_of, seconds
from tests.e2e.registry import Run, scenario


@workflow.defn
class Sleeps:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(1, summary="a nap")
        return "woke"


@scenario("timer_fires", items=["timer: fire", "workflow: user metadata"])
async def timer_fires(env: Env) -> list[Run]:
    async with env.worker([Sleeps]):
        handle = await env.start(Sleeps.run)
        assert await handle.result() == "woke"
    return [run_of(handle)]


@workflow.defn
class CancelsTimer:
    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def stop(self) -> None:
        self.go = True

    @workflow.run
    async def run(self) -> str:
        timer = asyncio.create_task(workflow.sleep(60))
        await workflow.wait_condition(lambda: self.go)
        timer.cancel()
        await asyncio.gather(timer, return_exceptions=True)
        await workflow.sleep(1)
        return "cancelled"


@scenario("timer_is_cancelled", items=["timer: cancel"])
async def timer_is_cancelled(env: Env) -> list[Run]:
    async with env.worker([CancelsTimer]):
        handle = await env.start(CancelsTimer.run)
        await env.seen(run_of(handle), "TIMER_STARTED")
        await handle.signal(CancelsTimer.stop)
        assert await handle.result() == "cancelled"
    return [run_of(handle)]


@workflow.defn
class WaitsWithTimeout:
    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.wait_condition(lambda: False, timeout=1, timeout_summary="patience")
        except TimeoutError:
            return "timed out"
        return "never"


@scenario("timer_of_a_wait_condition", items=["timer: fire", "workflow: user metadata"])
async def timer_of_a_wait_condition(env: Env) -> list[Run]:
    async with env.worker([WaitsWithTimeout], max_cached_workflows=0):
        handle = await env.start(WaitsWithTimeout.run)
        assert await handle.result() == "timed out"
    return [run_of(handle)]


@scenario("timers_fire_in_order_of_time", items=["timer: fire"])
async def timers_fire_in_order_of_time(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.start_timer("late", 2), commands.start_timer("early", 1))
    await env.raw.step()
    await env.raw.step(commands.complete())
    return [run]


@scenario("timer_cancelled_after_it_fired", items=["timer: cancel", "workflow task: buffered events"])
async def timer_cancelled_after_it_fired(env: Env) -> list[Run]:
    """The firing is buffered behind the running task; a cancel in that task removes it from the buffer."""
    run = await env.start_raw()
    await env.raw.step(commands.start_timer("t", 1))
    await env.signal(run)
    task = await env.raw.poll()
    await asyncio.sleep(2)  # A buffered firing shows nowhere: only the clock tells that it is due.
    await env.raw.complete(task, commands.cancel_timer("t"))
    await env.signal(run, "on")
    await env.raw.step(commands.complete())
    return [run]


@scenario("timer_is_dropped_when_the_run_closes", items=["timer: fire"])
async def timer_is_dropped_when_the_run_closes(env: Env) -> list[Run]:
    run = await env.start_raw(workflow_run_timeout=seconds(30))
    await env.raw.step(commands.start_timer("t", 1), commands.complete())
    await asyncio.sleep(1.5)  # The timer would have fired by now.
    return [run]
