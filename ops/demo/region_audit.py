"""What must be so after the story of two regions: histories equal, and each conflicting event explained. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.demo.bank import ACCOUNT_COUNT, OPENING_CENTS

RunName = tuple[str, str]  # workflow id, run id
NAMED_MAX = 5


@dataclass
class RegionReport:
    """What the demo found. `problems` empty means that everything is right. Times in seconds; _ms in milliseconds."""

    stores: str = ""
    transfers: int = 0
    transferred: int = 0
    refunded: int = 0
    cents_before: int = ACCOUNT_COUNT * OPENING_CENTS
    cents_after: int = 0
    done_before_kill: int = 0
    takeover_s: float = 0.0  # from the kill until region two owned the namespace
    rto_s: float = 0.0  # from the kill until region two acknowledged a client's first write
    detect_s: float = 0.0
    decide_s: float = 0.0
    rpo_events: int = 0  # things that region one had written and not shipped: the ledger's lines
    rpo_workflows: int = 0
    started_again: int = 0  # starts that region one had acknowledged and region two did not know
    ledger: dict[str, int] = field(default_factory=dict)  # outcome -> lines
    unexplained: int = 0
    return_s: float = 0.0  # from the start of region one until both were verified to be equal
    runs_compared: int = 0
    checksum_one: str = ""
    checksum_two: str = ""
    late_transfers: int = 0  # under way during the fail-back
    fail_back_ms: float = 0.0
    frozen_ms: float = 0.0
    fail_back_lost: int = 0
    repeated_calls: int = 0
    repeated_bookings: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    look_next: list[str] = field(default_factory=list)


def differing(one: Mapping[RunName, str], two: Mapping[RunName, str]) -> list[str]:
    """Every sentence is a run that is not the same in both regions. Values are the histories' checksums."""
    problems = [f"{id} run {run} is in region one only" for id, run in sorted(one.keys() - two.keys())]
    problems += [f"{id} run {run} is in region two only" for id, run in sorted(two.keys() - one.keys())]
    problems += [
        f"{id} run {run} has another history in region two"
        for id, run in sorted(one.keys() & two.keys())
        if one[id, run] != two[id, run]
    ]
    return problems


def unexplained(
    conflicts: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], started_again: Iterable[str]
) -> list[str]:
    """Every sentence is something that the ledger should explain and does not: an event of a branch that lost, a line without a
    reason, a start that was acknowledged and had to be made again."""
    problems = [
        f"the ledger says nothing of why {line['workflow_id']} event {line['number']} is {line['outcome'] or 'where it is'}"
        for line in lines
        if not line["reason"] or not line["outcome"]
    ]
    for branch in conflicts:
        numbers = {
            line["number"] for line in lines if line["run_id"] == branch["run_id"] and line["source"] == "event"
        }
        missing = [number for number in range(branch["events_from"], branch["last_event_id"] + 1) if number not in numbers]
        if missing:
            name = f"{branch['workflow_id']} run {branch['run_id']}"
            problems.append(f"the ledger has no line for events {missing[:NAMED_MAX]} of the branch that lost of {name}")
    named = {line["workflow_id"] for line in lines}
    problems += [
        f"{transfer} was acknowledged by region one and unknown in region two, and the ledger does not name it"
        for transfer in started_again
        if transfer not in named
    ]
    return problems


def outcomes(lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["outcome"]] = counts.get(line["outcome"], 0) + 1
    return dict(sorted(counts.items()))
