"""Effects between runs: start a child, signal or cancel another run, tell the parent, carry out a parent-close policy.

Each is repeated until the run's state no longer asks for it. The other side recognises a repetition by its request id,
and the answer is an entry of this run, so a crash at any point costs a repetition and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    CancelExternalWorkflowExecutionFailedCause,
    ParentClosePolicy,
    SignalExternalWorkflowExecutionFailedCause,
    StartChildWorkflowExecutionFailedCause,
)
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionSignaledEventAttributes
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest

from cluster.core.effects import (
    ApplyClosePolicy,
    CancelExternal,
    Effect,
    SignalExternal,
    StartChild,
    TellParent,
    effects,
)
from cluster.core.entry import CloseNote
from cluster.core.errors import CallerError, Code
from cluster.core.events import parse_event
from cluster.core.machines import child, external, lifecycle
from cluster.core.state import Child, ParentLink
from cluster.core.transition import Transition
from cluster.history import between_runs
from cluster.history.between_runs import IDENTITY, CancelRun, EndChild, SignalRun
from cluster.history.ownership import NotHere
from cluster.history.run import Run
from cluster.history.shard import Shard

if TYPE_CHECKING:
    from cluster.history.service import HistoryService

log = structlog.get_logger("history")

# Carries an effect out once, and records what came of it. Raises CallerError, NotHere: it will be asked again.
Deliver = Callable[[Shard, Run, Any], Awaitable[None]]

_PASSING = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED)  # what a moving shard or a full node answers
BACKOFF_S_FIRST = 0.05
BACKOFF_S_MAX = 10.0


class Deliveries:
    """Runs on the node that owns the owing run; reaches the other run by a message, wherever it lives (between_runs.py)."""

    def __init__(self, service: HistoryService) -> None:
        self._service = service
        self._table: dict[type, Deliver] = {
            StartChild: self._start_child,
            SignalExternal: self._signal,
            CancelExternal: self._cancel,
            TellParent: self._tell_parent,
            ApplyClosePolicy: self._apply_close_policy,
        }

    def extend(self, table: Mapping[type, Deliver]) -> None:
        """Effects that another part carries out (cluster/nexus)."""
        self._table.update(table)

    async def deliver(self, shard: Shard, run: Run, effect: Effect) -> None:
        """Until it is done, or no longer wanted, or the shard has moved."""
        backoff_s = BACKOFF_S_FIRST
        while shard.is_open and not run.is_evicted and effect in effects(run.state):
            try:
                await self._table[type(effect)](shard, run, effect)
                return
            except CallerError as error:
                if error.code not in _PASSING:
                    log.error("delivery failed, will be repeated", effect=repr(effect), run=run.key, error=error.message)
            except NotHere as error:  # nobody routes, and the other shard is not on this node now
                log.info("delivery waits for a shard", effect=repr(effect), run=run.key, shard=error.shard)
            await asyncio.sleep(backoff_s * (0.8 + 0.4 * self._service.ids.jitter()))
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    async def _event(self, shard: Shard, run: Run, event_id: int) -> HistoryEvent:
        return parse_event((await shard.events(run, event_id, event_id))[0])

    async def _record(self, shard: Shard, run: Run, decide: Callable[[Transition], Any]) -> None:
        shard.require_open()
        t = shard.begin(run)
        decide(t)
        await shard.commit((run, t))

    async def _start_child(self, shard: Shard, run: Run, effect: StartChild) -> None:
        initiated = await self._event(shard, run, effect.initiated_event_id)
        wanted = run.state.children.get(effect.initiated_event_id)
        if wanted is None:
            return
        outcome = await self._start(run, initiated, wanted)
        if isinstance(outcome, str):
            run_id = outcome
            await self._record(shard, run, lambda t: child.record_started(t, initiated, run_id))
        else:
            cause = outcome
            await self._record(shard, run, lambda t: child.record_start_failed(t, initiated, cause))

    async def _start(
        self, run: Run, initiated: HistoryEvent, wanted: Child
    ) -> str | StartChildWorkflowExecutionFailedCause.ValueType:
        """The child's run id, or why it cannot be."""
        request = _request_of_child(initiated, wanted.request_id)
        state = run.state
        parent = ParentLink(
            namespace=self._service.namespace_name(state.namespace_id),
            namespace_id=state.namespace_id,
            workflow_id=state.workflow_id,
            run_id=state.run_id,
            initiated_event_id=wanted.initiated_event_id,
            initiated_version=wanted.initiated_version,
        )
        message = between_runs.StartChild(
            namespace_id=wanted.namespace_id,
            workflow_id=request.workflow_id,
            request=request.SerializeToString(),
            parent=parent,
            root_workflow_id=state.root_workflow_id,
            root_run_id=state.root_run_id,
        )
        try:
            return await self._service.reach(message)
        except CallerError as error:
            if error.code == Code.ALREADY_EXISTS:
                return StartChildWorkflowExecutionFailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
            if error.code == Code.NOT_FOUND:
                return StartChildWorkflowExecutionFailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            raise

    async def _signal(self, shard: Shard, run: Run, effect: SignalExternal) -> None:
        initiated = await self._event(shard, run, effect.initiated_event_id)
        wish = initiated.signal_external_workflow_execution_initiated_event_attributes
        pending = run.state.signals_out.get(effect.initiated_event_id)
        if pending is None:
            return
        causes = SignalExternalWorkflowExecutionFailedCause
        failed: SignalExternalWorkflowExecutionFailedCause.ValueType | None = None
        attributes = WorkflowExecutionSignaledEventAttributes(
            signal_name=wish.signal_name,
            input=wish.input if wish.HasField("input") else None,
            identity=IDENTITY,
            header=wish.header if wish.HasField("header") else None,
            external_workflow_execution=WorkflowExecution(workflow_id=run.key.workflow_id, run_id=run.key.run_id),
            request_id=pending.request_id,
        )
        target = wish.workflow_execution
        try:
            _refuse_self(run, wish)
            await self._service.reach(
                SignalRun(
                    namespace_id=wish.namespace_id,
                    workflow_id=target.workflow_id,
                    run_id=target.run_id,
                    by_workflow_id=run.key.workflow_id,
                    by_run_id=run.key.run_id,
                    is_child_only=wish.child_workflow_only,
                    attributes=attributes.SerializeToString(),
                )
            )
        except CallerError as error:
            if error.code == Code.NOT_FOUND:
                failed = causes.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
            elif error.message == lifecycle.TOO_MANY_SIGNALS:
                failed = causes.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_SIGNAL_COUNT_LIMIT_EXCEEDED
            else:
                raise
        await self._record(shard, run, lambda t: external.record_signal_answer(t, initiated, failed))

    async def _cancel(self, shard: Shard, run: Run, effect: CancelExternal) -> None:
        initiated = await self._event(shard, run, effect.initiated_event_id)
        wish = initiated.request_cancel_external_workflow_execution_initiated_event_attributes
        pending = run.state.cancels_out.get(effect.initiated_event_id)
        if pending is None:
            return
        causes = CancelExternalWorkflowExecutionFailedCause
        failed: CancelExternalWorkflowExecutionFailedCause.ValueType | None = None
        target = wish.workflow_execution
        try:
            _refuse_self(run, wish)
            await self._service.reach(
                CancelRun(
                    namespace_id=wish.namespace_id,
                    workflow_id=target.workflow_id,
                    run_id=target.run_id,
                    by_workflow_id=run.key.workflow_id,
                    by_run_id=run.key.run_id,
                    is_child_only=wish.child_workflow_only,
                    cause=wish.reason,
                    request_id=pending.request_id,
                    initiated_event_id=initiated.event_id,
                )
            )
        except CallerError as error:
            if error.code != Code.NOT_FOUND:
                raise
            failed = causes.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
        await self._record(shard, run, lambda t: external.record_cancel_answer(t, initiated, failed))

    async def _tell_parent(self, shard: Shard, run: Run, effect: TellParent) -> None:
        parent = run.state.parent
        assert parent is not None
        close_event_id = run.state.close_event_id
        message = between_runs.TellParent(
            parent=parent,
            child_workflow_id=run.key.workflow_id,
            child_run_id=run.key.run_id,
            close=(await shard.events(run, close_event_id, close_event_id))[0],
        )
        try:
            await self._service.reach(message)
        except CallerError as error:
            if error.code != Code.NOT_FOUND:  # a parent that is gone needs no news
                raise
        await self._record(shard, run, lambda t: t.note(CloseNote(True, t.state.reset_run_id)))

    async def _apply_close_policy(self, shard: Shard, run: Run, effect: ApplyClosePolicy) -> None:
        one = run.state.children.get(effect.initiated_event_id)
        if one is None:
            return
        policy = one.parent_close_policy
        if policy == ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON:
            if not one.is_started and child.is_wanted_after_close(run.state, one):
                await self._start(run, await self._event(shard, run, effect.initiated_event_id), one)
        else:
            await self._end_child(run, one, policy)
        await self._record(shard, run, lambda t: child.close_policy_done(t, effect.initiated_event_id))

    async def _end_child(self, run: Run, one: Child, policy: int) -> None:
        message = EndChild(
            namespace_id=one.namespace_id,
            workflow_id=one.workflow_id,
            by_workflow_id=run.key.workflow_id,
            by_run_id=run.key.run_id,
            first_run_id=one.run_id,
            start_request_id=one.request_id,
            policy=policy,
        )
        try:
            await self._service.reach(message)
        except CallerError as error:
            if error.code != Code.NOT_FOUND:
                raise


