"""Reads everything back over the public API: the list of runs, and each run's complete history."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from chaos.checkers.histories import RunHistory, Violation

PAGE_ROWS = 500


@dataclass(frozen=True)
class ListedRun:
    workflow_id: str
    run_id: str
    is_open: bool


async def list_runs(client: Client, query: str = "") -> list[ListedRun]:
    """All runs that visibility shows, page by page."""
    runs: list[ListedRun] = []
    token = b""
    while True:
        request = ListWorkflowExecutionsRequest(
            namespace=client.namespace, page_size=PAGE_ROWS, query=query, next_page_token=token
        )
        page = await client.workflow_service.list_workflow_executions(request, retry=True)
        for row in page.executions:
            is_open = row.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
            runs.append(ListedRun(row.execution.workflow_id, row.execution.run_id, is_open))
        token = page.next_page_token
        if not token:
            return runs


async def count_runs(client: Client, query: str = "") -> int:
    request = CountWorkflowExecutionsRequest(namespace=client.namespace, query=query)
    return (await client.workflow_service.count_workflow_executions(request, retry=True)).count


async def fetch_history(client: Client, workflow_id: str, run_id: str) -> RunHistory:
    events: list[HistoryEvent] = []
    token = b""
    while True:
        request = GetWorkflowExecutionHistoryRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            next_page_token=token,
        )
        page = await client.workflow_service.get_workflow_execution_history(request, retry=True)
        events.extend(page.history.events)
        token = page.next_page_token
        if not token:
            return RunHistory(workflow_id, run_id, tuple(events))


async def fetch_histories(
    client: Client, runs: list[tuple[str, str]], at_once: int = 8
) -> tuple[list[RunHistory], list[Violation]]:
    """The histories, and the runs whose history cannot be read. Also follows continue-as-new links, so that a run that visibility
    forgot is found through its predecessor."""
    found: dict[str, RunHistory] = {}
    unreadable: dict[str, Violation] = {}
    gate = asyncio.Semaphore(at_once)

    async def fetch(workflow_id: str, run_id: str) -> None:
        async with gate:
            try:
                found[run_id] = await fetch_history(client, workflow_id, run_id)
            except RPCError as error:
                text = f"{error.status.name}: {error.message}"
                unreadable[run_id] = Violation("history_is_readable", workflow_id, run_id, text)

    wanted = list(dict.fromkeys(runs))
    while wanted:
        await asyncio.gather(*(fetch(*run) for run in wanted))
        links = [(history.workflow_id, successor(history)) for history in found.values()]
        wanted = [link for link in dict.fromkeys(links) if link[1] and link[1] not in found and link[1] not in unreadable]
    return list(found.values()), list(unreadable.values())


def successor(history: RunHistory) -> str:
    """The run that the closing event names as the next one, or ""."""
    if not history.events:
        return ""
    last = history.events[-1]
    attributes = getattr(last, last.WhichOneof("attributes") or "", None)
    return str(getattr(attributes, "new_execution_run_id", ""))


def as_json(history: RunHistory) -> dict[str, object]:
    return {
        "workflow_id": history.workflow_id,
        "run_id": history.run_id,
        "status": history.status,
        "events": [MessageToDict(event) for event in history.events],
    }
