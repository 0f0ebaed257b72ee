"""Events, effects and deadlines as lines of text: what a story's expected outcome is written in."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent

from cluster.core.apply import EVENT_NAMES
from cluster.core.events import SECOND_NS, attributes_of, duration_ns, timestamp_ns


def tell(event: HistoryEvent, begin_ns: int) -> str:
    """id, name, and each attribute that is set; times are told relative to `begin_ns`."""
    words = [str(event.event_id), EVENT_NAMES[event.event_type]]
    words += _fields(attributes_of(event), begin_ns)
    if event.links:
        words.append(f"links={len(event.links)}")
    if event.HasField("user_metadata"):
        words.append(f"user_metadata={_value(event.user_metadata, begin_ns)}")
    if event.worker_may_ignore:
        words.append("worker_may_ignore")
    return " ".join(words)


def moment(at: int, begin_ns: int) -> str:
    return f"+{_seconds(at - begin_ns)}"


def _seconds(ns: int) -> str:
    return f"{ns / SECOND_NS:.9f}".rstrip("0").rstrip(".") + "s"


def _fields(message: Message, begin_ns: int) -> list[str]:
    return [f"{field.name}={_field(field, value, begin_ns)}" for field, value in message.ListFields()]


def _field(field: FieldDescriptor, value: Any, begin_ns: int) -> str:
    if field.enum_type is not None and not field.is_repeated:
        name = field.enum_type.values_by_number[value].name
        prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in field.enum_type.name).lstrip("_")
        return name.removeprefix(prefix + "_")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "{" + " ".join(f"{key}={_value(value[key], begin_ns)}" for key in sorted(value)) + "}"
    if field.is_repeated:
        return "[" + " ".join(_value(one, begin_ns) for one in value) + "]"
    return _value(value, begin_ns)


def _value(value: Any, begin_ns: int) -> str:
    if isinstance(value, Timestamp):
        return moment(timestamp_ns(value), begin_ns)
    if isinstance(value, Duration):
        return _seconds(duration_ns(value))
    if isinstance(value, Payload):
        return value.data.decode()
    if isinstance(value, Message):
        return "{" + " ".join(_fields(value, begin_ns)) + "}"
    return str(value)
