"""Direct queries: a question to a workflow that a poller of its task queue answers; nothing of it is stored. A Nexus request to
the workers of a queue is one, too: of the kind NEXUS, so that pollers of workflow tasks do not see it.

The node of the asking shard enters the question in its book and waits for the answer; its token names that node. What is put
to pollers, here or on the node of the queue, is data: the encoded answer to a poll, made when the question was asked.

States of a question at a queue: waiting for a poller -> with a poller (which may hand it back) -> given to a worker, refused, or
over because nobody waits any more. Whoever answers first wins; later answers are told "not found, or already expired".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.message import Message
from temporalio.api.nexus.v1 import Request as NexusRequest
from temporalio.api.workflowservice.v1 import PollNexusTaskQueueResponse

from cluster.core.errors import CallerError, failed_precondition, invalid_argument, not_found, resource_exhausted
from cluster.matching.limits import MatchingLimits

# The poll's answer (Poll{Workflow,Nexus}TaskQueueResponse, encoded) from the payload of its task token, which the builder signs.
BuildQueryTask = Callable[[bytes], bytes]
# What the worker sent: RespondQueryTaskCompletedRequest, RespondNexusTask{Completed,Failed}Request.
QueryAnswer = asyncio.Future[Any]


REQUEST_TIMEOUT = "request-timeout"


class QueryToken(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a query's task token. node: who waits for the answer ("" in tokens of a node that was alone)."""

    namespace_id: str
    task_queue: str
    query_id: str
    node: str = ""

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(payload: bytes) -> QueryToken:
        try:
            return msgspec.msgpack.decode(payload, type=QueryToken)
        except msgspec.DecodeError as error:
            raise invalid_argument("Invalid TaskToken.") from error


class DirectQuery:
    """A question at a queue. `given` is done when a worker has it, or fails with the reason why none will."""

    __slots__ = ("given", "passed_to", "task", "until")

    def __init__(self, task: bytes, given: asyncio.Future[None], until: float) -> None:
        self.task = task
        self.given = given
        self.until = until  # loop.time() seconds
        self.passed_to: set[str] = set()  # nodes whose pollers may have it as well

    @property
    def is_over(self) -> bool:
        return self.given.done()

    def task_for(self, poll: Message) -> bytes | None:
        """The poll's answer; None if nobody needs it any more."""
        if self.given.done():
            return None
        self.given.set_result(None)
        return self.task

    def refuse(self, failure: Exception) -> None:
        if not self.given.done():
            self.given.set_exception(failure)


class NexusTask(DirectQuery):
    """A Nexus request at a queue."""

    __slots__ = ()

    def task_for(self, poll: Message) -> bytes | None:
        """Its worker hears how much of the caller's time is left. Joined encodings are one message, whose later entry counts."""
        task = super().task_for(poll)
        if task is None:
            return None
        left_s = max(0.0, self.until - asyncio.get_running_loop().time())
        header = NexusRequest(header={REQUEST_TIMEOUT: f"{left_s:.3f}s"})
        return task + PollNexusTaskQueueResponse(request=header).SerializeToString()


class Question:
    """A question as the asking node knows it."""

    __slots__ = ("answer", "task", "token")

    def __init__(self, token: QueryToken, task: bytes, answer: QueryAnswer) -> None:
        self.token = token
        self.task = task
        self.answer = answer

    def refuse(self, failure: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(failure)


class QueryBook:
    """All questions of this node that have no answer yet, by query id."""

    def __init__(self, limits: MatchingLimits) -> None:
        self._limits = limits
        self._open: dict[str, Question] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, question: Question) -> None:
        if len(self._open) >= self._limits.queries_total_max:
            raise resource_exhausted("too many queries are waiting for workers on this node; try again")
        self._open[question.token.query_id] = question

    def leave(self, question: Question) -> None:
        self._open.pop(question.token.query_id, None)

    def complete(self, namespace_id: str, payload: bytes, request: Message) -> None:
        token = QueryToken.decode(payload)
        if token.namespace_id != namespace_id:
            raise invalid_argument("Operation requested with a token from a different namespace.")
        question = self._open.pop(token.query_id, None)
        if question is None or question.answer.done() or question.token != token:
            raise nobody_waits(request)
        question.answer.set_result(request)

    def refuse_all(self, failure: CallerError) -> None:
        for question in list(self._open.values()):
            question.refuse(failure)


def nobody_waits(request: Message) -> CallerError:
    """request: the answer that came too late."""
    if request.DESCRIPTOR.name.startswith("RespondNexusTask"):
        return not_found("Nexus task not found or already expired")
    return not_found("query task not found, or already expired")


def no_recent_poller() -> CallerError:
    return failed_precondition("no poller seen for task queue recently, worker may be down")
