"""The list filter language: what is read, how it is typed, and what a wrong query is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from cluster.visibility.expressions import And, Condition, Not, Operator, Or, conditions, without_not
from cluster.visibility.moments import parse_duration_ns, parse_rfc3339_ns
from cluster.visibility.query import CONDITIONS_MAX, MESSAGE_CHARS_MAX, OPERANDS_MAX, QUERY_BYTES_MAX, parse_query
from cluster.visibility.query_grammar import NESTING_MAX
from cluster.visibility.search_attributes import PREDEFINED, SYSTEM, AttributeType, Schema
from tests.visibility.rows import SCHEMA, SECOND_NS


def _only(text: str, schema: Schema = SCHEMA) -> Condition:
    where = parse_query(text, schema).where
    assert isinstance(where, Condition)
    return where


@pytest.mark.parametrize(
    ("text", "test", "operands", "negated"),
    [
        ("CustomerId = 'x'", Operator.EQUAL, ("x",), False),
        ('CustomerId != "x"', Operator.EQUAL, ("x",), True),
        ("CustomerId <> 'x'", Operator.EQUAL, ("x",), True),
        ("`CustomerId`='it''s'", Operator.EQUAL, ("it's",), False),
        (r"CustomerId = 'a\'b\\c\n'", Operator.EQUAL, ("a'b\\c\n",), False),
        ("CustomerId starts_with 'ab'", Operator.STARTS_WITH, ("ab",), False),
        ("CustomerId NOT STARTS_WITH 'ab'", Operator.STARTS_WITH, ("ab",), True),
        ("CustomerId BETWEEN 'a' AND 'b'", Operator.BETWEEN, ("a", "b"), False),
        ("Amount in (1, -2,+3)", Operator.IN, (1, -2, 3), False),
        ("Amount Not In (1)", Operator.IN, (1,), True),
        ("Amount <= 2.5", Operator.LESS_OR_EQUAL, (2.5,), False),
        ("Amount > 99999999999999999999", Operator.GREATER, (1e20,), False),
        ("Rate NOT BETWEEN 1 AND 2e3", Operator.BETWEEN, (1, 2000.0), True),
        ("Urgent = TRUE", Operator.EQUAL, (1,), False),
        ("Due < '1970-01-01T00:00:01.5Z'", Operator.LESS, (1_500_000_000,), False),
        ("Due = 17", Operator.EQUAL, (17,), False),
        ("CloseTime IS NULL", Operator.IS_NULL, (), False),
        ("CloseTime is not null", Operator.IS_NULL, (), True),
        ("ExecutionStatus = 'Running'", Operator.EQUAL, (1,), False),
        ("ExecutionStatus = 7", Operator.EQUAL, (7,), False),
        ("ExecutionStatus IN ('TimedOut', 'ContinuedAsNew')", Operator.IN, (7, 6), False),
        ("ExecutionStatus = 'WORKFLOW_EXECUTION_STATUS_FAILED'", Operator.EQUAL, (3,), False),
        ("ExecutionDuration > '1h'", Operator.GREATER, (3_600 * SECOND_NS,), False),
        ("ExecutionDuration > '00:10:00'", Operator.GREATER, (600 * SECOND_NS,), False),
        ("ExecutionDuration > 5", Operator.GREATER, (5,), False),
        ("Note = 'Quick, brown'", Operator.EQUAL, ("quick", "brown"), False),
        ("Tags NOT IN ('a', 'b')", Operator.IN, ("a", "b"), True),
        ("ChangeVersion = 'v1'", Operator.EQUAL, ("v1",), False),
        ("ScheduleId = 's'", Operator.EQUAL, ("s",), False),
        ("Note = '...'", Operator.EQUAL, (), False),
    ],
)
def test_a_condition_is_read_and_typed(text: str, test: Operator, operands: tuple[object, ...], negated: bool) -> None:
    found = _only(text)
    assert (found.operator, found.operands, found.negated) == (test, operands, negated)


def test_not_binds_tighter_than_and_and_and_tighter_than_or() -> None:
    where = parse_query("NOT Amount = 1 AND Amount = 2 OR Amount = 3", SCHEMA).where
    assert isinstance(where, Or) and isinstance(where.parts[0], And) and isinstance(where.parts[0].parts[0], Not)


def test_moving_not_inwards_leaves_none_and_keeps_every_condition() -> None:
    where = parse_query("NOT (Amount = 1 AND NOT (Amount = 2 OR Amount != 3))", SCHEMA).where
    assert where is not None
    moved = without_not(where)
    assert isinstance(moved, Or) and isinstance(moved.parts[1], Or)
    assert [condition.negated for condition in conditions(moved)] == [True, False, True]


@pytest.mark.parametrize("name", sorted(SYSTEM | PREDEFINED))
def test_every_system_and_predefined_attribute_can_be_asked_for(name: str) -> None:
    assert _only(f"{name} IS NOT NULL").attribute.name == name


def test_a_custom_attribute_hides_no_system_attribute_and_exists_in_its_namespace_only() -> None:
    assert _only("Priority = 'x'", Schema({"Priority": AttributeType.KEYWORD})).attribute.name == "Priority"
    with pytest.raises(CallerError, match="invalid query: invalid search attribute: Priority"):
        parse_query("Priority = 'x'", SCHEMA)
    assert _only("ScheduleId = 'x'").attribute.name == "WorkflowId"
    assert _only("ScheduleId = 'x'", Schema({"ScheduleId": AttributeType.KEYWORD})).attribute.name == "ScheduleId"


def test_order_and_group_are_read() -> None:
    query = parse_query("Amount > 1 ORDER BY StartTime desc, Amount", SCHEMA)
    assert [(order.attribute.name, order.descending) for order in query.order_by] == [("StartTime", True), ("Amount", False)]
    grouped = parse_query("group by ExecutionStatus", SCHEMA).group_by
    assert grouped is not None and grouped.name == "ExecutionStatus"
    assert parse_query("  ", SCHEMA).where is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Foo = 1", "invalid search attribute: Foo"),
        ("Amount = ", "malformed SQL query: syntax error at position 10; expected a value"),
        ("Amount == 1", "malformed SQL query: syntax error at position 9 near '='; expected a value"),
        ("Amount = 1 Amount = 2", "syntax error at position 12 near 'Amount'; expected AND or"),
        ("(Amount = 1", "syntax error at position 12; expected )"),
        ("Amount = 'x", "syntax error at position 10 near ''x'"),
        ("Amount = 1 LIMIT 3", "syntax error at position 12 near 'LIMIT'"),
        ("'a' = CustomerId", "syntax error at position 1 near ''a''; expected"),
        ("CustomerId = x", 'column name on the right side of comparison expression (did you forget to quote "x"?)'),
        ("CustomerId LIKE 'x%'", "operator 'LIKE' not supported for Keyword type search attribute 'CustomerId'"),
        ("Amount STARTS_WITH 'x'", "operator 'STARTS_WITH' not supported for Int type search attribute 'Amount'"),
        ("Note > 'x'", "operator '>' not supported for Text type search attribute 'Note'"),
        ("Tags NOT STARTS_WITH 'x'", "operator 'NOT STARTS_WITH' not supported for KeywordList type"),
        ("Urgent BETWEEN true AND false", "cannot do range condition on search attribute 'Urgent' of type Bool"),
        ("ExecutionStatus > 'Running'", "operator '>' not supported for Keyword type search attribute 'ExecutionStatus'"),
        ("ExecutionStatus = 'Done'", "invalid expression: invalid ExecutionStatus value 'Done'"),
        ("ExecutionStatus = 99", "invalid expression: invalid ExecutionStatus value 99"),
        ("ExecutionDuration = '1 hour'", "invalid duration value for search attribute ExecutionDuration: 1 hour"),
        ("Due = 'yesterday'", "invalid expression: unable to parse datetime 'yesterday'"),
        ("Due = 1.5", "invalid value type for search attribute Due of type Datetime: 1.5 (type: float64)"),
        ("Amount = 'x'", 'invalid value type for search attribute Amount of type Int: "x" (type: string)'),
        ("Urgent = 1", "invalid value type for search attribute Urgent of type Bool: 1 (type: int64)"),
        ("CustomerId = true", "invalid value type for search attribute CustomerId of type Keyword: true (type: bool)"),
        ("Note = '  '", "no tokens found filtering on Text type search attribute Note"),
        ("Amount = 1e999", 'unable to parse value "1e999"'),
        ("GROUP BY Amount", "'GROUP BY' clause is not supported for search attribute Amount"),
        ("GROUP BY CustomerId, WorkflowType", "'GROUP BY' clause supports only a single field"),
        ("ORDER BY Note", "unable to sort by search attribute type Text"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_a_wrong_query_is_refused_with_its_reason(text: str, told: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse_query(text, SCHEMA)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.message.startswith("invalid query: ")
    assert told in refused.value.message


def _refused(text: str) -> bool:
    try:
        parse_query(text, SCHEMA)
    except CallerError as refusal:
        assert len(refusal.message) <= MESSAGE_CHARS_MAX + len("invalid query: ")
        return True
    return False


def test_a_query_is_bounded_in_depth_conditions_values_and_bytes() -> None:
    def nested(depth: int) -> str:
        return "(" * depth + "Amount = 1" + ")" * depth

    def chained(count: int) -> str:
        return " OR ".join(["Amount = 1"] * count)

    def listed(count: int) -> str:
        return f"Amount IN ({', '.join(['1'] * count)})"

    def long(size: int) -> str:
        return "CustomerId = '" + "x" * (size - len("CustomerId = ''")) + "'"

    for make, limit in ((nested, NESTING_MAX), (chained, CONDITIONS_MAX), (listed, OPERANDS_MAX), (long, QUERY_BYTES_MAX)):
        assert not _refused(make(limit - 1)) and not _refused(make(limit))
        assert _refused(make(limit + 1))
    assert _refused("NOT " * (NESTING_MAX + 1) + "Amount = 1")


_PIECES = [
    *["Amount", "CustomerId", "=", "<", "'x'", "1", "(", ")", ",", "-", "`", "'"],
    *["AND", "OR", "NOT", "IN", "IS", "NULL", "ORDER BY"],
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    _refused(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1969-12-31T23:59:59.9Z", -100_000_000),
        ("2024-02-29T12:00:00-00:30", 1_709_209_800 * SECOND_NS),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * SECOND_NS),
        ("9999-12-31T23:59:59Z", 253_402_300_799 * SECOND_NS),
        ("2023-02-29T00:00:00Z", None),
        ("2024-01-01T24:00:00Z", None),
        ("2024-01-01 00:00:00", None),
        ("2024-01-01T00:00:00", None),
        ("٢٠٢٤-01-01T00:00:00Z", None),
    ],
)
def test_rfc_3339_moments_are_exact_to_the_nanosecond(text: str, moment: int | None) -> None:
    assert parse_rfc3339_ns(text) == moment


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1h30m", 5_400 * SECOND_NS),
        ("-1.5s", -1_500_000_000),
        ("2d", 172_800 * SECOND_NS),
        ("10us5ns", 10_005),
        ("42", 42),
        ("01:02:03", 3_723 * SECOND_NS),
        ("00:60:00", None),
        ("1x", None),
        ("", None),
        ("9" * 40, None),
    ],
)
def test_durations_are_read_as_the_real_server_reads_them(text: str, duration: int | None) -> None:
    assert parse_duration_ns(text) == duration
