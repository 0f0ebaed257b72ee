"""What one run asks of another, as messages: they are carried out on the node that owns the other run's shard.

    message      | who sends it                              | what it does there
    -------------+-------------------------------------------+------------------------------------------------------------
    SignalRun    | a SignalExternalWorkflowExecution command | writes the signal
    CancelRun    | a RequestCancelExternal... command        | writes the cancel request
    StartChild   | a parent, until the child is started      | starts it, or finds it by its request id; answers its run id
    EndChild     | a closed parent, by its close policy      | cancels or terminates the child, if it is the one meant
    TellParent   | a closed child                            | records the child's end, if the parent still waits for it
    EndOperation | the handler of a Nexus operation          | records how it ended, if the caller still waits for it

Every one may be repeated: the other side knows its request id, or sees that it has been done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from temporalio.api.common.v1 import Link, Payload, WorkflowExecution
from temporalio.api.enums.v1 import EventType, ParentClosePolicy
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionSignaledEventAttributes
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest

from cluster.core.errors import not_found
from cluster.core.events import parse_event
from cluster.core.machines import child, lifecycle, nexus_results
from cluster.core.state import ParentLink
from cluster.core.transition import Transition
from cluster.history.api.start_workflow_execution import start_or_find
from cluster.history.run import Run
from cluster.history.shard import Shard

if TYPE_CHECKING:
    from cluster.history.service import HistoryService

IDENTITY = "history-service"


class _ToRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run meant, "" = the current one of its workflow id; and the run that asks."""

    namespace_id: str
    workflow_id: str
    run_id: str = ""
    by_workflow_id: str
    by_run_id: str

    @property
    def asker(self) -> WorkflowExecution:
        return WorkflowExecution(workflow_id=self.by_workflow_id, run_id=self.by_run_id)


class SignalRun(_ToRun, frozen=True, kw_only=True, tag="signal-run"):
    """attributes: an encoded WorkflowExecutionSignaledEventAttributes."""

    is_child_only: bool
    attributes: bytes


class CancelRun(_ToRun, frozen=True, kw_only=True, tag="cancel-run"):
    is_child_only: bool
    cause: str
    request_id: str
    initiated_event_id: int


class EndChild(_ToRun, frozen=True, kw_only=True, tag="end-child"):
    """The child is known by its first run id, or, if its start was never confirmed, by the request id of its start."""

    first_run_id: str
    start_request_id: str
    policy: int


class StartChild(msgspec.Struct, frozen=True, kw_only=True, tag="start-child"):
    """request: an encoded StartWorkflowExecutionRequest."""

    namespace_id: str
    workflow_id: str
    request: bytes
    parent: ParentLink
    root_workflow_id: str
    root_run_id: str


class TellParent(msgspec.Struct, frozen=True, kw_only=True, tag="tell-parent"):
    """close: the child's last event, encoded."""

    parent: ParentLink
    child_workflow_id: str
    child_run_id: str
    close: bytes

    @property
    def namespace_id(self) -> str:
        return self.parent.namespace_id

    @property
    def workflow_id(self) -> str:
        return self.parent.workflow_id


class EndOperation(msgspec.Struct, frozen=True, kw_only=True, tag="end-operation"):
    """A Nexus operation of this run has ended: the fields are those of its token, and of what its handler called back with.

    state: succeeded, failed or canceled. started_at: ns since the epoch, 0 = not said. links, result, failure: encoded messages.
    """

    namespace_id: str
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    request_id: str
    state: str
    token: str = ""
    started_at: int = 0
    links: list[bytes] = []
    result: bytes | None = None
    failure: bytes = b""


BetweenRuns = SignalRun | CancelRun | EndChild | StartChild | TellParent | EndOperation


async def perform(service: HistoryService, shard: Shard, message: BetweenRuns) -> str:
    """The run id of the child for StartChild, else "". Raises CallerError; NOT_FOUND: no such run or namespace."""
    if isinstance(message, SignalRun):
        await _signal(service, shard, message)
    elif isinstance(message, CancelRun):
        await _cancel(service, shard, message)
    elif isinstance(message, EndChild):
        await _end_child(service, shard, message)
    elif isinstance(message, TellParent):
        await _tell_parent(shard, message)
    elif isinstance(message, EndOperation):
        await _end_operation(service, shard, message)
    else:
        return await _start_child(service, shard, message)
    return ""


async def _signal(service: HistoryService, shard: Shard, message: SignalRun) -> None:
    attributes = WorkflowExecutionSignaledEventAttributes.FromString(message.attributes)

    def signal(t: Transition) -> None:
        _require_parent(t, message)
        lifecycle.signal(t, attributes)

    await _change(service, shard, message, signal)


