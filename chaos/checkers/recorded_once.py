"""Acked is recorded, and nothing is applied twice.

Request ids are remembered per run (as in Temporal), which decides what "twice" means when a request was sent more than once:

| sent to | may be recorded |
|---|---|
| one attempt, any target | at most once |
| several attempts, pinned to a run | at most once |
| several attempts, to the current run | at most once per run, in no more runs than attempts |
| several attempts of a terminate | as a signal: it has no request id, but a closed run cannot be closed again |
| several attempts of a start | at most once per run, and never in two runs that follow each other: the second would have
seen the first as the current run and recognised its own request id |

What a run has through a reset (copied, or reapplied) is not a second time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from chaos.checkers.histories import Recorded, RunHistory, Violation, by_workflow_id, recorded
from chaos.checkers.ledger import Act, ActKind, Ledger, Outcome


def acked_recorded_once(ledger: Ledger, histories: Sequence[RunHistory]) -> list[Violation]:
    """Both directions: what was acked is in the histories, and what is in the histories was asked for, once."""
    places: dict[str, list[Recorded]] = {}
    for history in histories:
        for found in recorded(history):
            places.setdefault(found.token, []).append(found)
    positions = {run.run_id: position for runs in by_workflow_id(histories).values() for position, run in enumerate(runs)}
    run_ids = {history.run_id for history in histories}
    violations: list[Violation] = []
    for act in ledger:
        found_here = [found for found in places.get(act.token, []) if found.kind == act.kind]
        violations += _recorded_if_acked(act, found_here, run_ids)
        violations += _not_twice(act, found_here, positions)
    violations += _asked_for(ledger, places.values())
    return violations


def _violation(act: Act, text: str, run_id: str = "") -> Violation:
    return Violation("acked_recorded_once", act.workflow_id, run_id or act.run_id, f"{act.kind} {act.token}: {text}")


def _recorded_if_acked(act: Act, found: Sequence[Recorded], run_ids: set[str]) -> list[Violation]:
    violations: list[Violation] = []
    if act.outcome == Outcome.ACKED:
        if act.kind == ActKind.START and not act.started:
            if act.run_id not in run_ids:
                violations.append(_violation(act, "acked as attached to a run that has no history"))
        elif not found:
            violations.append(_violation(act, "acked but in no history"))
        elif act.run_id and all(place.history.run_id != act.run_id for place in found):
            runs = ", ".join(place.history.run_id for place in found)
            violations.append(_violation(act, f"acked for its run but recorded in {runs}"))
        if act.kind == ActKind.UPDATE and found and all(place.value != act.result for place in found):
            violations.append(_violation(act, f"client was told {act.result!r}, history says {found[0].value!r}"))
    elif act.outcome == Outcome.REFUSED and found and act.attempts == 1:
        violations.append(_violation(act, f"refused ({act.error}) at the only attempt, but recorded", found[0].history.run_id))
    return violations


def _not_twice(act: Act, found: Sequence[Recorded], positions: dict[str, int]) -> list[Violation]:
    found = [place for place in found if not place.is_inherited]
    if len(found) <= 1:
        return []
    runs = [place.history.run_id for place in found]
    where = ", ".join(f"{place.history.run_id}#{place.event_id}" for place in found)
    if len(set(runs)) < len(runs):
        return [_violation(act, f"twice in one history: {where}", runs[0])]
    pinned = bool(act.run_id) and act.kind != ActKind.START
    if act.kind == ActKind.COMPLETION or pinned or len(found) > act.attempts:
        return [_violation(act, f"recorded {len(found)} times after {act.attempts} attempts: {where}", runs[0])]
    places = sorted(positions[run_id] for run_id in runs)
    if act.kind == ActKind.START and any(later - earlier == 1 for earlier, later in itertools.pairwise(places)):
        return [_violation(act, f"two runs in a row began from one request id: {where}", runs[0])]
    return []


def _asked_for(ledger: Ledger, places: Iterable[Sequence[Recorded]]) -> list[Violation]:
    violations: list[Violation] = []
    for found in places:
        act = ledger.acts.get(found[0].token)
        for place in found:
            if act is None or act.kind != place.kind or act.workflow_id != place.history.workflow_id:
                text = f"{place.kind} {place.token} at event {place.event_id} was never asked for here"
                violations.append(Violation("acked_recorded_once", place.history.workflow_id, place.history.run_id, text))
    return violations
