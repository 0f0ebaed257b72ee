"""The demo's balance check must see what it is there to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.demo.audit import Entry, audit
from ops.demo.bank import CLOSED_ACCOUNT, AccountClosed, Bank, Transfer, draw_transfers


def honest(directory: Path, transfers: list[Transfer]) -> tuple[dict[str, str], Bank]:
    """Books every transfer as it should be booked."""
    bank = Bank(directory / "accounts.db")
    bank.create()
    results = {}
    for transfer in transfers:
        bank.book(transfer.transfer_id, "debit", transfer.source, transfer.cents)
        closed = transfer.target == CLOSED_ACCOUNT
        kind, account = ("refund", transfer.source) if closed else ("credit", transfer.target)
        bank.book(transfer.transfer_id, kind, account, transfer.cents)
        results[transfer.transfer_id] = "refunded" if closed else "transferred"
    return results, bank


@pytest.fixture
def transfers() -> list[Transfer]:
    return draw_transfers(20, seed=1)


def test_honest_books_pass(tmp_path: Path, transfers: list[Transfer]) -> None:
    results, bank = honest(tmp_path, transfers)
    assert audit(transfers, results, bank.entries(), bank.balances()) == []
    assert sorted(results.values()).count("refunded") == 2


def test_a_booking_asked_for_twice_is_booked_once(tmp_path: Path, transfers: list[Transfer]) -> None:
    results, bank = honest(tmp_path, transfers)
    first = transfers[0]
    bank.book(first.transfer_id, "debit", first.source, first.cents)
    assert audit(transfers, results, bank.entries(), bank.balances()) == []
    assert sorted(asked_count for *_, asked_count in bank.entries())[-1] == 2


def test_the_closed_account_takes_no_deposit(tmp_path: Path, transfers: list[Transfer]) -> None:
    _, bank = honest(tmp_path, transfers)
    with pytest.raises(AccountClosed):
        bank.book("another", "credit", CLOSED_ACCOUNT, 1)


def test_money_that_comes_from_nowhere_is_found(tmp_path: Path, transfers: list[Transfer]) -> None:
    results, bank = honest(tmp_path, transfers)
    balances = bank.balances()
    balances["account-00"] += 1
    assert any("sum of all accounts" in problem for problem in audit(transfers, results, bank.entries(), balances))


def test_a_missing_a_doubled_and_an_unasked_booking_are_found(tmp_path: Path, transfers: list[Transfer]) -> None:
    results, bank = honest(tmp_path, transfers)
    entries, balances, name = bank.entries(), bank.balances(), transfers[0].transfer_id
    without: list[Entry] = [entry for entry in entries if entry[:2] != (name, "credit")]
    assert any(name in problem for problem in audit(transfers, results, without, balances))
    doubled = [*entries, (name, "refund", transfers[0].source, transfers[0].cents, 1)]
    assert any(name in problem for problem in audit(transfers, results, doubled, balances))
    unasked: Entry = ("transfer-9999", "debit", "account-00", 1, 1)
    assert any("transfer-9999" in problem for problem in audit(transfers, results, [*entries, unasked], balances))


def test_a_result_that_does_not_match_the_books_is_found(tmp_path: Path, transfers: list[Transfer]) -> None:
    results, bank = honest(tmp_path, transfers)
    lied = results | {transfers[0].transfer_id: "refunded"}
    assert any("reported" in problem for problem in audit(transfers, lied, bank.entries(), bank.balances()))
    unreported = {name: result for name, result in results.items() if name != transfers[0].transfer_id}
    assert any("reported" in problem for problem in audit(transfers, unreported, bank.entries(), bank.balances()))
