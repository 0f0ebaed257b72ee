"""Contended clients: a few of them on even fewer workflow ids, so that they get in each other's way all the time."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.ledger import Conflict, Reuse
from chaos.sim.clients import Requests, workflow_retry
from chaos.sim.loop import running_loop
from chaos.sim.programs import draw_program, seconds
from chaos.sim.world import Door, World

E = EventType
RESET_POINTS = (
    E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    E.EVENT_TYPE_WORKFLOW_TASK_FAILED,
    E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
)

# What a client does next, and how often.
WEIGHTS = {
    "start": 30,
    "start_retried": 4,
    "signal": 30,
    "signal_pinned": 10,
    "signal_with_start": 12,
    "update": 14,
    "query": 8,
    "cancel": 3,
    "terminate": 3,
    "reset": 3,
    "read": 4,
}


DELETES = {"delete": 2}  # not in a story of one region, whose checkers look for every run


class Workload:
    """`run` until `stop`; every client then finishes what it is at."""

    def __init__(
        self,
        world: World | Door,
        requests: Requests,
        clients_count: int,
        ids_count: int,
        pause_s: float,
        name: str = "client",
        deletes: bool = False,
    ) -> None:
        self.world = world
        self.requests = requests
        self.clients_count = clients_count
        self.ids = [f"w{number}" for number in range(ids_count)]
        self.pause_s = pause_s
        self.name = name
        self.weights = WEIGHTS | DELETES if deletes else WEIGHTS
        self.deleted: list[str] = []  # run ids whose deletion was acknowledged
        self.resets: list[str] = []  # run ids that an acked reset made
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        await asyncio.gather(*(self._client(f"{self.name}-{number}") for number in range(self.clients_count)))

    async def _client(self, name: str) -> None:
        stream = self.world.streams(name)
        while not self._stopping:
            verb = stream.choices(list(self.weights), list(self.weights.values()))[0]
            await getattr(self, f"_{verb}")(name, stream.choice(self.ids), stream)
            await asyncio.sleep(stream.uniform(0, 2 * self.pause_s))

    async def _start(self, name: str, workflow_id: str, stream: random.Random, **fields: Any) -> None:
        conflict = stream.choices(list(Conflict), [4, 3, 2])[0]
        reuse = stream.choices(list(Reuse), [6, 2, 1])[0]
        if conflict == Conflict.TERMINATE_EXISTING:
            reuse = Reuse.ALLOW_DUPLICATE
        if stream.random() < 0.1:
            fields["workflow_start_delay"] = seconds(round(stream.uniform(0.1, 3.0), 3))
        if stream.random() < 0.1:
            fields["workflow_run_timeout"] = seconds(round(stream.uniform(2.0, 10.0), 3))
        await self.requests.start(name, workflow_id, draw_program(stream, self.ids), conflict, reuse, **fields)

    async def _start_retried(self, name: str, workflow_id: str, stream: random.Random) -> None:
        steps = [*draw_program(stream, self.ids, 1), ["fail"]]
        await self.requests.start(
            name, workflow_id, steps, Conflict.USE_EXISTING, Reuse.ALLOW_DUPLICATE, retry_policy=workflow_retry(3)
        )

    async def _signal(self, name: str, workflow_id: str, stream: random.Random) -> None:
        await self.requests.signal(name, workflow_id)

    async def _signal_pinned(self, name: str, workflow_id: str, stream: random.Random) -> None:
        run_id, is_open = await self.requests.current_run(name, workflow_id)
        if is_open:
            await self.requests.signal(name, workflow_id, run_id)

    async def _signal_with_start(self, name: str, workflow_id: str, stream: random.Random) -> None:
        await self.requests.signal_with_start(name, workflow_id, draw_program(stream, self.ids))

    async def _update(self, name: str, workflow_id: str, stream: random.Random) -> None:
        run_id, is_open = await self.requests.current_run(name, workflow_id)
        if is_open:
            kind = stream.choice(["now", "now", "later", "refuse"])
            await self.requests.update(name, workflow_id, run_id if stream.random() < 0.5 else "", kind)

    async def _query(self, name: str, workflow_id: str, stream: random.Random) -> None:
        run_id, _ = await self.requests.current_run(name, workflow_id)
        if run_id:
            await self.requests.query(name, workflow_id, run_id)

    async def _cancel(self, name: str, workflow_id: str, stream: random.Random) -> None:
        await self._end("cancel", name, workflow_id, stream)

    async def _terminate(self, name: str, workflow_id: str, stream: random.Random) -> None:
        await self._end("terminate", name, workflow_id, stream)

    async def _end(self, verb: str, name: str, workflow_id: str, stream: random.Random) -> None:
        run_id, is_open = await self.requests.current_run(name, workflow_id)
        if is_open:
            await self.requests.end(name, verb, workflow_id, run_id if stream.random() < 0.7 else "")

    async def _reset(self, name: str, workflow_id: str, stream: random.Random) -> None:
        run_id, _ = await self.requests.current_run(name, workflow_id)
        if not run_id:
            return
        execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        page = api.GetWorkflowExecutionHistoryRequest(namespace=self.requests.namespace, execution=execution)
        answer = await self.requests.maybe(name, "GetWorkflowExecutionHistory", page)
        points = [event.event_id for event in answer.history.events if event.event_type in RESET_POINTS] if answer else []
        if points and (made := await self.requests.reset(name, workflow_id, run_id, stream.choice(points))):
            running_loop().trace("reset", base=run_id, run=made)
            self.resets.append(made)

    async def _delete(self, name: str, workflow_id: str, stream: random.Random) -> None:
        """A run that may be open, closed, current or not."""
        run_id, _ = await self.requests.current_run(name, workflow_id)
        if run_id and await self.requests.delete(name, workflow_id, run_id):
            self.deleted.append(run_id)

    async def _read(self, name: str, workflow_id: str, stream: random.Random) -> None:
        """Waits for news of the current run, as a client that awaits a result does."""
        execution = WorkflowExecution(workflow_id=workflow_id)
        request = api.GetWorkflowExecutionHistoryRequest(
            namespace=self.requests.namespace, execution=execution, wait_new_event=True
        )
        answer = await self.requests.maybe(name, "GetWorkflowExecutionHistory", request)
        if answer is not None and answer.next_page_token:
            request.next_page_token = answer.next_page_token
            await self.requests.maybe(name, "GetWorkflowExecutionHistory", request)
