"""The name under which tests know ops/services/processes.py; it moved there since chaos and bench start the same servers."""

from __future__ import annotations

from ops.services.processes import (
    INSTALL_LOCK,
    Daemon,
    ServiceUnavailable,
    accepts_connections,
    as_user,
    ensure_installed,
    free_port,
    private_folder,
    run,
)

__all__ = [
    "INSTALL_LOCK",
    "Daemon",
    "ServiceUnavailable",
    "accepts_connections",
    "as_user",
    "ensure_installed",
    "free_port",
    "private_folder",
    "run",
]
