"""Signals and cancel requests to other workflows: an initiated event, an effect, and the answer as another event."""

from __future__ import annotations

from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    CancelExternalWorkflowExecutionFailedCause,
    CommandType,
    EventType,
    SignalExternalWorkflowExecutionFailedCause,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import (
    ExternalWorkflowExecutionCancelRequestedEventAttributes,
    ExternalWorkflowExecutionSignaledEventAttributes,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionFailedEventAttributes,
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionFailedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes,
)

from cluster.core.entry import OutboxNote
from cluster.core.machines import workflow_task
from cluster.core.machines.child import resolve
from cluster.core.machines.commands import BadCommand, Completion, command
from cluster.core.table import Table, applies
from cluster.core.state import ExternalCancel, ExternalSignal, RunState
from cluster.core.transition import Transition

SIGNAL_TABLE = Table(
    "external signal",
    [
        ("none", "SignalExternalWorkflowExecutionInitiated", "initiated"),
        ("initiated", "ExternalWorkflowExecutionSignaled", "none"),
        ("initiated", "SignalExternalWorkflowExecutionFailed", "none"),
    ],
)
CANCEL_TABLE = Table(
    "external cancel",
    [
        ("none", "RequestCancelExternalWorkflowExecutionInitiated", "initiated"),
        ("initiated", "ExternalWorkflowExecutionCancelRequested", "none"),
        ("initiated", "RequestCancelExternalWorkflowExecutionFailed", "none"),
    ],
)

_BAD_SIGNAL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_CANCEL = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES


def _signal_position(state: RunState, initiated_event_id: int) -> str:
    return "initiated" if initiated_event_id in state.signals_out else "none"


def _cancel_position(state: RunState, initiated_event_id: int) -> str:
    return "initiated" if initiated_event_id in state.cancels_out else "none"


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _signal_initiated(state: RunState, event: HistoryEvent, attributes: Any) -> None:
    SIGNAL_TABLE.step(_signal_position(state, event.event_id), "SignalExternalWorkflowExecutionInitiated")
    state.signals_out[event.event_id] = ExternalSignal(event.event_id, "", event.version)


@applies(EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)
def _signaled(state: RunState, event: HistoryEvent, attributes: ExternalWorkflowExecutionSignaledEventAttributes) -> None:
    SIGNAL_TABLE.step(_signal_position(state, attributes.initiated_event_id), "ExternalWorkflowExecutionSignaled")
    del state.signals_out[attributes.initiated_event_id]


