"""QueryWorkflow; the ways a query goes are told in history/queries.py."""

from __future__ import annotations

from typing import Any

from cluster.history import queries
from cluster.history.shard import Shard


async def query(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    deadline = call.deadline if call is not None else None
    return await queries.query_workflow(service, shard, namespace, request, deadline)
