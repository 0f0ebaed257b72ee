"""Search attributes: which exist, what type each has, how a value travels in a payload and what of it is indexed.

| kind       | who defines it          | who sets it                      | where it is kept                      |
|------------|-------------------------|----------------------------------|---------------------------------------|
| system     | this file               | the server alone                 | a field of the visibility row         |
| predefined | this file               | the server; some by callers too  | the row's `search_attributes`         |
| custom     | a namespace's operators | callers                          | the row's `search_attributes`         |

A value is JSON in a payload whose metadata `type` names its type. Null and the empty list unset an attribute. Callers may
set a list for a KeywordList only; a stored list of another type is read, a condition then holds for any of its values.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload, SearchAttributes

from cluster.config import Limits
from cluster.core.errors import invalid_argument
from cluster.visibility.moments import clamp_int64, parse_rfc3339_ns

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class AttributeType(IntEnum):
    """temporal.api.enums.v1.IndexedValueType."""

    TEXT = 1
    KEYWORD = 2
    INT = 3
    DOUBLE = 4
    BOOL = 5
    DATETIME = 6
    KEYWORD_LIST = 7


TYPE_NAME: dict[AttributeType, str] = {
    AttributeType.TEXT: "Text",
    AttributeType.KEYWORD: "Keyword",
    AttributeType.INT: "Int",
    AttributeType.DOUBLE: "Double",
    AttributeType.BOOL: "Bool",
    AttributeType.DATETIME: "Datetime",
    AttributeType.KEYWORD_LIST: "KeywordList",
}
# Both spellings are met in payload metadata: the short one of SDKs, the long one of the enum.
_TYPE_OF_NAME = {name: kind for kind, name in TYPE_NAME.items()} | {
    f"INDEXED_VALUE_TYPE_{kind.name}": kind for kind in AttributeType
}

_K, _I, _D, _L = AttributeType.KEYWORD, AttributeType.INT, AttributeType.DATETIME, AttributeType.KEYWORD_LIST

SYSTEM: dict[str, AttributeType] = {
    "WorkflowId": _K,
    "RunId": _K,
    "WorkflowType": _K,
    "StartTime": _D,
    "ExecutionTime": _D,
    "CloseTime": _D,
    "ExecutionStatus": _K,
    "TaskQueue": _K,
    "HistoryLength": _I,
    "ExecutionDuration": _I,
    "StateTransitionCount": _I,
    "HistorySizeBytes": _I,
    "ParentWorkflowId": _K,
    "ParentRunId": _K,
    "RootWorkflowId": _K,
    "RootRunId": _K,
}

NAMESPACE_DIVISION = "TemporalNamespaceDivision"

# Predefined attributes that callers may set themselves (the real server keeps the same list for old users' sake).
_PREDEFINED_SETTABLE: dict[str, AttributeType] = {
    "TemporalChangeVersion": _L,
    "BinaryChecksums": _L,
    "BuildIds": _L,
    "BatcherNamespace": _K,
    "BatcherUser": _K,
    "TemporalScheduledStartTime": _D,
    "TemporalScheduledById": _K,
    "TemporalSchedulePaused": AttributeType.BOOL,
    NAMESPACE_DIVISION: _K,
    "TemporalPauseInfo": _L,
    "TemporalReportedProblems": _L,
}

PREDEFINED: dict[str, AttributeType] = _PREDEFINED_SETTABLE | {
    "TemporalWorkerDeploymentVersion": _K,
    "TemporalWorkflowVersioningBehavior": _K,
    "TemporalWorkerDeployment": _K,
    "TemporalUsedWorkerDeploymentVersions": _L,
    "TemporalExternalPayloadCount": _I,
    "TemporalExternalPayloadSizeBytes": _I,
}

_RESERVED_NAMES = frozenset({"NamespaceId", "MemoEncoding", "Memo", "VisibilityTaskKey"})
_RESERVED_PREFIX = "Temporal"


def is_reserved(name: str) -> bool:
    """Names that no operator may define."""
    return name in SYSTEM or name in PREDEFINED or name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIX)


class Schema:
    """The attributes that exist in one namespace. Immutable: a change of the namespace makes a new one."""

    __slots__ = ("custom",)

    def __init__(self, custom: Mapping[str, int] | None = None) -> None:
        self.custom: dict[str, AttributeType] = {name: AttributeType(kind) for name, kind in (custom or {}).items()}

    def type_of(self, name: str) -> AttributeType | None:
        """The type of a system, predefined or custom attribute; None when there is no such attribute."""
        return SYSTEM.get(name) or PREDEFINED.get(name) or self.custom.get(name)

    def stored_type_of(self, name: str) -> AttributeType | None:
        """As type_of, without the system attributes, which are not kept among a run's search attributes."""
        return PREDEFINED.get(name) or self.custom.get(name)

    def system_attributes(self) -> dict[str, AttributeType]:
        """What ListSearchAttributes answers as system attributes."""
        return SYSTEM | PREDEFINED


