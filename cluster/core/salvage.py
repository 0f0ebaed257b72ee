"""What becomes of the branch (or the run) that lost: each of its events is one line of the ledger, with its outcome.

What others did to the workflow (signals, updates, cancel requests, a termination, news of children and Nexus operations that
the winner waits for) is appended to the winner once: reapply.py. What the workflow and the server did by themselves is rolled
back: the winner's workflow decides for itself. Activities run again, unless the namespace adopts results. Outcomes: ledger.py.

Pure and deterministic. Salvaging the same branch again, or after it has grown, gives the same keys: nothing is appended twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.update.v1 import Request

from cluster.core.events import attributes_of, parse_event
from cluster.core.ledger import REAPPLIED, LedgerLine, Outcome, Source, admitted_event, requested_update
from cluster.core.machines import lifecycle, nexus_operation
from cluster.core.state import RunState, UpdateStage
from cluster.core.table import IllegalTransition


class Fate(NamedTuple):
    outcome: Outcome
    reason: str
    key: str = ""
    started: bytes = b""


KEY_PREFIX = "reapplied"
BY_PARENT = "by parent close policy"  # history/between_runs.py: the one termination by the server that nobody repeats


def salvage(
    winner: RunState,
    loser: RunState,
    *,
    common_event_id: int,
    common_transition: int,
    loser_events: Sequence[bytes],
    winner_events: Sequence[bytes] = (),
    may_reset: bool = True,
    adopts_activities: bool = False,
    astray: frozenset[str] = frozenset(),
    has_taker: bool = False,
) -> list[LedgerLine]:
    """The ledger's lines: one for each event of the loser behind the common ones, each buffered event, each update that was
    only admitted. In the order in which they are to be reapplied.

    common_*: of the fork (merge.Fork); 0 and 0 for another run of the same workflow id, which must still have been open.
    *_events: encoded, from common_event_id + 1 on. may_reset: whether a closed winner may be reset for what came too late.
    astray: keys of what the winner gave to runs that do not have it (any more: their branch may have lost as well).
    has_taker: the winner has closed, and a run that took its place is open: it can be asked to end, too.
    Raises ValueError where the events are not those, IllegalTransition for an event type that nobody here knows.
    """
    branch = f"{common_event_id}.{common_transition}"
    case = _Case(winner, loser, common_event_id, branch, winner_events, may_reset, adopts_activities, astray, has_taker)
    events = [parse_event(data) for data in loser_events]
    expected_ids = list(range(common_event_id + 1, loser.next_event_id))
    if [event.event_id for event in events] != expected_ids:
        raise ValueError(f"the loser's events are not those from {common_event_id + 1} to {loser.next_event_id - 1}")
    case.note_starts((*loser_events, *loser.buffered))
    lines = [
        case.line(Source.EVENT, event.event_id, event, data) for event, data in zip(events, loser_events, strict=True)
    ]
    buffered_ids = set()
    for index, data in enumerate(loser.buffered):
        event = parse_event(data)
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
            buffered_ids.add(event.workflow_execution_update_admitted_event_attributes.request.meta.update_id)
        lines.append(case.line(Source.BUFFERED, index, event, data))
    for index, request in enumerate(_only_admitted(loser, common_transition, buffered_ids)):
        event = admitted_event(request, loser.transition_history[-1][1] if loser.transition_history else loser.last_version)
        lines.append(case.line(Source.UPDATE, index, event, event.SerializeToString(deterministic=True)))
    return lines


def _only_admitted(loser: RunState, common_transition: int, buffered_ids: set[str]) -> list[Request]:
    """Updates that no event tells of. One that was admitted before the fork is the winner's, which may have rejected it."""
    return [
        Request.FromString(one.request)
        for one in loser.updates.values()
        if one.stage < UpdateStage.ACCEPTED
        and not one.admitted_event_id
        and one.update_id not in buffered_ids
        and not 0 < one.admitted_transition <= common_transition
    ]


