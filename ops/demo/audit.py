"""The balance check: what the bank's file must look like afterwards, whatever was killed in between. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ops.demo.bank import ACCOUNT_COUNT, CLOSED_ACCOUNT, OPENING_CENTS, Transfer

Entry = tuple[str, str, str, int, int]  # transfer_id, kind, account, cents, asked_count


@dataclass
class Report:
    """What the demo found. `problems` empty means that everything is right."""

    transfers: int = 0
    transferred: int = 0
    refunded: int = 0
    cents_before: int = ACCOUNT_COUNT * OPENING_CENTS
    cents_after: int = 0
    server_kills: int = 0
    worker_kills: int = 0
    retried_activities: int = 0  # by the histories: activities that needed more than one attempt
    repeated_bookings: int = 0  # by the bank: how often it was asked again for what it had booked
    repeated_calls: int = 0  # by the client
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    look_next: list[str] = field(default_factory=list)


def audit(
    transfers: Sequence[Transfer], results: Mapping[str, str], entries: Sequence[Entry], balances: Mapping[str, int]
) -> list[str]:
    """Every sentence is something that is wrong: money created or lost, a booking missing or doubled, a result that lies."""
    problems = []
    total = sum(balances.values())
    if total != ACCOUNT_COUNT * OPENING_CENTS:
        problems.append(f"the sum of all accounts is {total} cents instead of {ACCOUNT_COUNT * OPENING_CENTS}")
    by_transfer: dict[str, list[Entry]] = {}
    for entry in entries:
        by_transfer.setdefault(entry[0], []).append(entry)
    expected = {name: OPENING_CENTS for name in balances if name != CLOSED_ACCOUNT} | {CLOSED_ACCOUNT: 0}
    for transfer in transfers:
        found = sorted((kind, account, cents) for _, kind, account, cents, _ in by_transfer.pop(transfer.transfer_id, []))
        debit = ("debit", transfer.source, transfer.cents)
        result = "refunded" if transfer.target == CLOSED_ACCOUNT else "transferred"
        kind, account = ("refund", transfer.source) if result == "refunded" else ("credit", transfer.target)
        wanted = sorted([debit, (kind, account, transfer.cents)])
        if found != wanted:
            problems.append(f"{transfer.transfer_id} is booked as {found} instead of {wanted}")
        if results.get(transfer.transfer_id) != result:
            problems.append(f"{transfer.transfer_id} reported {results.get(transfer.transfer_id)} instead of {result}")
        expected[transfer.source] -= transfer.cents
        expected[account] += transfer.cents
    problems += [f"{unknown} was booked, but nobody asked for it" for unknown in by_transfer]
    for name, cents in balances.items():
        if cents != expected[name]:
            problems.append(f"{name} holds {cents} cents instead of {expected[name]}")
    return problems
