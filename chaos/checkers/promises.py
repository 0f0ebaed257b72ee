"""Smaller promises, each read off histories and what clients were told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from temporalio.api.enums.v1 import EventType

from chaos.checkers.histories import RunHistory, Violation, tokens_in
from chaos.checkers.ledger import ActKind, Ledger, Outcome

E = EventType


def request_ids_once(histories: Sequence[RunHistory]) -> list[Violation]:
    """A signal's request id is in a history at most once, whoever sent it."""
    violations: list[Violation] = []
    for history in histories:
        seen: dict[str, int] = {}
        for event in history.events:
            request_id = event.workflow_execution_signaled_event_attributes.request_id
            if event.event_type != E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED or not request_id:
                continue
            if request_id in seen:
                text = f"request id {request_id} signalled at events {seen[request_id]} and {event.event_id}"
                violations.append(Violation("request_ids_once", history.workflow_id, history.run_id, text))
            seen[request_id] = event.event_id
    return violations


def results_come_from_their_attempt(histories: Sequence[RunHistory]) -> list[Violation]:
    """For workers that put {"attempt": n} into a result: it is the attempt that the started event names."""
    violations: list[Violation] = []
    for history in histories:
        started = {
            event.event_id: event.activity_task_started_event_attributes.attempt
            for event in history.events
            if event.event_type == E.EVENT_TYPE_ACTIVITY_TASK_STARTED
        }
        for event in history.events:
            done = event.activity_task_completed_event_attributes
            if event.event_type != E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED or not done.result.payloads:
                continue
            value = json.loads(done.result.payloads[0].data)
            if isinstance(value, dict) and value.get("attempt") != started.get(done.started_event_id):
                begun = started.get(done.started_event_id)
                text = f"event {event.event_id}: result of attempt {value.get('attempt')}, started {begun}"
                violations.append(Violation("results_come_from_their_attempt", history.workflow_id, history.run_id, text))
    return violations


def ended_as_told(ended: Iterable[tuple[str, str, str]], histories: Sequence[RunHistory]) -> list[Violation]:
    """`ended`: acked (verb, workflow id, run id). A terminated run is closed; a cancelled one has heard of it, or is closed."""
    by_run = {history.run_id: history for history in histories}
    violations: list[Violation] = []
    for verb, workflow_id, run_id in ended:
        history = by_run.get(run_id)
        heard = history is not None and (
            not history.is_open
            or (
                verb == "cancel"
                and any(event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED for event in history.events)
            )
        )
        if not heard:
            violations.append(Violation("ended_as_told", workflow_id, run_id, f"{verb} was acked and left no trace"))
    return violations


def queries_see_acked_signals(
    asked: Iterable[tuple[str, int, int]], ledger: Ledger, histories: Sequence[RunHistory]
) -> list[Violation]:
    """`asked`: (run id, when the query began on the clients' clock, how many signals its answer shows)."""
    acked_ns = {act.token: act.ended_ns for act in ledger.of(ActKind.SIGNAL, Outcome.ACKED)}
    told: dict[str, list[int]] = {}
    for history in histories:
        tokens = [
            token
            for event in history.events
            if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
            for token in tokens_in(event.workflow_execution_signaled_event_attributes.input)
        ]
        told[history.run_id] = [acked_ns[token] for token in tokens if token in acked_ns]
    violations: list[Violation] = []
    for run_id, begun_ns, count in asked:
        before = sum(1 for at in told.get(run_id, []) if at < begun_ns)
        if count < before:
            text = f"a query begun at {begun_ns} showed {count} signals, {before} were acked before"
            violations.append(Violation("queries_see_acked_signals", "", run_id, text))
    return violations


def resets_keep_signals(histories: Sequence[RunHistory]) -> list[Violation]:
    """Every signal of the base run, up to the reset, is in the run that the reset made."""
    by_run = {history.run_id: history for history in histories}
    violations: list[Violation] = []
    for history in histories:
        base = by_run.get(history.base_run_id)
        if base is None:
            continue
        kept = {event.workflow_execution_signaled_event_attributes.request_id for event in _signals(history)}
        for event in _signals(base):
            request_id = event.workflow_execution_signaled_event_attributes.request_id
            if event.event_time.ToNanoseconds() < history.started_ns and request_id not in kept:
                text = f"signal {request_id} of event {event.event_id} of its base {base.run_id} was not reapplied"
                violations.append(Violation("resets_keep_signals", history.workflow_id, history.run_id, text))
    return violations


def external_signals_once(histories: Sequence[RunHistory]) -> list[Violation]:
    """A signal that a workflow sent to another, told apart by its input, is in a history once."""
    violations: list[Violation] = []
    for history in histories:
        seen: dict[tuple[str, bytes], int] = {}
        for event in _signals(history):
            attributes = event.workflow_execution_signaled_event_attributes
            if not attributes.external_workflow_execution.run_id:
                continue
            key = (attributes.external_workflow_execution.run_id, attributes.input.SerializeToString(deterministic=True))
            if key in seen:
                text = f"the signal of run {key[0]} came at events {seen[key]} and {event.event_id}"
                violations.append(Violation("external_signals_once", history.workflow_id, history.run_id, text))
            seen[key] = event.event_id
    return violations


def children_agree_with_parents(histories: Sequence[RunHistory]) -> list[Violation]:
    """A child that exists is not recorded as one that could not be started."""
    failed = {
        (history.run_id, event.start_child_workflow_execution_failed_event_attributes.initiated_event_id)
        for history in histories
        for event in history.events
        if event.event_type == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED
    }
    violations: list[Violation] = []
    for history in histories:
        started = history.events[0].workflow_execution_started_event_attributes
        key = (started.parent_workflow_execution.run_id, started.parent_initiated_event_id)
        if key in failed:
            text = f"its parent {key[0]} says of event {key[1]} that it could not be started"
            violations.append(Violation("children_agree_with_parents", history.workflow_id, history.run_id, text))
    return violations


def _signals(history: RunHistory) -> list:  # type: ignore[type-arg]
    return [event for event in history.events if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED]
