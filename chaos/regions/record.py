"""What clients were told: every acknowledged start and signal, by its token."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Told:
    """at: time.monotonic() seconds of the acknowledgement. run_id: of a start."""

    namespace: str
    workflow_id: str
    token: str
    region: str
    at: float
    run_id: str = ""

    @property
    def is_start(self) -> bool:
        return bool(self.run_id)


@dataclass
class Record:
    told: list[Told] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # what no client may be told: by status and message
    repeated_count: int = 0  # attempts that had no definite answer, or were told to come again
    first_at: dict[tuple[str, str], float] = field(default_factory=dict)  # (region, namespace) -> its first acknowledgement
    slowest_s: float = 0.0  # of all calls, with their repetitions

    def add(self, told: Told) -> None:
        self.told.append(told)
        self.first_at.setdefault((told.region, told.namespace), told.at)
