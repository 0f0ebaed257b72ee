"""A worker without an SDK: it polls and answers task by task, so that a scenario decides the order of everything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import TaskQueueKind, TaskQueueType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    GetWorkflowExecutionHistoryRequest,
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RecordActivityTaskHeartbeatRequest,
    RecordActivityTaskHeartbeatResponse,
    RespondActivityTaskCanceledRequest,
    RespondActivityTaskCompletedRequest,
    RespondActivityTaskFailedRequest,
    RespondQueryTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    RespondWorkflowTaskFailedRequest,
)
from temporalio.service import WorkflowService

IDENTITY = "raw-worker"
NORMAL = TaskQueueKind.TASK_QUEUE_KIND_NORMAL
WORKFLOW_QUEUE = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
UNHANDLED_FAILURE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
POLL = timedelta(seconds=30)  # A task that has not come by then never comes: every scenario is over sooner.


def failure(message: str, kind: str = "", non_retryable: bool = False) -> Failure:
    return Failure(
        message=message,
        source="raw",
        application_failure_info=ApplicationFailureInfo(type=kind, non_retryable=non_retryable),
    )


class RawWorker:
    def __init__(self, service: WorkflowService, namespace: str, task_queue: str) -> None:
        self._service = service
        self._namespace = namespace
        self._task_queue = task_queue

    async def poll(self, sticky: str | None = None, task_queue: str | None = None) -> PollWorkflowTaskQueueResponse:
        """The next workflow task or query of the normal queue, or of the sticky queue `sticky`."""
        queue = self._sticky(sticky) if sticky else TaskQueue(name=task_queue or self._task_queue, kind=NORMAL)
        task = await self._service.poll_workflow_task_queue(
            PollWorkflowTaskQueueRequest(namespace=self._namespace, task_queue=queue, identity=IDENTITY), timeout=POLL
        )
        assert task.task_token, f"no workflow task came on {queue.name}"
        return task

    def _sticky(self, name: str) -> TaskQueue:
        return TaskQueue(name=name, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=self._task_queue)

    async def poll_sticky(self, name: str) -> asyncio.Task[PollWorkflowTaskQueueResponse]:
        """A poll of that sticky queue, known to the server: it sends nothing to a sticky queue that nobody polls."""
        polling = asyncio.create_task(self.poll(sticky=name))
        while True:
            described = await self._service.describe_task_queue(
                DescribeTaskQueueRequest(namespace=self._namespace, task_queue=self._sticky(name), task_queue_type=WORKFLOW_QUEUE)
            )
            if described.pollers:
                return polling
            assert not polling.done(), "the poll of the sticky queue ended early"
            await asyncio.sleep(0.02)

    async def events(self, task: PollWorkflowTaskQueueResponse) -> list[HistoryEvent]:
        """The task's whole history, its further pages included."""
        events = list(task.history.events)
        page = task.next_page_token
        while page:
            response = await self._service.get_workflow_execution_history(
                GetWorkflowExecutionHistoryRequest(
                    namespace=self._namespace, execution=task.workflow_execution, next_page_token=page
                )
            )
            events.extend(response.history.events)
            page = response.next_page_token
        return events

    async def complete(
        self,
        task: PollWorkflowTaskQueueResponse,
        *commands: Command,
        messages: Sequence[Message] = (),
        sticky: str | None = None,
        sticky_timeout_s: float = 10.0,
        query_results: Mapping[str, WorkflowQueryResult] | None = None,
        **fields: Any,
    ) -> RespondWorkflowTaskCompletedResponse:
        """Answers with these commands; `sticky` names the queue the next task should come on."""
        attributes = None
        if sticky is not None:
            timeout = Duration()
            timeout.FromTimedelta(timedelta(seconds=sticky_timeout_s))
            attributes = StickyExecutionAttributes(worker_task_queue=self._sticky(sticky), schedule_to_start_timeout=timeout)
        return await self._service.respond_workflow_task_completed(
            RespondWorkflowTaskCompletedRequest(
                namespace=self._namespace,
                task_token=task.task_token,
                commands=commands,
                messages=messages,
                identity=IDENTITY,
                sticky_attributes=attributes,
                query_results=query_results,
                **fields,
            )
        )

    async def step(self, *commands: Command, **fields: Any) -> PollWorkflowTaskQueueResponse:
        """Polls one task and answers it."""
        task = await self.poll()
        await self.complete(task, *commands, **fields)
        return task

    async def fail(
        self,
        task: PollWorkflowTaskQueueResponse,
        cause: WorkflowTaskFailedCause.ValueType = UNHANDLED_FAILURE,
        message: str = "the worker gave up",
    ) -> None:
        await self._service.respond_workflow_task_failed(
            RespondWorkflowTaskFailedRequest(
                namespace=self._namespace,
                task_token=task.task_token,
                cause=cause,
                failure=failure(message),
                identity=IDENTITY,
            )
        )

    async def answer_query(self, task: PollWorkflowTaskQueueResponse, **fields: Any) -> None:
        await self._service.respond_query_task_completed(
            RespondQueryTaskCompletedRequest(namespace=self._namespace, task_token=task.task_token, **fields)
        )

    async def poll_activity(self) -> PollActivityTaskQueueResponse:
        task = await self._service.poll_activity_task_queue(
            PollActivityTaskQueueRequest(
                namespace=self._namespace,
                task_queue=TaskQueue(name=self._task_queue, kind=NORMAL),
                identity=IDENTITY,
            ),
            timeout=POLL,
        )
        assert task.task_token, f"no activity task came on {self._task_queue}"
        return task

    async def complete_activity(self, task: PollActivityTaskQueueResponse, result: Payloads | None = None) -> None:
        await self._service.respond_activity_task_completed(
            RespondActivityTaskCompletedRequest(
                namespace=self._namespace, task_token=task.task_token, result=result, identity=IDENTITY
            )
        )

    async def fail_activity(self, task: PollActivityTaskQueueResponse, reason: Failure, **fields: Any) -> None:
        await self._service.respond_activity_task_failed(
            RespondActivityTaskFailedRequest(
                namespace=self._namespace, task_token=task.task_token, failure=reason, identity=IDENTITY, **fields
            )
        )

    async def cancel_activity(self, task: PollActivityTaskQueueResponse, details: Payloads | None = None) -> None:
        await self._service.respond_activity_task_canceled(
            RespondActivityTaskCanceledRequest(
                namespace=self._namespace, task_token=task.task_token, details=details, identity=IDENTITY
            )
        )

    async def heartbeat(
        self, task: PollActivityTaskQueueResponse, details: Payloads | None = None
    ) -> RecordActivityTaskHeartbeatResponse:
        return await self._service.record_activity_task_heartbeat(
            RecordActivityTaskHeartbeatRequest(
                namespace=self._namespace, task_token=task.task_token, details=details, identity=IDENTITY
            )
        )
