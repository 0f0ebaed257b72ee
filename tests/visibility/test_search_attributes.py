"""Search attributes: decoding, validation, merging."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from temporalio.api.common.v1 import Payload, SearchAttributes

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.visibility.search_attributes import (
    PREDEFINED,
    SYSTEM,
    AttributeType,
    UndecodableValue,
    as_message,
    decode_values,
    encode_value,
    index_terms,
    is_reserved,
    merge,
    payload_type,
    tokens,
    validate,
)
from tests.visibility.rows import SCHEMA

LIMITS = Limits()


def _json(value: Any, encoding: bytes = b"json/plain") -> Payload:
    return Payload(metadata={"encoding": encoding}, data=msgspec.json.encode(value))


def _message(**values: Payload) -> SearchAttributes:
    return SearchAttributes(indexed_fields=values)


@pytest.mark.parametrize(
    ("kind", "value", "values"),
    [
        (AttributeType.KEYWORD, "a", ("a",)),
        (AttributeType.KEYWORD, ["a", "b"], ("a", "b")),
        (AttributeType.KEYWORD_LIST, ["a"], ("a",)),
        (AttributeType.INT, -(2**63), (-(2**63),)),
        (AttributeType.DOUBLE, 3, (3,)),
        (AttributeType.BOOL, False, (False,)),
        (AttributeType.DATETIME, "2024-01-01T00:00:00Z", ("2024-01-01T00:00:00Z",)),
        (AttributeType.TEXT, None, ()),
        (AttributeType.KEYWORD_LIST, [], ()),
    ],
)
def test_a_value_of_the_type_is_decoded(kind: AttributeType, value: Any, values: tuple[Any, ...]) -> None:
    assert decode_values(_json(value), kind) == values


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (AttributeType.KEYWORD, _json(1)),
        (AttributeType.KEYWORD, _json("a", b"binary/plain")),
        (AttributeType.KEYWORD, Payload(metadata={"encoding": b"json/plain"}, data=b'"\xff"')),
        (AttributeType.KEYWORD, Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 100_000)),
        (AttributeType.KEYWORD_LIST, _json("a")),
        (AttributeType.KEYWORD_LIST, _json(["a", None])),
        (AttributeType.INT, _json(2**63)),
        (AttributeType.INT, _json(1.0)),
        (AttributeType.INT, _json(True)),
        (AttributeType.DOUBLE, Payload(metadata={"encoding": b"json/plain"}, data=b"1" + b"0" * 400)),
        (AttributeType.BOOL, _json(1)),
        (AttributeType.DATETIME, _json("2024-01-01")),
    ],
)
def test_a_value_of_another_type_is_not_decoded(kind: AttributeType, payload: Payload) -> None:
    with pytest.raises(UndecodableValue):
        decode_values(payload, kind)
    typed = Payload(metadata={**payload.metadata, "type": kind.name.encode()}, data=payload.data)
    assert index_terms(typed.SerializeToString()) is None


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        (_message(Unknown=_json("a")), "has no mapping defined for search attribute Unknown"),
        (_message(Amount=_json([1, 2])), "invalid value for search attribute Amount of type Int: [1 2]"),
        (_message(WorkflowId=_json("a")), "WorkflowId attribute can't be set in SearchAttributes"),
        (_message(TemporalWorkerDeployment=_json("a")), "TemporalWorkerDeployment attribute can't be set in"),
        (_message(Amount=_json("a")), "invalid value for search attribute Amount of type Int: a"),
        (_message(Amount=_json([1, "b"])), "invalid value for search attribute Amount of type Int: [1 b]"),
        (_message(Amount=_json(1, b"x")), "invalid value for search attribute Amount of type Int: value of encoding <x>"),
    ],
)
def test_what_cannot_be_set_is_refused_with_its_reason(attributes: SearchAttributes, told: str) -> None:
    with pytest.raises(CallerError) as refused:
        validate(attributes, SCHEMA, LIMITS)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert told in refused.value.message


def test_callers_may_set_custom_attributes_and_the_older_predefined_ones() -> None:
    given = _message(CustomerId=_json("a"), Amount=_json(None), BuildIds=_json(["b"]))
    validate(given, SCHEMA, LIMITS)
    types = {name: payload.metadata["type"] for name, payload in given.indexed_fields.items()}
    assert types == {"CustomerId": b"Keyword", "Amount": b"Int", "BuildIds": b"KeywordList"}, "each is told its type"


def _is_valid(attributes: SearchAttributes, limits: Limits) -> bool:
    try:
        copy = SearchAttributes()
        copy.CopyFrom(attributes)
        validate(copy, SCHEMA, limits)
    except CallerError as refused:
        assert "limit" in refused.message
        return False
    return True


def test_number_value_size_and_total_size_are_limited() -> None:
    two = _message(CustomerId=_json("a"), Amount=_json(1))
    value_bytes, total_bytes = len(two.indexed_fields["CustomerId"].data), two.ByteSize()
    for name, size in (
        ("search_attributes_count_max", 2),
        ("search_attribute_bytes_max", value_bytes),
        ("search_attributes_bytes_max", total_bytes),
    ):
        assert _is_valid(two, Limits(**{name: size + 1})) and _is_valid(two, Limits(**{name: size}))
        assert not _is_valid(two, Limits(**{name: size - 1}))


def test_an_upsert_sets_types_and_null_and_the_empty_list_unset() -> None:
    current = {name: encode_value("old", AttributeType.KEYWORD).SerializeToString() for name in ("CustomerId", "Tags", "Kept")}
    merged = merge(current, _message(CustomerId=_json("new"), Tags=_json([]), Amount=_json(None)), SCHEMA)
    assert sorted(merged) == ["CustomerId", "Kept"]
    payload = Payload.FromString(merged["CustomerId"])
    assert payload_type(payload) is AttributeType.KEYWORD and payload.data == b'"new"'


def test_an_attribute_that_is_not_defined_any_more_is_not_shown() -> None:
    stored = {name: encode_value("x", AttributeType.KEYWORD).SerializeToString() for name in ("CustomerId", "Gone", "Amount")}
    assert list(as_message(stored, SCHEMA).indexed_fields) == ["CustomerId"]


def test_words_have_neither_case_nor_accents_nor_punctuation() -> None:
    assert tokens("Ça VA, ça_va? naïve-Straße 42") == ("ca", "va", "naive", "strasse", "42")


def test_no_operator_may_define_a_name_of_the_system() -> None:
    assert all(is_reserved(name) for name in (*SYSTEM, *PREDEFINED, "NamespaceId", "TemporalAnything"))
    assert not is_reserved("CustomerId")


def test_bytes_that_are_no_payload_are_not_indexed() -> None:
    assert index_terms(b"\xff\xff") is None