async def _cancel(service: HistoryService, shard: Shard, message: CancelRun) -> None:
    def ask(t: Transition) -> None:
        _require_parent(t, message)
        if not t.state.is_open and not message.run_id:
            raise not_found(lifecycle.ALREADY_COMPLETED)  # a named run that has ended counts as asked
        lifecycle.request_cancel(
            t,
            cause=message.cause,
            identity=IDENTITY,
            request_id=message.request_id,
            external_initiated_event_id=message.initiated_event_id,
            external_execution=message.asker,
        )

    await _change(service, shard, message, ask)


def _require_parent(t: Transition, message: SignalRun | CancelRun) -> None:
    parent = t.state.parent
    if message.is_child_only and (parent is None or parent.workflow_id != message.by_workflow_id):
        raise lifecycle.unknown_run(message.workflow_id, message.run_id)


async def _end_child(service: HistoryService, shard: Shard, message: EndChild) -> None:
    def end(t: Transition) -> None:
        state = t.state
        if message.first_run_id:
            is_meant = state.first_run_id == message.first_run_id
        else:
            is_meant = state.start_request_id == message.start_request_id
        if not is_meant or not state.is_open:
            return
        if message.policy == ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL:
            lifecycle.request_cancel(
                t, cause="", identity=IDENTITY, request_id=message.start_request_id, external_execution=message.asker
            )
        else:
            lifecycle.terminate(t, reason="by parent close policy", details=None, identity=IDENTITY)

    await _change(service, shard, message, end)


async def _change(service: HistoryService, shard: Shard, message: _ToRun, decide: Callable[[Transition], Any]) -> None:
    """One transition of the run meant."""
    service.namespaces.by_id(message.namespace_id)
    run = await shard.find(message.namespace_id, message.workflow_id, message.run_id)
    t = shard.begin(run)
    decide(t)
    await shard.commit((run, t))


async def _start_child(service: HistoryService, shard: Shard, message: StartChild) -> str:
    """Started now or by an earlier try."""
    namespace = service.namespaces.by_id(message.namespace_id)
    request = StartWorkflowExecutionRequest.FromString(message.request)
    root = WorkflowExecution(workflow_id=message.root_workflow_id, run_id=message.root_run_id)
    return (await start_or_find(shard, namespace.id, request, parent=message.parent, root=root)).run_id


async def _tell_parent(shard: Shard, message: TellParent) -> None:
    parent = message.parent
    run = await shard.find(parent.namespace_id, parent.workflow_id, parent.run_id)
    while not run.state.is_open and run.state.reset_run_id:  # the parent was reset: its children are the new run's
        run = await shard.find(parent.namespace_id, parent.workflow_id, run.state.reset_run_id)
    wanted = run.state.children.get(parent.initiated_event_id)
    if not run.state.is_open or wanted is None or wanted.workflow_id != message.child_workflow_id:
        await shard.durable(run)
        return
    initiated = parse_event((await shard.events(run, parent.initiated_event_id, parent.initiated_event_id))[0])
    shard.require_open()
    execution = WorkflowExecution(workflow_id=message.child_workflow_id, run_id=message.child_run_id)
    t = shard.begin(run)
    child.record_ended(t, initiated, execution, HistoryEvent.FromString(message.close))
    await shard.commit((run, t))


async def _end_operation(service: HistoryService, shard: Shard, message: EndOperation) -> None:
    """Raises NOT_FOUND in the public server's words when nobody waits. One that has ended before is no error: whoever did not
    hear that it was told tells it again."""
    service.namespaces.by_id(message.namespace_id)
    run = await shard.find(message.namespace_id, message.workflow_id, message.run_id)
    while not run.state.is_open and run.state.reset_run_id:  # its operations are those of the run that goes on in its place
        run = await shard.find(message.namespace_id, message.workflow_id, run.state.reset_run_id)
    if await _has_ended(shard, run, message):
        await shard.durable(run)
        return
    if not run.state.is_open:
        raise not_found(lifecycle.ALREADY_COMPLETED)
    t = shard.begin(run)
    is_taken = nexus_results.record_callback(
        t,
        message.scheduled_event_id,
        message.request_id,
        token=message.token,
        started_at=message.started_at,
        links=[Link.FromString(link) for link in message.links],
        result=Payload.FromString(message.result) if message.result is not None else None,
        failure=None if message.state == "succeeded" else Failure.FromString(message.failure),
        is_canceled=message.state == "canceled",
    )
    if not is_taken:
        raise not_found(f"stale reference: state machine not found: nexusoperations.Operation:{message.scheduled_event_id}")
    await shard.commit((run, t))


async def _has_ended(shard: Shard, run: Run, message: EndOperation) -> bool:
    """Whether the operation was of this run and is over."""
    event_id = message.scheduled_event_id
    if event_id in run.state.operations or not 0 < event_id < run.state.next_event_id:
        return False
    event = parse_event((await shard.events(run, event_id, event_id))[0])
    is_operation = event.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
    shard.require_open()
    is_over = event_id not in run.state.operations
    return is_over and is_operation and event.nexus_operation_scheduled_event_attributes.request_id == message.request_id
