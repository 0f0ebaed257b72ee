"""I23: a worker that replays a history comes to the same commands. The simulator's programs are functions of a history, so this
asks at each completed workflow task what the program would have wished, and compares it with what the history says."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from chaos.checkers.histories import RunHistory, Violation
from chaos.sim.programs import commands_for, view_of

E = EventType
FOR_UPDATES = "for "  # how the names of timers begin that workers start for updates


def histories_replay(histories: Sequence[RunHistory]) -> list[Violation]:
    found: list[Violation] = []
    for history in histories:
        if not history.events:
            continue
        by_task: dict[int, list[str]] = {}
        for event in history.events:
            name, task_id = _recorded(event)
            if name:
                by_task.setdefault(task_id, []).append(name)
        for event in history.events:
            if event.event_type != E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                continue
            seen = event.workflow_task_completed_event_attributes.started_event_id
            wished = [name for command in commands_for(view_of(history.events[:seen])) if (name := _wished(command))]
            if wished != by_task.get(event.event_id, []):
                text = f"at event {event.event_id} the program wishes {wished}, recorded is {by_task.get(event.event_id, [])}"
                found.append(Violation("I23", history.workflow_id, history.run_id, text))
                break
    return found


def _recorded(event: HistoryEvent) -> tuple[str, int]:
    """A command's event by its name, and the task that brought it; "" for others, and for what is started for updates."""
    if event.event_type == E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        scheduled = event.activity_task_scheduled_event_attributes
        return f"activity {scheduled.activity_id}", scheduled.workflow_task_completed_event_id
    if event.event_type == E.EVENT_TYPE_TIMER_STARTED:
        timer = event.timer_started_event_attributes
        is_for_update = timer.timer_id.startswith(FOR_UPDATES)
        return "" if is_for_update else f"timer {timer.timer_id}", timer.workflow_task_completed_event_id
    if event.event_type == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
        child = event.start_child_workflow_execution_initiated_event_attributes
        return f"child {child.workflow_id}", child.workflow_task_completed_event_id
    if event.event_type == E.EVENT_TYPE_MARKER_RECORDED:
        marker = event.marker_recorded_event_attributes
        return f"marker {marker.marker_name}", marker.workflow_task_completed_event_id
    return "", 0


def _wished(command: Command) -> str:
    kind = command.WhichOneof("attributes")
    if kind == "schedule_activity_task_command_attributes":
        return f"activity {command.schedule_activity_task_command_attributes.activity_id}"
    if kind == "start_timer_command_attributes":
        return f"timer {command.start_timer_command_attributes.timer_id}"
    if kind == "start_child_workflow_execution_command_attributes":
        return f"child {command.start_child_workflow_execution_command_attributes.workflow_id}"
    if kind == "record_marker_command_attributes":
        return f"marker {command.record_marker_command_attributes.marker_name}"
    return ""
