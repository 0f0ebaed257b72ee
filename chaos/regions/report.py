"""The figures of a drill, and what is wrong with them. Times in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.regions.audit import Verdict
from chaos.regions.record import Record

TAKEOVER_S_MAX = 30.0
FREEZE_S_MAX = 2.0
NAMED_MAX = 5


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; nan of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


@dataclass
class Outcome:
    """What both courses end with."""

    namespaces: int = 0
    told: int = 0
    kept: int = 0
    explained: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    slowest_call_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        raise NotImplementedError

    def _take(self, verdict: Verdict, record: Record) -> None:
        self.told, self.kept, self.explained = len(record.told), verdict.kept, dict(verdict.explained)
        self.repeated, self.slowest_call_s = record.repeated_count, record.slowest_s
        for word, found in (("lost", verdict.lost), ("doubled", verdict.doubled)):
            if found:
                self.problems.append(f"{len(found)} acknowledgements {word}: {'; '.join(found[:NAMED_MAX])}")
        if record.refused:
            self.problems.append(f"refused for good: {dict(Counter(record.refused).most_common(NAMED_MAX))}")


@dataclass
class DrillReport(Outcome):
    told_before: int = 0  # acknowledged in region one before the line was cut
    told_in_cut: int = 0  # after that, and before the kill
    takeover_s: list[float] = field(default_factory=list)  # per namespace
    first_write_s: list[float] = field(default_factory=list)
    equal_s: float = 0.0
    unexplained_lines: int = 0

    def take(self, verdict: Verdict, record: Record) -> None:
        self._take(verdict, record)
        if self.takeover_s and max(self.takeover_s) > TAKEOVER_S_MAX:
            self.problems.append(f"the slowest namespace took {max(self.takeover_s):.1f} s, the bound is {TAKEOVER_S_MAX:.0f} s")
        if self.unexplained_lines:
            self.problems.append(f"{self.unexplained_lines} ledger lines without an explanation")

    def text(self) -> str:
        moved, first = self.takeover_s, self.first_write_s
        slowest_first = max(first, default=math.nan)
        return "\n".join(
            (
                f"namespaces          {self.namespaces}",
                f"acknowledged        {self.told}: {self.told_before} before the cut, {self.told_in_cut} in it, others in two",
                f"owned by two after  p50 {percentile(moved, 0.5):.1f} s, slowest {max(moved, default=math.nan):.1f} s",
                f"first write after   p50 {percentile(first, 0.5):.1f} s, slowest {slowest_first:.1f} s (of {len(first)})",
                f"kept {self.kept}, explained {self.explained}, ledger {self.ledger}, repeated calls {self.repeated}",
                f"equal again         {self.equal_s:.1f} s after the return",
            )
        )


@dataclass
class GracefulReport(Outcome):
    freeze_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _rounds: list[list[float]] = field(default_factory=list)

    def take(self, rows: list[dict[str, Any]]) -> None:
        frozen = [row["freeze_ns"] / 1e9 for row in rows]
        self._rounds.append(frozen)
        self.freeze_s += frozen
        self.failed += [f"{row['namespace']}: {row['reason']}" for row in rows if not row["is_done"]]

    def last(self) -> str:
        frozen = self._rounds[-1]
        return f"freeze p50 {percentile(frozen, 0.5):.3f} s, slowest {max(frozen, default=0):.3f} s"

    def judge(self, verdict: Verdict, record: Record) -> None:
        self._take(verdict, record)
        if self.failed:
            self.problems.append(f"{len(self.failed)} handovers failed: {'; '.join(self.failed[:NAMED_MAX])}")
        if self.ledger:
            self.problems.append(f"the ledger is not empty: {self.ledger}")
        if percentile(self.freeze_s, 0.99) > FREEZE_S_MAX:
            self.problems.append(f"freeze p99 is {percentile(self.freeze_s, 0.99):.2f} s, and {FREEZE_S_MAX} s is the bound")

    def text(self) -> str:
        return "\n".join(
            (
                f"namespaces   {self.namespaces}, handovers {len(self.freeze_s)}",
                f"freeze       p50 {percentile(self.freeze_s, 0.5):.3f} s, p99 {percentile(self.freeze_s, 0.99):.3f} s",
                f"acknowledged {self.told}, kept {self.kept}, ledger {self.ledger or 'empty'}, repeated calls {self.repeated}",
                f"slowest call {self.slowest_call_s:.2f} s with its repetitions",
            )
        )
