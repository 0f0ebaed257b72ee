"""A deleted namespace loses its runs, then its row: a job in the background, begun again at every start until it is done.

Visibility lists what is left. It lags behind the runs, so the job ends only after two looks, some time apart, that found nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest

from cluster.core.errors import CallerError, Code
from cluster.frontend.ports import HistoryPort
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import Spawn
from cluster.stores.base import StoreError
from cluster.visibility.base import VisibilityRow, VisibilityStore, VisibilityUnavailable
from cluster.visibility.query import parse_query
from cluster.visibility.search_attributes import NAMESPACE_DIVISION, Schema

log = structlog.get_logger("outlast.namespaces")

PAGE_ROWS = 100
LOOK_AGAIN_S = 2.0  # longer than visibility lags behind
RETRY_S = 5.0
_QUERIES = ("", f"{NAMESPACE_DIVISION} IS NOT NULL")


class NamespaceRemoval:
    """`on_delete` may come before history runs (the registry finds a half-done deletion at load): it then waits for `start`."""

    def __init__(self, spawn: Spawn, look_again_s: float = LOOK_AGAIN_S) -> None:
        self._spawn = spawn
        self._look_again_s = look_again_s
        self._waiting: list[NamespaceRecord] = []
        self._begin: Callable[[NamespaceRecord], None] | None = None
        self._running: set[str] = set()

    async def on_delete(self, record: NamespaceRecord) -> None:
        if self._begin is None:
            self._waiting.append(record)
        else:
            self._begin(record)

    def start(self, history: HistoryPort, visibility: VisibilityStore, forget: Callable[[str], Awaitable[None]]) -> None:
        def begin(record: NamespaceRecord) -> None:
            if record.id not in self._running:
                self._running.add(record.id)
                self._spawn(self._remove(record, history, visibility, forget), f"remove-namespace-{record.name}")

        self._begin = begin
        for record in self._waiting:
            begin(record)
        self._waiting.clear()

    async def _remove(
        self,
        record: NamespaceRecord,
        history: HistoryPort,
        visibility: VisibilityStore,
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        try:
            looks = 0
            while looks < 2:
                try:
                    rows = await self._left(record, visibility)
                    for row in rows:
                        await self._delete(record, row, history, visibility)
                    looks = 0 if rows else looks + 1
                    if looks == 2:
                        await self._forget(record, forget)
                except (CallerError, StoreError, VisibilityUnavailable) as error:
                    log.warning("namespace removal will be tried again", namespace=record.name, error=str(error))
                    looks = 0
                    await asyncio.sleep(RETRY_S)
                if looks < 2:
                    await asyncio.sleep(self._look_again_s)
        finally:
            self._running.discard(record.id)

    async def _forget(self, record: NamespaceRecord, forget: Callable[[str], Awaitable[None]]) -> None:
        try:
            await forget(record.id)
        except CallerError as error:
            if error.code is not Code.NOT_FOUND:  # another node was first
                raise

    async def _left(self, record: NamespaceRecord, visibility: VisibilityStore) -> list[VisibilityRow]:
        rows: list[VisibilityRow] = []
        for text in _QUERIES:
            found, _ = await visibility.list(record.id, parse_query(text, Schema()), PAGE_ROWS, b"")
            rows += found
        return rows

    async def _delete(
        self, record: NamespaceRecord, row: VisibilityRow, history: HistoryPort, visibility: VisibilityStore
    ) -> None:
        request = DeleteWorkflowExecutionRequest(namespace=record.name)
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = row.workflow_id, row.run_id
        try:
            await history.invoke("delete_workflow_execution", record, row.workflow_id, request)
        except CallerError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            await visibility.delete([row.key])  # the run has gone before its row
