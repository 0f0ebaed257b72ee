"""Load by the official SDK: its worker runs the workflows, its client starts, signals, queries and updates them."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from ops.bench.job import Job

ACTIVITY_TIMEOUT = timedelta(seconds=60)


@activity.defn
async def step(number: int) -> int:
    return number


@workflow.defn
class StepsWorkflow:
    """Runs this many activities one after the other."""

    @workflow.run
    async def run(self, activities: int) -> int:
        done = 0
        for number in range(activities):
            await workflow.execute_activity(step, number, start_to_close_timeout=ACTIVITY_TIMEOUT)
            done += 1
        return done


@workflow.defn
class ParkedWorkflow:
    """Stays open and counts what reaches it."""

    def __init__(self) -> None:
        self._count = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def poke(self) -> None:
        self._count += 1

    @workflow.query
    def count(self) -> int:
        return self._count

    @workflow.update
    def add(self) -> int:
        self._count += 1
        return self._count


class SdkLoad:
    """One job: `open`, many times `once`, `close`, which raises AssertionError if the server lost or doubled anything."""

    def __init__(self, job: Job) -> None:
        self._job, self._stack, self._queue = job, AsyncExitStack(), f"bench-{uuid.uuid4().hex[:8]}"
        self._handles: list[WorkflowHandle[ParkedWorkflow, None]] = []
        self._sent = 0

    async def open(self) -> None:
        self._clients = [await Client.connect(address, namespace=self._job.namespace) for address in self._job.addresses]
        for client in self._clients:
            await self._stack.enter_async_context(self._worker(client))
        if self._job.load != "workflows":
            for number in range(self._job.runs):
                self._handles.append(
                    await self._client(number).start_workflow(
                        ParkedWorkflow.run, id=f"{self._queue}-{number}", task_queue=self._queue
                    )
                )
            await asyncio.gather(*(handle.query(ParkedWorkflow.count) for handle in self._handles))

    def _worker(self, client: Client) -> Worker:
        return Worker(
            client,
            task_queue=self._queue,
            workflows=[StepsWorkflow, ParkedWorkflow],
            activities=[step],
            workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would cost the worker more than the server costs
            max_cached_workflows=2_000,
        )

    def _client(self, number: int) -> Client:
        return self._clients[number % len(self._clients)]

    async def once(self, number: int) -> None:
        match self._job.load:
            case "workflows":
                result = await self._client(number).execute_workflow(
                    StepsWorkflow.run, self._job.activities, id=f"{self._queue}-{number}", task_queue=self._queue
                )
                assert result == self._job.activities, f"a workflow returned {result}"
            case "signals":
                await self._handle(number).signal(ParkedWorkflow.poke)
                self._sent += 1
            case "queries":
                await self._handle(number).query(ParkedWorkflow.count)
            case "updates":
                await self._handle(number).execute_update(ParkedWorkflow.add)
                self._sent += 1
            case other:
                raise ValueError(f"unknown load {other!r} for the SDK")

    def _handle(self, number: int) -> WorkflowHandle[ParkedWorkflow, None]:
        return self._handles[number % len(self._handles)]

    async def close(self) -> None:
        counts = await asyncio.gather(*(handle.query(ParkedWorkflow.count) for handle in self._handles))
        assert sum(counts) == self._sent, f"{self._sent} acknowledged, but the workflows saw {sum(counts)}"
        await asyncio.gather(*(handle.terminate() for handle in self._handles))
        await self._stack.aclose()
