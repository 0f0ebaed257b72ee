"""The bank: a SQLite file outside the workflow server, with entries that are idempotent by transfer.

The workflow server may ask for the same withdrawal twice (a worker dies after the bank has booked and before it could say
so), so the bank keeps one row per (transfer, kind) and books only when that row is new. `asked_count` remembers how often
it was asked: the difference is what idempotence was good for.
"""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

ACCOUNT_COUNT = 20
OPENING_CENTS = 10_000_000  # more than TRANSFERS_MAX transfers of AMOUNT_CENTS_MAX can take from one account
AMOUNT_CENTS_MAX = 5_000
TRANSFERS_MAX = 2_000
CLOSED_ACCOUNT = "closed"  # takes no deposits: a transfer to it must be compensated

SCHEMA = """
CREATE TABLE account (name TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0)) WITHOUT ROWID;
CREATE TABLE entry (
    transfer_id TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('debit', 'credit', 'refund')),
    account TEXT NOT NULL REFERENCES account (name), cents INTEGER NOT NULL CHECK (cents > 0), asked_count INTEGER NOT NULL,
    PRIMARY KEY (transfer_id, kind)
) WITHOUT ROWID;
"""


@dataclass
class Transfer:
    """What one workflow is asked to do."""

    transfer_id: str
    source: str
    target: str
    cents: int


class AccountClosed(Exception):
    """The target takes no deposits; trying again does not help."""


class Bank:
    """One connection to the accounts file. Every call is one transaction, durable on return."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")

    def create(self) -> None:
        self._db.executescript(SCHEMA)
        rows = [(account_name(number), OPENING_CENTS) for number in range(ACCOUNT_COUNT)]
        self._db.executemany("INSERT INTO account VALUES (?, ?)", [*rows, (CLOSED_ACCOUNT, 0)])

    def book(self, transfer_id: str, kind: str, account: str, cents: int) -> None:
        """Takes (debit) or gives (credit, refund) the amount, once per transfer and kind. Raises AccountClosed."""
        if kind == "credit" and account == CLOSED_ACCOUNT:
            raise AccountClosed(f"account {account} takes no deposits")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            asked = self._db.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET asked_count = asked_count + 1 RETURNING asked_count",
                (transfer_id, kind, account, cents),
            ).fetchone()[0]
            if asked == 1:
                change = -cents if kind == "debit" else cents
                self._db.execute("UPDATE account SET cents = cents + ? WHERE name = ?", (change, account))

    def total_cents(self) -> int:
        return int(self._db.execute("SELECT sum(cents) FROM account").fetchone()[0])

    def entries(self) -> list[tuple[str, str, str, int, int]]:
        """(transfer_id, kind, account, cents, asked_count), all of them."""
        return self._db.execute("SELECT transfer_id, kind, account, cents, asked_count FROM entry").fetchall()

    def balances(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, cents FROM account"))

    def close(self) -> None:
        self._db.close()


def account_name(number: int) -> str:
    return f"account-{number:02}"


def draw_transfers(count: int, seed: int) -> list[Transfer]:
    """The same list for the same seed; every tenth goes to the closed account, so that it must be refunded."""
    assert count <= TRANSFERS_MAX
    draw, transfers = random.Random(seed), []
    for number in range(count):
        source, target = draw.sample(range(ACCOUNT_COUNT), 2)
        to = CLOSED_ACCOUNT if number % 10 == 9 else account_name(target)
        transfers.append(Transfer(f"transfer-{number:04}", account_name(source), to, draw.randint(1, AMOUNT_CENTS_MAX)))
    return transfers
