"""Raw calls with fixed request ids, sent until there is a definite answer; every answer goes into the ledger.

The official client retries by itself and hides how often; here each attempt is our own, so that the ledger knows whether
the server may have seen a request twice. Some requests are sent twice at once, some are given up at the first lost answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    RespondActivityTaskCompletedRequest,
    SignalWithStartWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from chaos.checkers.histories import text_of
from chaos.checkers.ledger import Act, ActKind, Conflict, Ledger, Outcome, Reuse
from chaos.crash.workflows import TASK_QUEUE

Reply = TypeVar("Reply")

# After these a client does not know whether the server did it. INTERNAL is here since a connection that breaks in the middle of
# a reply is reported so by the HTTP/2 library; the campaign counts them by message and refuses those that a server said.
NO_ANSWER = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.UNKNOWN,
        RPCStatusCode.INTERNAL,
        RPCStatusCode.ABORTED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
    }
)

CONFLICT = {
    Conflict.FAIL: WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
    Conflict.USE_EXISTING: WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
    Conflict.TERMINATE_EXISTING: WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
}
REUSE = {
    Reuse.ALLOW_DUPLICATE: WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
    Reuse.FAILED_ONLY: WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
    Reuse.REJECT_DUPLICATE: WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
}


class NotYet(Exception):
    """The server answered, but not with the final outcome: ask again."""


def payloads(*values: Any) -> Payloads:
    """Values as the official SDK's default converter encodes them."""
    encoded: list[Payload] = DataConverter.default.payload_converter.to_payloads(values)
    return Payloads(payloads=encoded)


