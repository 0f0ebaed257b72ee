"""Signals and cancel requests to other workflows: an initiated event, an effect, and the answer as another event."""

from __future__ import annotations

import re
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
from cluster.core.machines.commands import BadCommand, Completion, check_size, command
from cluster.core.state import ExternalCancel, ExternalSignal, RunState
from cluster.core.table import Table, applies
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


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


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


def _require_run_id(text: str, cause: WorkflowTaskFailedCause.ValueType, message: str) -> None:
    if text and not _UUID.fullmatch(text):
        raise BadCommand(cause, message)


@command(CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
def _signal(c: Completion, command: Command) -> None:
    what, limits = "SignalExternalWorkflowExecutionCommand", c.t.context.limits
    wish = command.signal_external_workflow_execution_command_attributes
    namespace_id, _ = resolve(c, wish.namespace)
    if not command.HasField("signal_external_workflow_execution_command_attributes"):
        raise BadCommand(_BAD_SIGNAL, f"SignalExternalWorkflowExecutionCommandAttributes is not set on {what}.")
    if not wish.HasField("execution"):
        raise BadCommand(_BAD_SIGNAL, f"Execution is not set on {what}.")
    target = wish.execution
    where = f"Namespace={wish.namespace} RunId={target.run_id}"
    if not target.workflow_id:
        raise BadCommand(_BAD_SIGNAL, f"WorkflowId is not set on {what}. {where} SignalName={wish.signal_name}")
    size = len(target.workflow_id.encode())
    if size > limits.id_bytes_max:
        length = f"WorkflowId={target.workflow_id} Length={size} Limit={limits.id_bytes_max}"
        text = f"WorkflowId on {what} exceeds length limit. {length} {where} SignalName={wish.signal_name}"
        raise BadCommand(_BAD_SIGNAL, text)
    where = f"WorkflowId={target.workflow_id} {where}"
    _require_run_id(target.run_id, _BAD_SIGNAL, f"Invalid RunId set on {what}. {where} SignalName={wish.signal_name}")
    if not wish.signal_name:
        raise BadCommand(_BAD_SIGNAL, f"SignalName is not set on {what}. {where}")
    if len(c.t.state.signals_out) >= limits.pending_signals_max:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED,
            f"the number of pending signals to external workflows, {len(c.t.state.signals_out)}, "
            f"has reached the per-workflow limit of {limits.pending_signals_max}",
        )
    size_text = "SignalExternalWorkflowExecutionCommandAttributes.Input exceeds size limit."
    check_size(c, wish.input.ByteSize(), _BAD_SIGNAL, size_text)
    event = c.t.add(
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        SignalExternalWorkflowExecutionInitiatedEventAttributes(
            workflow_task_completed_event_id=c.completed_event_id,
            namespace=wish.namespace,
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
    what, limits = "RequestCancelExternalWorkflowExecutionCommand", c.t.context.limits
    wish = command.request_cancel_external_workflow_execution_command_attributes
    namespace_id, _ = resolve(c, wish.namespace)
    if not command.HasField("request_cancel_external_workflow_execution_command_attributes"):
        raise BadCommand(_BAD_CANCEL, f"RequestCancelExternalWorkflowExecutionCommandAttributes is not set on {what}.")
    if not wish.workflow_id:
        text = f"WorkflowId is not set on {what}. Namespace={wish.namespace} RunId={wish.run_id}"
        raise BadCommand(_BAD_CANCEL, text)
    where = f"RunId={wish.run_id} Namespace={wish.namespace}"
    size = len(wish.workflow_id.encode())
    if size > limits.id_bytes_max:
        length = f"WorkflowId={wish.workflow_id} Length={size} Limit={limits.id_bytes_max}"
        raise BadCommand(_BAD_CANCEL, f"WorkflowId on {what} exceeds length limit. {length} {where}")
    where = f"WorkflowId={wish.workflow_id} {where}"
    _require_run_id(wish.run_id, _BAD_CANCEL, f"Invalid RunId set on {what}. {where}")
    if wish.workflow_id in c.initiated_child_ids:
        text = f"Start and RequestCancel for child workflow is not allowed in same workflow task. {where}"
        raise BadCommand(_BAD_CANCEL, text)
    if len(c.t.state.cancels_out) >= limits.pending_cancels_max:
        raise BadCommand(
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED,
            f"the number of pending requests to cancel external workflows, {len(c.t.state.cancels_out)}, "
            f"has reached the per-workflow limit of {limits.pending_cancels_max}",
        )
    event = c.t.add(
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(
            workflow_task_completed_event_id=c.completed_event_id,
            namespace=wish.namespace,
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
                namespace=wish.namespace or t.context.namespace,
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
                namespace=wish.namespace or t.context.namespace,
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
                namespace=wish.namespace or t.context.namespace,
                namespace_id=wish.namespace_id,
                workflow_execution=wish.workflow_execution,
            ),
        )
    else:
        t.add(
            EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
            RequestCancelExternalWorkflowExecutionFailedEventAttributes(
                cause=failed,
                namespace=wish.namespace or t.context.namespace,
                namespace_id=wish.namespace_id,
                workflow_execution=wish.workflow_execution,
                initiated_event_id=initiated.event_id,
            ),
        )
    workflow_task.schedule(t)
    return True
