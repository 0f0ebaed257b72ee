"""The name under which tests know ops/services/postgres.py; it moved there since chaos and bench start the same servers."""

from __future__ import annotations

from ops.services.postgres import (
    PACKAGES,
    USER,
    PostgresServer,
    postgres_server,
)

__all__ = ["PACKAGES", "USER", "PostgresServer", "postgres_server"]
