"""Small histories for checker tests: right ones, into which a test plants one violation."""

from __future__ import annotations

import json

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType as E
from temporalio.api.history.v1 import HistoryEvent

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Act, ActKind, Conflict, Outcome, Reuse

SECOND_NS = 1_000_000_000


def payloads(*values: object) -> Payloads:
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode()) for value in values])


class History:
    """Builds one run's history event by event; `at` is in seconds."""

    def __init__(self, workflow_id: str, run_id: str, at: float = 0.0, token: str = "", continued_from: str = "") -> None:
        self.workflow_id, self.run_id, self.at = workflow_id, run_id, at
        self.events: list[HistoryEvent] = []
        started = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED).workflow_execution_started_event_attributes
        started.input.CopyFrom(payloads({"token": token}))
        started.continued_execution_run_id = continued_from
        self.task_id = 0

    def add(self, kind: E.ValueType, after: float = 0.0) -> HistoryEvent:
        self.at += after
        time = Timestamp()
        time.FromNanoseconds(round(self.at * SECOND_NS))
        self.events.append(HistoryEvent(event_id=len(self.events) + 1, event_type=kind, event_time=time))
        return self.events[-1]

    def task(self) -> History:
        """A workflow task, scheduled, started and completed."""
        scheduled = self.add(E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
        scheduled.workflow_task_scheduled_event_attributes.attempt = 1
        started = self.add(E.EVENT_TYPE_WORKFLOW_TASK_STARTED)
        started.workflow_task_started_event_attributes.scheduled_event_id = scheduled.event_id
        completed = self.add(E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        completed.workflow_task_completed_event_attributes.scheduled_event_id = scheduled.event_id
        completed.workflow_task_completed_event_attributes.started_event_id = started.event_id
        self.task_id = completed.event_id
        return self

    def signal(self, token: str) -> History:
        event = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
        event.workflow_execution_signaled_event_attributes.input.CopyFrom(payloads(token))
        return self

    def activity(self, result: str | None, start: bool = True) -> History:
        """Scheduled, started, and completed unless `result` is None."""
        scheduled = self.add(E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
        scheduled.activity_task_scheduled_event_attributes.workflow_task_completed_event_id = self.task_id
        if not start:
            return self
        started = self.add(E.EVENT_TYPE_ACTIVITY_TASK_STARTED)
        started.activity_task_started_event_attributes.scheduled_event_id = scheduled.event_id
        if result is not None:
            self.complete_activity(scheduled.event_id, started.event_id, result)
        return self

    def complete_activity(self, scheduled_event_id: int, started_event_id: int, result: str) -> History:
        completed = self.add(E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED).activity_task_completed_event_attributes
        completed.scheduled_event_id, completed.started_event_id = scheduled_event_id, started_event_id
        completed.result.CopyFrom(payloads(result))
        return self

    def timer(self, seconds: int) -> History:
        started = self.add(E.EVENT_TYPE_TIMER_STARTED).timer_started_event_attributes
        started.workflow_task_completed_event_id = self.task_id
        started.start_to_fire_timeout.FromSeconds(seconds)
        return self

    def update(self, token: str, answer: object) -> History:
        accepted = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
        accepted.workflow_execution_update_accepted_event_attributes.protocol_instance_id = token
        accepted.workflow_execution_update_accepted_event_attributes.accepted_request.meta.update_id = token
        completed = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
        completed.workflow_execution_update_completed_event_attributes.accepted_event_id = accepted.event_id
        completed.workflow_execution_update_completed_event_attributes.outcome.success.CopyFrom(payloads(answer))
        return self

    def close(self, kind: E.ValueType = E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, after: float = 1.0) -> History:
        event = self.add(kind, after)
        if kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            event.workflow_execution_completed_event_attributes.result.CopyFrom(payloads("done"))
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            event.workflow_execution_failed_event_attributes.failure.message = "failed"
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            event.workflow_execution_terminated_event_attributes.reason = "terminated"
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id = "next"
        return self

    def done(self) -> RunHistory:
        return RunHistory(self.workflow_id, self.run_id, tuple(self.events))


def start(
    token: str,
    run_id: str,
    begun: float = 0.0,
    ended: float = 0.1,
    outcome: Outcome = Outcome.ACKED,
    started: bool = True,
    attempts: int = 1,
    conflict: Conflict = Conflict.FAIL,
    reuse: Reuse = Reuse.ALLOW_DUPLICATE,
    workflow_id: str = "w",
) -> Act:
    return Act(
        ActKind.START,
        token,
        workflow_id,
        "client",
        round(begun * SECOND_NS),
        round(ended * SECOND_NS),
        outcome,
        attempts,
        run_id,
        started,
        conflict,
        reuse,
    )


def act(
    kind: ActKind, token: str, outcome: Outcome = Outcome.ACKED, attempts: int = 1, run_id: str = "", result: str = ""
) -> Act:
    return Act(kind, token, "w", "client", 0, 1, outcome, attempts, run_id, result=result)
