"""What clients asked and what they were told: the other half of every check.

An `Act` is one thing a client wants done, however many attempts that takes; its attempts share one request id. Its token is
unique in the whole run and travels in the payload (or as the update id), so that it can be found in the histories again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class ActKind(StrEnum):
    START = "start"
    SIGNAL = "signal"
    UPDATE = "update"
    COMPLETION = "completion"
    TERMINATE = "terminate"


class Outcome(StrEnum):
    PENDING = "pending"  # the client still waits (or died waiting): counts as unknown
    ACKED = "acked"  # the server said it is done
    REFUSED = "refused"  # the server said it is not done and will not be
    UNKNOWN = "unknown"  # the client gave up without a definite answer


class Conflict(StrEnum):
    """WorkflowIdConflictPolicy: what a start does to an open run of its id."""

    FAIL = "fail"
    USE_EXISTING = "use_existing"
    TERMINATE_EXISTING = "terminate_existing"


class Reuse(StrEnum):
    """WorkflowIdReusePolicy: what a start does if the last run of its id is closed."""

    ALLOW_DUPLICATE = "allow_duplicate"
    FAILED_ONLY = "failed_only"
    REJECT_DUPLICATE = "reject_duplicate"


@dataclass
class Act:
    """One act. Times are nanoseconds of the clients' common monotonic clock.

    run_id: for a start the run that the server named (started, attached to, or named in the refusal); otherwise the run
    that the request was pinned to, "" if it went to whatever run was current.
    attempts: how often the request was sent; above 1 the server may have seen it more than once.
    started: an acked start began a run (False: it attached to an existing one).
    result: what the client was told (update outcome), as text.
    """

    kind: ActKind
    token: str
    workflow_id: str
    client: str
    begun_ns: int
    ended_ns: int = 0
    outcome: Outcome = Outcome.PENDING
    attempts: int = 0
    run_id: str = ""
    started: bool = False
    conflict: Conflict = Conflict.FAIL
    reuse: Reuse = Reuse.ALLOW_DUPLICATE
    result: str = ""
    error: str = ""


class Ledger:
    """All acts of a run, in the order they began."""

    def __init__(self, acts: Iterable[Act] = ()) -> None:
        self.acts: dict[str, Act] = {}
        for act in acts:
            self.begin(act)

    def begin(self, act: Act) -> Act:
        assert act.token not in self.acts, f"token {act.token} is used twice: the ledger could not tell its acts apart"
        self.acts[act.token] = act
        return act

    def __iter__(self) -> Iterator[Act]:
        return iter(self.acts.values())

    def __len__(self) -> int:
        return len(self.acts)

    def of(self, kind: ActKind, outcome: Outcome | None = None) -> list[Act]:
        return [act for act in self if act.kind == kind and outcome in (None, act.outcome)]

    def counts(self) -> dict[str, int]:
        """{"start.acked": 12, ...}: the work a run did, for its report and its minimum."""
        counted: dict[str, int] = {}
        for act in self:
            counted[f"{act.kind}.{act.outcome}"] = counted.get(f"{act.kind}.{act.outcome}", 0) + 1
        return dict(sorted(counted.items()))

    def save(self, path: Path) -> None:
        path.write_text("".join(json.dumps(asdict(act)) + "\n" for act in self))

    @classmethod
    def load(cls, path: Path) -> Ledger:
        ledger = cls()
        for line in path.read_text().splitlines():
            fields: dict[str, Any] = json.loads(line)
            for name, kind in (("kind", ActKind), ("outcome", Outcome), ("conflict", Conflict), ("reuse", Reuse)):
                fields[name] = kind(fields[name])
            ledger.begin(Act(**fields))
        return ledger
