"""What the server recorded: complete histories, and the clients' tokens in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType, UpdateAdmittedEventOrigin, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent

from chaos.checkers.ledger import ActKind

# Tokens are found by their form, so that workloads may put them anywhere in a payload.
TOKEN = re.compile(rb"tok-[a-z]+-[0-9a-z-]+")

CLOSING = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "completed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "failed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: "timed_out",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: "canceled",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: "terminated",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: "continued_as_new",
}


@dataclass(frozen=True)
class Violation:
    """One broken promise, with the place to look at."""

    check: str
    workflow_id: str
    run_id: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.workflow_id} {self.run_id}: {self.text}"


@dataclass(frozen=True)
class RunHistory:
    """The complete history of one run."""

    workflow_id: str
    run_id: str
    events: tuple[HistoryEvent, ...]

    @cached_property
    def status(self) -> str:
        """ "open" or one of the values of CLOSING."""
        return CLOSING.get(self.events[-1].event_type, "open") if self.events else "open"

    @property
    def is_open(self) -> bool:
        return self.status == "open"

    @cached_property
    def reset_event(self) -> HistoryEvent | None:
        """For a run that a reset made: the event behind the prefix that it shares with its base run."""
        for event in self.events:
            failed = event.workflow_task_failed_event_attributes
            if (
                event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
                and failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
                and failed.new_run_id == self.run_id
            ):
                return event
        return None

    @property
    def base_run_id(self) -> str:
        """The run that this one was reset from, or ""."""
        return self.reset_event.workflow_task_failed_event_attributes.base_run_id if self.reset_event is not None else ""

    @property
    def started_ns(self) -> int:
        """When the run began; a reset run carries the start event of its base run."""
        return (self.reset_event or self.events[0]).event_time.ToNanoseconds()

    def is_inherited(self, event: HistoryEvent) -> bool:
        """Copied with the shared prefix, or reapplied at the instant of the reset: it was asked for in the base run."""
        reset = self.reset_event
        return reset is not None and (event.event_id <= reset.event_id or event.event_time == reset.event_time)

    @property
    def closed_ns(self) -> int | None:
        return None if self.is_open else self.events[-1].event_time.ToNanoseconds()

    @property
    def continued_from(self) -> str:
        """The run whose continue-as-new, retry or cron began this one, or ""."""
        return self.events[0].workflow_execution_started_event_attributes.continued_execution_run_id

    @cached_property
    def start_token(self) -> str:
        """The token of the start that began this run, "" for a run that continues another."""
        if not self.events or self.continued_from or self.reset_event is not None:
            return ""
        return next(iter(tokens_in(self.events[0].workflow_execution_started_event_attributes.input)), "")


@dataclass(frozen=True)
class Recorded:
    """A client's token in a history. `value` is the recorded outcome of an update, as text."""

    kind: ActKind
    token: str
    history: RunHistory
    event_id: int
    value: str = ""
    is_inherited: bool = False  # through a reset: it counts as recorded, but not as a second time


def tokens_in(payloads: Payloads) -> list[str]:
    return [found.decode() for payload in payloads.payloads for found in TOKEN.findall(payload.data)]


def text_of(payloads: Iterable[Payload]) -> str:
    """Payload data as text, for comparing what was told with what was recorded."""
    return "|".join(payload.data.decode("utf-8", "backslashreplace") for payload in payloads)


def recorded(history: RunHistory) -> list[Recorded]:
    """Every token of a start, signal, update, activity completion or terminate in this history."""
    found: list[Recorded] = []
    if history.start_token:
        found.append(Recorded(ActKind.START, history.start_token, history, 1))
    accepted: dict[int, Recorded] = {}
    readmitted: set[str] = set()
    for event in history.events:
        name = event.WhichOneof("attributes")
        inherited = history.is_inherited(event)
        if name == "workflow_execution_signaled_event_attributes":
            tokens = tokens_in(event.workflow_execution_signaled_event_attributes.input)
            found += [Recorded(ActKind.SIGNAL, token, history, event.event_id, "", inherited) for token in tokens]
        elif name == "activity_task_completed_event_attributes":
            tokens = tokens_in(event.activity_task_completed_event_attributes.result)
            found += [Recorded(ActKind.COMPLETION, token, history, event.event_id, "", inherited) for token in tokens]
        elif name == "workflow_execution_terminated_event_attributes":
            tokens = tokens_in(event.workflow_execution_terminated_event_attributes.details)
            found += [Recorded(ActKind.TERMINATE, token, history, event.event_id, "", inherited) for token in tokens]
        elif name == "workflow_execution_update_admitted_event_attributes":
            admitted = event.workflow_execution_update_admitted_event_attributes
            if admitted.origin == UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY:
                readmitted.add(admitted.request.meta.update_id)
        elif name == "workflow_execution_update_accepted_event_attributes":
            attributes = event.workflow_execution_update_accepted_event_attributes
            token = attributes.accepted_request.meta.update_id or attributes.protocol_instance_id
            inherited = inherited or token in readmitted
            accepted[event.event_id] = Recorded(ActKind.UPDATE, token, history, event.event_id, "", inherited)
        elif name == "workflow_execution_update_completed_event_attributes":
            completed = event.workflow_execution_update_completed_event_attributes
            outcome = completed.outcome
            value = "failure: " + outcome.failure.message if outcome.HasField("failure") else text_of(outcome.success.payloads)
            before = accepted.get(completed.accepted_event_id)
            token = before.token if before else completed.meta.update_id
            inherited = before.is_inherited if before else inherited
            accepted[completed.accepted_event_id] = Recorded(
                ActKind.UPDATE, token, history, event.event_id, value, inherited
            )
    return found + list(accepted.values())


def by_workflow_id(histories: Iterable[RunHistory]) -> dict[str, list[RunHistory]]:
    """Runs of each workflow id in the order they were started; at one instant the successor follows its predecessor."""
    grouped: dict[str, list[RunHistory]] = {}
    for history in histories:
        grouped.setdefault(history.workflow_id, []).append(history)
    return {workflow_id: _in_order(runs) for workflow_id, runs in sorted(grouped.items())}


def _in_order(runs: Sequence[RunHistory]) -> list[RunHistory]:
    # A run cannot start before another closed, so (start, close) orders also those that start in the same instant.
    return sorted(runs, key=lambda run: (run.started_ns, run.closed_ns if run.closed_ns is not None else 1 << 63))