class Requests:
    """One set of clients: the ledger, the connection, the seeded choice of nasty behaviour."""

    ATTEMPT_TIMEOUT = timedelta(seconds=4)

    def __init__(self, client: Client, ledger: Ledger, stream: random.Random, tag: str = "", give_up_s: float = 25.0) -> None:
        self.client = client
        self.ledger = ledger
        self.stream = stream
        self.tag = tag  # tells this campaign from others on the same server
        self.give_up_s = give_up_s
        self.errors_count: dict[str, int] = {}
        self.doubled_count = 0
        self.retried_count = 0
        self.on_end: Callable[[Act], None] = lambda _: None
        self._tokens_count = 0

    def token(self, kind: ActKind, client: str) -> str:
        self._tokens_count += 1
        return f"tok-{kind}-{client}-{self.tag}{self._tokens_count}"

    @contextmanager
    def act(self, kind: ActKind, workflow_id: str, client: str, **fields: Any) -> Iterator[Act]:
        """An act in the ledger; whatever happens inside, it ends with a time, and with UNKNOWN unless it was decided."""
        act = Act(kind, self.token(kind, client), workflow_id, client, time.monotonic_ns(), **fields)
        self.ledger.begin(act)
        try:
            yield act
        finally:
            act.ended_ns = time.monotonic_ns()
            if act.outcome == Outcome.PENDING:
                act.outcome = Outcome.UNKNOWN
            self.on_end(act)

    async def start(
        self, client: str, workflow_id: str, workflow: str, order: Callable[[str], object], conflict: Conflict, reuse: Reuse
    ) -> Act:
        """`order(token)` makes the workflow's input."""
        with self.act(ActKind.START, workflow_id, client, conflict=conflict, reuse=reuse) as act:
            request = StartWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_id=workflow_id,
                workflow_type=WorkflowType(name=workflow),
                task_queue=TaskQueue(name=TASK_QUEUE),
                input=payloads(order(act.token)),
                workflow_task_timeout=Duration(seconds=2),
                identity=client,
                request_id=act.token,
                workflow_id_conflict_policy=CONFLICT[conflict],
                workflow_id_reuse_policy=REUSE[reuse],
            )
            service = self.client.workflow_service
            reply = await self._until_answered(
                act, lambda: service.start_workflow_execution(request, timeout=self.ATTEMPT_TIMEOUT)
            )
            if reply is not None:
                act.run_id, act.started = reply.run_id, reply.started
        return act

    async def signal(self, client: str, workflow_id: str, run_id: str) -> Act:
        with self.act(ActKind.SIGNAL, workflow_id, client, run_id=run_id) as act:
            request = SignalWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                signal_name="note",
                input=payloads(act.token),
                identity=client,
                request_id=act.token,
            )
            service = self.client.workflow_service
            await self._until_answered(act, lambda: service.signal_workflow_execution(request, timeout=self.ATTEMPT_TIMEOUT))
        return act

    async def signal_with_start(
        self, client: str, workflow_id: str, workflow: str, order: Callable[[str], object]
    ) -> tuple[Act, Act]:
        """One request, two acts: a start that is content with an open run, and a signal to whatever run it then is."""
        reuse = Reuse.ALLOW_DUPLICATE
        with (
            self.act(ActKind.START, workflow_id, client, conflict=Conflict.USE_EXISTING, reuse=reuse) as start,
            self.act(ActKind.SIGNAL, workflow_id, client) as signal,
        ):
            request = SignalWithStartWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_id=workflow_id,
                workflow_type=WorkflowType(name=workflow),
                task_queue=TaskQueue(name=TASK_QUEUE),
                input=payloads(order(start.token)),
                workflow_task_timeout=Duration(seconds=2),
                identity=client,
                request_id=start.token,
                signal_name="note",
                signal_input=payloads(signal.token),
                workflow_id_conflict_policy=CONFLICT[Conflict.USE_EXISTING],
                workflow_id_reuse_policy=REUSE[reuse],
            )
            service = self.client.workflow_service
            reply = await self._until_answered(
                start, lambda: service.signal_with_start_workflow_execution(request, timeout=self.ATTEMPT_TIMEOUT)
            )
            if reply is not None:
                start.run_id, start.started = reply.run_id, reply.started
            signal.outcome, signal.error, signal.attempts = start.outcome, start.error, start.attempts
        return start, signal

    async def update(self, client: str, workflow_id: str, run_id: str, amount: int) -> Act:
        with self.act(ActKind.UPDATE, workflow_id, client, run_id=run_id) as act:
            stage = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
            request = UpdateWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                wait_policy=WaitPolicy(lifecycle_stage=stage),
                request=Request(meta=Meta(update_id=act.token, identity=client), input=Input(name="add", args=payloads(amount))),
            )

            async def send() -> UpdateWorkflowExecutionResponse:
                answer = await self.client.workflow_service.update_workflow_execution(request, timeout=self.ATTEMPT_TIMEOUT)
                if not answer.HasField("outcome"):
                    raise NotYet
                return answer

            reply = await self._until_answered(act, send)
            if reply is not None and reply.outcome.HasField("failure"):
                act.outcome, act.error = Outcome.REFUSED, reply.outcome.failure.message
            elif reply is not None:
                act.result = text_of(reply.outcome.success.payloads)
        return act

    async def complete(self, client: str, workflow_id: str, run_id: str, task_token: bytes) -> Act:
        with self.act(ActKind.COMPLETION, workflow_id, client, run_id=run_id) as act:
            request = RespondActivityTaskCompletedRequest(
                namespace=self.client.namespace, task_token=task_token, result=payloads(act.token), identity=client
            )
            service = self.client.workflow_service
            await self._until_answered(
                act, lambda: service.respond_activity_task_completed(request, timeout=self.ATTEMPT_TIMEOUT)
            )
        return act

    async def _until_answered(self, act: Act, send: Callable[[], Awaitable[Reply]]) -> Reply | None:
        """Sends until acked or refused; None unless acked."""
        give_up_at = time.monotonic() + self.give_up_s
        if self.stream.random() < 0.1:
            give_up_at = 0.0  # this client dies with its first lost answer
        while True:
            doubled = self.stream.random() < 0.08
            self.doubled_count += doubled
            self.retried_count += act.attempts > 0
            act.attempts += 2 if doubled else 1
            answers = await asyncio.gather(*[send() for _ in range(2 if doubled else 1)], return_exceptions=True)
            refused: RPCError | None = None
            for answer in answers:
                if not isinstance(answer, BaseException):
                    act.outcome = Outcome.ACKED
                    return answer
                if isinstance(answer, RPCError):
                    self._count(answer)
                    refused = answer if answer.status not in NO_ANSWER else refused
                elif not isinstance(answer, NotYet):
                    raise answer
            # One of a doubled pair may be refused while the other is on its way: only if all are refused it is final.
            if refused is not None and all(isinstance(answer, RPCError) and answer.status not in NO_ANSWER for answer in answers):
                act.outcome, act.error = Outcome.REFUSED, f"{refused.status.name}: {refused.message}"
                act.run_id = already_started_run_id(refused) or act.run_id
                return None
            if time.monotonic() > give_up_at:
                return None
            await asyncio.sleep(self.stream.uniform(0.02, 0.15))

    def _count(self, error: RPCError) -> None:
        key = f"{error.status.name}: {error.message[:60]}"
        self.errors_count[key] = self.errors_count.get(key, 0) + 1


def already_started_run_id(error: RPCError) -> str:
    failure = WorkflowExecutionAlreadyStartedFailure()
    for detail in error.grpc_status.details:
        if detail.Unpack(failure):
            return failure.run_id
    return ""
