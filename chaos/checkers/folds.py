"""Stored state equals the fold of its history: the hook into which the simulator plugs the core's fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from chaos.checkers.histories import RunHistory, Violation

State = TypeVar("State")


def fold_equals_state(
    histories: Sequence[RunHistory],
    stored: Callable[[RunHistory], State | None],
    fold: Callable[[RunHistory], State],
    checksum: Callable[[State], str],
) -> list[Violation]:
    """`stored` gives the state that the server holds of a run (None: it holds none, which is a violation too), `fold` rebuilds it
    from the events, `checksum` is canonical over all that the events determine."""
    violations: list[Violation] = []
    for history in histories:
        held = stored(history)
        if held is None:
            violations.append(Violation("fold_equals_state", history.workflow_id, history.run_id, "history without stored state"))
            continue
        held_sum, fold_sum = checksum(held), checksum(fold(history))
        if held_sum != fold_sum:
            text = f"stored {held_sum}, fold of {len(history.events)} events {fold_sum}"
            violations.append(Violation("fold_equals_state", history.workflow_id, history.run_id, text))
    return violations
