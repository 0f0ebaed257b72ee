"""Accounts outside the server: the real world that a transfer changes, with the idempotency a bank would offer.

Each movement carries a key that the bank remembers, as payment providers do: an activity that is retried after its answer was
lost must not move the money again.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

_SCHEMA = """
CREATE TABLE account (name TEXT PRIMARY KEY, cents INTEGER NOT NULL, opening_cents INTEGER NOT NULL, is_closed INTEGER NOT NULL);
CREATE TABLE movement (key TEXT PRIMARY KEY, account TEXT NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE task (token BLOB NOT NULL, workflow_id TEXT NOT NULL, run_id TEXT NOT NULL);
CREATE TABLE counter (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


class AccountClosed(Exception):
    """The account takes no deposits; the transfer has to be compensated."""


class Bank:
    """Balances in whole cents in one SQLite file, which the harness and its worker processes share."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        # The bank is not under test: its own durability would only cost time.
        self._connection.execute("PRAGMA synchronous=OFF")

    @classmethod
    def opened(cls, path: Path, accounts: dict[str, int], closed: frozenset[str] = frozenset()) -> Bank:
        """A new bank."""
        bank = cls(path)
        bank._connection.executescript(_SCHEMA)
        rows = [(name, cents, cents, name in closed) for name, cents in sorted(accounts.items())]
        bank._connection.executemany("INSERT INTO account VALUES (?, ?, ?, ?)", rows)
        return bank

    @classmethod
    def existing(cls, path: Path) -> Bank:
        return cls(path)

    def count(self, name: str) -> int:
        found = self._connection.execute("SELECT count FROM counter WHERE name = ?", (name,)).fetchone()
        return int(found[0]) if found else 0

    def _increase(self, name: str) -> None:
        self._connection.execute("INSERT INTO counter VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1", (name,))

    def note_retried(self) -> None:
        self._increase("activities retried")

    def hand_out(self, task_token: bytes, workflow_id: str, run_id: str) -> None:
        """An activity that somebody outside shall complete."""
        self._connection.execute("INSERT INTO task VALUES (?, ?, ?)", (task_token, workflow_id, run_id))

    def take_tasks(self) -> list[tuple[bytes, str, str]]:
        return self._connection.execute("DELETE FROM task RETURNING token, workflow_id, run_id").fetchall()

    def move(self, key: str, account: str, cents: int) -> None:
        """Applies the movement once per key; a repetition must be the same movement."""
        is_closed = self._connection.execute("SELECT is_closed FROM account WHERE name = ?", (account,)).fetchone()[0]
        if cents > 0 and is_closed:
            raise AccountClosed(account)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            known = self._connection.execute("SELECT account, cents FROM movement WHERE key = ?", (key,)).fetchone()
            if known is not None:
                self._increase("movements repeated")
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
        opening = int(self._connection.execute("SELECT sum(opening_cents) FROM account").fetchone()[0])
        faults = [] if total == opening + moved else [f"accounts hold {total}, movements say {opening + moved}"]
        if moved != 0:
            faults.append(f"all transfers are over, but {moved} cents came from nowhere or went nowhere")
        return faults

    def close(self) -> None:
        self._connection.close()
