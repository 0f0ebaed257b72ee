"""Stateful sequences: one workflow, its worker and its clients, all of whom may send anything at any moment.

start -> poll -> answer with random commands, messages and query results, between random signals, updates, cancels, resets and
answers to activities. Whatever was sent, at the end the run can be described, its history is well formed, a task that was
answered badly has failed with a cause (or is still open), and the run can be ended.
"""

from __future__ import annotations

import random
from typing import Any

from temporalio.api.common.v1 import Payloads, WorkflowType
from temporalio.api.enums.v1 import EventType, PendingWorkflowTaskState, WorkflowExecutionStatus, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Outcome
from temporalio.api.workflowservice import v1 as api

from cluster.frontend.methods import METHODS
from tests.e2e import commands
from tests.fuzz import findings
from tests.fuzz.messages import MessageMaker, temper_of
from tests.fuzz.pools import FUZZ, Pools
from tests.fuzz.stage import Broken, Stage, fault_of
from tests.fuzz.targets import WAITING, Answer

STEPS_MAX = 14
POLL_S = 3.0  # a shorter one is refused, or answered with nothing at once
TASK_COMES_S = 0.06
CLIENT_CALLS = (
    "SignalWorkflowExecution", "UpdateWorkflowExecution", "QueryWorkflow", "RequestCancelWorkflowExecution",
    "ResetWorkflowExecution", "SignalWithStartWorkflowExecution", "PauseActivity", "UnpauseActivity", "ResetActivity",
    "UpdateActivityOptions", "RecordActivityTaskHeartbeatById", "RespondActivityTaskCompletedById",
    "RespondActivityTaskFailedById", "RespondActivityTaskCanceledById", "ResetStickyTaskQueue", "ExecuteMultiOperation",
    "PollWorkflowExecutionUpdate", "PauseWorkflowExecution", "UnpauseWorkflowExecution", "UpdateWorkflowExecutionOptions",
    "GetWorkflowExecutionHistory", "StartWorkflowExecution", "DescribeWorkflowExecution",
    "GetWorkflowExecutionHistoryReverse",
)  # fmt: skip
ACTIVITY_ANSWERS = (
    "RespondActivityTaskCompleted", "RespondActivityTaskFailed", "RespondActivityTaskCanceled", "RecordActivityTaskHeartbeat",
)  # fmt: skip


