"""The result that a client was given is the result that the run's history ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chaos.checkers.histories import RunHistory, Violation, text_of


def results_equal_history(told: Mapping[str, str], histories: Sequence[RunHistory]) -> list[Violation]:
    """`told`: run id -> the completed run's result payloads as text."""
    recorded = {history.run_id: history for history in histories}
    violations: list[Violation] = []
    for run_id, result in sorted(told.items()):
        history = recorded.get(run_id)
        if history is None:
            violations.append(Violation("results_equal_history", "", run_id, "a client got a result of a run without a history"))
        elif (text := recorded_result(history)) != result:
            violations.append(
                Violation("results_equal_history", history.workflow_id, run_id, f"told {result!r}, history {text!r}")
            )
    return violations


def recorded_result(history: RunHistory) -> str | None:
    """The result payloads of a completed run as text; None if it did not complete."""
    if history.status != "completed":
        return None
    return text_of(history.events[-1].workflow_execution_completed_event_attributes.result.payloads)
