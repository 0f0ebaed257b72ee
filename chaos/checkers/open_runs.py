"""One open run per workflow id at any time, read off the histories; and the counts of runs agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from chaos.checkers.histories import RunHistory, Violation, by_workflow_id


def one_open_run_per_id(histories: Sequence[RunHistory], tolerance_ns: int = 0) -> list[Violation]:
    """The lives of two runs of one id never overlap. `tolerance_ns` allows for a server whose event times come from
    several clock readings within one transaction."""
    violations: list[Violation] = []
    for workflow_id, runs in by_workflow_id(histories).items():
        for earlier, later in itertools.pairwise(runs):
            if earlier.closed_ns is None:
                text = f"still open although {later.run_id} was started after it"
                violations.append(Violation("one_open_run_per_id", workflow_id, earlier.run_id, text))
            elif earlier.closed_ns > later.started_ns + tolerance_ns:
                text = f"closed {earlier.closed_ns - later.started_ns} ns after {later.run_id} was started"
                violations.append(Violation("one_open_run_per_id", workflow_id, earlier.run_id, text))
    return violations


def counts_agree(histories: Sequence[RunHistory], listed: Iterable[tuple[str, str, bool]]) -> list[Violation]:
    """`listed` is what the list API shows, as (workflow id, run id, is open): the same runs, each in the same condition."""
    recorded = {(history.workflow_id, history.run_id): history.is_open for history in histories}
    violations: list[Violation] = []
    shown: dict[tuple[str, str], bool] = {}
    for workflow_id, run_id, is_open in listed:
        if (workflow_id, run_id) in shown:
            violations.append(Violation("counts_agree", workflow_id, run_id, "listed twice"))
        shown[workflow_id, run_id] = is_open
    for key in sorted(recorded.keys() | shown.keys()):
        if key not in shown:
            violations.append(Violation("counts_agree", *key, "has a history but is not listed"))
        elif key not in recorded:
            violations.append(Violation("counts_agree", *key, "is listed but has no history"))
        elif shown[key] != recorded[key]:
            words = "open" if shown[key] else "closed"
            violations.append(Violation("counts_agree", *key, f"is listed as {words}, its history says otherwise"))
    return violations
