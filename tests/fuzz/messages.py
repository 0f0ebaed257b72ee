"""Makes requests from their descriptors: every field at every depth, named fields with values that fit them.

Four tempers, drawn per message: plausible (a correct client), spoiled (plausible with one to three bad fields, which gets
past the checks in front of the field that is wrong), careless (every tenth value bad), hostile (most values bad).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from temporalio.api.enums.v1 import CommandType
from temporalio.api.update.v1 import Acceptance, Rejection, Request, Response

from tests.fuzz import values
from tests.fuzz.pools import DOOMED, OTHER, Pools

DEPTH_MAX = 6
TEMPERS = (("plausible", 0.35), ("spoiled", 0.4), ("careless", 0.15), ("hostile", 0.1))
BADNESS = {"plausible": 0.0, "spoiled": 0.0, "careless": 0.1, "hostile": 0.6}
# Without these most requests mean nothing, so they are nearly always there.
_KEY_FIELDS = """
    activity activity_id activity_options activity_type body command_type commands config data execution fields id identity
    indexed_fields input marker_name message_id meta metadata name namespace operations payloads protocol_instance_id query
    query_type reason request request_id scheduled_event_id search_attributes signal_name start_to_close_timeout
    start_to_fire_timeout start_workflow task_queue task_token timer_id type_url update_id update_mask update_ref
    update_workflow upserted_memo value wait_policy workflow_execution workflow_execution_options
    workflow_execution_retention_period workflow_id workflow_run_timeout workflow_task_finish_event_id workflow_type
