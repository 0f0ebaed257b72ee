"""What must hold of several regions when all is healed and quiet: the invariants of replication.md 11 that end states can show.

One function for each, named after its number. Those that need every append are in written.py; which invariant is covered how,
and which is not, is the table in chaos/README.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from chaos.checkers.histories import TOKEN, RunHistory, Violation, recorded
from chaos.checkers.ledger import Act, ActKind, Ledger, Outcome
from chaos.checkers.written import EventName

E = EventType
LOST_ITS_ID = "Another region began run"  # how the reason begins with which a run that lost its workflow id is terminated
APPENDED_AGAIN = frozenset({"reapply", "reset", "inbox"})
STILL_KEPT = frozenset({"inbox", "merged"})  # it is in no history, and need not be


@dataclass(frozen=True)
class LedgerEntry:
    """A line of a region's own loss ledger."""

    run_id: str
    source: str
    number: int
    version: int
    event_type: int
    outcome: str
    reason: str
    key: str = ""

    @property
    def name(self) -> EventName:
        return EventName(self.run_id, self.number, self.version)


@dataclass(frozen=True)
class RegionView:
    """One namespace in one region at the end. digests: run id -> what two regions must have alike, each part with its name."""

    histories: Sequence[RunHistory]
    current: Mapping[str, str]  # workflow id -> run id
    digests: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, tuple[Any, ...]]  # visibility: run id -> what is shown
    record: Mapping[str, str]  # of the namespace


@dataclass(frozen=True)
class RegionsEvidence:
    """One namespace. deleted: run ids whose deletion was acknowledged. lost: events that no history of `final` has. buffered: a
    token -> the runs that had it in an event without an id. events: all that was ever durable."""

    namespace: str
    views: Mapping[str, RegionView]
    ledger: Ledger
    lines: Sequence[LedgerEntry] = ()
    lost: Mapping[EventName, bytes] = field(default_factory=dict)
    buffered: Mapping[str, set[str]] = field(default_factory=dict)
    events: Mapping[EventName, bytes] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()
    is_graceful: bool = False  # nothing was ever forced
    forks_count: int = 0

    @property
    def final(self) -> Sequence[RunHistory]:
        return next(iter(self.views.values())).histories


def _violation(number: str, history: RunHistory, text: str) -> Violation:
    return Violation(number, history.workflow_id, history.run_id, text)


def i7_one_open_run(evidence: RegionsEvidence) -> list[Violation]:
    """At most one open run per workflow id, in each region. (For the moment before everything is told to end.)"""
    found: list[Violation] = []
    for region, view in evidence.views.items():
        open_runs: dict[str, str] = {}
        for history in view.histories:
            if history.is_open and (other := open_runs.setdefault(history.workflow_id, history.run_id)) != history.run_id:
                found.append(_violation("I7", history, f"{region}: open beside run {other}"))
    return found


def i8_timers_in_time(evidence: RegionsEvidence) -> list[Violation]:
    """Never before it is due, by the clocks that wrote the events; twice is well_formed's."""
    found: list[Violation] = []
    for history in evidence.final:
        due_ns: dict[int, int] = {}
        for event in history.events:
            if event.event_type == E.EVENT_TYPE_TIMER_STARTED:
                lasts = event.timer_started_event_attributes.start_to_fire_timeout.ToNanoseconds()
                due_ns[event.event_id] = event.event_time.ToNanoseconds() + lasts
            elif event.event_type == E.EVENT_TYPE_TIMER_FIRED:
                started_id = event.timer_fired_event_attributes.started_event_id
                if event.event_time.ToNanoseconds() < due_ns.get(started_id, 0):
                    text = f"the timer of event {started_id} fired too early, at {event.event_id}"
                    found.append(_violation("I8", history, text))
    return found


def i11_graceful_loses_nothing(evidence: RegionsEvidence) -> list[Violation]:
    if not evidence.is_graceful:
        return []
    found = [
        Violation("I11", "", line.run_id, f"event {line.number} of version {line.version} lost, unforced: {line.reason}")
        for line in evidence.lines
    ]
    if evidence.forks_count:
        found.append(Violation("I11", evidence.namespace, "", f"{evidence.forks_count} runs forked, and nothing was forced"))
    beaten = [one for one in evidence.final if lost_its_id(one)]
    return found + [_violation("I11", one, "lost its workflow id, and nothing was forced") for one in beaten]


def i13_deleted_stays_deleted(evidence: RegionsEvidence) -> list[Violation]:
    return [
        _violation("I13", history, f"deleted, and still there in {region}")
        for region, view in evidence.views.items()
        for history in view.histories
        if history.run_id in evidence.deleted
    ]


