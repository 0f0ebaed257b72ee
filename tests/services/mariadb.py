"""The name under which tests know ops/services/mariadb.py; it moved there since chaos and bench start the same servers."""

from __future__ import annotations

from ops.services.mariadb import (
    PACKAGES,
    USER,
    MariadbServer,
    mariadb_server,
)

__all__ = ["PACKAGES", "USER", "MariadbServer", "mariadb_server"]
