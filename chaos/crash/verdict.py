"""All checks of a crash campaign in one place: the shared checkers, and those that know this load."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.checkers.histories import RunHistory, Violation
from chaos.checkers.ledger import Ledger
from chaos.checkers.linear import starts_are_linearizable
from chaos.checkers.moves import every_run_ended
from chaos.checkers.open_runs import counts_agree, one_open_run_per_id
from chaos.checkers.recorded_once import acked_recorded_once
from chaos.checkers.results import recorded_result, results_equal_history
from chaos.checkers.well_formed import event_ids_dense, histories_well_formed
from chaos.crash.bank import Bank
from chaos.crash.collect import ListedRun
from chaos.crash.load import Load


def judge(
    ledger: Ledger, histories: Sequence[RunHistory], listed: Sequence[ListedRun], bank: Bank, load: Load, clock_tolerance_ns: int
) -> list[Violation]:
    return [
        *event_ids_dense(histories),
        *histories_well_formed(histories),
        *acked_recorded_once(ledger, histories),
        *one_open_run_per_id(histories, clock_tolerance_ns),
        *starts_are_linearizable(ledger, histories),
        *every_run_ended(histories),
        *counts_agree(histories, [(run.workflow_id, run.run_id, run.is_open) for run in listed]),
        *results_equal_history(load.told, histories),
        *balances_hold(bank, histories),
        *(Violation("answers_make_sense", "", "", text) for text in load.faults),
    ]


def balances_hold(bank: Bank, histories: Sequence[RunHistory]) -> list[Violation]:
    """The bank adds up, and its movements are exactly those that the transfers' results speak of."""
    violations = [Violation("balances_hold", "", "", text) for text in bank.faults()]
    steps: dict[str, set[str]] = {}
    for key in bank.movements():
        workflow_id, step = key.rsplit("/", 1)
        steps.setdefault(workflow_id, set()).add(step)
    transfers = {history.workflow_id: history for history in histories if history.workflow_id.startswith("transfer-")}
    for workflow_id in sorted(steps.keys() | transfers.keys()):
        history = transfers.get(workflow_id)
        result = recorded_result(history) if history else None
        wanted = {"withdraw", "refund"} if result and "refunded" in result else {"withdraw", "deposit"}
        if result is None or steps.get(workflow_id, set()) != wanted:
            text = f"result {result!r}, but the bank saw {sorted(steps.get(workflow_id, set()))}"
            violations.append(Violation("balances_hold", workflow_id, history.run_id if history else "", text))
    return violations