def i16_regions_are_equal(evidence: RegionsEvidence) -> list[Violation]:
    """Runs, states, histories, current runs, visibility rows, the namespace itself."""
    (first, one), *others = evidence.views.items()
    found: list[Violation] = []
    for name, other in others:
        kinds: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
            ("run", one.digests, other.digests),
            ("current run of", one.current, other.current),
            ("row of run", one.rows, other.rows),
            ("namespace's", one.record, other.record),
        ]
        for kind, ours, theirs in kinds:
            for key in sorted(ours.keys() | theirs.keys()):
                if ours.get(key) != theirs.get(key):
                    text = f"{kind} {key}: {first} {_unlike(ours.get(key), theirs.get(key))} / {name}"
                    text += f" {_unlike(theirs.get(key), ours.get(key))}"
                    found.append(Violation("I16", evidence.namespace, key, text))
    return found


def _unlike(one: Any, other: Any) -> str:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return str({name: value for name, value in one.items() if other.get(name) != value})
    return str(one)


def i16_rows_show_states(evidence: RegionsEvidence) -> list[Violation]:
    """Of each region by itself: the list shows the runs there are, and as they are."""
    found: list[Violation] = []
    for region, view in evidence.views.items():
        for history in view.histories:
            shown = view.rows.get(history.run_id)
            wanted = (history.workflow_id, history.is_open, 0 if history.is_open else len(history.events))
            if shown != wanted:
                found.append(_violation("I16", history, f"{region}: the list shows {shown}, the history says {wanted}"))
        extra = view.rows.keys() - {history.run_id for history in view.histories}
        found += [Violation("I16", evidence.namespace, run_id, f"{region}: listed, and not there") for run_id in sorted(extra)]
    return found


def i17_acknowledged_is_kept(evidence: RegionsEvidence) -> list[Violation]:
    """Every acknowledged signal, update, completion and terminate is in a history, or was lost and has its line in the ledger."""
    kept: dict[str, list[tuple[RunHistory, bool]]] = {}
    for history in evidence.final:
        for one in recorded(history):
            kept.setdefault(one.token, []).append((history, one.is_inherited))
    admitted = {
        event.workflow_execution_update_admitted_event_attributes.request.meta.update_id
        for history in evidence.final
        for event in history.events
    }
    gone: dict[str, list[EventName]] = {}
    for name, data in evidence.lost.items():
        for token in {found.decode() for found in TOKEN.findall(data)}:
            gone.setdefault(token, []).append(name)
    lines: dict[EventName, list[LedgerEntry]] = {}
    for line in evidence.lines:
        lines.setdefault(line.name, []).append(line)
    again = _appended_again(evidence)
    found: list[Violation] = []
    for act in evidence.ledger:
        if act.kind != ActKind.START:
            found += _twice(act, kept.get(act.token, []), again[act.token])
        if act.outcome != Outcome.ACKED or act.token in kept or act.token in admitted or act.kind == ActKind.START:
            continue
        if act.run_id in evidence.deleted or (evidence.deleted and not act.run_id):
            continue  # it went with a run that was deleted, perhaps
        outcomes = {line.outcome for name in gone.get(act.token, []) for line in lines.get(name, [])}
        runs = evidence.buffered.get(act.token, set())
        outcomes |= {line.outcome for line in evidence.lines if line.source == "buffered" and line.run_id in runs}
        if not outcomes:
            text = f"{act.kind} {act.token} was acknowledged, and is in no history and no line of the ledger"
            found.append(Violation("I17", act.workflow_id, act.run_id, text))
        elif act.kind in (ActKind.SIGNAL, ActKind.UPDATE) and not outcomes & _still_kept(act.kind):
            text = f"{act.kind} {act.token} was acknowledged, and the ledger says only {sorted(outcomes)}"
            found.append(Violation("I17", act.workflow_id, act.run_id, text))
    return found


def _still_kept(kind: ActKind) -> frozenset[str]:
    """An update that the winner has admitted as well may have been ended with its run, without an event."""
    return STILL_KEPT | {"duplicate"} if kind == ActKind.UPDATE else STILL_KEPT


def _twice(act: Act, places: Sequence[tuple[RunHistory, bool]], appended_again: int) -> list[Violation]:
    """Once in each run; and in no more runs than it was sent, but for those that were given it in place of a run that lost."""
    runs = [history for history, is_inherited in places if not is_inherited and not lost_its_id(history)]
    where = [history.run_id for history in runs]
    if len(set(where)) < len(where):
        return [Violation("I10", act.workflow_id, where[0], f"{act.kind} {act.token} is twice in one history")]
    if len(where) > max(1, act.attempts) + appended_again:
        text = f"{act.kind} {act.token} was sent {act.attempts} times, and is in runs {where}"
        return [Violation("I17", act.workflow_id, where[0], text)]
    return []