class _Case:
    """One salvage: winner and loser, and what was said so far."""

    def __init__(
        self,
        winner: RunState,
        loser: RunState,
        common: int,
        branch: str,
        winner_events: Sequence[bytes],
        may_reset: bool,
        adopts_activities: bool,
        astray: frozenset[str] = frozenset(),
        has_taker: bool = False,
    ) -> None:
        self.winner, self.loser, self.common, self.branch = winner, loser, common, branch
        self.is_same_run = winner.run_id == loser.run_id
        self.adopts_activities = adopts_activities
        self.has_taker = has_taker
        self.passed_on = winner.inbox.keys() - astray
        # What the loser was given by an earlier salvage keeps its key, so that all who have it know it again.
        told = ((seen.event_type, seen.event_id, key) for key, seen in loser.request_ids.items() if key.startswith(KEY_PREFIX))
        self.told_as = {(event_type, event_id): key for event_type, event_id, key in told if event_id}
        self.readmitted: set[str] = set()
        self.starts: dict[int, bytes] = {}  # scheduled event id -> encoded ActivityTaskStarted
        # A closed run is reset where a workflow task of it was completed, unless another run has taken its place.
        has_successor = bool(winner.new_run_id or winner.reset_run_id or winner.is_reset_away)
        self.can_be_reset = may_reset and bool(winner.last_completed_id) and not has_successor and not winner.is_deleted
        # Signals without a request id are told apart by what they say and when they came: those that the winner has, too
        # (buffered before the fork, and flushed on both sides), and how often the loser has told the same.
        self.had = Counter(map(signal_digest, filter(_is_anonymous, map(parse_event, (*winner_events, *winner.buffered)))))
        self.told: Counter[str] = Counter()

    def note_starts(self, encoded: Sequence[bytes]) -> None:
        for data in encoded:
            event = parse_event(data)
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                self.starts[event.activity_task_started_event_attributes.scheduled_event_id] = data

    def line(self, source: Source, number: int, event: HistoryEvent, data: bytes) -> LedgerLine:
        fate = self._fate(event)
        loser = self.loser
        return LedgerLine(
            namespace_id=loser.namespace_id,
            workflow_id=loser.workflow_id,
            run_id=loser.run_id,
            source=source,
            number=number,
            version=event.version,
            event_type=event.event_type,
            outcome=fate.outcome,
            reason=fate.reason,
            key=fate.key,
            event=data if fate.outcome in REAPPLIED else b"",
            started=fate.started,
            branch=self.branch,
        )

    def _fate(self, event: HistoryEvent) -> Fate:
        reason = ROLLED_BACK.get(event.event_type)
        if reason is not None:
            return Fate(Outcome.ROLLED_BACK, reason)
        judge = JUDGES.get(event.event_type)
        if judge is None:
            raise IllegalTransition(f"nobody knows how to salvage event type {event.event_type}")
        return judge(self, event, attributes_of(event))

    def append(self, key: str) -> Fate:
        """Somebody was told that this was accepted: it must reach the workflow."""
        winner = self.winner
        if winner.is_open:
            return Fate(Outcome.REAPPLY, "appended to the winner", key)
        if self.can_be_reset:
            return Fate(Outcome.RESET, "the winner has closed: reset to its last workflow task", key)
        if successor := winner.new_run_id or winner.reset_run_id:
            return Fate(Outcome.INBOX, f"the winner has closed: for its successor {successor}", key)
        return Fate(Outcome.INBOX, "the winner has closed: for the next run of the workflow id", key)

    def key(self, *what: object) -> str:
        return ":".join(map(str, (KEY_PREFIX, self.loser.run_id, *what)))

    def key_of(self, event: HistoryEvent, *what: object) -> str:
        return self.told_as.get((event.event_type, event.event_id)) or self.key(*what)


def _is_anonymous(event: HistoryEvent) -> bool:
    is_signal = event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    return is_signal and not event.workflow_execution_signaled_event_attributes.request_id


def signal_digest(event: HistoryEvent) -> str:
    """Of what it says and when it came: the same while it is buffered and once it has an id and another version."""
    bare = HistoryEvent()
    bare.CopyFrom(event)
    bare.event_id = bare.version = 0
    return hashlib.blake2b(bare.SerializeToString(deterministic=True), digest_size=12).hexdigest()


# --- what others did ---------------------------------------------------------------------------------------------------