class Sequence:
    """`play` sends it; `steps` is what it sent, for the regression file."""

    def __init__(self, stage: Stage, rng: random.Random, number: int, take: Any) -> None:
        """take(call, answer, temper): told about every answer."""
        self.stage, self.rng, self._take = stage, rng, take
        self.workflow_id = self.queue = f"seq-{number}"
        self.pools = Pools(queue=self.queue, is_single=True, runs=[(self.workflow_id, "")])
        self.steps: list[findings.Step] = []
        self.run_id = ""
        self.refused = 0
        self.answered = 0
        self.activities = 0

    async def play(self) -> None:
        start = api.StartWorkflowExecutionRequest(
            namespace=FUZZ,
            workflow_id=self.workflow_id,
            workflow_type=WorkflowType(name="Raw"),
            task_queue=TaskQueue(name=self.queue),
        )
        answer = await self._send("StartWorkflowExecution", start, "plausible")
        self.run_id = answer.parsed("StartWorkflowExecution").run_id
        self.pools.runs = [(self.workflow_id, self.run_id)]
        for _ in range(self.rng.randrange(3, STEPS_MAX)):
            await self.rng.choices((self._workflow_task, self._activity_task, self._client), (6, 2, 3))[0]()
        await self._end()

    async def _send(self, name: str, request: Any, temper: str, timeout_s: float = 0.0, patience_s: float = 0.0) -> Answer:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        if name in WAITING and not timeout_s:
            timeout_s = TASK_COMES_S
        answer = await self.stage.target.send(name, data, timeout_s, patience_s)
        self.steps.append((name, data, answer.data))
        self._take(name, answer, temper)
        fault = fault_of(name, answer, WAITING)
        if fault:
            raise Broken(fault)
        return answer

    async def _generated(self, name: str, temper: str = "", **fields: Any) -> Answer:
        maker = MessageMaker(self.rng, self.pools, name, temper)
        request = maker.make(METHODS[name].request)
        for key, value in fields.items():
            setattr(request, key, value)
        return await self._send(name, request, maker.temper)

    async def _poll(self, name: str) -> Any:
        """The next task, or None if there is none now."""
        form = api.PollWorkflowTaskQueueRequest if name == "PollWorkflowTaskQueue" else api.PollActivityTaskQueueRequest
        request = form(namespace=FUZZ, task_queue=TaskQueue(name=self.queue))
        answer = await self._send(name, request, "plausible", POLL_S, TASK_COMES_S)
        task = answer.parsed(name) if answer.code == "OK" else None
        return task if task is not None and task.task_token else None

    async def _workflow_task(self) -> None:
        task = await self._poll("PollWorkflowTaskQueue")
        if task is None:
            await self._generated("SignalWorkflowExecution", "plausible")  # so that there is something to do
            return
        if task.HasField("query"):
            await self._generated("RespondQueryTaskCompleted", task_token=task.task_token)
            return
        self.pools.remember_token("workflow", task.task_token)
        self.pools.update_ids = [message.protocol_instance_id for message in task.messages] + self.pools.update_ids[-2:]
        if self.rng.random() < 0.1:
            await self._generated("RespondWorkflowTaskFailed", task_token=task.task_token)
            return
        temper = "plausible" if self.rng.random() < 0.4 else temper_of(self.rng)
        maker = MessageMaker(self.rng, self.pools, "RespondWorkflowTaskCompleted", temper)
        request = maker.make(api.RespondWorkflowTaskCompletedRequest)
        request.task_token = task.task_token
        if task.messages and self.rng.random() < 0.7:
            self._answer_updates(task, request, maker)
        answer = await self._send("RespondWorkflowTaskCompleted", request, temper)
        self.answered += 1
        if answer.code == "INVALID_ARGUMENT":
            await self._check_refused(task, answer)
        elif any(command.HasField("schedule_activity_task_command_attributes") for command in request.commands):
            await self._activity_task()

    def _answer_updates(self, task: Any, request: Any, maker: MessageMaker) -> None:
        """As a correct worker would, or nearly."""
        del request.messages[:]
        for message in task.messages:
            if self.rng.random() < 0.3:
                request.messages.append(commands.reject(message, Failure(message="no")))
            else:
                request.messages.append(commands.accept(message))
                if self.rng.random() < 0.7:
                    request.messages.append(commands.respond(message.protocol_instance_id, Outcome(success=Payloads())))
        if maker.temper != "plausible":
            for one in request.messages:
                maker.spoil(one)

    async def _check_refused(self, task: Any, answer: Answer) -> None:
        """The whole call was refused and the task is still open, or the task has failed and says why."""
        self.refused += 1
        described = await self._describe(task.workflow_execution.run_id)
        if (
            described is None
            or described.workflow_execution_info.status != WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
        ):
            return
        pending = described.pending_workflow_task
        if pending.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED and pending.attempt == task.attempt:
            return
        run_id = task.workflow_execution.run_id
        events = await self.stage.history(FUZZ, self.workflow_id, run_id)
        failures = [
            event.workflow_task_failed_event_attributes
            for event in events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
        ]
        unspecified = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED
        if task.attempt == 1 and (not failures or failures[-1].cause == unspecified):
            raise Broken(
                f"a workflow task was refused with {answer.message!r}, but the history does not tell a cause: {failures[-1:]}"
            )

    async def _activity_task(self) -> None:
        task = await self._poll("PollActivityTaskQueue")
        if task is not None:
            self.pools.remember_token("activity", task.task_token)
            self.activities += 1
        await self._generated(
            self.rng.choice(ACTIVITY_ANSWERS), "plausible" if task is not None and self.rng.random() < 0.4 else ""
        )

    async def _client(self) -> None:
        await self._generated(self.rng.choice(CLIENT_CALLS))

    async def _describe(self, run_id: str) -> Any:
        request = api.DescribeWorkflowExecutionRequest(namespace=FUZZ)
        request.execution.workflow_id, request.execution.run_id = self.workflow_id, run_id
        answer = await self._send("DescribeWorkflowExecution", request, "plausible")
        return answer.parsed("DescribeWorkflowExecution") if answer.code == "OK" else None

    async def _end(self) -> None:
        """Every run of the id is whole, and the current one can be ended."""
        await self.stage.check_run(FUZZ, self.workflow_id, self.run_id)
        current = await self._describe("")
        if current is None:
            raise Broken(f"{self.workflow_id} is gone, though nobody deleted it")
        info = current.workflow_execution_info
        await self.stage.check_run(FUZZ, self.workflow_id, info.execution.run_id)
        if info.status in (
            WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
            WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
        ):
            request = api.TerminateWorkflowExecutionRequest(namespace=FUZZ)
            request.workflow_execution.workflow_id = self.workflow_id
            answer = await self._send("TerminateWorkflowExecution", request, "plausible")
            if answer.code not in ("OK", "NOT_FOUND"):  # it may have timed out by itself in between
                raise Broken(f"an open run cannot be terminated: {answer}")
            await self.stage.check_run(FUZZ, self.workflow_id, info.execution.run_id)
