"""Simulated workers: raw polls and answers over the wire, with a cache of histories, a sticky queue, and bad habits.

What a worker checks by itself: an answer with the token of a task that is over (a later one of the same run, or a later attempt
of the same activity, has been given out) must be refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message as ProtobufMessage
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, QueryResultType, TaskQueueKind, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.update.v1 import Acceptance, Outcome, Rejection, Request, Response
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.ledger import ActKind
from chaos.checkers.ledger import Outcome as ActOutcome
from chaos.sim.clients import LOST, Requests
from chaos.sim.faults import FaultPlan, WorkerFault
from chaos.sim.loop import running_loop
from chaos.sim.programs import TASK_QUEUE, View, commands_for, payloads, seconds, value_of, view_of
from chaos.sim.world import Door, World
from cluster.core.errors import CallerError, Code

SLOW_S = 4.0  # longer than any task's time
ANSWER_TRIES_MAX = 6


@dataclass
class Tasks:
    """What has been given out by the region, over all workers: run -> newest started event id, and so on.

    is_one_region: several may each write a branch of a run for a while, and what is over in one is not in the other."""

    workflow: dict[str, tuple[int, int]] = field(default_factory=dict)
    activity: dict[tuple[str, str], int] = field(default_factory=dict)
    given_count: int = 0
    is_one_region: bool = True


class SimWorker:
    """Runs until `stop`. `fresh` makes it forget, as a restarted process does."""

    def __init__(
        self,
        name: str,
        world: World | Door,
        requests: Requests,
        plan: FaultPlan,
        tasks: Tasks,
        *,
        is_sticky: bool,
        takes_next: bool,
        pollers_count: int = 2,
        poll_s: float = 20.0,
    ) -> None:
        self.name = name
        self.world = world
        self.requests = requests
        self.plan = plan
        self.tasks = tasks
        self.is_sticky = is_sticky
        self.takes_next = takes_next
        self.pollers_count = pollers_count  # of each kind
        self.poll_s = poll_s
        self.stream = world.streams(f"worker {name}")
        self._cache: dict[str, list[HistoryEvent]] = {}
        self._last_tokens: list[tuple[str, bytes]] = []
        self._lives = 0
        self._stopping = False
        self._jobs: set[asyncio.Task[None]] = set()

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        for number in range(self.pollers_count):
            self._spawn(self._run(self._poll_workflow, f"{self.name} workflow poller {number}"))
        if self.is_sticky:
            self._spawn(self._run(self._poll_sticky, f"{self.name} sticky poller"))
        for number in range(self.pollers_count):
            self._spawn(self._run(self._poll_activity, f"{self.name} activity poller {number}"))

    def stop(self) -> None:
        self._stopping = True

    def forget(self) -> None:
        """The process was restarted: its cache and its sticky queue are gone."""
        self._cache.clear()
        self._lives += 1

    @property
    def sticky_queue(self) -> str:
        return f"sticky-{self.name}-{self._lives}"

    def _spawn(self, job: Any) -> None:
        task = running_loop().create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _run(self, poll: Callable[[str], Awaitable[None]], name: str) -> None:
        while not self._stopping:
            try:
                await poll(name)
            except CallerError as error:
                # A run that another region has may have a task given out and not be there yet when its history is read.
                may_miss = error.code is Code.NOT_FOUND and not self.tasks.is_one_region
                if error.code not in LOST and not may_miss:
                    self.world.unexpected.append(f"{name}: {error.code.name}: {error.message}")
                await asyncio.sleep(self.stream.uniform(0.05, 0.5))

    async def _call(self, name: str, request: ProtobufMessage, deadline_s: float = 5.0, caller: str = "") -> Any:
        return await self.world.call(name, request, deadline_s, caller=caller or self.name)

    # --- workflow tasks -----------------------------------------------------------------------------------------------
    async def _poll_workflow(self, poller: str) -> None:
        await self._poll_queue(poller, TaskQueue(name=TASK_QUEUE, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL))

    async def _poll_sticky(self, poller: str) -> None:
        name, kind = self.sticky_queue, TaskQueueKind.TASK_QUEUE_KIND_STICKY
        await self._poll_queue(poller, TaskQueue(name=name, kind=kind, normal_name=TASK_QUEUE))

    async def _poll_queue(self, poller: str, queue: TaskQueue) -> None:
        request = api.PollWorkflowTaskQueueRequest(namespace=self.requests.namespace, task_queue=queue, identity=self.name)
        task = await self._call("PollWorkflowTaskQueue", request, self.poll_s, poller)
        while task is not None and task.task_token:
            task = await self._do_workflow_task(task)

    async def _do_workflow_task(self, task: Any) -> Any:
        """Returns the next task if it came with the reply."""
        events = await self._events(task)
        if events is None:
            return None
        await asyncio.sleep(self.stream.uniform(0, 0.02))
        view = view_of(events)
        running_loop().trace(
            "task", worker=self.name, run=task.workflow_execution.run_id, started=task.started_event_id, attempt=task.attempt,
            queries=len(task.queries), query=task.HasField("query"), signals=view.signals_count, last=len(events),
        )  # fmt: skip
        if task.HasField("query"):
            await self._answer_query(task, view)
            return None
        self._note_given(task)
        fault = self.plan.draw()
        if fault is not None:
            running_loop().trace("worker fault", worker=self.name, fault=fault)
        return await self._answer(task, view, fault)

    def _note_given(self, task: Any) -> None:
        self.tasks.given_count += 1
        run_id = task.workflow_execution.run_id
        number = (task.started_event_id, task.attempt)
        self.tasks.workflow[run_id] = max(number, self.tasks.workflow.get(run_id, (0, 0)))

    async def _events(self, task: Any) -> list[HistoryEvent] | None:
        """The whole history as far as this task shows it; None if it cannot be had now."""
        run_id = task.workflow_execution.run_id
        events = list(task.history.events)
        if events and events[0].event_id > 1:
            cached = self._cache.get(run_id, [])
            events = cached[: events[0].event_id - 1] + events if len(cached) >= events[0].event_id - 1 else []
        elif not events:
            events = list(self._cache.get(run_id, []))
        page = task.next_page_token
        if not events:  # not in the cache (any more): read it all, as the official SDKs do
            page = b""
        while page or not events:
            request = api.GetWorkflowExecutionHistoryRequest(
                namespace=self.requests.namespace, execution=task.workflow_execution, next_page_token=page
            )
            answer = await self._call("GetWorkflowExecutionHistory", request)
            events.extend(answer.history.events)
            page = answer.next_page_token
            if not page:
                break
        if task.started_event_id:
            events = [event for event in events if event.event_id <= task.started_event_id]
        if not events:
            return None
        if [event.event_id for event in events] != list(range(1, len(events) + 1)):
            self.world.unexpected.append(f"worker got a history with holes: {[event.event_id for event in events]}")
            return None
        if self.is_sticky:
            self._cache[run_id] = events
        return events

    async def _answer(self, task: Any, view: View, fault: str | None) -> Any:
        if fault == WorkerFault.HANGS:
            return None
        if fault == WorkerFault.SLOW:
            await asyncio.sleep(self.stream.uniform(0, SLOW_S))
        if fault == WorkerFault.ANSWERS_STALE and self._last_tokens:
            await self._answer_stale()
        if fault == WorkerFault.FAILS_TASK:
            failure = api.RespondWorkflowTaskFailedRequest(
                namespace=self.requests.namespace,
                task_token=task.task_token,
                cause=WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
                identity=self.name,
            )
            await self._tell("RespondWorkflowTaskFailed", failure)
            return None
        messages, commands = self._updates(task, view)
        commands += commands_for(view)
        if fault == WorkerFault.BAD_COMMAND:
            commands.insert(0, Command(command_type=CommandType.COMMAND_TYPE_START_TIMER))
        request = self._completion(task, view, commands, messages)
        copies = 2 if fault == WorkerFault.ANSWERS_TWICE else 1
        run_id, number = task.workflow_execution.run_id, (task.started_event_id, task.attempt)
        was_over = self.tasks.workflow[run_id] > number
        reply = None
        for _ in range(copies):
            reply = await self._tell("RespondWorkflowTaskCompleted", request) or reply
        if reply is not None and was_over and self.tasks.is_one_region:
            self.world.unexpected.append(f"{run_id}: a task that was over {number} was answered and taken")
        if reply is not None:
            self._last_tokens = [*self._last_tokens[-5:], (run_id, task.task_token)]
            for activity in reply.activity_tasks:
                self._spawn(self._do_activity_caught(activity))
            if reply.HasField("workflow_task") and reply.workflow_task.task_token:
                return reply.workflow_task
        return None

    async def _answer_stale(self) -> None:
        """Answers a task again that was answered before: it must be refused."""
        run_id, token = self.stream.choice(self._last_tokens)
        request = api.RespondWorkflowTaskCompletedRequest(namespace=self.requests.namespace, task_token=token, identity=self.name)
        running_loop().trace("answers again", worker=self.name, run=run_id)
        if await self._tell("RespondWorkflowTaskCompleted", request) is not None:
            running_loop().trace("taken again", worker=self.name, run=run_id)
            self.world.unexpected.append(f"{run_id}: the token of an answered task was taken again")

    def _completion(
        self, task: Any, view: View, commands: Sequence[Command], messages: Sequence[Message]
    ) -> api.RespondWorkflowTaskCompletedRequest:
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=self.requests.namespace,
            task_token=task.task_token,
            commands=commands,
            messages=messages,
            identity=self.name,
            return_new_workflow_task=self.takes_next,
        )
        request.capabilities.discard_speculative_workflow_task_with_events = self.is_sticky
        if self.is_sticky:
            queue = TaskQueue(name=self.sticky_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=TASK_QUEUE)
            request.sticky_attributes.CopyFrom(
                StickyExecutionAttributes(worker_task_queue=queue, schedule_to_start_timeout=seconds(2))
            )
        for query_id in sorted(task.queries):
            request.query_results[query_id].CopyFrom(
                WorkflowQueryResult(
                    result_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED, answer=payloads(view.signals_count)
                )
            )
        return request

    async def _tell(self, name: str, request: ProtobufMessage) -> Any:
        """The reply, None if it was refused or nobody answered. Repeated as the official SDKs do."""
        for _ in range(ANSWER_TRIES_MAX):
            try:
                return await self._call(name, request)
            except CallerError as error:
                if error.code == Code.INTERNAL:
                    self.world.unexpected.append(f"{name}: {error.message}")
                if error.code not in LOST:
                    return None
            await asyncio.sleep(self.stream.uniform(0.02, 0.3))
        return None

    async def _answer_query(self, task: Any, view: View) -> None:
        request = api.RespondQueryTaskCompletedRequest(
            namespace=self.requests.namespace,
            task_token=task.task_token,
            completed_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
            query_result=payloads(view.signals_count),
        )
        await self._tell("RespondQueryTaskCompleted", request)

    # --- updates --------------------------------------------------------------------------------------------------------
    def _updates(self, task: Any, view: View) -> tuple[list[Message], list[Command]]:
        """now: accepted and completed at once; later: accepted, completed after a timer; refuse: rejected."""
        messages: list[Message] = []
        commands: list[Command] = []

        def say(update_id: str, verb: str, body: ProtobufMessage) -> None:
            packed = AnyMessage()
            packed.Pack(body)
            messages.append(Message(id=f"{update_id}/{verb}", protocol_instance_id=update_id, body=packed))
            if verb != "reject":
                told = Command(command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
                told.protocol_message_command_attributes.message_id = f"{update_id}/{verb}"
                commands.append(told)

        for message in task.messages:
            wish = Request()
            message.body.Unpack(wish)
            update_id, kind = message.protocol_instance_id, wish.input.name
            if kind == "refuse":
                refusal = Rejection(
                    rejected_request_message_id=message.id,
                    rejected_request_sequencing_event_id=message.event_id,
                    rejected_request=wish,
                    failure=Failure(message="refused as asked"),
                )
                say(update_id, "reject", refusal)
                continue
            acceptance = Acceptance(
                accepted_request_message_id=message.id,
                accepted_request_sequencing_event_id=message.event_id,
                accepted_request=wish,
            )
            say(update_id, "accept", acceptance)
            view.updates[update_id] = kind
        for update_id, kind in view.updates.items():
            timer = f"for {update_id}"
            if kind == "now" or view.timers.get(timer, 0) in view.fired:
                outcome = Outcome(success=payloads(f"done {update_id}"))
                say(update_id, "complete", Response(meta={"update_id": update_id}, outcome=outcome))  # type: ignore[arg-type]
            elif timer not in view.timers:
                started = Command(command_type=CommandType.COMMAND_TYPE_START_TIMER)
                started.start_timer_command_attributes.timer_id = timer
                started.start_timer_command_attributes.start_to_fire_timeout.CopyFrom(seconds(0.3))
                commands.append(started)
        return messages, commands

    # --- activities -----------------------------------------------------------------------------------------------------
    async def _poll_activity(self, poller: str) -> None:
        queue = TaskQueue(name=TASK_QUEUE, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL)
        request = api.PollActivityTaskQueueRequest(namespace=self.requests.namespace, task_queue=queue, identity=self.name)
        task = await self._call("PollActivityTaskQueue", request, self.poll_s, poller)
        if task.task_token:
            await self._do_activity(task)

    async def _do_activity_caught(self, task: Any) -> None:
        await self._do_activity(task)

    async def _do_activity(self, task: Any) -> None:
        self.tasks.given_count += 1
        key = (task.workflow_execution.run_id, task.activity_id)
        self.tasks.activity[key] = max(task.attempt, self.tasks.activity.get(key, 0))
        fault = self.plan.draw()
        if fault is not None:
            running_loop().trace("worker fault", worker=self.name, fault=fault)
        if fault == WorkerFault.HANGS:
            return
        order = value_of(task.input)
        if await self._toil(task, order["takes_s"] + (SLOW_S if fault == WorkerFault.SLOW else 0.0)):
            request = api.RespondActivityTaskCanceledRequest(
                namespace=self.requests.namespace, task_token=task.task_token, identity=self.name
            )
            await self._tell("RespondActivityTaskCanceled", request)
        elif task.attempt <= order["fails"] or fault == WorkerFault.FAILS_TASK:
            failure = Failure(message="as ordered", application_failure_info=ApplicationFailureInfo(type="Ordered"))
            failed = api.RespondActivityTaskFailedRequest(
                namespace=self.requests.namespace, task_token=task.task_token, identity=self.name, failure=failure
            )
            await self._tell("RespondActivityTaskFailed", failed)
        else:
            await self._complete_activity(task, key, 2 if fault == WorkerFault.ANSWERS_TWICE else 1)

    async def _toil(self, task: Any, takes_s: float) -> bool:
        """Works, with a heartbeat every half second. True = it was asked to stop."""
        until = running_loop().time() + takes_s
        while (left_s := until - running_loop().time()) > 1e-6:
            await asyncio.sleep(min(left_s, 0.5))
            if left_s > 0.5:
                beat = api.RecordActivityTaskHeartbeatRequest(
                    namespace=self.requests.namespace,
                    task_token=task.task_token,
                    identity=self.name,
                    details=payloads(takes_s - left_s),
                )
                try:
                    if (await self._call("RecordActivityTaskHeartbeat", beat)).cancel_requested:
                        return True
                except CallerError as error:
                    if error.code == Code.INTERNAL:
                        self.world.unexpected.append(f"heartbeat: {error.message}")
        return False

    async def _complete_activity(self, task: Any, key: tuple[str, str], copies: int) -> None:
        was_over = self.tasks.activity[key] > task.attempt
        for _ in range(copies):
            act = await self.requests.complete(self.name, task, deadline_s=5.0)
            if act.outcome == ActOutcome.ACKED and was_over and self.tasks.is_one_region:
                self.world.unexpected.append(f"{key}: attempt {task.attempt} was completed although a later one was out")
            assert act.kind == ActKind.COMPLETION
