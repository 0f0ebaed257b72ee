"""Takes out of a scenario's outcome what two correct servers may choose freely: ids, times, sizes. All else stays.

Run ids and other UUIDs become <uuid 1>, <uuid 2> ... in the order in which they first appear, so that it is still
compared whether two places hold the same one.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Times inside JSON payloads, as the SDK's markers hold them.
JSON_TIME = re.compile(r'\{"seconds":\d+,"nanos":\d+\}|(?<=")\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)(?=")')
HEX = re.compile(r"\b[0-9a-f]{32}\b")
# The token of a Nexus operation, as the SDK's handlers make it of the workflow that stands for it: base64 of {"t":1, ...}.
NEXUS_TOKEN = re.compile(r"\beyJ0IjoxL[\w-]+")
# Made up by the server; sent back by whoever handles an operation.
CALLBACK_TOKEN = "temporal-callback-token"

# Field -> what stands for its value. The presence of the field is still compared.
STAND_INS: dict[str, str] = {
    "temporal.api.history.v1.HistoryEvent.task_id": "<task id>",  # a storage number
    "temporal.api.history.v1.WorkflowTaskStartedEventAttributes.history_size_bytes": "<size>",
    "temporal.api.failure.v1.Failure.stack_trace": "<stack trace>",  # holds paths of the machine
    "temporal.api.workflow.v1.WorkflowExecutionInfo.history_size_bytes": "<size>",
    "temporal.api.workflow.v1.WorkflowExecutionInfo.state_transition_count": "<count>",  # counts the server's own writes
    "temporal.api.workflow.v1.WorkflowExecutionInfo.execution_duration": "<duration>",
    # Made up by the server for its own use; the real one writes a fixed text where a task starts inline.
    "temporal.api.history.v1.WorkflowTaskStartedEventAttributes.request_id": "<request id>",
    "temporal.api.history.v1.ActivityTaskStartedEventAttributes.request_id": "<request id>",
}
# Backoffs computed from the clock (cron, the least time between two runs of an id): whole seconds are compared.
ROUNDED = {
    "temporal.api.history.v1.WorkflowExecutionStartedEventAttributes.first_workflow_task_backoff",
    "temporal.api.history.v1.WorkflowExecutionContinuedAsNewEventAttributes.backoff_start_interval",
    "temporal.api.workflow.v1.PendingActivityInfo.current_retry_interval",
}
# Sets that the SDK writes in no fixed order.
UNORDERED = {
    "temporal.api.sdk.v1.WorkflowTaskCompletedMetadata.core_used_flags",
    "temporal.api.sdk.v1.WorkflowTaskCompletedMetadata.lang_used_flags",
}


def rounded(seconds: float) -> str:
    if seconds == 0:
        return "0s"
    return "at most 1s" if seconds <= 1.01 else f"{round(seconds)}s"


class Normaliser:
    """One per scenario and server: the numbering of the ids is kept across its histories and answers."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._ids: dict[str, str] = {}

    def text(self, value: str) -> str:
        value = NEXUS_TOKEN.sub(lambda match: _decoded(match.group()), value).replace(self._token, "#")
        value = UUID.sub(lambda match: self._ids.setdefault(match.group(), f"<uuid {len(self._ids) + 1}>"), value)
        return HEX.sub("<hex>", JSON_TIME.sub("<time>", value))

    def event(self, event: HistoryEvent) -> dict[str, Any]:
        """The event as plain data, its attributes under one name whatever its type."""
        result = self.value(event)
        kind = event.WhichOneof("attributes")
        if kind is not None:
            attributes = result["attributes"] = result.pop(kind)
            if attributes.get("initiator") == "CONTINUE_AS_NEW_INITIATOR_WORKFLOW":
                # The wait that keeps two runs of an id 1 s apart: what is left of it depends on how fast the first one was.
                attributes.pop("first_workflow_task_backoff", None)
        return dict(result)

    def value(self, value: Any) -> Any:
        """Any observed value: messages, containers and scalars."""
        if isinstance(value, HistoryEvent) and not value.HasField("event_time"):
            return self._message(value)
        if isinstance(value, Timestamp):
            return "<time>"
        if isinstance(value, Duration):
            return value.ToJsonString()
        if isinstance(value, Payload):
            return self._payload(value)
        if isinstance(value, Message):
            return self._message(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, bytes):
            return "<bytes>" if value else ""
        if isinstance(value, str):
            return self.text(value)
        return value

    def _payload(self, payload: Payload) -> dict[str, Any]:
        metadata = {key: self.text(data.decode("utf-8", "replace")) for key, data in sorted(payload.metadata.items())}
        return {"metadata": metadata, "data": self.text(payload.data.decode("utf-8", "replace"))}

    def _message(self, message: Message) -> dict[str, Any]:
        return {field.name: self._field(field, value) for field, value in message.ListFields()}

    def _field(self, field: FieldDescriptor, value: Any) -> Any:
        name = field.full_name
        if name in STAND_INS:
            return STAND_INS[name]
        if field.name.endswith("namespace_id"):
            return "<namespace id>"
        if name in ROUNDED:
            return rounded(value.seconds + value.nanos / 1e9)
        render = self._renderer(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            keys = sorted(value)
            return {
                self.text(str(key)): "<callback token>" if key == CALLBACK_TOKEN else self._field(inner, value[key])
                for key in keys
            }
        if field.is_repeated:
            items = [render(item) for item in value]
            return sorted(items) if name in UNORDERED else items
        return render(value)

    def _renderer(self, field: FieldDescriptor) -> Callable[[Any], Any]:
        enum = field.enum_type
        if enum is None:
            return self.value

        def name(number: int) -> Any:
            known = enum.values_by_number.get(number)
            return known.name if known is not None else number

        return name


def _decoded(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError:
        return token


def normal_outcome(token: str, histories: list[tuple[str, list[HistoryEvent]]], observed: dict[str, Any]) -> dict[str, Any]:
    """Histories are a list, since one workflow id may have several runs; observations go by name."""
    normaliser = Normaliser(token)
    runs = [
        {"workflow_id": normaliser.text(workflow_id), "events": [normaliser.event(event) for event in events]}
        for workflow_id, events in histories
    ]
    return {"histories": runs, "observed": {normaliser.text(name): normaliser.value(value) for name, value in observed.items()}}


def as_text(outcome: dict[str, Any]) -> str:
    return json.dumps(outcome, indent=1, ensure_ascii=False, sort_keys=False) + "\n"
