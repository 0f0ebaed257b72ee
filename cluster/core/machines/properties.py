"""What a workflow writes about itself: markers, search attributes, memo."""

from __future__ import annotations

from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    MarkerRecordedEventAttributes,
    UpsertWorkflowSearchAttributesEventAttributes,
    WorkflowPropertiesModifiedEventAttributes,
)

from cluster.core.machines.commands import BadCommand, Completion, check_search_attributes, check_size, command
from cluster.core.state import RunState
from cluster.core.table import applies

_BAD_MARKER = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES
_BAD_SEARCH = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
_BAD_PROPERTIES = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES


def is_empty_payload(payload: Payload) -> bool:
    """A payload that removes the field it is given for: null, or an empty list (of a search attribute)."""
    if payload.metadata.get("encoding") == b"binary/null":
        return True
    return payload.data in (b"null", b"[]") or not (payload.data or payload.metadata)


# --- fold --------------------------------------------------------------------------------------------------------------


@applies(EventType.EVENT_TYPE_MARKER_RECORDED)
def _marker_recorded(state: RunState, event: HistoryEvent, attributes: Any) -> None:
    """A marker is the worker's own note to itself: the server only keeps it."""


@applies(EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def _upserted(state: RunState, event: HistoryEvent, attributes: UpsertWorkflowSearchAttributesEventAttributes) -> None:
    _merge(state.search_attributes, attributes.search_attributes.indexed_fields)


@applies(EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED)
def _modified(state: RunState, event: HistoryEvent, attributes: WorkflowPropertiesModifiedEventAttributes) -> None:
    _merge(state.memo, attributes.upserted_memo.fields)


def _merge(kept: dict[str, bytes], changes: Any) -> None:
    for key, payload in changes.items():
        if is_empty_payload(payload):
            kept.pop(key, None)
        else:
            kept[key] = payload.SerializeToString(deterministic=True)


def _map_bytes(kept: dict[str, bytes]) -> int:
    """Size of the map as a message: each entry has a key, a value, and a header of at least six bytes."""
    return sum(len(key.encode()) + len(value) + 6 for key, value in kept.items())


# --- decide ------------------------------------------------------------------------------------------------------------


@command(CommandType.COMMAND_TYPE_RECORD_MARKER)
def _record_marker(c: Completion, command: Command) -> None:
    if not command.HasField("record_marker_command_attributes"):
        raise BadCommand(_BAD_MARKER, "RecordMarkerCommandAttributes is not set on RecordMarkerCommand.")
    wish = command.record_marker_command_attributes
    if not wish.marker_name:
        raise BadCommand(_BAD_MARKER, "MarkerName is not set on RecordMarkerCommand.")
    size, size_max = len(wish.marker_name.encode()), c.t.context.limits.id_bytes_max
    if size > size_max:
        length = f"MarkerName={wish.marker_name} Length={size} Limit={size_max}"
        raise BadCommand(_BAD_MARKER, f"MarkerName on RecordMarkerCommand exceeds length limit. {length}")
    details_bytes = sum(len(key) + payloads.ByteSize() for key, payloads in wish.details.items())
    check_size(c, details_bytes, _BAD_MARKER, "RecordMarkerCommandAttributes.Details exceeds size limit.")
    c.t.add(
        EventType.EVENT_TYPE_MARKER_RECORDED,
        MarkerRecordedEventAttributes(
            marker_name=wish.marker_name,
            details=wish.details,
            workflow_task_completed_event_id=c.completed_event_id,
            header=wish.header if wish.HasField("header") else None,
            failure=wish.failure if wish.HasField("failure") else None,
        ),
        user_metadata=command.user_metadata if command.HasField("user_metadata") else None,
    )


@command(CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def _upsert(c: Completion, command: Command) -> None:
    wish = command.upsert_workflow_search_attributes_command_attributes
    what = "UpsertWorkflowSearchAttributesCommand"
    if not command.HasField("upsert_workflow_search_attributes_command_attributes"):
        raise BadCommand(_BAD_SEARCH, f"UpsertWorkflowSearchAttributesCommandAttributes is not set on {what}.")
    if not wish.HasField("search_attributes"):
        raise BadCommand(_BAD_SEARCH, f"SearchAttributes is not set on {what}.")
    fields = wish.search_attributes.indexed_fields
    if not fields:
        raise BadCommand(_BAD_SEARCH, f"IndexedFields is not set on {what}.")
    check_search_attributes(c, wish.search_attributes)
    upsert_bytes = sum(len(key) + len(payload.data) for key, payload in fields.items())
    check_size(c, upsert_bytes, _BAD_SEARCH, "UpsertWorkflowSearchAttributesCommandAttributes exceeds size limit.")
    merged = c.t.state.search_attributes.copy()
    _merge(merged, fields)
    whole, whole_max = _map_bytes(merged), c.t.context.limits.search_attributes_bytes_max
    text = f"total size of search attributes {whole} exceeds size limit {whole_max}"
    check_size(c, whole, _BAD_SEARCH, text, limit=whole_max)
    c.t.add(
        EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        UpsertWorkflowSearchAttributesEventAttributes(
            workflow_task_completed_event_id=c.completed_event_id, search_attributes=wish.search_attributes
        ),
        user_metadata=command.user_metadata if command.HasField("user_metadata") else None,
    )


@command(CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES)
def _modify(c: Completion, command: Command) -> None:
    if not command.HasField("modify_workflow_properties_command_attributes"):
        raise BadCommand(
            _BAD_PROPERTIES, "ModifyWorkflowPropertiesCommandAttributes is not set on ModifyWorkflowPropertiesCommand."
        )
    wish = command.modify_workflow_properties_command_attributes
    if not wish.HasField("upserted_memo"):
        raise BadCommand(_BAD_PROPERTIES, "UpsertedMemo is not set on ModifyWorkflowPropertiesCommand.")
    fields = wish.upserted_memo.fields
    if not fields:
        raise BadCommand(_BAD_PROPERTIES, "UpsertedMemo.Fields is not set on ModifyWorkflowPropertiesCommand.")
    upsert_bytes = sum(len(key) + len(payload.data) for key, payload in fields.items())
    check_size(c, upsert_bytes, _BAD_PROPERTIES, "ModifyWorkflowPropertiesCommandAttributes exceeds size limit.")
    merged = c.t.state.memo.copy()
    _merge(merged, fields)
    text = "ModifyWorkflowPropertiesCommandAttributes. Memo exceeds size limit."
    check_size(c, _map_bytes(merged), _BAD_PROPERTIES, text, limit=c.t.context.limits.memo_bytes_max)
    c.t.add(
        EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
        WorkflowPropertiesModifiedEventAttributes(
            workflow_task_completed_event_id=c.completed_event_id, upserted_memo=wish.upserted_memo
        ),
        user_metadata=command.user_metadata if command.HasField("user_metadata") else None,
    )
