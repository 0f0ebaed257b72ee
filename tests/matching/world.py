"""A small deterministic world for matching: a history that decides, seeded ids, and calls on the simulated loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, NamedTuple

from google.protobuf.message import Message
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import simulate
from cluster.core.errors import unavailable
from cluster.frontend.call import Call
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.matching.tasks import QueueKey, TaskGone, TaskHint, TaskKind

EPOCH_NS = 1_700_000_000_000_000_000
QUEUE = QueueKey("ns-id", "tq", TaskKind.WORKFLOW)
ACTIVITIES = QueueKey("ns-id", "tq", TaskKind.ACTIVITY)
STICKY = QueueKey("ns-id", "sticky-1", TaskKind.WORKFLOW)

TaskKey = tuple[str, int, int]


class Namespace(NamedTuple):
    id: str = "ns-id"
    name: str = "ns"


NAMESPACE = Namespace()


class SimClock:
    def now_ns(self) -> int:
        return EPOCH_NS + round(asyncio.get_running_loop().time() * 1e9)


class SeededIds:
    def __init__(self) -> None:
        self._random = random.Random(7)

    def uuid(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def jitter(self) -> float:
        return self._random.random()

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class Jobs:
    """A Spawn that keeps its jobs; a failed job fails the test when its result is read at the end."""

    def __init__(self) -> None:
        self.jobs: list[asyncio.Task[None]] = []

    def __call__(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job, name=name)
        self.jobs.append(task)
        return task


def hint(number: int, queue: QueueKey = QUEUE, shard: int = 1, **fields: Any) -> TaskHint:
    return TaskHint(
        queue=queue,
        shard=shard,
        workflow_id=f"wf-{number}",
        run_id=f"run-{number}",
        scheduled_event_id=5,
        stamp=1,
        created_at=fields.pop("created_at", EPOCH_NS + number),
        **fields,
    )


def key_of(task: TaskHint) -> TaskKey:
    return (task.run_id, task.scheduled_event_id, task.stamp)


class ModelHistory:
    """The runs' word: a task is started at most once. `down` shards answer UNAVAILABLE."""

    def __init__(self) -> None:
        self.outstanding: dict[TaskKey, TaskHint] = {}
        self.started: dict[TaskKey, str] = {}  # by the poller's identity
        self.start_order: list[str] = []
        self.down: set[int] = set()
        self.asks: list[tuple[int, int, int]] = []
        self.latency_s = 0.0
        self.failures: list[Exception] = []  # raised by the next starts, in turn
        self.gone_count = 0

    async def start_workflow_task(self, task: TaskHint, poll: Message) -> bytes | Message:
        await self._start(task, poll)
        return api.PollWorkflowTaskQueueResponse(task_token=task.workflow_id.encode(), attempt=1).SerializeToString()

    async def start_activity_task(self, task: TaskHint, poll: Message) -> bytes | Message:
        await self._start(task, poll)
        return api.PollActivityTaskQueueResponse(task_token=task.workflow_id.encode(), attempt=1)

    async def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        self.asks.append((shard, skip, limit))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if shard in self.down:
            raise unavailable("the shard moves")
        tasks = [task for task in self.outstanding.values() if task.queue == queue and task.shard == shard]
        answer = sorted(tasks, key=lambda task: task.created_at)[skip : skip + limit]
        if self.latency_s:
            await asyncio.sleep(self.latency_s)  # the answer ages on its way
        return answer

    async def _start(self, task: TaskHint, poll: Any) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if self.failures:
            raise self.failures.pop(0)
        if task.shard in self.down:
            raise unavailable("the shard moves")
        if self.outstanding.pop(key_of(task), None) is None:
            self.gone_count += 1
            raise TaskGone
        assert key_of(task) not in self.started, "two polls started one task"
        self.started[key_of(task)] = poll.identity
        self.start_order.append(task.workflow_id)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)


class World:
    def __init__(self, **limits: Any) -> None:
        self.jobs = Jobs()
        self.history = ModelHistory()
        self.matching = Matching(MatchingLimits(**limits), SimClock(), SeededIds(), self.jobs, host="node-1")
        self.fallen_back: list[TaskHint] = []
        self.matching.bind(self.history, self.fallen_back.append)

    def schedule(self, task: TaskHint) -> bool:
        self.history.outstanding[key_of(task)] = task
        return self.matching.offer(task)

    async def poll(self, queue: QueueKey = QUEUE, identity: str = "worker", timeout_s: float = 5.0, **fields: Any) -> Any:
        """The decoded answer."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        call = Call(f"/temporal.api.workflowservice.v1.WorkflowService/Poll{queue.kind.name}", {}, deadline, "test")
        if queue.kind is TaskKind.WORKFLOW:
            request = api.PollWorkflowTaskQueueRequest(namespace="ns", identity=identity, **fields)
            request.task_queue.name = queue.name
            answer = await self.matching.poll_workflow_task_queue(NAMESPACE, request, call)
            return api.PollWorkflowTaskQueueResponse.FromString(answer) if isinstance(answer, bytes) else answer
        activity = api.PollActivityTaskQueueRequest(namespace="ns", identity=identity, **fields)
        activity.task_queue.name = queue.name
        return await self.matching.poll_activity_task_queue(NAMESPACE, activity, call)

    async def polls(self, count: int, queue: QueueKey = QUEUE, **fields: Any) -> list[asyncio.Task[Any]]:
        """Parked polls."""
        tasks = [asyncio.get_running_loop().create_task(self.poll(queue, **fields)) for _ in range(count)]
        await settle()
        return tasks


async def settle() -> None:
    """Lets everything that is ready run, without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, None]) -> None:
    simulate(main)