"""
KEY_FIELDS = frozenset(_KEY_FIELDS.split())
NAMESPACE_CALLS = frozenset({"UpdateNamespace", "DeprecateNamespace", "DeleteNamespace", "RegisterNamespace"})
# What opens something is wanted often, what ends the run seldom: else a sequence is over before it has begun.
COMMAND_WEIGHTS = {
    "SCHEDULE_ACTIVITY_TASK": 5, "START_TIMER": 3, "START_CHILD_WORKFLOW_EXECUTION": 2,
    "PROTOCOL_MESSAGE": 0.3, "CANCEL_TIMER": 0.5, "REQUEST_CANCEL_ACTIVITY_TASK": 0.5,
    "COMPLETE_WORKFLOW_EXECUTION": 0.3, "FAIL_WORKFLOW_EXECUTION": 0.3, "CANCEL_WORKFLOW_EXECUTION": 0.3,
    "CONTINUE_AS_NEW_WORKFLOW_EXECUTION": 0.3, "SCHEDULE_NEXUS_OPERATION": 0.3, "REQUEST_CANCEL_NEXUS_OPERATION": 0.3,
}  # fmt: skip
PURPOSES = {
    "RespondWorkflowTaskCompleted": "workflow",
    "RespondWorkflowTaskFailed": "workflow",
    "RespondQueryTaskCompleted": "query",
    "GetWorkflowExecutionHistory": "history-page",
    "GetWorkflowExecutionHistoryReverse": "history-page",
}
PACKED: tuple[type[Message], ...] = (Acceptance, Rejection, Request, Response)


def temper_of(rng: random.Random) -> str:
    return rng.choices([name for name, _ in TEMPERS], [share for _, share in TEMPERS])[0]


class MessageMaker:
    """One message per `make`; give each its own rng, so that one seed means one message."""

    def __init__(self, rng: random.Random, pools: Pools, call: str, temper: str = "") -> None:
        self.rng, self.pools, self.call = rng, pools, call
        self.temper = temper or temper_of(rng)
        self.badness = BADNESS[self.temper]
        self.density = rng.choice((0.08, 0.3, 0.7))
        self.messages_left = 400  # a bound for dense and deep types
        self._by_name = _by_name()

    def make(self, form: type[Message]) -> Any:
        message = form()
        self.fill(message, 0)
        if self.call == "ExecuteMultiOperation" and self.badness < 0.5:
            _start_and_update(self, message)
        if self.temper == "spoiled":
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                self.spoil(message)
        return message

    def is_bad(self) -> bool:
        return self.rng.random() < self.badness

    # --- filling ------------------------------------------------------------------------------------------------------
    def fill(self, message: Any, depth: int) -> None:
        descriptor: Descriptor = message.DESCRIPTOR
        special = _SPECIAL.get(descriptor.full_name)
        if special is not None:
            special(self, message, self.is_bad())
            return
        chosen = {group.name: self.rng.choice(group.fields).name for group in descriptor.oneofs if len(group.fields) > 1}
        for field in descriptor.fields:
            group = field.containing_oneof
            if group is not None and len(group.fields) > 1:
                if chosen[group.name] != field.name or (depth == 0 and self.rng.random() > 0.97):
                    continue
            elif not self._wants(field, depth):
                continue
            self.set_field(message, field, depth, self.is_bad())

    def _wants(self, field: FieldDescriptor, depth: int) -> bool:
        if field.message_type is not None and (depth >= DEPTH_MAX or self.messages_left <= 0):
            return False
        if field.name in KEY_FIELDS:
            return self.rng.random() < (0.99 if self.badness < 0.5 else 0.7)
        if field.name.startswith("versioning") or field.name in ("deployment_options", "time_skipping_config"):
            return self.rng.random() < self.density / 10  # not built: most servers refuse the whole request
        return self.rng.random() < self.density

    def set_field(self, message: Any, field: FieldDescriptor, depth: int, bad: bool) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field, depth, bad)
        elif field.is_repeated:
            items = getattr(message, field.name)
            for _ in range(self._count(field, depth, bad)):
                if field.message_type is not None:
                    self._fill_child(items.add(), depth, bad)
                else:
                    items.append(self.scalar(field, bad))
        elif field.message_type is not None:
            child = getattr(message, field.name)
            child.SetInParent()
            self._fill_child(child, depth, bad)
        else:
            setattr(message, field.name, self.scalar(field, bad))

    def _fill_child(self, child: Any, depth: int, bad: bool) -> None:
        self.messages_left -= 1
        if bad and child.DESCRIPTOR.full_name in _SPECIAL:
            _SPECIAL[child.DESCRIPTOR.full_name](self, child, True)
        elif not (bad and self.rng.random() < 0.3):  # else: there, but empty
            self.fill(child, depth + 1)

    def _count(self, field: FieldDescriptor, depth: int, bad: bool) -> int:
        if bad and depth < 2 and self.rng.random() < 0.1:
            return self.rng.choice((100, 2_001))
        if field.name == "operations":
            return 2
        return self.rng.choice((0, 1, 1, 2, 3))

    def _fill_map(self, entries: Any, field: FieldDescriptor, depth: int, bad: bool) -> None:
        assert field.message_type is not None
        value = field.message_type.fields_by_name["value"]
        key_field = field.message_type.fields_by_name["key"]
        for _ in range(200 if bad and self.rng.random() < 0.1 else self.rng.randrange(3)):
            key = self.scalar(key_field, bad)
            if key_field.type == FieldDescriptor.TYPE_STRING and not bad:
                key = self._attribute(field, key)
            if value.message_type is not None:
                self._fill_child(entries[key], depth, bad)
            else:
                entries[key] = self.scalar(value, bad)

    def _attribute(self, field: FieldDescriptor, key: Any) -> str:
        if field.name == "search_attributes":
            return f"New{self.rng.randrange(20)}"
        return self.rng.choice(values.ATTRIBUTES) if field.name == "indexed_fields" else f"k{key}"

    # --- scalars ------------------------------------------------------------------------------------------------------
    def scalar(self, field: FieldDescriptor, bad: bool) -> Any:
        rng = self.rng
        if field.type == FieldDescriptor.TYPE_STRING:
            return self.text(field, bad)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.binary(field, bad)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        if field.type == FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None
            return rng.choice(values.ENUMS) if bad else rng.choice(field.enum_type.values).number
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            value = rng.choice(values.FLOATS) if bad else rng.choice((1.0, 2.0, 1.5, 10.0))
            return value if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE or abs(value) < 1e38 else float("inf")
        if not bad:
            return rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 10))
        if field.cpp_type == FieldDescriptor.CPPTYPE_INT64:
            return rng.choice(values.INT64)
        return rng.choice(values.INT32 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else values.UINT)

    def text(self, field: FieldDescriptor, bad: bool) -> str:
        holder = field.containing_type.full_name if field.containing_type is not None else ""
        if bad:
            if field.name == "namespace" and self.rng.random() < 0.6:
                foreign = "nobody" if self.call in NAMESPACE_CALLS else OTHER
                return self.rng.choice((foreign, "nowhere", "temporal-system", ""))
            if (field.name == "query" and "List" in holder) or (field.name == "query" and "Count" in holder):
                return self.rng.choice(values.BAD_QUERIES)
            if field.name == "cron_schedule":
                return self.rng.choice(values.BAD_CRONS)
            if field.name in ("workflow_id", "run_id") and self.pools.foreign_runs and self.rng.random() < 0.4:
                return self.rng.choice(self.pools.foreign_runs)[field.name == "run_id"]
            return values.bad_text(self.rng)
        maker = self._by_name.get(field.name)
        if maker is not None:
            return maker(self)
        return self.rng.choice(("one", "two", "three"))

    def binary(self, field: FieldDescriptor, bad: bool) -> bytes:
        rng = self.rng
        if field.name in ("task_token", "next_page_token"):
            purpose = PURPOSES.get(self.call, "page" if field.name == "next_page_token" else "activity")
            if not bad:
                return b"" if field.name == "next_page_token" and rng.random() < 0.7 else self.pools.token(rng, purpose)
            others = self.pools.any_tokens() or [b"x"]
            return rng.choice(
                (b"", rng.randbytes(40), values.mutated_bytes(rng, self.pools.token(rng, purpose)), rng.choice(others))
            )
        if bad:
            return rng.choice(values.BAD_ENCODED)
        return rng.choice(values.ENCODED)

    # --- spoiling -----------------------------------------------------------------------------------------------------
    def spoil(self, message: Any) -> None:
        """Makes one field, anywhere in the message, bad or absent."""
        places = list(_places(message))
        if not places:
            return
        holder, field = self.rng.choice(places)
        special = _SPECIAL.get(holder.DESCRIPTOR.full_name)
        if special is not None:
            special(self, holder, True)
        elif self.rng.random() < 0.3:
            holder.ClearField(field.name)
        else:
            if field.is_repeated and self.rng.random() < 0.5:
                holder.ClearField(field.name)
            self.set_field(holder, field, 1, True)


def _places(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Every set field of the message and of those within it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    yield from _places(item)
        elif field.is_repeated:
            for item in value:
                yield from _places(item)
        else:
            yield from _places(value)


def _start_and_update(maker: MessageMaker, message: Any) -> None:
    """The only pair that is served: anything else is refused before it is read."""
    del message.operations[:]
    start, update = message.operations.add().start_workflow, message.operations.add().update_workflow
    maker.fill(start, 1)
    maker.fill(update, 1)
    start.cron_schedule, start.request_eager_execution = "", False
    start.ClearField("workflow_start_delay")
    update.workflow_execution.workflow_id, update.workflow_execution.run_id = start.workflow_id, ""


# --- types with a form of their own ---------------------------------------------------------------------------------------
def _duration(maker: MessageMaker, message: Any, bad: bool) -> None:
    message.seconds, message.nanos = maker.rng.choice(values.DURATIONS) if bad else (maker.rng.choice((1, 5, 10, 60, 3_600)), 0)


def _timestamp(maker: MessageMaker, message: Any, bad: bool) -> None:
    plausible = (1_700_000_000 + maker.rng.randrange(10**8), maker.rng.randrange(10**9))
    message.seconds, message.nanos = maker.rng.choice(values.TIMESTAMPS) if bad else plausible


def _any(maker: MessageMaker, message: Any, bad: bool) -> None:
    inner = maker.rng.choice(PACKED)()
    maker.messages_left -= 1
    maker.fill(inner, 3)
    message.Pack(inner)
    if bad and maker.rng.random() < 0.5:
        message.value = values.mutated_bytes(maker.rng, message.value)
    elif bad:
        message.type_url = maker.rng.choice(
            ("", "/", "nobody", "type.googleapis.com/", "type.googleapis.com/temporal.api.nobody.v1.No")
        )


def _field_mask(maker: MessageMaker, message: Any, bad: bool) -> None:
    paths = values.BAD_MASK_PATHS if bad else values.MASK_PATHS
    del message.paths[:]
    message.paths.extend(maker.rng.choice(paths) for _ in range(maker.rng.randrange(1, 4)))


def _execution(maker: MessageMaker, message: Any, bad: bool) -> None:
    message.workflow_id, message.run_id = maker.pools.run(maker.rng)
    if bad:
        which = "workflow_id" if maker.rng.random() < 0.5 else "run_id"
        setattr(message, which, maker.text(message.DESCRIPTOR.fields_by_name[which], True))


def _command(maker: MessageMaker, message: Any, bad: bool) -> None:
    """Type and attributes that belong together, unless it is bad."""
    attributes = [field for field in message.DESCRIPTOR.fields if field.name.endswith("_command_attributes")]
    names = [field.name.removesuffix("_command_attributes").upper() for field in attributes]
    field, name = maker.rng.choices(list(zip(attributes, names, strict=True)), [COMMAND_WEIGHTS.get(name, 1) for name in names])[
        0
    ]
    message.command_type = CommandType.Value(f"COMMAND_TYPE_{name}")
    if bad and maker.rng.random() < 0.5:
        message.command_type = maker.rng.choice((*values.ENUMS, *CommandType.values()))
    if not (bad and maker.rng.random() < 0.4):
        maker.set_field(message, field, 1, bad)
    if maker.rng.random() < 0.1:
        maker.set_field(message, message.DESCRIPTOR.fields_by_name["user_metadata"], 3, bad)


def _payload(maker: MessageMaker, message: Any, bad: bool) -> None:
    message.metadata["encoding"] = maker.rng.choice(
        values.BAD_ENCODINGS if bad and maker.rng.random() < 0.5 else values.ENCODINGS
    )
    message.data = maker.rng.choice(values.BAD_ENCODED if bad else values.ENCODED)
    if maker.rng.random() < 0.1:
        message.metadata["type"] = maker.rng.choice((b"Keyword", b"Int", b"Nothing", b"\xff"))


_SPECIAL: dict[str, Callable[[MessageMaker, Any, bool], None]] = {
    "google.protobuf.Duration": _duration,
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Any": _any,
    "google.protobuf.FieldMask": _field_mask,
    "temporal.api.common.v1.WorkflowExecution": _execution,
    "temporal.api.command.v1.Command": _command,
    "temporal.api.common.v1.Payload": _payload,
}


def _namespace(maker: MessageMaker) -> str:
    if maker.call in NAMESPACE_CALLS:  # only namespaces that nothing else needs are changed or deleted
        return f"{DOOMED}-{maker.rng.randrange(4)}"
    return maker.pools.namespace


def _namespace_id(maker: MessageMaker) -> str:
    return maker.rng.choice(maker.pools.namespace_ids) if maker.rng.random() < 0.05 and maker.call not in NAMESPACE_CALLS else ""


def _by_name() -> dict[str, Callable[[MessageMaker], str]]:
    """Field name -> what a correct client writes there."""

    def one_of(*choices: str) -> Callable[[MessageMaker], str]:
        return lambda maker: maker.rng.choice(choices)

    return {
        "namespace": _namespace,
        "namespace_id": _namespace_id,
        "id": lambda maker: _namespace_id(maker) if maker.call == "DescribeNamespace" else maker.rng.choice(("m1", "m2", "m3")),
        "workflow_id": lambda maker: (
            maker.pools.run(maker.rng)[0] if maker.pools.is_single or maker.rng.random() < 0.7 else f"w{maker.rng.randrange(30)}"
        ),
        "run_id": lambda maker: maker.rng.choice(("", "", maker.pools.run(maker.rng)[1])),
        "first_execution_run_id": lambda maker: maker.rng.choice(("", "", "", maker.pools.run(maker.rng)[1])),
        "request_id": lambda maker: maker.rng.choice((*maker.pools.request_ids, f"r{maker.rng.randrange(1 << 30)}")),
        "activity_id": lambda maker: maker.rng.choice(maker.pools.activity_ids),
        "timer_id": lambda maker: maker.rng.choice(maker.pools.timer_ids),
        "update_id": lambda maker: maker.rng.choice([*maker.pools.update_ids, f"u{maker.rng.randrange(1 << 30)}"]),
        "protocol_instance_id": lambda maker: maker.rng.choice(maker.pools.update_ids),
        "message_id": one_of("m1", "m2", "m3"),
        "name": lambda maker: maker.rng.choice((maker.pools.queue, maker.pools.queue, maker.pools.queue, "Raw")),
        "task_queue": lambda maker: maker.pools.queue,
        "normal_name": lambda maker: maker.pools.queue,
        "query": lambda maker: maker.rng.choice(values.QUERIES),
        "query_type": one_of("q", "__stack_trace"),
        "cron_schedule": lambda maker: maker.rng.choice(values.CRONS),
        "identity": one_of("fuzz", "fuzz-2"),
        "url": one_of("http://localhost:9/callback", "https://example.com/x", "temporal://system"),
        "search_attributes": lambda maker: f"New{maker.rng.randrange(20)}",  # removed ones are missing in later requests
        "worker_instance_key": one_of("worker-1", "worker-2"),
    }
