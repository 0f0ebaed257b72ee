"""The payment team's books: a SQLite file, one row per (order, kind), so that a booking that is asked for twice is made once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

SCHEMA = """
CREATE TABLE booking (
    order_id TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('charge', 'refund')), cents INTEGER NOT NULL CHECK (cents > 0),
    asked_count INTEGER NOT NULL, PRIMARY KEY (order_id, kind)
) WITHOUT ROWID;
"""


class Ledger:
    """Every call is one transaction, durable on return."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")

    def create(self) -> None:
        self._db.executescript(SCHEMA)

    def book(self, order_id: str, kind: str, cents: int) -> str:
        """The receipt."""
        self._db.execute(
            "INSERT INTO booking VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET asked_count = asked_count + 1",
            (order_id, kind, cents),
        )
        return f"{kind}-{order_id}"

    def bookings(self) -> list[tuple[str, str, int]]:
        return self._db.execute("SELECT order_id, kind, cents FROM booking").fetchall()

    def close(self) -> None:
        self._db.close()
