"""Accounts outside the server: the real world that a transfer changes, with the idempotency a bank would offer.

Each movement carries a key that the bank remembers, as payment providers do: an activity that is retried after its answer was
lost must not move the money again.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path


class AccountClosed(Exception):
    """The account takes no deposits; the transfer has to be compensated."""


class Bank:
    """Balances in whole cents in one SQLite file."""

    def __init__(self, path: Path, accounts: dict[str, int], closed: frozenset[str] = frozenset()) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._closed = closed
        self.movements_repeated_count = 0
        # The bank is not under test: its own durability would only cost time.
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("CREATE TABLE account (name TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
        self._connection.execute("CREATE TABLE movement (key TEXT PRIMARY KEY, account TEXT NOT NULL, cents INTEGER NOT NULL)")
        self._connection.executemany("INSERT INTO account VALUES (?, ?)", sorted(accounts.items()))
        self._opening_cents = sum(accounts.values())

    def move(self, key: str, account: str, cents: int) -> None:
        """Applies the movement once per key; a repetition must be the same movement."""
        if cents > 0 and account in self._closed:
            raise AccountClosed(account)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            known = self._connection.execute("SELECT account, cents FROM movement WHERE key = ?", (key,)).fetchone()
            if known is not None:
                self.movements_repeated_count += 1
                assert known == (account, cents), f"key {key} was {known}, now {(account, cents)}"
            else:
                self._connection.execute("INSERT INTO movement VALUES (?, ?, ?)", (key, account, cents))
                self._connection.execute("UPDATE account SET cents = cents + ? WHERE name = ?", (cents, account))
        finally:
            self._connection.execute("COMMIT")

    def movements(self) -> dict[str, tuple[str, int]]:
        return {
            key: (account, cents) for key, account, cents in self._connection.execute("SELECT key, account, cents FROM movement")
        }

    def faults(self) -> list[str]:
        """What does not add up: the total, and each account against its movements."""
        total = int(self._connection.execute("SELECT sum(cents) FROM account").fetchone()[0])
        moved = int(self._connection.execute("SELECT coalesce(sum(cents), 0) FROM movement").fetchone()[0])
        faults = (
            []
            if total == self._opening_cents + moved
            else [f"accounts hold {total}, movements say {self._opening_cents + moved}"]
        )
        if moved != 0:
            faults.append(f"all transfers are over, but {moved} cents came from nowhere or went nowhere")
        return faults

    def close(self) -> None:
        self._connection.close()
