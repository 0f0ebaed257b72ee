"""Direct queries: a question to a workflow that a poller of its task queue answers; nothing of it is stored.

States of a query: waiting for a poller -> with a poller (which may hand it back) -> answered, refused, or given up by its
caller. The answer is a future; whoever completes it first wins, later completions are told "not found, or already expired".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from google.protobuf.message import Message
from temporalio.api.workflowservice.v1 import RespondQueryTaskCompletedRequest

from cluster.core.errors import CallerError, failed_precondition, invalid_argument, not_found, resource_exhausted
from cluster.matching.limits import MatchingLimits

# Builds the poll's answer from the poll and the payload of the query's task token (which the builder signs).
BuildQueryTask = Callable[[Message, bytes], "Message | bytes"]
QueryAnswer = asyncio.Future[RespondQueryTaskCompletedRequest]


class QueryToken(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a query's task token: enough to find the queue, and with it the node, that waits for the answer."""

    namespace_id: str
    task_queue: str
    query_id: str

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(payload: bytes) -> QueryToken:
        try:
            return msgspec.msgpack.decode(payload, type=QueryToken)
        except msgspec.DecodeError as error:
            raise invalid_argument("Invalid TaskToken.") from error


class DirectQuery:
    """One question and the future of its answer."""

    __slots__ = ("answer", "build", "is_with_worker", "token")

    def __init__(self, token: QueryToken, build: BuildQueryTask, answer: QueryAnswer) -> None:
        self.token = token
        self.build = build
        self.answer = answer
        self.is_with_worker = False

    def task_for(self, poll: Message) -> Message | bytes | None:
        """The poll's answer; None if the query cannot be put to a worker (its caller is told why)."""
        if self.answer.done():
            return None
        try:
            task = self.build(poll, self.token.encode())
            self.is_with_worker = True
            return task
        except Exception as failure:  # it is raised to the query's caller; the poll goes on with other tasks
            self.refuse(failure)
            return None

    def refuse(self, failure: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(failure)


class QueryBook:
    """All direct queries of this node that have no answer yet, by query id."""

    def __init__(self, limits: MatchingLimits) -> None:
        self._limits = limits
        self._open: dict[str, DirectQuery] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, query: DirectQuery) -> None:
        if len(self._open) >= self._limits.queries_total_max:
            raise resource_exhausted("too many queries are waiting for workers on this node; try again")
        self._open[query.token.query_id] = query

    def leave(self, query: DirectQuery) -> None:
        self._open.pop(query.token.query_id, None)

    def complete(self, namespace_id: str, payload: bytes, request: RespondQueryTaskCompletedRequest) -> None:
        token = QueryToken.decode(payload)
        if token.namespace_id != namespace_id:
            raise invalid_argument("Operation requested with a token from a different namespace.")
        query = self._open.pop(token.query_id, None)
        if query is None or query.answer.done() or query.token != token:
            raise not_found("query task not found, or already expired")
        query.answer.set_result(request)

    def refuse_all(self, failure: CallerError) -> None:
        for query in list(self._open.values()):
            query.refuse(failure)


def no_recent_poller() -> CallerError:
    return failed_precondition("no poller seen for task queue recently, worker may be down")
