"""The little workflows of the simulator: a program is a list of steps, and history alone says how far it is.

| step | does | goes on when |
|---|---|---|
| activity n | one activity whose first n attempts fail | it ended, however |
| race s | an activity that takes long, and a timer of s seconds | the first of both came; the other one is cancelled |
| timer s | | it fired |
| signals n | | n signals came in all, or "release" |
| child ... | a child with steps of its own and a parent-close policy | it ended, or at once if it is not awaited |
| signal w, cancel w | to another workflow | it was answered |
| marker, memo | | at once |
| again n | continues as new, n rounds more | never |
| fail, complete | | never |

A worker needs no memory for it: the same history gives the same commands (as with the official SDKs, which replay).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads, RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, ParentClosePolicy
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue

E = EventType
TASK_QUEUE = "work"
RELEASE = "release"
Step = list[Any]

POLICIES = {
    "terminate": ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE,
    "abandon": ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON,
    "cancel": ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
}
ACTIVITY_ENDS = (
    E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    E.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
    E.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
)
CHILD_ENDS = (
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
)
EXTERNAL_ENDS = (
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
    E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
    E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
)


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(value * 1e9))
    return made


def payloads(*values: Any) -> Payloads:
    """As the official SDK's default converter encodes them."""
    encoded = [Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode()) for value in values]
    return Payloads(payloads=encoded)


def value_of(given: Payloads) -> Any:
    return json.loads(given.payloads[0].data) if given.payloads else None


def program_input(token: str, steps: Sequence[Step]) -> Payloads:
    return payloads({"token": token, "steps": list(steps)})


@dataclass
class View:
    """What a history says, as far as a program asks."""

    workflow_id: str = ""
    steps: list[Step] = field(default_factory=list)
    activities: dict[str, int] = field(default_factory=dict)  # id -> scheduled event id
    cancels_asked: set[int] = field(default_factory=set)
    timers: dict[str, int] = field(default_factory=dict)
    children: dict[str, int] = field(default_factory=dict)
    outgoing: list[int] = field(default_factory=list)  # signals and cancels to others, in order
    ended: set[int] = field(default_factory=set)  # of all of these
    fired: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)  # markers
    memos_count: int = 0
    signals_count: int = 0
    is_released: bool = False
    is_cancel_requested: bool = False
    updates: dict[str, str] = field(default_factory=dict)  # accepted, not completed: update id -> its name


def view_of(events: Sequence[HistoryEvent]) -> View:
    view = View()
    for event in events:
        _look(view, event)
    return view


def _look(view: View, event: HistoryEvent) -> None:
    kind, event_id = event.event_type, event.event_id
    attributes: Any = getattr(event, event.WhichOneof("attributes") or "")
    if kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        view.workflow_id = attributes.workflow_id
        view.steps = value_of(attributes.input)["steps"]
    elif kind == E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        view.activities[attributes.activity_id] = event_id
    elif kind == E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
        view.cancels_asked.add(attributes.scheduled_event_id)
    elif kind in ACTIVITY_ENDS:
        view.ended.add(attributes.scheduled_event_id)
    elif kind == E.EVENT_TYPE_TIMER_STARTED:
        view.timers[attributes.timer_id] = event_id
    elif kind in (E.EVENT_TYPE_TIMER_FIRED, E.EVENT_TYPE_TIMER_CANCELED):
        view.ended.add(attributes.started_event_id)
        if kind == E.EVENT_TYPE_TIMER_FIRED:
            view.fired.add(attributes.started_event_id)
    elif kind == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
        view.children[attributes.workflow_id] = event_id
    elif kind in CHILD_ENDS or kind in EXTERNAL_ENDS:
        view.ended.add(attributes.initiated_event_id)
    elif kind in (
        E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
    ):
        view.outgoing.append(event_id)
    elif kind == E.EVENT_TYPE_MARKER_RECORDED:
        view.names.add(attributes.marker_name)
    elif kind == E.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED:
        view.memos_count += 1
    elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
        view.signals_count += attributes.signal_name != RELEASE
        view.is_released |= attributes.signal_name == RELEASE
    elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
        view.is_cancel_requested = True
    elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
        view.updates[attributes.protocol_instance_id] = attributes.accepted_request.input.name
    elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
        view.updates.pop(attributes.meta.update_id, None)


