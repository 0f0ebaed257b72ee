"""Starts and terminates of one workflow id are linearizable: an exact search for one order that explains every answer.

The specification is a register that holds the current run of the id and whether it is open. Each answered request is an operation
between its begin and its end:

| answer | possible at | becomes |
|---|---|---|
| started r | no run; or the current one closed and the reuse policy allows it; or it is open and terminated for r | r, open |
| attached to r | r, open | unchanged |
| refused because of r | r open and conflict policy fail; or r closed and the reuse policy forbids it | unchanged |
| terminated r | r, open | r, closed |
| nothing to terminate | no run; or the current one closed; or (for a terminate of one run) another one | unchanged |

A run may close silently at any moment if its history says that it closed, unless it says that one of the terminates closed it;
it may be succeeded silently by the run that its history says continues it, or by one that a reset made. A request that was never
answered took effect if its token is in a history; it has no end.

The search (after Wing and Gong, with Lowe's memory of visited configurations) is exact; with ten clients at once and
hundreds of starts per id it takes milliseconds, since a history names the run that each start began.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from chaos.checkers.histories import RunHistory, Violation, by_workflow_id, tokens_in
from chaos.checkers.ledger import Act, ActKind, Conflict, Ledger, Outcome, Reuse

NEVER_NS = 1 << 62
TERMINATED_BY_ACT = "terminated by an act"  # the status of a run that a client of the ledger terminated
FAILED = frozenset({"failed", "timed_out", "canceled", "terminated", TERMINATED_BY_ACT})


class Answer(Enum):
    STARTED = "started"
    ATTACHED = "attached"
    REFUSED = "refused"
    TERMINATED = "terminated"
    NOTHING_TO_TERMINATE = "found nothing to terminate"


@dataclass(frozen=True)
class Operation:
    """run_id of a terminate that found nothing: the run it was meant for, "" = whatever is current."""

    answer: Answer
    run_id: str
    begun_ns: int
    ended_ns: int
    conflict: Conflict
    reuse: Reuse
    token: str


@dataclass(frozen=True)
class State:
    """The register. run_id "" = no run yet."""

    run_id: str
    is_open: bool


def starts_are_linearizable(ledger: Ledger, histories: Sequence[RunHistory]) -> list[Violation]:
    """Checks each workflow id by itself (linearizability is local)."""
    violations: list[Violation] = []
    runs_by_id = by_workflow_id(histories)
    acts_by_id: dict[str, list[Act]] = {}
    for act in [*ledger.of(ActKind.START), *ledger.of(ActKind.TERMINATE)]:
        acts_by_id.setdefault(act.workflow_id, []).append(act)
    for workflow_id, acts in sorted(acts_by_id.items()):
        runs = runs_by_id.get(workflow_id, [])
        unexplained = unexplained_start(operations(acts, runs), runs)
        if unexplained is not None:
            text = f"no order explains every answer; the search ends at {unexplained.token} {unexplained.answer.value} "
            violations.append(Violation("starts_are_linearizable", workflow_id, unexplained.run_id, text))
    return violations


def operations(acts: Sequence[Act], runs: Sequence[RunHistory]) -> list[Operation]:
    """An act is one operation for its answer, and one more for each run that an unanswered attempt of it began."""
    began: dict[str, list[str]] = {}
    for run in runs:
        if run.start_token:
            began.setdefault(run.start_token, []).append(run.run_id)
    result: list[Operation] = []
    closed = terminated_by(runs)
    for act in acts:
        if act.kind is ActKind.TERMINATE:
            result += _terminates(act, closed.get(act.token, []))
            continue
        ended_ns = act.ended_ns if act.outcome in (Outcome.ACKED, Outcome.REFUSED) else NEVER_NS
        answer: Answer | None = None
        if act.outcome == Outcome.ACKED:
            answer = Answer.STARTED if act.started else Answer.ATTACHED
        elif act.outcome == Outcome.REFUSED and act.run_id:
            answer = Answer.REFUSED
        if answer is not None:
            result.append(Operation(answer, act.run_id, act.begun_ns, ended_ns, act.conflict, act.reuse, act.token))
        for run_id in began.get(act.token, []):
            if answer is not Answer.STARTED or run_id != act.run_id:
                # An attempt may still be under way inside the server when a later one is answered.
                result.append(Operation(Answer.STARTED, run_id, act.begun_ns, NEVER_NS, act.conflict, act.reuse, act.token))
    return sorted(result, key=lambda operation: operation.begun_ns)


def terminated_by(runs: Sequence[RunHistory]) -> dict[str, list[str]]:
    """Token of a terminate -> the runs that it closed, in the order of their closing."""
    closed: dict[str, list[str]] = {}
    for run in sorted((run for run in runs if run.closed_ns is not None), key=lambda run: run.closed_ns or 0):
        details = run.events[-1].workflow_execution_terminated_event_attributes.details
        for token in tokens_in(details):
            closed.setdefault(token, []).append(run.run_id)
    return closed


def _terminates(act: Act, closed: Sequence[str]) -> list[Operation]:
    """An attempt may still be under way inside the server when a later one is answered: only the first close surely came before
    the answer "done"."""

    def operation(answer: Answer, run_id: str, ended_ns: int) -> Operation:
        return Operation(answer, run_id, act.begun_ns, ended_ns, act.conflict, act.reuse, act.token)

    is_acked = act.outcome == Outcome.ACKED
    result = [
        operation(Answer.TERMINATED, run_id, act.ended_ns if is_acked and number == 0 else NEVER_NS)
        for number, run_id in enumerate(closed)
    ]
    if act.outcome == Outcome.REFUSED:
        result.append(operation(Answer.NOTHING_TO_TERMINATE, act.run_id, act.ended_ns))
    return result


def unexplained_start(operations: Sequence[Operation], runs: Sequence[RunHistory]) -> Operation | None:
    """None if some order explains all operations; otherwise one that blocks the longest explained prefix."""
    status = {run.run_id: run.status for run in runs}
    status |= {run_id: TERMINATED_BY_ACT for closed in terminated_by(runs).values() for run_id in closed}
    successor = {run.continued_from: run.run_id for run in runs if run.continued_from and run.reset_event is None}
    # A reset takes the place of whatever run is current, open or closed.
    successor |= {before.run_id: run.run_id for before, run in itertools.pairwise(runs) if run.reset_event is not None}
    everything = (1 << len(operations)) - 1
    stack = [(0, State("", False))]
    seen: set[tuple[int, State]] = set(stack)
    best_count, best_blocker = -1, operations[0] if operations else None
    while stack:
        done, state = stack.pop()
        # What has no end need not have happened before the last answer was given, but it did happen: it must fit in too.
        if done == everything:
            return None
        nexts, horizon = possible_next(done, operations)
        if done.bit_count() > best_count:
            best_count, best_blocker = done.bit_count(), horizon
        for configuration in _next_configurations(done, state, nexts, operations, status, successor):
            if configuration not in seen:
                seen.add(configuration)
                stack.append(configuration)
    return best_blocker


def possible_next(done: int, operations: Sequence[Operation]) -> tuple[list[int], Operation]:
    """The operations that began before the first undone one ended, and that one. Operations are in the order of their begins, so
    the search for it ends at the first that began later: thousands of operations cost no more than those at the same time."""
    first = (~done & (done + 1)).bit_length() - 1  # the lowest operation that is undone
    horizon = operations[first]
    nexts: list[int] = []
    for index in range(first, len(operations)):
        operation = operations[index]
        if operation.begun_ns > horizon.ended_ns:
            break
        if not done >> index & 1:
            nexts.append(index)
            if operation.ended_ns < horizon.ended_ns:
                horizon = operation
    return [index for index in nexts if operations[index].begun_ns <= horizon.ended_ns], horizon


def _next_configurations(
    done: int,
    state: State,
    nexts: Sequence[int],
    operations: Sequence[Operation],
    status: dict[str, str],
    successor: dict[str, str],
) -> list[tuple[int, State]]:
    found: list[tuple[int, State]] = []
    for index in nexts:
        after_states = next_states(operations[index], state, status, successor)
        if state in after_states:
            # It fits here and changes nothing: every order that has it later also works with it now; no other branch is needed.
            return [(done | 1 << index, state)]
        found += [(done | 1 << index, after) for after in after_states]
    return found


def next_states(operation: Operation, state: State, status: dict[str, str], successor: dict[str, str]) -> list[State]:
    """The states after the operation, from this state or from one that it may silently have become."""
    return [
        after
        for silent in silent_states(state, status, successor)
        if (after := apply_operation(operation, silent, status)) is not None
    ]


def silent_states(state: State, status: dict[str, str], successor: dict[str, str]) -> list[State]:
    result = [state]
    for reached in result:
        closed = status.get(reached.run_id, "open")
        following = [State(successor[reached.run_id], True)] if reached.run_id in successor else []
        if reached.is_open and closed not in ("open", "continued_as_new", TERMINATED_BY_ACT):
            following.append(State(reached.run_id, False))
        result += [one for one in following if one not in result]
    return result


def apply_operation(operation: Operation, state: State, status: dict[str, str]) -> State | None:
    """The table above."""
    forbids = _reuse_forbids(operation.reuse, status.get(state.run_id, "open"))
    if operation.answer is Answer.STARTED:
        if not state.run_id or (not state.is_open and not forbids):
            return State(operation.run_id, True)
        terminated = operation.conflict == Conflict.TERMINATE_EXISTING and status.get(state.run_id) == "terminated"
        return State(operation.run_id, True) if state.is_open and terminated else None
    if operation.answer is Answer.TERMINATED:
        return State(state.run_id, False) if state == State(operation.run_id, True) else None
    if operation.answer is Answer.NOTHING_TO_TERMINATE:
        return None if state.is_open and operation.run_id in ("", state.run_id) else state
    if operation.run_id != state.run_id:
        return None
    if operation.answer is Answer.ATTACHED:
        return state if state.is_open and operation.conflict == Conflict.USE_EXISTING else None
    refused = operation.conflict == Conflict.FAIL if state.is_open else forbids
    return state if refused else None


def _reuse_forbids(reuse: Reuse, closed_as: str) -> bool:
    if reuse == Reuse.REJECT_DUPLICATE:
        return True
    return reuse == Reuse.FAILED_ONLY and closed_as not in FAILED
