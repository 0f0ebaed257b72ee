"""Stored values sort as the values do, and ranges hold what the oracle's comparisons hold."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cluster.visibility.expressions import Operator
from cluster.visibility.memory import passes
from cluster.visibility.search_attributes import INT64_MAX, INT64_MIN, AttributeType
from cluster.visibility.stored_values import Points, Scalar, Span, as_stored_range, range_of, read_value, stored_value

_INTS = st.integers(INT64_MIN, INT64_MAX) | st.sampled_from([0, 1, 2**53, 2**53 + 1, INT64_MAX - 1, INT64_MAX, INT64_MIN])
_DOUBLES = st.floats(allow_nan=False, allow_infinity=False) | _INTS.map(float)
_NUMBERS: st.SearchStrategy[Scalar] = _INTS | _DOUBLES
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(["a", "a\0", "ab", "\U0010ffff", ""])
_VALUES: dict[AttributeType, tuple[st.SearchStrategy[Scalar], st.SearchStrategy[Scalar]]] = {
    AttributeType.INT: (_INTS, _NUMBERS),
    AttributeType.DATETIME: (_INTS, _INTS),
    AttributeType.BOOL: (st.integers(0, 1), st.integers(0, 1)),
    AttributeType.DOUBLE: (_DOUBLES.map(lambda value: value + 0.0), _NUMBERS),
    AttributeType.KEYWORD: (_TEXTS, _TEXTS),
}
_kinds = st.sampled_from(sorted(_VALUES))
_pairs = _kinds.flatmap(lambda kind: st.tuples(st.just(kind), _VALUES[kind][0], _VALUES[kind][0]))
_OPERATORS = [
    Operator.EQUAL, Operator.IN, Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL,
    Operator.BETWEEN,
]  # fmt: skip


@st.composite
def _questions(draw: st.DrawFn) -> tuple[AttributeType, Operator, tuple[Scalar, ...], Scalar]:
    kind = draw(_kinds)
    values, operands = _VALUES[kind]
    test = draw(st.sampled_from([*_OPERATORS, *([Operator.STARTS_WITH] if kind is AttributeType.KEYWORD else [])]))
    count = 3 if test is Operator.IN else 2 if test is Operator.BETWEEN else 1
    asked = draw(st.tuples(*[operands] * count))
    value = draw(values)
    if draw(st.booleans()):  # near the operand is where it matters
        near = asked[0]
        if kind is AttributeType.KEYWORD:
            value = str(near) + draw(st.sampled_from(["", "\0", "a"]))
        elif kind is AttributeType.DOUBLE:
            value = math.nextafter(float(near), draw(st.sampled_from([-1e308, float(near), 1e308]))) + 0.0
        elif kind is not AttributeType.BOOL and abs(near) < 2**63:
            value = max(INT64_MIN, min(INT64_MAX, int(near) + draw(st.integers(-1, 1))))
    return kind, test, asked, value


@given(_pairs)
def test_stored_values_sort_as_values_do(pair: tuple[AttributeType, Scalar, Scalar]) -> None:
    kind, one, other = pair
    assert (stored_value(kind, one) < stored_value(kind, other)) is (one < other)  # type: ignore[operator]
    assert (stored_value(kind, one) == stored_value(kind, other)) is (one == other)


@given(_pairs)
def test_a_stored_value_is_read_as_it_was(pair: tuple[AttributeType, Scalar, Scalar]) -> None:
    kind, value, _ = pair
    read = read_value(kind, stored_value(kind, value))
    assert read == value and type(read) is type(value)
    assert read_value(kind, None) is None


@given(_questions())
def test_a_range_holds_what_the_oracle_says(question: tuple[AttributeType, Operator, tuple[Scalar, ...], Scalar]) -> None:
    kind, test, operands, value = question
    found = as_stored_range(kind, range_of(kind, test, operands))
    stored = stored_value(kind, value)
    if isinstance(found, Points):
        holds = stored in found.values
    else:
        assert isinstance(found, Span)
        low, high = found.low, found.high
        assert isinstance(low, bytes | None) and isinstance(high, bytes | None)
        holds = (low is None or stored >= low) and (high is None or stored < high)
    assert holds is passes(test, value, operands)


@given(st.sampled_from(_OPERATORS), st.lists(_NUMBERS, min_size=2, max_size=2))
def test_no_range_of_integers_leaves_64_bits(test: Operator, operands: list[Scalar]) -> None:
    found = range_of(AttributeType.INT, test, operands)
    bounds = found.values if isinstance(found, Points) else [bound for bound in (found.low, found.high) if bound is not None]
    assert all(isinstance(bound, int) and INT64_MIN <= bound <= INT64_MAX for bound in bounds)