def _appended_again(evidence: RegionsEvidence) -> Counter[str]:
    """Of each token, how many lines of the ledger say that what it stands for was appended to another run. A line of what had no
    event id yet is known by its key, which is the request id of the signal there: of signal-with-start, the start's token."""
    shown = {
        EventName(one.run_id, event.event_id, event.version): event.SerializeToString()
        for one in evidence.final
        for event in one.events
    }
    signals: dict[str, bytes] = {}
    for one in evidence.final:
        for event in one.events:
            if request_id := event.workflow_execution_signaled_event_attributes.request_id:
                signals[request_id] = event.SerializeToString()
    found: Counter[str] = Counter()
    for line in evidence.lines:
        if line.outcome in APPENDED_AGAIN:
            has_id = line.source == "event"
            data = (evidence.events.get(line.name) or shown.get(line.name, b"")) if has_id else signals.get(line.key, b"")
            found.update({line.key} | {token.decode() for token in TOKEN.findall(data)})
    return found


def i17_lost_is_explained(evidence: RegionsEvidence) -> list[Violation]:
    """Each event that was durable somewhere and is in no history has its line, and nothing else has one."""
    named = {line.name for line in evidence.lines if line.source == "event"}
    found: list[Violation] = []
    for name in evidence.lost:
        if name not in named:
            text = f"event {name.event_id} of version {name.version} is gone, and no ledger names it"
            found.append(Violation("I17", evidence.namespace, name.run_id, text))
    return found


def i18_started_runs_are_there(evidence: RegionsEvidence) -> list[Violation]:
    found: list[Violation] = []
    runs = {history.run_id for history in evidence.final}
    for act in evidence.ledger.of(ActKind.START, Outcome.ACKED):
        if act.run_id and act.run_id not in runs and act.run_id not in evidence.deleted:
            found.append(Violation("I18", act.workflow_id, act.run_id, f"{act.token} was told of a run that is not there"))
    return found


def i19_chains_are_lists(evidence: RegionsEvidence) -> list[Violation]:
    """Whoever names a successor is named by it; a run that nobody names is one that lost."""
    runs = {history.run_id: history for history in evidence.final}
    found: list[Violation] = []
    for history in evidence.final:
        successor = successor_of(history)
        if successor and successor not in evidence.deleted and successor not in runs:
            found.append(_violation("I19", history, f"its successor {successor} is not there"))
        elif successor in runs and runs[successor].continued_from != history.run_id:
            found.append(_violation("I19", history, f"its successor {successor} continues {runs[successor].continued_from}"))
        before = runs.get(history.continued_from)
        if before is not None and successor_of(before) != history.run_id and history.is_open:
            found.append(_violation("I19", history, f"open, and {before.run_id} continues as {successor_of(before)}"))
    return found


def successor_of(history: RunHistory) -> str:
    """The run that continue-as-new, retry or cron began at this one's end, or ""."""
    if not history.events:
        return ""
    last = history.events[-1]
    attributes: Any = getattr(last, last.WhichOneof("attributes") or "", None)
    return str(getattr(attributes, "new_execution_run_id", ""))


def i20_children_have_parents(evidence: RegionsEvidence) -> list[Violation]:
    """What a parent knows of a started child is so."""
    runs = {history.run_id: history for history in evidence.final}
    found: list[Violation] = []
    for history in evidence.final:
        for event in history.events:
            if event.event_type != E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
                continue
            run_id = event.child_workflow_execution_started_event_attributes.workflow_execution.run_id
            if run_id not in runs and run_id not in evidence.deleted:
                found.append(_violation("I20", history, f"its child {run_id} is not there"))
    return found


def lost_its_id(history: RunHistory) -> bool:
    """Another region's run has its workflow id; this one was ended for that."""
    last: HistoryEvent | None = history.events[-1] if history.events else None
    return last is not None and last.workflow_execution_terminated_event_attributes.reason.startswith(LOST_ITS_ID)


AT_THE_END: tuple[Callable[[RegionsEvidence], list[Violation]], ...] = (
    i8_timers_in_time,
    i11_graceful_loses_nothing,
    i13_deleted_stays_deleted,
    i16_regions_are_equal,
    i16_rows_show_states,
    i17_acknowledged_is_kept,
    i17_lost_is_explained,
    i18_started_runs_are_there,
    i19_chains_are_lists,
    i20_children_have_parents,
)
