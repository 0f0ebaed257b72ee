"""The name under which tests know ops/services/cassandra.py; it moved there since chaos and bench start the same servers."""

from __future__ import annotations

from ops.services.cassandra import CassandraServer, cassandra_server

__all__ = ["CassandraServer", "cassandra_server"]
