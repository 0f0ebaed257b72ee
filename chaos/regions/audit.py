"""What must be so after a drill, from the clients' record, the histories of one region, and the loss ledger. Pure.

| an acknowledged start or signal | is                                                                                  |
|---------------------------------|-------------------------------------------------------------------------------------|
| in a history of its workflow id | kept: exactly once in all runs that are not themselves explained losers             |
| in the ledger only              | explained: by its run's line (a start), by an inbox line of its own (a signal)       |
| neither                         | lost: there must be none                                                            |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from chaos.regions.record import Told

SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
WHOLE_RUN = "0.0"  # the branch of a ledger line whose run lost its workflow id (cluster/core/ledger.py)
SIGNAL_NAME = "WorkflowExecutionSignaled"
STARTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED


@dataclass
class Verdict:
    kept: int = 0
    explained: Counter[str] = field(default_factory=Counter)  # outcome -> acknowledgements
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def tokens_of(events: Iterable[HistoryEvent]) -> list[str]:
    """What the run was told, its start included."""
    found = []
    for event in events:
        if event.event_type == SIGNALED:
            payloads = event.workflow_execution_signaled_event_attributes.input.payloads
        elif event.event_type == STARTED:
            payloads = event.workflow_execution_started_event_attributes.input.payloads
        else:
            continue
        found.append(payloads[0].data.decode().strip('"') if payloads else "")
    return found


def judge(told: Iterable[Told], runs: Mapping[tuple[str, str], Mapping[str, list[str]]], ledger: list[dict[str, Any]]) -> Verdict:
    """runs: (namespace, workflow id) -> run id -> its tokens. ledger: lines as `outlast ledger --output json` gives them."""
    verdict = Verdict()
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in ledger:
        lines.setdefault((str(line["namespace"]), str(line["workflow_id"])), []).append(line)
    for one in told:
        of_id = runs.get((one.namespace, one.workflow_id), {})
        in_runs = [run_id for run_id, tokens in of_id.items() for token in tokens if token == one.token]
        explanations = lines.get((one.namespace, one.workflow_id), [])
        of_run = [line for line in explanations if line["run_id"] in in_runs or (one.is_start and line["run_id"] == one.run_id)]
        losing = {str(line["run_id"]) for line in explanations if line["branch"] == WHOLE_RUN}
        counted = [run_id for run_id in in_runs if run_id not in losing]
        if len(counted) > 1:
            verdict.doubled.append(f"{one.namespace} {one.workflow_id} {one.token}: in runs {counted}")
        elif counted:
            verdict.kept += 1
        elif in_runs and of_run:  # in a run that lost as a whole
            verdict.explained[str(of_run[0]["outcome"])] += 1
        elif (taken := _taken(explanations, one)) is not None:
            verdict.explained[str(taken["outcome"])] += 1
        else:
            verdict.lost.append(f"{one.namespace} {one.workflow_id} {one.token}, told by region {one.region}")
    return verdict


def _taken(lines: list[dict[str, Any]], told: Told) -> dict[str, Any] | None:
    """A line that may be of this acknowledgement; each explains one. A signal that no history has waits in the inbox."""
    for line in lines:
        is_of_it = line["run_id"] == told.run_id if told.is_start else line["event"] == SIGNAL_NAME and line["outcome"] == "inbox"
        if is_of_it:
            lines.remove(line)
            return line
    return None