def _signal(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    key = attributes.request_id
    if not key:
        digest = signal_digest(event)
        count = case.told[digest]
        case.told[digest] += 1
        if count < case.had[digest]:
            return Fate(Outcome.DUPLICATE, "the winner has it from before the fork")
        key = case.key(digest, count)
    if key in case.winner.signal_request_ids:
        return Fate(Outcome.DUPLICATE, "the winner has a signal of this request id", key)
    if key in case.passed_on:
        return Fate(Outcome.DUPLICATE, "the winner keeps it for a later run, or has given it to one", key)
    return case.append(key)


def _update(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    request = requested_update(event)
    if request is None:  # accepted, and admitted by an event before
        update_id = attributes.protocol_instance_id
        if update_id in case.readmitted:
            return Fate(Outcome.MERGED, "another line brings the update")
        return Fate(Outcome.DUPLICATE, "the winner has the update's admission, and answers it")
    update_id = request.meta.update_id
    key = case.key_of(event, "update", update_id)
    if update_id in case.winner.updates or key in case.winner.request_ids or key in case.passed_on:
        return Fate(Outcome.DUPLICATE, "the winner has an update of this id, and its answer counts", key)
    if update_id in case.readmitted:
        return Fate(Outcome.MERGED, "another line brings the update")
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
        before = case.loser.updates.get(update_id)
        if before is None or (before.stage < UpdateStage.ACCEPTED and not case.loser.is_open):
            return Fate(Outcome.MERGED, "the loser has refused it, or closed before it was accepted: so it was told")
    case.readmitted.add(update_id)
    return case.append(key)


def _update_completed(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    update = case.winner.updates.get(attributes.meta.update_id)
    if update is not None and update.stage == UpdateStage.COMPLETED:
        return Fate(Outcome.DUPLICATE, "the winner has completed it, and its result counts")
    return Fate(Outcome.ROLLED_BACK, "the result may have been told; the winner's workflow completes the update again")


def _cancel_requested(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    key = case.key_of(event, event.version, event.event_id)
    if not case.winner.is_open and not case.has_taker:
        return Fate(Outcome.MERGED, "the winner has closed: nothing is left to cancel")
    if case.winner.cancel_requested or key in case.passed_on:
        return Fate(Outcome.DUPLICATE, "the winner was asked to cancel, too", key)
    return case.append(key)


def _terminated(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    key = case.key_of(event, event.version, event.event_id)
    if not case.winner.is_open and not case.has_taker:
        return Fate(Outcome.MERGED, "the run is closed")
    if key in case.winner.request_ids:
        return Fate(Outcome.DUPLICATE, "the winner was terminated by it, and what came later is another run's", key)
    if key in case.passed_on:
        return Fate(Outcome.DUPLICATE, "the run that took the winner's place was terminated, too", key)
    is_servers_own = attributes.identity in (lifecycle.HISTORY_SERVICE, lifecycle.RESETTER)
    if is_servers_own and attributes.reason != BY_PARENT:
        # For a start, a reset, a deletion, a limit: the runs of the id are merged, tombstones and limits hold by themselves.
        return Fate(Outcome.ROLLED_BACK, f"the server's own doing: {attributes.reason}")
    return case.append(key)


def _options_updated(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    if not (attributes.attached_request_id or attributes.attached_completion_callbacks):
        return Fate(Outcome.ROLLED_BACK, "an operator's wish: the winner's options stay as they are")
    key = attributes.attached_request_id or case.key(event.version, event.event_id)
    if key in case.winner.request_ids:
        return Fate(Outcome.DUPLICATE, "the winner has what this request attached", key)
    if not case.is_same_run or not case.winner.is_open:
        return Fate(Outcome.ROLLED_BACK, "nothing is attached to a run that has closed")
    return case.append(key)


# --- news that the winner waits for ------------------------------------------------------------------------------------


def _child_news(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    initiated_id, run_id = attributes.initiated_event_id, attributes.workflow_execution.run_id
    if initiated_id > case.common or not case.is_same_run:
        return Fate(Outcome.ROLLED_BACK, f"the winner did not wish for this child; its run is {run_id}")
    if not case.winner.is_open:
        return Fate(Outcome.MERGED, "the winner has closed and waits for no child")
    child = case.winner.children.get(initiated_id)
    if child is None:
        return Fate(Outcome.DUPLICATE, "the winner has heard of the child's end")
    if child.is_started and child.run_id != run_id:
        return Fate(Outcome.ROLLED_BACK, f"the winner's child is run {child.run_id}; this was run {run_id}")
    if child.is_started and event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
        return Fate(Outcome.DUPLICATE, "the winner has heard of the child's start")
    return case.append(case.key(event.version, event.event_id))


def _nexus_news(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    if attributes.scheduled_event_id > case.common or not case.is_same_run:
        return Fate(Outcome.ROLLED_BACK, "the winner did not wish for this operation")
    if not case.winner.is_open:
        return Fate(Outcome.MERGED, "the winner has closed and waits for no operation")
    operation = nexus_operation.expected(case.winner, attributes.scheduled_event_id, attributes.request_id)
    if operation is None:
        return Fate(Outcome.DUPLICATE, "the winner has heard of the operation's end")
    if operation.is_started and event.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED:
        return Fate(Outcome.DUPLICATE, "the winner has heard of the operation's start")
    return case.append(case.key(event.version, event.event_id))


def _activity_result(case: _Case, event: HistoryEvent, attributes: Any) -> Fate:
    scheduled_id = attributes.scheduled_event_id
    if scheduled_id > case.common or not case.is_same_run:
        return Fate(Outcome.RUN_AGAIN, "it ran; the winner's workflow may schedule it again")
    if scheduled_id not in case.winner.activities:
        return Fate(Outcome.RUN_AGAIN, "it ran on both sides: the winner has its own result, or has closed without one")
    if case.adopts_activities and event.event_type != EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
        adopted = case.append(case.key(event.version, event.event_id))
        return adopted._replace(started=case.starts.get(scheduled_id, b""))
    return Fate(Outcome.RUN_AGAIN, "the winner has it pending: it runs to its end there")


Judge = Callable[[_Case, HistoryEvent, Any], Fate]
JUDGES: dict[int, Judge] = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signal,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _update,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _update,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED: _update_completed,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_requested,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _terminated,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: _options_updated,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_news,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED: _nexus_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: _nexus_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED: _nexus_news,
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED: _nexus_news,
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _activity_result,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: _activity_result,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: _activity_result,
}

# --- what the workflow and the server did by themselves ----------------------------------------------------------------

_TASK = "a workflow task of the loser: the winner has its own"
_COMMAND = "a command of the loser's workflow: the winner's decides for itself"
_CLOSE = "the loser's close: the winner goes on, or has closed by itself"
_TIME = "the winner's own time does it, when it is due"
_ANSWER = "asked again by the winner, under the same request id if it had asked before the fork"
_OPERATOR = "an operator's wish: the winner stays as it is"
ROLLED_BACK: dict[int, str] = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: "the run began twice; the winner's beginning counts",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: _CLOSE,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: _CLOSE,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: _CLOSE,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: _CLOSE,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: _TIME,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED: _OPERATOR,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED: _OPERATOR,
    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED: _TASK,
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED: _TASK,
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: _TASK,
    EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED: _TASK,
    EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT: _TASK,
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: _COMMAND,
    EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED: "its result's line says what becomes of it",
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED: _COMMAND,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: _TIME,
    EventType.EVENT_TYPE_TIMER_STARTED: _COMMAND,
    EventType.EVENT_TYPE_TIMER_CANCELED: _COMMAND,
    EventType.EVENT_TYPE_TIMER_FIRED: _TIME,
    EventType.EVENT_TYPE_MARKER_RECORDED: _COMMAND,
    EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: _COMMAND,
    EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED: _COMMAND,
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: _COMMAND,
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: _ANSWER,
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _COMMAND,
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _ANSWER,
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: _ANSWER,
    EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _COMMAND,
    EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _ANSWER,
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _ANSWER,
    EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED: _COMMAND,
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED: _COMMAND,
    EventType.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: _TIME,
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED: _ANSWER,
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED: _ANSWER,
}
