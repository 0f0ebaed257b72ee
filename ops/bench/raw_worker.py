"""A worker without an SDK: scripted answers to polls, over the SDK's gRPC client. The same calls as the official worker makes
(sticky queue, eager activities, the next task in the answer), but at a fraction of its CPU.

The workflow's type is its script: "steps-3" runs three activities one after the other, "parked" stays open and answers queries
and updates, "sleep" starts a timer of 30 days.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import (
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    ProtocolMessageCommandAttributes,
    ScheduleActivityTaskCommandAttributes,
    StartTimerCommandAttributes,
)
from temporalio.api.common.v1 import ActivityType, Payload, Payloads
from temporalio.api.enums.v1 import CommandType, EventType, QueryResultType, TaskQueueKind
from temporalio.api.protocol.v1 import Message
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.update.v1 import Acceptance, Outcome, Request, Response
from temporalio.api.workflowservice import v1 as api
from temporalio.service import RPCError, RPCStatusCode, WorkflowService

POLLERS_MIN = 10  # of each kind (normal, sticky, activity); with more connections, one on each
POLL_TIMEOUT = timedelta(seconds=70)
ANSWER = Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b"1")])
ANSWERED = WorkflowQueryResult(result_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED, answer=ANSWER)


class RawWorker:
    """Answers workflow and activity tasks of one task queue by script. Pollers are spread over the connections; each answers
    where it polled, as a worker does."""

    def __init__(self, services: Sequence[WorkflowService], namespace: str, queue: str) -> None:
        self._services, self._namespace, self._queue = services, namespace, queue
        self._sticky_queue = f"{queue}-sticky"
        self._steps_done: Counter[str] = Counter()  # by run id: a sticky task brings only the newest events
        self._jobs: list[asyncio.Future[None]] = []
        self.asleep_count = 0

    def start(self) -> None:
        normal, sticky = TaskQueue(name=self._queue), self._sticky()
        count = max(POLLERS_MIN, len(self._services))
        services = [self._services[number % len(self._services)] for number in range(count)]
        loops: Iterable[Awaitable[None]] = [
            *(self._poll_workflows(service, normal) for service in services),
            *(self._poll_workflows(service, sticky) for service in services),
            *(self._poll_activities(service, normal) for service in services),
        ]
        self._jobs = [asyncio.ensure_future(loop) for loop in loops]
        for job in self._jobs:
            job.add_done_callback(self._tell_failure)

    def _sticky(self) -> TaskQueue:
        return TaskQueue(name=self._sticky_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=self._queue)

    @staticmethod
    def _tell_failure(job: asyncio.Future[None]) -> None:
        """At once, since the callers of this job may now wait for ever."""
        if not job.cancelled() and (failure := job.exception()) is not None:
            print(f"a poller of the load ended: {failure!r}", file=sys.stderr, flush=True)

    async def stop(self) -> None:
        """Raises what ended a loop before its time."""
        for job in self._jobs:
            job.cancel()
        for ended in await asyncio.gather(*self._jobs, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _poll_workflows(self, service: WorkflowService, queue: TaskQueue) -> None:
        request = api.PollWorkflowTaskQueueRequest(namespace=self._namespace, task_queue=queue, identity="bench")
        while True:
            task = await service.poll_workflow_task_queue(request, retry=True, timeout=POLL_TIMEOUT)
            while task.task_token:
                if task.HasField("query"):
                    await self._answer_query(service, task)
                    break
                answer = await self._complete(service, task)
                for eager in answer.activity_tasks:
                    await self._complete_activity(service, eager)
                task = answer.workflow_task

    async def _complete(
        self, service: WorkflowService, task: api.PollWorkflowTaskQueueResponse
    ) -> api.RespondWorkflowTaskCompletedResponse:
        updates = [message for message in task.messages if message.body.Is(Request.DESCRIPTOR)]
        messages = [answer for message in updates for answer in update_answers(message)]
        commands = [
            Command(
                command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE,
                protocol_message_command_attributes=ProtocolMessageCommandAttributes(message_id=message.id),
            )
            for message in messages
        ]
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=self._namespace,
            task_token=task.task_token,
            identity="bench",
            commands=[*commands, *self._script(task)],
            messages=messages,
            query_results=dict.fromkeys(task.queries, ANSWERED),
            sticky_attributes=StickyExecutionAttributes(
                worker_task_queue=self._sticky(), schedule_to_start_timeout=Duration(seconds=10)
            ),
            return_new_workflow_task=True,
        )
        try:
            answer = await service.respond_workflow_task_completed(request, retry=True)
            self.asleep_count += task.workflow_type.name == "sleep"
            return answer
        except RPCError as failure:
            if failure.status is not RPCStatusCode.NOT_FOUND:  # the run was terminated at the end of the job
                raise
            return api.RespondWorkflowTaskCompletedResponse()

    def _script(self, task: api.PollWorkflowTaskQueueResponse) -> list[Command]:
        name, run_id = task.workflow_type.name, task.workflow_execution.run_id
        if name == "sleep":
            sleep = StartTimerCommandAttributes(timer_id="1", start_to_fire_timeout=Duration(seconds=30 * 86_400))
            return [Command(command_type=CommandType.COMMAND_TYPE_START_TIMER, start_timer_command_attributes=sleep)]
        if not name.startswith("steps-"):
            return []
        completed = sum(e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED for e in task.history.events)
        if not task.previous_started_event_id:
            self._steps_done[run_id] = 0
        self._steps_done[run_id] += completed
        done = self._steps_done[run_id]
        if done == int(name.removeprefix("steps-")):
            del self._steps_done[run_id]
            result = CompleteWorkflowExecutionCommandAttributes(result=ANSWER)
            kind = CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION
            return [Command(command_type=kind, complete_workflow_execution_command_attributes=result)]
        step = ScheduleActivityTaskCommandAttributes(
            activity_id=str(done + 1),
            activity_type=ActivityType(name="step"),
            task_queue=TaskQueue(name=self._queue),
            input=ANSWER,
            start_to_close_timeout=Duration(seconds=60),
            request_eager_execution=True,
        )
        kind = CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK
        return [Command(command_type=kind, schedule_activity_task_command_attributes=step)]

    async def _answer_query(self, service: WorkflowService, task: api.PollWorkflowTaskQueueResponse) -> None:
        kind = QueryResultType.QUERY_RESULT_TYPE_ANSWERED
        request = api.RespondQueryTaskCompletedRequest(
            namespace=self._namespace, task_token=task.task_token, completed_type=kind, query_result=ANSWER
        )
        await service.respond_query_task_completed(request, retry=True)

    async def _poll_activities(self, service: WorkflowService, queue: TaskQueue) -> None:
        request = api.PollActivityTaskQueueRequest(namespace=self._namespace, task_queue=queue, identity="bench")
        while True:
            task = await service.poll_activity_task_queue(request, retry=True, timeout=POLL_TIMEOUT)
            if task.task_token:
                await self._complete_activity(service, task)

    async def _complete_activity(self, service: WorkflowService, task: api.PollActivityTaskQueueResponse) -> None:
        request = api.RespondActivityTaskCompletedRequest(
            namespace=self._namespace, task_token=task.task_token, result=ANSWER, identity="bench"
        )
        await service.respond_activity_task_completed(request, retry=True)


def update_answers(request: Message) -> list[Message]:
    """Accepted and completed in the same workflow task, as the SDK does for a handler that does not wait."""
    update = Request()
    request.body.Unpack(update)
    accepted = Message(id=f"{request.id}/accept", protocol_instance_id=request.protocol_instance_id)
    accepted.body.Pack(
        Acceptance(
            accepted_request_message_id=request.id, accepted_request_sequencing_event_id=request.event_id, accepted_request=update
        )
    )
    completed = Message(id=f"{request.id}/complete", protocol_instance_id=request.protocol_instance_id)
    completed.body.Pack(Response(meta=update.meta, outcome=Outcome(success=ANSWER)))
    return [accepted, completed]
