"""Two versions in one ring: what a newer one adds is kept or refused loudly, never lost in silence.

| what                              | a field that this version does not know                                             |
|-----------------------------------|-------------------------------------------------------------------------------------|
| snapshot, journal record          | is refused: read and written again it would be lost; a shard with it stays closed    |
| message between nodes             | is passed over: it is read once; what means something else has a higher version      |
| member in etcd                    | is passed over: only the node itself writes its entry                                |

Defaults are not written, so a newer version's field is in the way of an older one only where it is used.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cluster.core.apply import new_state
from cluster.core.entry import CancelNote, Entry, EntryFormatError, Item, decode_group, encode_entry, encode_group
from cluster.core.errors import CallerError, Code
from cluster.core.state import RunState, SnapshotFormatError, WorkflowTask, decode_state, encode_state
from cluster.membership.members import NodeInfo
from cluster.routing import history_messages, matching_messages

REFUSED = (msgspec.ValidationError, EntryFormatError, SnapshotFormatError)
MESSAGES = [
    (module.decode, form)
    for module in (history_messages, matching_messages)
    for form in vars(module).values()
    if isinstance(form, type) and issubclass(form, msgspec.Struct) and "version" in form.__struct_fields__
]


def stored_forms(form: Any, seen: set[type]) -> Iterator[type]:
    """Every struct that a stored one is made of."""
    if isinstance(form, type) and issubclass(form, msgspec.Struct):
        if form in seen:
            return
        seen.add(form)
        yield form
        for field in typing.get_type_hints(form).values():
            yield from stored_forms(field, seen)
    elif isinstance(form, types.UnionType) or typing.get_args(form):
        for part in typing.get_args(form):
            yield from stored_forms(part, seen)


ROOTS = (RunState, Entry, Item)
STORED = sorted({form for root in ROOTS for form in stored_forms(root, set())}, key=lambda form: form.__name__)


@pytest.mark.parametrize("form", STORED, ids=lambda form: form.__name__)
def test_no_struct_that_is_stored_passes_over_what_it_does_not_know(form: type[msgspec.Struct]) -> None:
    assert form.__struct_config__.forbid_unknown_fields, f"{form.__name__} would lose a newer version's field in silence"


def test_the_walk_over_stored_structs_finds_the_nested_ones() -> None:
    assert {RunState, WorkflowTask, Entry, CancelNote} <= set(STORED)
    assert len(STORED) > 25


def plain(state: RunState) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.msgpack.decode(encode_state(state)[1:])
    return told


def snapshot(fields: dict[str, Any]) -> bytes:
    return encode_state(new_state("n", "w", "r"))[:1] + msgspec.msgpack.encode(fields)


def test_a_snapshot_with_a_field_of_a_newer_version_is_refused() -> None:
    fields = plain(new_state("n", "w", "r"))
    assert decode_state(snapshot(fields)).run_id == "r"
    with pytest.raises(REFUSED):
        decode_state(snapshot(fields | {"of_tomorrow": 1}))


def test_a_snapshot_of_a_newer_format_says_what_to_do() -> None:
    with pytest.raises(SnapshotFormatError, match="run the version that wrote it"):
        decode_state(bytes([99]) + encode_state(new_state("n", "w", "r"))[1:])


def test_a_field_at_its_default_is_not_written() -> None:
    """Else every field that a newer version adds would lock the older one out at once."""
    assert set(plain(new_state("n", "w", "r"))) == {"namespace_id", "workflow_id", "run_id"}


ENTRY = ["n", "w", "r", 1, 5, [["x", "request"]], 0]


def record(*entries: list[Any]) -> bytes:
    return encode_group([msgspec.msgpack.encode(entry) for entry in entries])


def test_the_journal_record_of_these_tests_is_one_that_is_read() -> None:
    assert encode_entry(decode_group(record([*ENTRY[:6], 7]))[0]) == msgspec.msgpack.encode([*ENTRY[:6], 7])


def test_the_record_of_a_namespace_without_a_version_is_the_one_the_release_before_versions_reads() -> None:
    assert encode_entry(decode_group(record(ENTRY))[0]) == msgspec.msgpack.encode(ENTRY[:6])


@pytest.mark.parametrize(
    "entry",
    [[*ENTRY, "of tomorrow"], [*ENTRY[:5], [["x", "request", "of tomorrow"]], 0], [*ENTRY[:5], [["of-tomorrow", 1]], 0]],
    ids=["a field of the entry", "a field of a note", "a kind of note"],
)
def test_a_journal_record_with_something_of_a_newer_version_is_refused(entry: list[Any]) -> None:
    with pytest.raises(REFUSED):
        decode_group(record(ENTRY, entry))


def test_a_journal_record_of_a_newer_format_says_what_to_do() -> None:
    with pytest.raises(EntryFormatError, match="use the version that wrote it"):
        decode_group(bytes([99]) + record(ENTRY)[1:])


@pytest.mark.parametrize(("decode", "form"), MESSAGES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_message_of_a_newer_meaning_is_refused_and_names_itself(decode: Any, form: type[msgspec.Struct]) -> None:
    fields = sample(form)
    with pytest.raises(CallerError) as refused:
        decode(form, msgspec.msgpack.encode(fields | {"version": 99}))
    assert refused.value.code is Code.UNIMPLEMENTED
    assert form.__name__ in refused.value.message


@pytest.mark.parametrize(("decode", "form"), MESSAGES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_message_with_a_field_of_a_newer_version_is_read_without_it(decode: Any, form: type[msgspec.Struct]) -> None:
    fields = sample(form)
    assert decode(form, msgspec.msgpack.encode(fields | {"of_tomorrow": [1, 2]})) == decode(form, msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(("decode", "form"), MESSAGES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_message_that_lacks_what_this_version_needs_is_refused(decode: Any, form: type[msgspec.Struct]) -> None:
    with pytest.raises(CallerError) as refused:
        decode(form, msgspec.msgpack.encode({"version": 1}))
    assert refused.value.code is Code.UNIMPLEMENTED


def test_a_member_of_a_newer_version_is_a_member() -> None:
    fields = {
        "node_id": "n", "address": "127.0.0.1:1", "roles": ["history"], "zone": "", "version": "99", "shard_count": 4,
        "cluster_id": "c", "started_at": 1, "incarnation": "i", "state": "ready", "of_tomorrow": True,
    }  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(fields), type=NodeInfo).node_id == "n"


def sample(form: Any) -> Any:
    """The least that a decoder of `form` takes: its required fields, by their types."""
    return value_of(msgspec.inspect.type_info(form))


def value_of(kind: msgspec.inspect.Type) -> Any:
    inspect = msgspec.inspect
    if isinstance(kind, inspect.StructType):
        needed = [value_of(field.type) for field in kind.fields if field.required]
        names = [field.encode_name for field in kind.fields if field.required]
        if kind.array_like:
            return ([kind.tag] if kind.tag is not None else []) + needed
        return dict(zip(names, needed, strict=True)) | ({kind.tag_field: kind.tag} if kind.tag_field else {})
    if isinstance(kind, inspect.UnionType):
        return value_of(kind.types[0])
    if isinstance(kind, inspect.TupleType):
        return [value_of(item) for item in kind.item_types]
    if isinstance(kind, inspect.EnumType):
        return next(iter(kind.cls)).value
    plain_values: dict[type, Any] = {
        inspect.IntType: 1, inspect.StrType: "x", inspect.BytesType: b"x", inspect.BoolType: True, inspect.FloatType: 1.0,
        inspect.ListType: [], inspect.DictType: {}, inspect.VarTupleType: [], inspect.SetType: [], inspect.NoneType: None,
    }  # fmt: skip
    return plain_values[type(kind)]