def commands_for(view: View) -> list[Command]:
    """What the program wishes now. Closing wishes come last."""
    if view.is_cancel_requested:
        cancelled = Command(command_type=CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)
        cancelled.cancel_workflow_execution_command_attributes.SetInParent()
        return [cancelled]
    interpreter = _Interpreter(view)
    for number, step in enumerate(view.steps):
        if not getattr(interpreter, f"step_{step[0]}")(number, *step[1:]):
            return interpreter.commands
    interpreter.step_complete(len(view.steps))
    return interpreter.commands


class _Interpreter:
    """Each step adds commands if it has not begun, and says whether the next one may go on."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.commands: list[Command] = []
        self._outgoing_seen = 0
        self._memos_seen = 0

    def _add(self, kind: CommandType.ValueType, field_name: str) -> Any:
        command = Command(command_type=kind)
        attributes = getattr(command, field_name)
        attributes.SetInParent()
        self.commands.append(command)
        return attributes

    def step_activity(self, number: int, fails: int = 0, takes_s: float = 0.01, attempts_max: int = 6) -> bool:
        name = f"activity-{number}"
        if name not in self.view.activities:
            self._schedule(name, {"fails": fails, "takes_s": takes_s}, attempts_max)
        return self.view.activities.get(name, 0) in self.view.ended

    def _schedule(self, name: str, order: dict[str, Any], attempts_max: int) -> None:
        wish = self._add(CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, "schedule_activity_task_command_attributes")
        wish.activity_id = name
        wish.activity_type.name = "toil"
        wish.task_queue.name = TASK_QUEUE
        wish.input.CopyFrom(payloads(order))
        wish.start_to_close_timeout.CopyFrom(seconds(3))
        wish.heartbeat_timeout.CopyFrom(seconds(2))
        wish.retry_policy.CopyFrom(
            RetryPolicy(initial_interval=seconds(0.2), backoff_coefficient=2.0, maximum_attempts=attempts_max)
        )
        wish.request_eager_execution = True

    def step_race(self, number: int, timer_s: float, takes_s: float) -> bool:
        name = f"race-{number}"
        if name not in self.view.activities:
            self._schedule(name, {"fails": 0, "takes_s": takes_s}, 3)
            self._start_timer(name, timer_s)
            return False
        activity_id, timer_id = self.view.activities[name], self.view.timers[name]
        if activity_id in self.view.ended:
            if timer_id not in self.view.ended:
                self._add(CommandType.COMMAND_TYPE_CANCEL_TIMER, "cancel_timer_command_attributes").timer_id = name
            return True
        if timer_id in self.view.fired and activity_id not in self.view.cancels_asked:
            wish = self._add(
                CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK, "request_cancel_activity_task_command_attributes"
            )
            wish.scheduled_event_id = activity_id
        return False

    def _start_timer(self, name: str, timer_s: float) -> None:
        wish = self._add(CommandType.COMMAND_TYPE_START_TIMER, "start_timer_command_attributes")
        wish.timer_id = name
        wish.start_to_fire_timeout.CopyFrom(seconds(timer_s))

    def step_timer(self, number: int, timer_s: float) -> bool:
        name = f"timer-{number}"
        if name not in self.view.timers:
            self._start_timer(name, timer_s)
        return self.view.timers.get(name, 0) in self.view.ended

    def step_signals(self, number: int, count: int) -> bool:
        return self.view.is_released or self.view.signals_count >= count

    def step_child(self, number: int, steps: list[Step], policy: str = "terminate", is_awaited: bool = True) -> bool:
        name = f"{self.view.workflow_id}/{number}"
        if name not in self.view.children:
            wish = self._add(
                CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, "start_child_workflow_execution_command_attributes"
            )
            wish.workflow_id = name
            wish.workflow_type.CopyFrom(WorkflowType(name="program"))
            wish.task_queue.CopyFrom(TaskQueue(name=TASK_QUEUE))
            wish.input.CopyFrom(program_input("", steps))
            wish.workflow_task_timeout.CopyFrom(seconds(2))
            wish.parent_close_policy = POLICIES[policy]
        return not is_awaited or self.view.children.get(name, 0) in self.view.ended

    def _sent(self) -> int | None:
        """The event id of the next outgoing request of the history, None if it was not sent yet."""
        seen = self._outgoing_seen
        self._outgoing_seen += 1
        return self.view.outgoing[seen] if seen < len(self.view.outgoing) else None

    def step_signal(self, number: int, workflow_id: str) -> bool:
        sent = self._sent()
        if sent is None:
            wish = self._add(
                CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
                "signal_external_workflow_execution_command_attributes",
            )
            wish.execution.CopyFrom(WorkflowExecution(workflow_id=workflow_id))
            wish.signal_name = "from-afar"
            wish.input.CopyFrom(payloads(f"{self.view.workflow_id}#{number}"))
        return sent in self.view.ended

    def step_cancel(self, number: int, workflow_id: str) -> bool:
        sent = self._sent()
        if sent is None:
            wish = self._add(
                CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
                "request_cancel_external_workflow_execution_command_attributes",
            )
            wish.workflow_id = workflow_id
        return sent in self.view.ended

    def step_marker(self, number: int) -> bool:
        if f"marker-{number}" not in self.view.names:
            wish = self._add(CommandType.COMMAND_TYPE_RECORD_MARKER, "record_marker_command_attributes")
            wish.marker_name = f"marker-{number}"
        return True

    def step_memo(self, number: int) -> bool:
        self._memos_seen += 1
        if self._memos_seen > self.view.memos_count:
            wish = self._add(
                CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES, "modify_workflow_properties_command_attributes"
            )
            wish.upserted_memo.fields["step"].CopyFrom(payloads(number).payloads[0])
        return True

    def step_again(self, number: int, rounds: int) -> bool:
        if rounds <= 0:
            return True
        steps = [["again", rounds - 1] if step[0] == "again" else step for step in self.view.steps]
        wish = self._add(
            CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
            "continue_as_new_workflow_execution_command_attributes",
        )
        wish.workflow_type.name = "program"
        wish.task_queue.name = TASK_QUEUE
        wish.input.CopyFrom(program_input("", steps))
        return False

    def step_fail(self, number: int) -> bool:
        wish = self._add(CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION, "fail_workflow_execution_command_attributes")
        info = ApplicationFailureInfo(type="Programmed")
        wish.failure.CopyFrom(Failure(message="as programmed", application_failure_info=info))
        return False

    def step_complete(self, number: int) -> bool:
        wish = self._add(
            CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, "complete_workflow_execution_command_attributes"
        )
        wish.result.CopyFrom(payloads("done"))
        return False


def draw_program(stream: random.Random, others: Sequence[str], depth: int = 0) -> list[Step]:
    """Two to five steps, children only at the top."""
    steps: list[Step] = []
    kinds = ["activity", "activity", "timer", "signals", "marker", "memo", "race", "signal", "cancel"]
    kinds += ["child", "child"] * (depth == 0)
    for _ in range(stream.randint(1, 5 - 2 * depth)):
        match stream.choice(kinds):
            case "activity":
                steps.append(["activity", stream.choice([0, 0, 1, 2]), round(stream.uniform(0.0, 0.3), 3)])
            case "timer":
                steps.append(["timer", round(stream.choice([0.0, 0.2, 1.0, 8.0]) * stream.uniform(0.5, 1.5), 3)])
            case "signals":
                steps.append(["signals", stream.randint(1, 6)])
            case "race":
                steps.append(["race", round(stream.uniform(0.05, 1.0), 3), round(stream.uniform(0.05, 2.5), 3)])
            case "child":
                inner = draw_program(stream, others, depth + 1)
                steps.append(["child", inner, stream.choice(list(POLICIES)), stream.random() < 0.7])
            case "signal":
                steps.append(["signal", stream.choice(others)])
            case "cancel" if stream.random() < 0.3:
                steps.append(["cancel", stream.choice(others)])
            case other:
                steps.append([other if other in ("marker", "memo") else "marker"])
    if depth == 0 and stream.random() < 0.25:
        steps.append(["again", stream.randint(1, 3)])
    if stream.random() < 0.15:
        steps.append(["fail"])
    return steps
