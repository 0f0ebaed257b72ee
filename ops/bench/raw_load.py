"""Load without an SDK worker, so that on a small machine the server gets its share and a fill of 100,000 workflows ends within
minutes. The calls go through the SDK's gRPC client; the worker is `raw_worker.py`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType, HistoryEventFilterType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, WaitPolicy
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from ops.bench.job import Job
from ops.bench.raw_worker import ANSWER, POLL_TIMEOUT, RawWorker

# Which script of the worker a load's workflows run; nobody polls for "pending". Otherwise "parked".
TYPES = {"workflows": "steps-{}", "fill_pending": "pending", "fill_timers": "sleep"}


class RawLoad:
    """One job of scripted calls: `open`, many times `once`, `close`."""

    def __init__(self, job: Job) -> None:
        self._job, self._queue = job, f"bench-{uuid.uuid4().hex[:8]}"
        self._type = TYPES.get(job.load, "parked").format(job.activities)
        self._runs: list[WorkflowExecution] = []
        self._sent = 0
        self._calls: dict[str, Callable[[int], Awaitable[None]]] = {
            "workflows": self._workflow,
            "fill_pending": self._fill,
            "fill_timers": self._fill,
            "signals": self._signal,
            "queries": self._query,
            "updates": self._update,
        }
        self._once = self._calls[job.load]

    async def open(self) -> None:
        job = self._job
        self._services = [(await Client.connect(each, namespace=job.namespace)).workflow_service for each in job.addresses]
        self._service = self._services[0]
        self._worker = RawWorker(self._services, job.namespace, self._queue)
        if self._job.load != "fill_pending":
            self._worker.start()
        if self._job.load in ("signals", "queries", "updates"):
            self._runs = [await self._start(number) for number in range(self._job.runs)]
            await asyncio.gather(*(self._query(number) for number in range(self._job.runs)))

    async def once(self, number: int) -> None:
        await self._once(number)

    async def close(self) -> None:
        if self._job.load == "fill_timers":
            while self._worker.asleep_count < self._sent:  # the fill is complete only then
                await asyncio.sleep(0.2)
        if self._job.load == "signals":
            seen = sum([await self._signals_in_history(run) for run in self._runs])
            assert seen == self._sent, f"{self._sent} signals acknowledged, but the histories have {seen}"
        for run in self._runs:
            await self._service.terminate_workflow_execution(
                api.TerminateWorkflowExecutionRequest(namespace=self._job.namespace, workflow_execution=run), retry=True
            )
        await self._worker.stop()

    async def _start(self, number: int) -> WorkflowExecution:
        workflow_id = f"{self._queue}-{number}"
        started = await self._services[number % len(self._services)].start_workflow_execution(
            api.StartWorkflowExecutionRequest(
                namespace=self._job.namespace, workflow_id=workflow_id, workflow_type=WorkflowType(name=self._type),
                task_queue=TaskQueue(name=self._queue), input=ANSWER, identity="bench", request_id=str(uuid.uuid4()),
            ),
            retry=True,
        )  # fmt: skip
        return WorkflowExecution(workflow_id=workflow_id, run_id=started.run_id)

    async def _fill(self, number: int) -> None:
        await self._start(number)
        self._sent += 1

    async def _workflow(self, number: int) -> None:
        run, service = await self._start(number), self._services[number % len(self._services)]
        request = api.GetWorkflowExecutionHistoryRequest(
            namespace=self._job.namespace, execution=run, wait_new_event=True,
            history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
        )  # fmt: skip
        while True:
            page = await service.get_workflow_execution_history(request, retry=True, timeout=POLL_TIMEOUT)
            if page.history.events:
                event = page.history.events[-1]
                assert event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, f"a workflow ended with {event}"
                return
            request.next_page_token = page.next_page_token

    def _run(self, number: int) -> WorkflowExecution:
        return self._runs[number % len(self._runs)]

    async def _signal(self, number: int) -> None:
        await self._service.signal_workflow_execution(
            api.SignalWorkflowExecutionRequest(
                namespace=self._job.namespace, workflow_execution=self._run(number), signal_name="poke",
                request_id=str(uuid.uuid4()), identity="bench",
            ),
            retry=True,
        )  # fmt: skip
        self._sent += 1

    async def _query(self, number: int) -> None:
        query = WorkflowQuery(query_type="count")
        answer = await self._service.query_workflow(
            api.QueryWorkflowRequest(namespace=self._job.namespace, execution=self._run(number), query=query), retry=True
        )
        assert answer.query_result == ANSWER, f"a query answered {answer}"

    async def _update(self, number: int) -> None:
        completed = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
        meta, wanted = Meta(update_id=str(uuid.uuid4()), identity="bench"), Input(name="add", args=ANSWER)
        answer = await self._service.update_workflow_execution(
            api.UpdateWorkflowExecutionRequest(
                namespace=self._job.namespace, workflow_execution=self._run(number),
                wait_policy=WaitPolicy(lifecycle_stage=completed), request=Request(meta=meta, input=wanted),
            ),
            retry=True,
        )  # fmt: skip
        assert answer.outcome.success == ANSWER, f"an update answered {answer}"

    async def _signals_in_history(self, run: WorkflowExecution) -> int:
        request = api.GetWorkflowExecutionHistoryRequest(namespace=self._job.namespace, execution=run, maximum_page_size=1_000)
        seen = 0
        while True:
            page = await self._service.get_workflow_execution_history(request, retry=True)
            seen += sum(e.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED for e in page.history.events)
            if not page.next_page_token:
                return seen
            request.next_page_token = page.next_page_token
