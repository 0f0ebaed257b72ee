"""Simulated clients: what they ask with one request id until they are told, and the ledger of what they were told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import (
    UpdateWorkflowExecutionLifecycleStage,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
)
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, WaitPolicy
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import text_of
from chaos.checkers.ledger import Act, ActKind, Conflict, Ledger, Outcome, Reuse
from chaos.sim.loop import running_loop
from chaos.sim.programs import TASK_QUEUE, Step, payloads, program_input, seconds, value_of
from chaos.sim.world import NAMESPACE, Door, World
from cluster.core.errors import CallerError, Code

# After these a client does not know whether the server did it.
LOST = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.CANCELLED})
COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

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


@dataclass(frozen=True)
class Asked:
    """A query's answer: how many signals the workflow had seen, and when it was asked and answered."""

    run_id: str
    begun_ns: int
    ended_ns: int
    signals_count: int


@dataclass(frozen=True)
class Ended:
    """An acked cancel or terminate, pinned to a run."""

    verb: str
    workflow_id: str
    run_id: str


class Requests:
    """One set of clients, of one namespace. `hasty` is the share of acts whose client dies with its first lost answer.

    world: it, or one region's door. prefix: of tokens, so that several sets may share a ledger."""

    def __init__(
        self,
        world: World | Door,
        ledger: Ledger,
        stream: random.Random,
        hasty: float = 0.1,
        give_up_s: float = 40.0,
        namespace: str = NAMESPACE,
        prefix: str = "",
    ) -> None:
        self.world = world
        self.namespace = namespace
        self.prefix = prefix
        self.ledger = ledger
        self.stream = stream
        self.hasty = hasty
        self.give_up_s = give_up_s
        self.asked: list[Asked] = []
        self.ended: list[Ended] = []
        self.answers: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()

    @contextmanager
    def act(self, kind: ActKind, workflow_id: str, client: str, **fields: Any) -> Iterator[Act]:
        """An act in the ledger; it ends with a time, and with UNKNOWN unless it was decided."""
        self._numbers[kind] += 1
        act = Act(kind, f"tok-{kind}-{self.prefix}{self._numbers[kind]}", workflow_id, client, running_loop().now_ns(), **fields)
        self.ledger.begin(act)
        try:
            yield act
        finally:
            act.ended_ns = running_loop().now_ns()
            if act.outcome == Outcome.PENDING:
                act.outcome = Outcome.UNKNOWN
            running_loop().trace(
                "act", token=act.token, target=workflow_id, outcome=str(act.outcome), run=act.run_id, attempts=act.attempts
            )

    async def until_answered(
        self, client: str, acts: list[Act], name: str, request: Message, *,
        is_final: Callable[[Any], bool] = lambda _: True, deadline_s: float = 5.0,
    ) -> Any:
        """The reply, None unless acked. Sends one request until there is a definite answer, or until the client gives up."""
        give_up_at = running_loop().time() + (0.0 if self.stream.random() < self.hasty else self.give_up_s)

        def sent() -> None:
            for act in acts:
                act.attempts += 1

        while True:
            try:
                reply = await self.world.call(name, request, deadline_s, sent, client)
                if is_final(reply):
                    for act in acts:
                        act.outcome = Outcome.ACKED
                    self.answers["OK"] += 1
                    return reply
            except CallerError as error:
                self.answers[error.code.name] += 1
                if error.code in (Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS, Code.UNIMPLEMENTED, Code.PERMISSION_DENIED):
                    self.world.unexpected.append(f"{name}: {error.code.name}: {error.message}")
                if error.code not in LOST:
                    for act in acts:
                        act.outcome, act.error = Outcome.REFUSED, f"{error.code.name}: {error.message}"
                        if act.kind == ActKind.START:
                            act.run_id = already_started_run_id(error)
                    return None
            if running_loop().time() >= give_up_at:
                return None
            await asyncio.sleep(self.stream.uniform(0.02, 0.4))

    # --- what clients do ------------------------------------------------------------------------------------------------
    async def start(
        self,
        client: str,
        workflow_id: str,
        steps: list[Step],
        conflict: Conflict = Conflict.FAIL,
        reuse: Reuse = Reuse.ALLOW_DUPLICATE,
        **fields: Any,
    ) -> Act:
        """`fields`: further fields of the request (retry_policy, cron_schedule, ...)."""
        with self.act(ActKind.START, workflow_id, client, conflict=conflict, reuse=reuse) as act:
            request = api.StartWorkflowExecutionRequest(
                **start_fields(workflow_id, act.token, steps, client, self.namespace),
                workflow_id_conflict_policy=CONFLICT[conflict],
                workflow_id_reuse_policy=REUSE[reuse],
                **fields,
            )
            reply = await self.until_answered(client, [act], "StartWorkflowExecution", request)
            if reply is not None:
                act.run_id, act.started = reply.run_id, reply.started
        return act

    async def signal(self, client: str, workflow_id: str, run_id: str = "") -> Act:
        with self.act(ActKind.SIGNAL, workflow_id, client, run_id=run_id) as act:
            request = api.SignalWorkflowExecutionRequest(
                namespace=self.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                signal_name="note",
                input=payloads(act.token),
                identity=client,
                request_id=act.token,
            )
            await self.until_answered(client, [act], "SignalWorkflowExecution", request)
        return act

    async def signal_with_start(self, client: str, workflow_id: str, steps: list[Step]) -> Act:
        with (
            self.act(ActKind.START, workflow_id, client, conflict=Conflict.USE_EXISTING) as start,
            self.act(ActKind.SIGNAL, workflow_id, client) as signal,
        ):
            request = api.SignalWithStartWorkflowExecutionRequest(
                **start_fields(workflow_id, start.token, steps, client, self.namespace),
                workflow_id_conflict_policy=CONFLICT[Conflict.USE_EXISTING],
                signal_name="note",
                signal_input=payloads(signal.token),
            )
            reply = await self.until_answered(client, [start, signal], "SignalWithStartWorkflowExecution", request)
            if reply is not None:
                start.run_id, start.started = reply.run_id, reply.started
        return signal

    async def update(self, client: str, workflow_id: str, run_id: str, kind: str) -> Act:
        with self.act(ActKind.UPDATE, workflow_id, client, run_id=run_id) as act:
            request = api.UpdateWorkflowExecutionRequest(
                namespace=self.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                wait_policy=WaitPolicy(lifecycle_stage=COMPLETED),
                request=Request(meta=Meta(update_id=act.token, identity=client), input=Input(name=kind, args=payloads(kind))),
            )
            reply = await self.until_answered(
                client, [act], "UpdateWorkflowExecution", request, is_final=lambda answer: answer.HasField("outcome")
            )
            if reply is not None and reply.outcome.HasField("failure"):
                message = reply.outcome.failure.message
                # Any other failure is the run's end: the update may have been accepted before.
                act.outcome = Outcome.REFUSED if message == "refused as asked" else Outcome.UNKNOWN
                act.error = message
            elif reply is not None:
                act.result = text_of(reply.outcome.success.payloads)
            elif act.outcome == Outcome.REFUSED:
                act.outcome = Outcome.UNKNOWN if "closing" in act.error else act.outcome
        return act

    async def complete(self, worker: str, task: Any, deadline_s: float) -> Act:
        execution = task.workflow_execution
        with self.act(ActKind.COMPLETION, execution.workflow_id, worker, run_id=execution.run_id) as act:
            request = api.RespondActivityTaskCompletedRequest(
                namespace=self.namespace,
                task_token=task.task_token,
                identity=worker,
                result=payloads({"token": act.token, "attempt": task.attempt}),
            )
            await self.until_answered(worker, [act], "RespondActivityTaskCompleted", request, deadline_s=deadline_s)
        return act

    async def end(self, client: str, verb: str, workflow_id: str, run_id: str) -> bool:
        """Cancels or terminates; True if acked."""
        done = await (self._cancel if verb == "cancel" else self._terminate)(client, workflow_id, run_id)
        if done and run_id:
            self.ended.append(Ended(verb, workflow_id, run_id))
        return done

    async def _cancel(self, client: str, workflow_id: str, run_id: str) -> bool:
        self._numbers["cancel"] += 1
        request = api.RequestCancelWorkflowExecutionRequest(
            namespace=self.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            request_id=f"tok-cancel-{self.prefix}{self._numbers['cancel']}",
            identity=client,
        )
        return await self.until_answered(client, [], "RequestCancelWorkflowExecution", request) is not None

    async def _terminate(self, client: str, workflow_id: str, run_id: str) -> bool:
        """It has no request id: repeated after a lost answer, it finds the run closed, or ends the next one."""
        with self.act(ActKind.TERMINATE, workflow_id, client, run_id=run_id) as act:
            request = api.TerminateWorkflowExecutionRequest(
                namespace=self.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                reason="asked for",
                details=payloads(act.token),
                identity=client,
            )
            reply = await self.until_answered(client, [act], "TerminateWorkflowExecution", request)
            if act.outcome == Outcome.REFUSED and act.attempts > 1:
                act.outcome = Outcome.UNKNOWN  # an earlier attempt may be what it was too late for
        return reply is not None

    async def query(self, client: str, workflow_id: str, run_id: str) -> None:
        """Its answer must show every signal that was acked before."""
        begun_ns = running_loop().now_ns()
        request = api.QueryWorkflowRequest(
            namespace=self.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            query=WorkflowQuery(query_type="signals"),
        )
        reply = await self.until_answered(client, [], "QueryWorkflow", request, deadline_s=8.0)
        if reply is not None and run_id:
            running_loop().trace("query", run=run_id, begun=begun_ns, signals=value_of(reply.query_result))
            self.asked.append(Asked(run_id, begun_ns, running_loop().now_ns(), value_of(reply.query_result)))

    async def reset(self, client: str, workflow_id: str, run_id: str, finish_id: int) -> str:
        """The new run's id, "" unless acked."""
        self._numbers["reset"] += 1
        request = api.ResetWorkflowExecutionRequest(
            namespace=self.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            reason="asked for",
            workflow_task_finish_event_id=finish_id,
            request_id=f"tok-reset-{self.prefix}{self._numbers['reset']}",
        )
        reply = await self.until_answered(client, [], "ResetWorkflowExecution", request)
        return reply.run_id if reply is not None else ""

    async def delete(self, client: str, workflow_id: str, run_id: str) -> bool:
        """True if acked."""
        execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        request = api.DeleteWorkflowExecutionRequest(namespace=self.namespace, workflow_execution=execution)
        return await self.until_answered(client, [], "DeleteWorkflowExecution", request) is not None

    async def current_run(self, client: str, workflow_id: str) -> tuple[str, bool]:
        """(run id, is open) of the current run; ("", False) if there is none or nobody answers."""
        request = api.DescribeWorkflowExecutionRequest(
            namespace=self.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        reply = await self.maybe(client, "DescribeWorkflowExecution", request)
        if reply is None:
            return "", False
        info = reply.workflow_execution_info
        return info.execution.run_id, not info.HasField("close_time")

    async def maybe(self, client: str, name: str, request: Message) -> Any:
        """One attempt of a call whose answer is of no great weight; None if it was refused or lost."""
        try:
            return await self.world.call(name, request, caller=client)
        except CallerError as error:
            if error.code not in LOST | {Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT}:
                self.world.unexpected.append(f"{name}: {error.code.name}: {error.message}")
            return None


def start_fields(workflow_id: str, token: str, steps: list[Step], client: str, namespace: str) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "workflow_id": workflow_id,
        "workflow_type": WorkflowType(name="program"),
        "task_queue": TaskQueue(name=TASK_QUEUE),
        "input": program_input(token, steps),
        "workflow_task_timeout": seconds(2),
        "identity": client,
        "request_id": token,
    }


def workflow_retry(attempts_max: int) -> RetryPolicy:
    return RetryPolicy(initial_interval=seconds(0.3), backoff_coefficient=1.5, maximum_attempts=attempts_max)


def already_started_run_id(error: CallerError) -> str:
    for detail in error.details:
        if isinstance(detail, WorkflowExecutionAlreadyStartedFailure):
            return detail.run_id
    return ""


Choice = Callable[[], Awaitable[object]]
