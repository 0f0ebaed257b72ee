"""Reads of runs by a part that is no public call (the Nexus gateway), in whichever region the namespace is active."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryResponse,
    GetWorkflowExecutionHistoryReverseResponse,
)

from cluster.core.errors import unavailable
from cluster.namespaces.record import NamespaceRecord
from cluster.routing.history import RoutedHistory
from replication.link import Forwards, UnknownRegion

PATH = "/temporal.api.workflowservice.v1.WorkflowService/"
READ_S_MAX = 90.0  # a long poll of a history among them
READS: dict[str, tuple[str, type[Message]]] = {
    "describe_workflow_execution": ("DescribeWorkflowExecution", DescribeWorkflowExecutionResponse),
    "get_workflow_execution_history": ("GetWorkflowExecutionHistory", GetWorkflowExecutionHistoryResponse),
    "get_workflow_execution_history_reverse": (
        "GetWorkflowExecutionHistoryReverse",
        GetWorkflowExecutionHistoryReverseResponse,
    ),
}


class HistoryOfRegions:
    """nexus.ports.HistoryPort. The request names its namespace, as a client's does."""

    def __init__(self, here: str, history: RoutedHistory, remote: Forwards | None) -> None:
        self._here, self._history, self._remote = here, history, remote

    async def invoke(self, verb: str, namespace: NamespaceRecord, workflow_id: str, request: Any) -> Message | bytes:
        """Raises CallerError."""
        if self._remote is None or not namespace.is_global or namespace.active_cluster == self._here:
            return await self._history.invoke(verb, namespace, workflow_id, request)
        name, form = READS[verb]
        if not request.namespace:
            request.namespace = namespace.name
        try:
            data = await self._remote.forward(
                namespace.active_cluster, PATH + name, request.SerializeToString(), {}, READ_S_MAX
            )
        except UnknownRegion:
            raise unavailable(f"no connection to region {namespace.active_cluster} is configured") from None
        return form.FromString(data)
