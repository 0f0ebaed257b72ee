"""A user timer: runs, then fires or is cancelled.

A timer that fired while a workflow task was started is over for the server and still running for the worker. If the
worker cancels it, the cancel wins: the buffered event never joins the history.
"""

from __future__ import annotations

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    TimerCanceledEventAttributes,
    TimerFiredEventAttributes,
    TimerStartedEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata

from cluster.core.entry import UnbufferNote
from cluster.core.errors import CallerError
from cluster.core.events import duration_ns, parse_event, timestamp_ns
from cluster.core.machines.commands import BadCommand, Completion, command
from cluster.core.retry import check_duration
from cluster.core.state import RunState, Timer
from cluster.core.table import Table, applies
from cluster.core.transition import Transition

TABLE = Table(
    "timer",
    [
        # source    trigger          target
        ("none", "TimerStarted", "running"),
        ("running", "TimerFired", "none"),
        ("running", "TimerCanceled", "none"),
        ("fired", "TimerCanceled", "none"),  # its event is buffered and goes
    ],
)

_BAD_START = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
_BAD_CANCEL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES


def position(state: RunState, timer_id: str) -> str:
    """The machine's state, derived."""
    if timer_id in state.timers:
        return "running"
    return "none" if fired_unseen(state, timer_id) is None else "fired"


def fired_unseen(state: RunState, timer_id: str) -> tuple[int, int] | None:
    """(index in the buffer, started event id) of a timer that fired and whose event is buffered."""
    for index, data in enumerate(state.buffered):
        event = parse_event(data)
        if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED:
            attributes = event.timer_fired_event_attributes
            if attributes.timer_id == timer_id:
                return index, attributes.started_event_id
    return None


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_TIMER_STARTED)
def _started(state: RunState, event: HistoryEvent, attributes: TimerStartedEventAttributes) -> None:
    TABLE.step(position(state, attributes.timer_id), "TimerStarted")
    state.timers[attributes.timer_id] = Timer(
        timer_id=attributes.timer_id,
        started_event_id=event.event_id,
        fires_at=timestamp_ns(event.event_time) + duration_ns(attributes.start_to_fire_timeout),
    )


@applies(EventType.EVENT_TYPE_TIMER_FIRED)
def _fired(state: RunState, event: HistoryEvent, attributes: TimerFiredEventAttributes) -> None:
    TABLE.step(position(state, attributes.timer_id), "TimerFired")
    del state.timers[attributes.timer_id]


@applies(EventType.EVENT_TYPE_TIMER_CANCELED)
def _canceled(state: RunState, event: HistoryEvent, attributes: TimerCanceledEventAttributes) -> None:
    TABLE.step(position(state, attributes.timer_id), "TimerCanceled")
    state.timers.pop(attributes.timer_id, None)  # one that fired is gone; its buffered event goes by a note


# --- decide ------------------------------------------------------------------------------------------------------------


def due_at(state: RunState) -> int:
    """ns since the epoch: when the next timer fires; 0 = there is none."""
    return min((timer.fires_at for timer in state.timers.values()), default=0)


def decide_due(t: Transition) -> bool:
    """Fires what is due, in the order of time, then of start; never early. True: tell the workflow."""
    due = [timer for timer in t.state.timers.values() if timer.fires_at <= t.now]
    due.sort(key=lambda timer: (timer.fires_at, timer.started_event_id))
    for timer in due:
        fire(t, timer.timer_id)
    return bool(due)


def fire(t: Transition, timer_id: str) -> bool:
    """One timer's time has come. True: tell the workflow."""
    timer = t.state.timers[timer_id]
    assert timer.fires_at <= t.now, "a timer never fires early"
    t.add(
        EventType.EVENT_TYPE_TIMER_FIRED,
        TimerFiredEventAttributes(timer_id=timer_id, started_event_id=timer.started_event_id),
    )
    return True


@command(CommandType.COMMAND_TYPE_START_TIMER)
def _start(c: Completion, command: Command) -> None:
    if not command.HasField("start_timer_command_attributes"):
        raise BadCommand(_BAD_START, "StartTimerCommandAttributes is not set on StartTimerCommand.")
    wish = command.start_timer_command_attributes
    _check_id(c, wish.timer_id, _BAD_START, "StartTimerCommand")
    attributes = TimerStartedEventAttributes(
        timer_id=wish.timer_id,
        start_to_fire_timeout=wish.start_to_fire_timeout if wish.HasField("start_to_fire_timeout") else None,
        workflow_task_completed_event_id=c.completed_event_id,
    )
    if attributes.HasField("start_to_fire_timeout"):
        what = "An invalid StartToFireTimeout is set on StartTimerCommand"
        try:
            check_duration(attributes.start_to_fire_timeout, what, f". TimerId={wish.timer_id}")
        except CallerError as error:
            raise BadCommand(_BAD_START, error.message) from error
    if position(c.t.state, wish.timer_id) != "none":
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID,
            f"invalid history builder state for action: add-timer-started-event, TimerID: {wish.timer_id}",
        )
    c.t.add(EventType.EVENT_TYPE_TIMER_STARTED, attributes, user_metadata=_metadata(command))


@command(CommandType.COMMAND_TYPE_CANCEL_TIMER)
def _cancel(c: Completion, command: Command) -> None:
    if not command.HasField("cancel_timer_command_attributes"):
        raise BadCommand(_BAD_CANCEL, "CancelTimerCommandAttributes is not set on CancelTimerCommand.")
    timer_id = command.cancel_timer_command_attributes.timer_id
    _check_id(c, timer_id, _BAD_CANCEL, "CancelTimerCommand")
    timer = c.t.state.timers.get(timer_id)
    fired = fired_unseen(c.t.state, timer_id) if timer is None else None
    if timer is None and fired is None:
        raise BadCommand(
            _BAD_CANCEL,
            f"invalid history builder state for action: add-timer-canceled-event, TimerID: {timer_id}",
        )
    c.t.add(
        EventType.EVENT_TYPE_TIMER_CANCELED,
        TimerCanceledEventAttributes(
            timer_id=timer_id,
            started_event_id=timer.started_event_id if timer is not None else fired[1] if fired is not None else 0,
            workflow_task_completed_event_id=c.completed_event_id,
            identity=c.identity,
        ),
        user_metadata=_metadata(command),
    )
    if fired is not None:
        c.t.note(UnbufferNote(fired[0]))


def _check_id(c: Completion, timer_id: str, cause: WorkflowTaskFailedCause.ValueType, name: str) -> None:
    if not timer_id:
        raise BadCommand(cause, f"TimerId is not set on {name}.")
    size, size_max = len(timer_id.encode()), c.t.context.limits.id_bytes_max
    if size > size_max:
        text = f"TimerId on {name} exceeds length limit. TimerId={timer_id} Length={size} Limit={size_max}"
        raise BadCommand(cause, text)


def _metadata(command: Command) -> UserMetadata | None:
    return command.user_metadata if command.HasField("user_metadata") else None
