"""The form of one history: dense ids, references that point back at the right kind of event, nothing twice or after the end."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from chaos.checkers.histories import CLOSING, RunHistory, Violation

# Every reference from one event to an earlier one: field -> the only type it may point at.
REFERENCES: dict[str, dict[str, int]] = {
    "workflow_task_started_event_attributes": {"scheduled_event_id": EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED},
    "workflow_task_completed_event_attributes": {
        "scheduled_event_id": EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        "started_event_id": EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
    },
    "activity_task_started_event_attributes": {"scheduled_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED},
    "activity_task_completed_event_attributes": {
        "scheduled_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        "started_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED,
    },
    "activity_task_failed_event_attributes": {
        "scheduled_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        "started_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED,
    },
    "activity_task_timed_out_event_attributes": {"scheduled_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED},
    "activity_task_canceled_event_attributes": {"scheduled_event_id": EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED},
    "activity_task_scheduled_event_attributes": {
        "workflow_task_completed_event_id": EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    },
    "timer_started_event_attributes": {"workflow_task_completed_event_id": EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED},
    "timer_fired_event_attributes": {"started_event_id": EventType.EVENT_TYPE_TIMER_STARTED},
    "timer_canceled_event_attributes": {"started_event_id": EventType.EVENT_TYPE_TIMER_STARTED},
    "workflow_execution_update_completed_event_attributes": {
        "accepted_event_id": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    },
}

# Events that end what they refer to by this field: each target may be ended once.
ENDINGS: dict[str, str] = {
    "workflow_task_completed_event_attributes": "scheduled_event_id",
    "workflow_task_failed_event_attributes": "scheduled_event_id",
    "workflow_task_timed_out_event_attributes": "scheduled_event_id",
    "activity_task_completed_event_attributes": "scheduled_event_id",
    "activity_task_failed_event_attributes": "scheduled_event_id",
    "activity_task_timed_out_event_attributes": "scheduled_event_id",
    "activity_task_canceled_event_attributes": "scheduled_event_id",
    "timer_fired_event_attributes": "started_event_id",
    "timer_canceled_event_attributes": "started_event_id",
    "workflow_execution_update_completed_event_attributes": "accepted_event_id",
}


def event_ids_dense(histories: Sequence[RunHistory]) -> list[Violation]:
    """Event ids are 1, 2, 3, ... and the first event starts the workflow."""
    violations: list[Violation] = []
    for history in histories:
        ids = [event.event_id for event in history.events]
        if ids != list(range(1, len(ids) + 1)) or not ids:
            gap = next((index for index, event_id in enumerate(ids, 1) if event_id != index), 0)
            violations.append(_violation("event_ids_dense", history, f"ids break at place {gap} of {len(ids)}"))
        elif history.events[0].event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            violations.append(_violation("event_ids_dense", history, "does not begin with WorkflowExecutionStarted"))
    return violations


def histories_well_formed(histories: Sequence[RunHistory]) -> list[Violation]:
    """References, single endings, nothing after the close. Run `event_ids_dense` first: this one looks events up by id."""
    return [_violation("histories_well_formed", history, text) for history in histories for text in _faults(history)]


def _faults(history: RunHistory) -> list[str]:
    faults: list[str] = []
    types = {event.event_id: event.event_type for event in history.events}
    ended: dict[tuple[str, int], int] = {}
    for event in history.events:
        if event.event_type in CLOSING and event is not history.events[-1]:
            faults.append(f"event {event.event_id} closes the run, but events follow")
        name = event.WhichOneof("attributes") or ""
        attributes = getattr(event, name) if name else None
        for field, wanted in REFERENCES.get(name, {}).items():
            target = getattr(attributes, field)
            if target >= event.event_id or types.get(target) != wanted:
                faults.append(f"event {event.event_id} {field} = {target}, which is no earlier {EventType.Name(wanted)}")  # type: ignore[arg-type]
        if name in ENDINGS:
            target = (ENDINGS[name], getattr(attributes, ENDINGS[name]))
            if target in ended:
                faults.append(f"event {event.event_id} ends {target[1]} again, after event {ended[target]}")
            ended[target] = event.event_id
    return faults + _repeated_ids(history.events)


def _repeated_ids(events: Sequence[HistoryEvent]) -> list[str]:
    """An update id is accepted once per run."""
    faults: list[str] = []
    accepted: dict[str, int] = {}
    for event in events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            update_id = event.workflow_execution_update_accepted_event_attributes.protocol_instance_id
            if update_id in accepted:
                faults.append(f"update {update_id} accepted at events {accepted[update_id]} and {event.event_id}")
            accepted[update_id] = event.event_id
    return faults


def _violation(check: str, history: RunHistory, text: str) -> Violation:
    return Violation(check, history.workflow_id, history.run_id, text)
