"""What a campaign shall do, and what it did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos.checkers.histories import Violation


@dataclass
class Plan:
    """course: what happens to the nodes under load (courses.py). faults: how many node faults, for the course "faults"."""

    seed: int
    folder: Path
    course: str = "faults"
    store: str = "postgres"
    faults: int = 50
    nodes: int = 3
    shards: int = 12
    load_s: float = 6.0  # how long the load runs before and after the steps of a course
    quiet_s_max: float = 90.0
    recovery_s_max: float = 10.0  # the promise: p99 of the seconds until a killed node's shard takes writes again
    release: str = ""  # the tag of the old version, for the course "versions"


@dataclass
class FaultRecord:
    """One fault. recovery_s: per shard of the node, from the fault until it took a write again; None = not in time.

    is_alone: nothing else was broken then, so that the recovery is this fault's.
    """

    name: str
    target: str
    at_s: float
    ended_s: float = 0.0
    is_alone: bool = False
    recovery_s: dict[int, float | None] = field(default_factory=dict)
    note: str = ""


@dataclass
class Report:
    plan: Plan
    seconds: float = 0.0
    quiet_s: float = 0.0
    runs: int = 0
    events: int = 0
    acks: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[FaultRecord] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.violations

    def violate(self, check: str, text: str) -> None:
        self.violations.append(Violation(check, "", "", text))

    def save(self, path: Path) -> None:
        told = asdict(self) | {"passed": self.passed}
        path.write_text(json.dumps(told, indent=1, default=str))


def part(values: list[float], share: float) -> float:
    """The value below which that share of all values lies."""
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 2)


def parts(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    return {"count": len(values), "p50": part(values, 0.5), "p99": part(values, 0.99), "max": round(max(values), 2)}