@applies(EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
def _signal_failed(state: RunState, event: HistoryEvent, attributes: Any) -> None:
    SIGNAL_TABLE.step(_signal_position(state, attributes.initiated_event_id), "SignalExternalWorkflowExecutionFailed")
    del state.signals_out[attributes.initiated_event_id]


@applies(EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _cancel_initiated(state: RunState, event: HistoryEvent, attributes: Any) -> None:
    CANCEL_TABLE.step(_cancel_position(state, event.event_id), "RequestCancelExternalWorkflowExecutionInitiated")
    state.cancels_out[event.event_id] = ExternalCancel(event.event_id, "", event.version)


@applies(EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
def _cancel_requested(state: RunState, event: HistoryEvent, attributes: Any) -> None:
    CANCEL_TABLE.step(_cancel_position(state, attributes.initiated_event_id), "ExternalWorkflowExecutionCancelRequested")
    del state.cancels_out[attributes.initiated_event_id]


@applies(EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
def _cancel_failed(state: RunState, event: HistoryEvent, attributes: Any) -> None:
    CANCEL_TABLE.step(_cancel_position(state, attributes.initiated_event_id), "RequestCancelExternalWorkflowExecutionFailed")
    del state.cancels_out[attributes.initiated_event_id]


# --- decide ------------------------------------------------------------------------------------------------------------


def _check_ids(c: Completion, cause: WorkflowTaskFailedCause.ValueType, what: str, *texts: tuple[str, str]) -> None:
    limit = c.t.context.limits.id_bytes_max
    for name, text in texts:
        if len(text.encode()) > limit:
            raise BadCommand(cause, f"{name} on {what} exceeds length limit.")


@command(CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
def _signal(c: Completion, command: Command) -> None:
    what = "SignalExternalWorkflowExecutionCommand"
    if not command.HasField("signal_external_workflow_execution_command_attributes"):
        raise BadCommand(_BAD_SIGNAL, f"SignalExternalWorkflowExecutionCommandAttributes is not set on {what}.")
    wish = command.signal_external_workflow_execution_command_attributes
    target = wish.execution
    if not wish.HasField("execution"):
        raise BadCommand(_BAD_SIGNAL, f"Execution is not set on {what}.")
    if not target.workflow_id:
        raise BadCommand(_BAD_SIGNAL, f"WorkflowId is not set on {what}.")
    if not wish.signal_name:
        raise BadCommand(_BAD_SIGNAL, f"SignalName is not set on {what}. WorkflowId={target.workflow_id}")
    _check_ids(
        c, _BAD_SIGNAL, what, ("WorkflowId", target.workflow_id), ("SignalName", wish.signal_name), ("Namespace", wish.namespace)
    )
    state, limits = c.t.state, c.t.context.limits
    if len(state.signals_out) >= limits.pending_signals_max:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED,
            f"the number of pending signals to external workflows, {len(state.signals_out)}, "
            f"has reached the per-workflow limit of {limits.pending_signals_max}",
        )
    namespace_id, namespace = resolve(c, wish.namespace, _BAD_SIGNAL)
    event = c.t.add(
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        SignalExternalWorkflowExecutionInitiatedEventAttributes(
            workflow_task_completed_event_id=c.completed_event_id,
            namespace=namespace,
            namespace_id=namespace_id,
            workflow_execution=target,
            signal_name=wish.signal_name,
            input=wish.input if wish.HasField("input") else None,
            control=wish.control,
            child_workflow_only=wish.child_workflow_only,
            header=wish.header if wish.HasField("header") else None,
        ),
        user_metadata=command.user_metadata if command.HasField("user_metadata") else None,
    )
    c.t.note(OutboxNote(event.event_id, c.t.context.ids.uuid()))


@command(CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION)
def _cancel(c: Completion, command: Command) -> None:
    what = "RequestCancelExternalWorkflowExecutionCommand"
    if not command.HasField("request_cancel_external_workflow_execution_command_attributes"):
        raise BadCommand(_BAD_CANCEL, f"RequestCancelExternalWorkflowExecutionCommandAttributes is not set on {what}.")
    wish = command.request_cancel_external_workflow_execution_command_attributes
    if not wish.workflow_id:
        raise BadCommand(_BAD_CANCEL, f"WorkflowId is not set on {what}.")
    _check_ids(c, _BAD_CANCEL, what, ("WorkflowId", wish.workflow_id), ("Namespace", wish.namespace))
    state, limits = c.t.state, c.t.context.limits
    if len(state.cancels_out) >= limits.pending_cancels_max:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED,
            f"the number of pending requests to cancel external workflows, {len(state.cancels_out)}, "
            f"has reached the per-workflow limit of {limits.pending_cancels_max}",
        )
    namespace_id, namespace = resolve(c, wish.namespace, _BAD_CANCEL)
    event = c.t.add(
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(
            workflow_task_completed_event_id=c.completed_event_id,
            namespace=namespace,
            namespace_id=namespace_id,
            workflow_execution=WorkflowExecution(workflow_id=wish.workflow_id, run_id=wish.run_id),
            control=wish.control,
            child_workflow_only=wish.child_workflow_only,
            reason=wish.reason,
        ),
        user_metadata=command.user_metadata if command.HasField("user_metadata") else None,
    )
    c.t.note(OutboxNote(event.event_id, c.t.context.ids.uuid()))


def record_signal_answer(
    t: Transition, initiated: HistoryEvent, failed: SignalExternalWorkflowExecutionFailedCause.ValueType | None
) -> bool:
    """The other workflow has the signal (failed None), or never will. False = answered already."""
    if not t.state.is_open or initiated.event_id not in t.state.signals_out:
        return False
    wish = initiated.signal_external_workflow_execution_initiated_event_attributes
    if failed is None:
        t.add(
            EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
            ExternalWorkflowExecutionSignaledEventAttributes(
                initiated_event_id=initiated.event_id,
                namespace=wish.namespace,
                namespace_id=wish.namespace_id,
                workflow_execution=wish.workflow_execution,
                control=wish.control,
            ),
        )
    else:
        t.add(
            EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
            SignalExternalWorkflowExecutionFailedEventAttributes(
                cause=failed,
                workflow_task_completed_event_id=wish.workflow_task_completed_event_id,
                namespace=wish.namespace,
                namespace_id=wish.namespace_id,
                workflow_execution=wish.workflow_execution,
                initiated_event_id=initiated.event_id,
                control=wish.control,
            ),
        )
    workflow_task.schedule(t)
    return True


def record_cancel_answer(
    t: Transition, initiated: HistoryEvent, failed: CancelExternalWorkflowExecutionFailedCause.ValueType | None
) -> bool:
    """The other workflow knows of the request (failed None), or never will. False = answered already."""
    if not t.state.is_open or initiated.event_id not in t.state.cancels_out:
        return False
    wish = initiated.request_cancel_external_workflow_execution_initiated_event_attributes
    if failed is None:
        t.add(
            EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
            ExternalWorkflowExecutionCancelRequestedEventAttributes(
                initiated_event_id=initiated.event_id,
                namespace=wish.namespace,
                namespace_id=wish.namespace_id,
                workflow_execution=wish.workflow_execution,
            ),
        )
    else:
        t.add(
            EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
            RequestCancelExternalWorkflowExecutionFailedEventAttributes(
                cause=failed,
                workflow_task_completed_event_id=wish.workflow_task_completed_event_id,
                namespace=wish.namespace,
                namespace_id=wish.namespace_id,
                workflow_execution=wish.workflow_execution,
                initiated_event_id=initiated.event_id,
                control=wish.control,
            ),
        )
    workflow_task.schedule(t)
    return True