def _refuse_self(run: Run, wish: Any) -> None:
    """A workflow cannot reach itself this way."""
    target = wish.workflow_execution
    if (wish.namespace_id, target.workflow_id) == (run.key.namespace_id, run.key.workflow_id):
        raise lifecycle.unknown_run(target.workflow_id, target.run_id)


def _request_of_child(initiated: HistoryEvent, request_id: str) -> StartWorkflowExecutionRequest:
    """The initiated event as a start request."""
    wish = initiated.start_child_workflow_execution_initiated_event_attributes
    request = StartWorkflowExecutionRequest(
        namespace=wish.namespace,
        workflow_id=wish.workflow_id,
        workflow_type=wish.workflow_type,
        task_queue=wish.task_queue,
        request_id=request_id,
        workflow_id_reuse_policy=wish.workflow_id_reuse_policy,
        cron_schedule=wish.cron_schedule,
    )
    for field in (
        "workflow_execution_timeout",
        "workflow_run_timeout",
        "workflow_task_timeout",
        "header",
        "input",
        "retry_policy",
        "memo",
        "search_attributes",
        "priority",
    ):
        if wish.HasField(field):
            getattr(request, field).CopyFrom(getattr(wish, field))
    if initiated.HasField("user_metadata"):
        request.user_metadata.CopyFrom(initiated.user_metadata)
    return request
