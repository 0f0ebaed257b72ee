"""The workflows that the behaviours are told with."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "q"
SOON = timedelta(seconds=10)


@activity.defn
async def echo(text: str) -> str:
    return text


@workflow.defn(name="letters")
class Letters:
    """Keeps what it is told, and ends when it is told "end"."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @workflow.run
    async def run(self, first: str) -> list[str]:
        self.told.append(await workflow.execute_activity(echo, first, start_to_close_timeout=SOON))
        await workflow.wait_condition(lambda: "end" in self.told)
        return self.told

    @workflow.signal
    def tell(self, text: str) -> None:
        self.told.append(text)

    @workflow.query
    def so_far(self) -> list[str]:
        return self.told

    @workflow.update
    async def ask(self, text: str) -> int:
        self.told.append(text)
        return len(self.told)

    @workflow.update
    async def ask_until(self, text: str) -> str:
        await workflow.wait_condition(lambda: text in self.told)
        return f"seen {text}"


@workflow.defn(name="chain")
class Chain:
    """Goes on as new until it has done `count` rounds; a round waits for its signal."""

    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(self, count: int) -> str:
        await workflow.wait_condition(lambda: self.is_told)
        if count > 1:
            workflow.continue_as_new(count - 1)
        return "done"

    @workflow.signal
    def go(self) -> None:
        self.is_told = True


@workflow.defn(name="timer")
class Timer:
    def __init__(self) -> None:
        self.told: list[str] = []

    @workflow.run
    async def run(self, seconds: float) -> list[str]:
        await asyncio.sleep(seconds)
        return [*self.told, "fired"]

    @workflow.signal
    def tell(self, text: str) -> None:
        self.told.append(text)


@workflow.defn(name="fails")
class Fails:
    """Fails until its attempt is the given one."""

    @workflow.run
    async def run(self, attempt: int) -> int:
        if workflow.info().attempt < attempt:
            raise ApplicationError("not yet")
        return workflow.info().attempt


@workflow.defn(name="tick")
class Tick:
    """For cron: ends at once."""

    @workflow.run
    async def run(self) -> str:
        return "tick"


@workflow.defn(name="parent")
class Parent:
    @workflow.run
    async def run(self, child_id: str) -> list[str]:
        return await workflow.execute_child_workflow(Letters.run, "child", id=child_id)


@workflow.defn(name="long")
class Long:
    """One activity that a test plays by hand."""

    @workflow.run
    async def run(self, heartbeat_s: float) -> str:
        result: str = await workflow.execute_activity(
            "by hand",
            task_queue="hands",
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=heartbeat_s),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=1)),
        )
        return result


def worker(client: Client, max_cached_workflows: int = 1000) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Letters, Chain, Timer, Fails, Tick, Parent, Long],
        activities=[echo],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=max_cached_workflows,
        graceful_shutdown_timeout=timedelta(0),
    )
