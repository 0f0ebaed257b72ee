"""Two regions' copies of one run: parted, they go on by themselves; met again, one wins and the other is salvaged."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from cluster.core.branches import Head, head_of, lca_event, lca_transition, winner
from cluster.core.ledger import LedgerLine, Outcome
from cluster.core.reapply import reapply
from cluster.core.salvage import salvage
from tests.core.build import CountingIds, Run


class RegionIds(CountingIds):
    """No two regions make the same id."""

    def __init__(self, region: str) -> None:
        super().__init__()
        self.region = region

    def uuid(self) -> str:
        return f"{self.region}-{super().uuid()}"


def part(run: Run, version: int) -> Run:
    """The copy that the region active under this version goes on with."""
    twin = copy.deepcopy(run)
    twin.version, twin.ids = version, RegionIds(f"v{version}")
    return twin


class Met(NamedTuple):
    winner: Run
    loser: Run
    lines: list[LedgerLine]


def meet(
    one: Run, other: Run, *, may_reset: bool = True, adopts_activities: bool = False, has_taker: bool = False
) -> Met:
    """Which of two branches wins, and what becomes of the other."""
    heads: tuple[Head, Head] = head_of(one.state), head_of(other.state)
    first, second = (one, other) if winner(*heads) == heads[0] else (other, one)
    common = lca_event(*heads).number
    lines = salvage(
        first.state,
        second.state,
        common_event_id=common,
        common_transition=lca_transition(*heads).number,
        loser_events=second.event_bytes()[common:],
        winner_events=first.event_bytes()[common:],
        may_reset=may_reset,
        adopts_activities=adopts_activities,
        has_taker=has_taker,
    )
    return Met(first, second, lines)


def append(run: Run, lines: list[LedgerLine]) -> list[bool]:
    """Reapplies what is to be reapplied, each line in a transition of its own. Whether each changed anything."""
    return [run.do(lambda t, line=line: reapply(t, line)) for line in lines if line.outcome == "reapply"]  # type: ignore[misc]


def begun(*wishes: Any, **fields: Any) -> Run:
    """A run in region one whose first task has made these wishes."""
    run = Run(**fields)
    run.version = 1
    run.task(*wishes)
    return run


def parted(run: Run) -> tuple[Run, Run]:
    """Region one goes on under version 1; region two, made active by force, under version 2."""
    return part(run, 1), part(run, 2)


def line_of(met: Met, name: str) -> LedgerLine:
    return next(line for line in met.lines if line.name == name)


def outcome_of(met: Met, name: str) -> Outcome:
    return line_of(met, name).outcome


def ledger(lines: list[LedgerLine]) -> str:
    """As a test writes it: where, what, outcome."""
    return "\n".join(f"{line.source} {line.number} {line.name}: {line.outcome}" for line in lines)
