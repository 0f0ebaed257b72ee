"""The name under which tests know ops/services/etcd.py; it moved there since chaos and bench start the same servers."""

from __future__ import annotations

from ops.services.etcd import (
    START_S,
    EtcdMissing,
    EtcdServer,
    etcd_program,
    free_port,
)

__all__ = ["START_S", "EtcdMissing", "EtcdServer", "etcd_program", "free_port"]
