"""What a scenario is given: a client, names of its own, workers, raw calls, and a place for what it observed."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType, HistoryEventFilterType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import DataConverter
from temporalio.service import RPCError, WorkflowService
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.e2e.raw_worker import RawWorker
from tests.e2e.registry import Run

NAMESPACE = "default"
IDENTITY = "e2e"  # fixed, so that identities in histories are compared as they are
BUILD_ID = "e2e-build"  # fixed, because the SDK's default hashes the loaded modules
WAIT_S = 20.0


def payload(value: object) -> Payload:
    return DataConverter.default.payload_converter.to_payloads([value])[0]


def payloads(*values: object) -> Payloads:
    return Payloads(payloads=[payload(value) for value in values])


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def event_name(event: HistoryEvent) -> str:
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


class Env:
    """One scenario's world on one server. Every name holds `token`, which the comparison takes out again.

    others: clients of other nodes of the same cluster. Workers then sit on other nodes than the one that is asked to start.
    """

    def __init__(self, client: Client, others: Sequence[Client] = ()) -> None:
        self.client = client
        self._worker_clients = itertools.cycle([*others, client])
        self.service: WorkflowService = client.workflow_service
        self.namespace = NAMESPACE
        self.token = "u" + uuid.uuid4().hex[:15]
        self.task_queue = self.id("tq")
        self.observed: dict[str, Any] = {}
        self.raw = RawWorker(next(self._worker_clients).workflow_service, self.namespace, self.task_queue)

    def id(self, name: str) -> str:
        """A name that no other scenario and no earlier run of this one has used."""
        return f"{name}-{self.token}"

    @asynccontextmanager
    async def worker(
        self, workflows: Sequence[type] = (), activities: Sequence[Callable[..., Any]] = (), **options: Any
    ) -> AsyncIterator[Worker]:
        """An SDK worker on this scenario's task queue, or on `task_queue`."""
        options.setdefault("task_queue", self.task_queue)
        options.setdefault("build_id", BUILD_ID)
        worker = Worker(
            next(self._worker_clients),
            workflows=workflows,
            activities=activities,
            workflow_runner=UnsandboxedWorkflowRunner(),
            **options,
        )
        async with worker:
            yield worker

    async def start(self, workflow: Any, *args: Any, name: str = "wf", **options: Any) -> WorkflowHandle[Any, Any]:
        """Starts an SDK workflow under the id `name`."""
        options.setdefault("task_queue", self.task_queue)
        options.setdefault("id", self.id(name))
        return await self.client.start_workflow(workflow, args=args, **options)

    def start_request(self, name: str = "wf", **fields: Any) -> StartWorkflowExecutionRequest:
        """A start of a workflow whose tasks the raw worker answers; `fields` overwrite."""
        request: dict[str, Any] = {
            "namespace": self.namespace,
            "workflow_id": self.id(name),
            "workflow_type": WorkflowType(name="Raw"),
            "task_queue": TaskQueue(name=self.task_queue),
            "identity": IDENTITY,
            "request_id": str(uuid.uuid4()),
        }
        return StartWorkflowExecutionRequest(**(request | fields))

    async def start_raw(self, name: str = "wf", **fields: Any) -> Run:
        request = self.start_request(name, **fields)
        response = await self.service.start_workflow_execution(request)
        return Run(request.workflow_id, response.run_id)

    async def signal(self, run: Run, name: str = "go", *values: object, **fields: Any) -> None:
        await self.service.signal_workflow_execution(
            SignalWorkflowExecutionRequest(
                namespace=self.namespace,
                workflow_execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
                signal_name=name,
                input=payloads(*values) if values else None,
                identity=IDENTITY,
                **fields,
            )
        )

    async def describe(self, run: Run) -> DescribeWorkflowExecutionResponse:
        return await self.service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(
                namespace=self.namespace,
                execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
            )
        )

    async def history(self, run: Run) -> list[HistoryEvent]:
        """Every event so far."""
        events: list[HistoryEvent] = []
        page = b""
        while True:
            response = await self.service.get_workflow_execution_history(
                GetWorkflowExecutionHistoryRequest(
                    namespace=self.namespace,
                    execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
                    next_page_token=page,
                )
            )
            events.extend(response.history.events)
            page = response.next_page_token
            if not page:
                return events

    async def seen(self, run: Run, name: str, count: int = 1) -> HistoryEvent:
        """Waits by history long poll until the `count`-th event of that type is there."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        events: list[HistoryEvent] = []
        page = b""
        while asyncio.get_running_loop().time() < deadline:
            response = await self.service.get_workflow_execution_history(
                GetWorkflowExecutionHistoryRequest(
                    namespace=self.namespace,
                    execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
                    next_page_token=page,
                    wait_new_event=True,
                ),
                timeout=seconds(WAIT_S),
            )
            events.extend(response.history.events)
            found = [event for event in events if event_name(event) == name]
            if len(found) >= count:
                return found[count - 1]
            page = response.next_page_token
            if not page:
                break
        raise AssertionError(f"{name} x{count} never came; the history is {[event_name(event) for event in events]}")

    async def closed(self, run: Run) -> str:
        """Waits for the last event of the run and names it."""
        response = await self.service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(
                namespace=self.namespace,
                execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
                wait_new_event=True,
                history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
            ),
            timeout=seconds(WAIT_S),
        )
        return event_name(response.history.events[-1])

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, timeout_s: float = WAIT_S) -> Any:
        """Asks again until the answer is true. For state that has no long poll, such as visibility."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            answer = await condition()
            if answer:
                return answer
            await asyncio.sleep(0.02)
        raise AssertionError(f"waited {timeout_s} s in vain for: {what}")

    def observe(self, name: str, value: Message | dict[str, Any] | list[Any] | str | float | bool | None) -> None:
        """Keeps an answer beside the histories, to be compared with the real server's answer."""
        if name in self.observed:
            raise ValueError(f"{name} is observed twice")
        self.observed[name] = value

    async def observe_error(self, name: str, call: Awaitable[object]) -> RPCError:
        """The call must fail; its status and the types of its details are compared, its message is kept for the reader."""
        try:
            await call
        except RPCError as error:
            details = [detail.type_url.rsplit("/", 1)[-1] for detail in error.grpc_status.details]
            self.observe(name, {"error": error.status.name, "details": details, "message": error.message})
            return error
        raise AssertionError(f"{name}: the call should have failed")


def run_of(handle: WorkflowHandle[Any, Any]) -> Run:
    """The run that a handle started."""
    run_id = handle.result_run_id or handle.run_id or handle.first_execution_run_id
    assert run_id is not None
    return Run(handle.id, run_id)
