"""One table: every call of the public services and its handler."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from cluster.core.errors import unimplemented
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.clusters import cluster_handlers
from cluster.frontend.handlers.lists import list_handlers
from cluster.frontend.handlers.namespaces import namespace_handlers
from cluster.frontend.handlers.nexus import nexus_handlers
from cluster.frontend.handlers.runs import run_handlers
from cluster.frontend.handlers.services import Services
from cluster.frontend.handlers.system import system_handlers
from cluster.frontend.handlers.task_queues import task_queue_handlers
from cluster.frontend.handlers.tasks import task_handlers
from cluster.frontend.methods import METHODS
from cluster.frontend.not_built import NOT_BUILT


def handler_table(services: Services) -> dict[str, Handler]:
    """By method name; every method of the descriptors has exactly one handler."""
    table: dict[str, Handler] = {}
    for part in (
        run_handlers(services),
        task_handlers(services),
        task_queue_handlers(services),
        list_handlers(services),
        namespace_handlers(services),
        system_handlers(services),
        cluster_handlers(services),
        nexus_handlers(services),
        {name: _not_built(name, reason) for name, reason in NOT_BUILT.items()},
    ):
        twice = table.keys() & part.keys()
        assert not twice, f"two handlers for {sorted(twice)}"
        table.update(part)
    missing, unknown = METHODS.keys() - table.keys(), table.keys() - METHODS.keys()
    assert not missing and not unknown, f"without a handler: {sorted(missing)}; no such method: {sorted(unknown)}"
    return table


def _not_built(name: str, reason: str) -> Handler:
    async def refuse(call: Call, request: Any) -> Message | bytes:
        raise unimplemented(f"{name} is not implemented by Outlast: {reason}")

    return refuse
