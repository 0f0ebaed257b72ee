"""Two regions' copies of one run: parted, they go on by themselves; met again, one wins and the other is salvaged."""

from __future__ import annotations

import copy
from typing import NamedTuple

from cluster.core.branches import Head, head_of, lca_event, lca_transition, winner
from cluster.core.entry import Buffered
from cluster.core.ledger import LedgerLine
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


def meet(one: Run, other: Run, *, may_reset: bool = True, adopts_activities: bool = False) -> Met:
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
    )
    return Met(first, second, lines)


def append(run: Run, lines: list[LedgerLine]) -> list[bool]:
    """Reapplies what is to be reapplied, each line in a transition of its own. Whether each changed anything."""
    return [run.do(lambda t, line=line: reapply(t, line)) for line in lines if line.outcome == "reapply"]  # type: ignore[misc]


def ledger(lines: list[LedgerLine]) -> str:
    """As a test writes it: where, what, outcome."""
    return "\n".join(f"{line.source} {line.number} {line.name}: {line.outcome}" for line in lines)


def buffered_count(run: Run) -> int:
    return sum(isinstance(item, Buffered) for entry in run.entries for item in entry.items)