class UndecodableValue(ValueError):
    """The payload does not hold a value of the type."""


Scalar = str | int | float | bool
Values = tuple[Scalar, ...]


def _is_valid(kind: AttributeType, value: object) -> bool:
    match kind:
        case AttributeType.TEXT | AttributeType.KEYWORD | AttributeType.KEYWORD_LIST:
            return isinstance(value, str)
        case AttributeType.BOOL:
            return isinstance(value, bool)
        case AttributeType.INT:
            return isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX
        case AttributeType.DOUBLE:
            return isinstance(value, float) or (
                isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
            )
        case AttributeType.DATETIME:
            return isinstance(value, str) and parse_rfc3339_ns(value) is not None


def _json_of(payload: Payload) -> Any:
    encoding = payload.metadata.get("encoding", b"")
    if encoding == b"binary/null":
        return None
    if encoding != b"json/plain":
        raise UndecodableValue(f"encoding {encoding.decode('utf-8', 'replace')!r} is not json/plain")
    try:
        return msgspec.json.decode(payload.data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as broken:
        raise UndecodableValue(str(broken)) from broken


def decode_values(payload: Payload, kind: AttributeType) -> Values:
    """The values a payload holds, () when it unsets the attribute. Raises UndecodableValue.

    Datetimes come back as their RFC 3339 text: the text is what callers get back, the moment only what is indexed.
    """
    value = _json_of(payload)
    if value is None:
        return ()
    if not isinstance(value, list):
        if kind is AttributeType.KEYWORD_LIST:
            raise UndecodableValue("a KeywordList is a list of strings")
        value = [value]
    if not all(_is_valid(kind, item) for item in value):
        raise UndecodableValue(f"not of type {TYPE_NAME[kind]}")
    return tuple(value)


def payload_type(payload: Payload) -> AttributeType | None:
    """The type its metadata names."""
    return _TYPE_OF_NAME.get(payload.metadata.get("type", b"").decode("utf-8", "replace"))


def typed_payload(payload: Payload, kind: AttributeType) -> Payload:
    """A copy whose metadata names its type, as every answer of the server carries it."""
    typed = Payload()
    typed.CopyFrom(payload)
    typed.metadata["type"] = TYPE_NAME[kind].encode()
    return typed


def encode_value(value: Scalar | list[str] | None, kind: AttributeType) -> Payload:
    """A payload the server itself sets (build ids, schedule, group values)."""
    if value is None:
        return Payload(metadata={"encoding": b"binary/null", "type": TYPE_NAME[kind].encode()})
    return Payload(metadata={"encoding": b"json/plain", "type": TYPE_NAME[kind].encode()}, data=msgspec.json.encode(value))


# --- what is indexed --------------------------------------------------------------------------------------------------
_WORD = re.compile(r"[^\W_]+")


def tokens(text: str) -> tuple[str, ...]:
    """The words of a Text value: letters and digits, without case and accents, each once, in order."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return tuple(dict.fromkeys(_WORD.findall(plain.casefold())))


def index_terms(encoded: bytes) -> tuple[AttributeType, tuple[str | int | float, ...]] | None:
    """Type and comparable values of a stored payload; None for one that is unset or was never valid.

    Text gives its tokens, or one empty token, which no query word equals, so that IS NULL can tell it from nothing.
    """
    try:
        payload = Payload.FromString(encoded)
        kind = payload_type(payload)
        values = decode_values(payload, kind) if kind is not None else ()
    except (UndecodableValue, DecodeError):
        return None
    if kind is None or not values:
        return None
    if kind is AttributeType.TEXT:
        return kind, tuple(dict.fromkeys(token for value in values for token in tokens(str(value)))) or ("",)
    if kind is AttributeType.DATETIME:
        moments = (parse_rfc3339_ns(str(value)) for value in values)
        return kind, tuple(dict.fromkeys(clamp_int64(moment) for moment in moments if moment is not None))
    if kind is AttributeType.BOOL:
        return kind, tuple(dict.fromkeys(int(value) for value in values))
    if kind is AttributeType.DOUBLE:
        return kind, tuple(dict.fromkeys(float(value) + 0.0 for value in values))  # -0.0 is 0.0
    return kind, tuple(dict.fromkeys(value for value in values))


def all_index_terms(attributes: Mapping[str, bytes]) -> dict[str, tuple[AttributeType, tuple[str | int | float, ...]]]:
    """Name to type and values, without what is unset."""
    found = ((name, index_terms(encoded)) for name, encoded in attributes.items())
    return {name: terms for name, terms in found if terms is not None}


# --- validation and merge ---------------------------------------------------------------------------------------------
def _as_go_prints(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(map(_as_go_prints, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_as_go_prints(inner)}" for key, inner in sorted(value.items())) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(payload: Payload) -> str:
    """The value for an error message, cut so that a message never grows with its input."""
    try:
        text = _as_go_prints(_json_of(payload))
    except (UndecodableValue, RecursionError):
        text = f"value of encoding <{payload.metadata.get('encoding', b'').decode('utf-8', 'replace')}>"
    return text if len(text) <= 200 else text[:200] + "..."


def _validate_one(name: str, payload: Payload, schema: Schema, namespace: str) -> None:
    if name in SYSTEM or (name in PREDEFINED and name not in _PREDEFINED_SETTABLE):
        raise invalid_argument(f"{name} attribute can't be set in SearchAttributes")
    kind = schema.stored_type_of(name)
    if kind is None:
        raise invalid_argument(f"Namespace {namespace} has no mapping defined for search attribute {name}")
    try:
        values = decode_values(payload, kind)
        is_wrong = bool(values) and kind is not AttributeType.KEYWORD_LIST and isinstance(_json_of(payload), list)
    except UndecodableValue:
        is_wrong = True
    if is_wrong:
        raise invalid_argument(f"invalid value for search attribute {name} of type {TYPE_NAME[kind]}: {_shown(payload)}")
    payload.metadata["type"] = TYPE_NAME[kind].encode()


def validate(attributes: SearchAttributes, schema: Schema, limits: Limits, namespace: str = "") -> None:
    """Checks what a caller or a command sets, and writes its type into each payload: so it is stored and told from then on.

    Raises CallerError INVALID_ARGUMENT, worded as the real server words it.
    """
    fields, total = attributes.indexed_fields, attributes.ByteSize()
    if len(fields) > limits.search_attributes_count_max:
        raise invalid_argument(
            f"number of search attributes {len(fields)} exceeds limit {limits.search_attributes_count_max}"
        )
    for name in sorted(fields):
        _validate_one(name, fields[name], schema, namespace)
        size = len(fields[name].data)
        if size > limits.search_attribute_bytes_max:
            raise invalid_argument(
                f"search attribute {name} value size {size} exceeds size limit {limits.search_attribute_bytes_max}"
            )
    if total > limits.search_attributes_bytes_max:
        raise invalid_argument(
            f"total size of search attributes {total} exceeds size limit {limits.search_attributes_bytes_max}"
        )


def merge(current: Mapping[str, bytes], changes: SearchAttributes, schema: Schema) -> dict[str, bytes]:
    """The attributes after an upsert of validated changes: set ones replaced (and typed), unset ones gone."""
    merged = dict(current)
    for name, payload in changes.indexed_fields.items():
        kind = schema.stored_type_of(name)
        if kind is not None and decode_values(payload, kind):
            merged[name] = typed_payload(payload, kind).SerializeToString(deterministic=True)
        else:
            merged.pop(name, None)
    return merged


def as_message(attributes: Mapping[str, bytes], schema: Schema, names: Iterable[str] | None = None) -> SearchAttributes:
    """The message for an answer. An attribute that the namespace no longer defines (or defines otherwise) is left out."""
    message = SearchAttributes()
    for name in attributes if names is None else names:
        payload = Payload.FromString(attributes[name])
        if (kind := schema.stored_type_of(name)) is not None and payload_type(payload) in (kind, None):
            message.indexed_fields[name].CopyFrom(typed_payload(payload, kind))
    return message
