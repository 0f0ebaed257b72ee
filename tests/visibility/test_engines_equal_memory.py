"""Every engine is compared with the oracle on random rows and random queries.

On a database server each example has namespaces of its own, and the tables fill up with the rows of the others, which must not
matter.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.visibility import sql_query
from cluster.visibility.base import GROUPS_MAX, VisibilityRow, VisibilityStore
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.query import parse_query
from cluster.visibility.stored_values import HEAD_BYTES
from tests.visibility.conftest import SERVERS
from tests.visibility.rows import DAY_ONE, NAMESPACE, SCHEMA, SECOND_NS, attributes, opened, row
from tests.visibility.servers import VisibilityDatabase

# Each costs some 100 statements. OUTLAST_EXAMPLES asks for more.
SERVER_EXAMPLES = int(os.environ.get("OUTLAST_EXAMPLES", "25"))

_WORDS = ["a", "A", "ab", "abc", "b", "é", "e", "a_b", "a%", "a ", "a\0", "x\0y", "\U0010ffff", "\ud7ff", "it's", "?", ""]
# About as long as what an index entry holds of a value, which several of them share.
_WORDS += [(HEAD_BYTES + more) * "h" for more in (-1, 0, 1)] + [HEAD_BYTES * "h" + "é", 500 * "h" + "a", 500 * "h" + "b"]
_TEXTS = ["quick fox", "Quick, brown!", "BROWN", "...", "fóx 12"]
_NUMBERS = [-(2**63), -(2**53) - 1, -2, 0, 1, 2, 3, 2**53 + 1, 2**63 - 1]
_DOUBLES = [-1.5, -0.0, 0.0, 1.0, 2.5, 1e300, -1e300, 2.0**53, 2.0**63, 5e-324]
_MOMENTS = ["2024-01-01T00:00:00Z", "2024-01-01T01:00:00.000000001+01:00", "2024-01-01T00:00:02Z", "0001-01-01T00:00:00Z"]

_VALUES = {
    "CustomerId": st.sampled_from(_WORDS) | st.lists(st.sampled_from(_WORDS), min_size=1, max_size=2),
    "Note": st.sampled_from(_TEXTS),
    "Amount": st.sampled_from(_NUMBERS),
    "Rate": st.sampled_from(_DOUBLES),
    "Urgent": st.booleans(),
    "Due": st.sampled_from(_MOMENTS),
    "Tags": st.lists(st.sampled_from(_WORDS), max_size=3),
    "TemporalNamespaceDivision": st.just("scheduler"),
}
_seconds = st.integers(0, 3).map(lambda seconds: DAY_ONE + seconds * SECOND_NS)


@st.composite
def _rows(draw: st.DrawFn) -> VisibilityRow:
    number = draw(st.integers(0, 7))
    names = draw(st.sets(st.sampled_from(sorted(_VALUES))))
    return row(
        f"w{number % 3}" + draw(st.sampled_from(["", "'", "%"])),
        run_id=f"r{number}",
        namespace_id=draw(st.sampled_from([NAMESPACE, NAMESPACE, "ns-2"])),
        workflow_type=draw(st.sampled_from(["Transfer", "Refund", ""])),
        status=draw(st.integers(1, 7)),
        start_time=draw(_seconds),
        execution_time=draw(st.none() | _seconds),
        close_time=draw(st.none() | _seconds),
        position=draw(st.integers(1, 4)),
        history_length=draw(st.integers(0, 3)),
        task_queue=draw(st.sampled_from(["", "payments"])),
        parent_workflow_id=draw(st.sampled_from([None, "parent"])),
        root_run_id=draw(st.sampled_from([None, "root"])),
        memo=draw(st.binary(max_size=3)),
        search_attributes=attributes(**{name: draw(_VALUES[name]) for name in sorted(names)}),
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


_LITERALS = {
    **dict.fromkeys(["CustomerId", "Tags", "TemporalNamespaceDivision"], st.sampled_from([_quoted(w) for w in _WORDS])),
    **dict.fromkeys(["WorkflowId", "RunId"], st.sampled_from(["'w0'", "'w1'", "'w1'''", "'w1%'", "'r1'", "'r2'", "'w'"])),
    "WorkflowType": st.sampled_from(["'Transfer'", "'Refund'"]),
    "TaskQueue": st.just("'payments'"),
    "ParentWorkflowId": st.just("'parent'"),
    "RootRunId": st.just("'root'"),
    "ExecutionStatus": st.sampled_from(["'Running'", "'Failed'", "2", "'TimedOut'"]),
    **dict.fromkeys(["StartTime", "ExecutionTime", "CloseTime", "Due"], st.sampled_from([_quoted(m) for m in _MOMENTS])),
    "ExecutionDuration": st.sampled_from(["'1s'", "0", "'-1s'", "'00:00:02'"]),
    **dict.fromkeys(["HistoryLength", "Amount", "Rate"], st.sampled_from([*map(repr, _NUMBERS), *map(repr, _DOUBLES)])),
    "Urgent": st.sampled_from(["true", "false"]),
    "Note": st.sampled_from(["'quick'", "'brown fox'", "'none'", "'FOX'", "'...'"]),
}
_KEYWORDS = ["CustomerId", "WorkflowId", "RunId", "WorkflowType", "TaskQueue", "ParentWorkflowId", "RootRunId"]
_STRICT = ["ExecutionStatus", "Tags"]
_RANGED = [name for name in _LITERALS if name not in (*_STRICT, "Urgent", "Note")]


@st.composite
def _conditions(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(_LITERALS)))
    literal = _LITERALS[name]
    forms = [f"{name} = {draw(literal)}", f"{name} != {draw(literal)}", f"{name} IS NULL", f"{name} IS NOT NULL"]
    negation = draw(st.sampled_from(["", "NOT "]))
    if name != "Note":
        forms.append(f"{name} {negation}IN ({', '.join(draw(st.lists(literal, min_size=1, max_size=3)))})")
    if name in _RANGED:
        forms.append(f"{name} {negation}BETWEEN {draw(literal)} AND {draw(literal)}")
        forms.append(f"{name} {draw(st.sampled_from(['<', '<=', '>', '>=']))} {draw(literal)}")
    if name in _KEYWORDS:
        forms.append(f"{name} {negation}STARTS_WITH {draw(literal)}")
    return draw(st.sampled_from(forms))


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) AND {pair[1]}"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} OR ({pair[1]})"),
        inner.map(lambda one: f"NOT ({one})"),
    )


_wheres = st.just("") | st.recursive(_conditions(), _combined, max_leaves=5)
_SORTABLE = sorted(set(_LITERALS) - {"Note", "Tags"})
_orders = st.lists(st.tuples(st.sampled_from(_SORTABLE), st.sampled_from(["", " ASC", " DESC"])), max_size=2).map(
    lambda terms: " ORDER BY " + ", ".join(name + way for name, way in terms) if terms else ""
)
_groups = st.sampled_from(["ExecutionStatus", "CustomerId", "WorkflowType", "TemporalNamespaceDivision", "RootRunId"])


async def _compare(
    engine: VisibilityStore,
    batches: list[list[VisibilityRow]],
    deleted: list[int],
    questions: list[tuple[str, str, int]],
    group: str,
    example: int,
) -> None:
    namespace = f"{NAMESPACE}-{example}"
    batches = [[msgspec.structs.replace(one, namespace_id=f"{one.namespace_id}-{example}") for one in batch] for batch in batches]
    oracle = MemoryVisibility()
    for batch in batches:
        await oracle.upsert(batch)
        await engine.upsert(batch)
    everything = [one for batch in batches for one in batch]
    keys = [everything[at % len(everything)].key for at in deleted if everything]
    await oracle.delete(keys)
    await engine.delete(keys)
    for where, order, page_size in questions:
        query = parse_query(where + order, SCHEMA)
        token, pages = b"", 0
        while True:
            expected = await oracle.list(namespace, query, page_size, token)
            assert await engine.list(namespace, query, page_size, token) == expected, where + order
            token, pages = expected[1], pages + 1
            if not token:
                break
        assert pages <= len(everything) + 1
        grouped = parse_query(f"{where} GROUP BY {group}", SCHEMA)
        for asked in (query, grouped):
            assert await engine.count(namespace, asked) == await oracle.count(namespace, asked), where


_questions = st.lists(st.tuples(_wheres, _orders, st.integers(1, 4)), min_size=8, max_size=8)


_examples = st.tuples(
    st.lists(st.lists(_rows(), max_size=8), max_size=3),
    st.lists(st.integers(0, 30), max_size=2),
    _questions,
    _groups,
    st.sampled_from([0, 2, sql_query.SMALL_COUNT]),
)
_numbers = itertools.count()
_Example = tuple[list[list[VisibilityRow]], list[int], list[tuple[str, str, int]], str, int]
_thoroughly = settings(deadline=None, suppress_health_check=list(HealthCheck))


def _answers_as_the_oracle_does(opening: AbstractAsyncContextManager[VisibilityStore], example: _Example) -> None:
    """The bound decides which index drives a query: with 0 it is never a small set."""
    batches, deleted, questions, group, bound = example

    async def compare() -> None:
        async with opening as engine:
            await _compare(engine, batches, deleted, questions, group, next(_numbers))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql_query, "SMALL_COUNT", bound)
        asyncio.run(compare())


@settings(_thoroughly, max_examples=120)
@given(_examples)
def test_sqlite_answers_as_the_oracle_does(example: _Example) -> None:
    _answers_as_the_oracle_does(opened("sqlite-memory", Path()), example)


@pytest.mark.parametrize("name", SERVERS)
@settings(_thoroughly, max_examples=SERVER_EXAMPLES)
@given(_examples)
def test_a_database_server_answers_as_the_oracle_does(
    request: pytest.FixtureRequest, name: str, example: _Example
) -> None:
    database: VisibilityDatabase = request.getfixturevalue(name)
    asyncio.run(database.upgrade())
    _answers_as_the_oracle_does(database.opened(), example)


async def test_every_way_to_begin_a_query_answers_as_the_oracle_does(
    store: VisibilityStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound at 1, 3 and 2,000 the same queries are driven by small sets, by order and by whole scans."""
    oracle = MemoryVisibility()
    rows = [
        row(
            f"w{number}",
            status=number % 3 + 1,
            start_time=DAY_ONE + number * SECOND_NS,
            close_time=DAY_ONE + number * 2 * SECOND_NS if number % 3 else None,
            search_attributes=attributes(CustomerId=f"c{number % 4}", Amount=number % 5, Tags=["t", f"t{number % 2}"]),
        )
        for number in range(60)
    ]
    # Written twice: first all open, so that what a close changes has to reach the index of values too.
    opened = [msgspec.structs.replace(one, close_time=None) for one in rows]
    for batch in (opened, rows):
        await oracle.upsert(batch)
        await store.upsert(batch)
    seen: set[str] = set()
    for bound in (1, 3, 2_000):
        monkeypatch.setattr(sql_query, "SMALL_COUNT", bound)
        for where in (
            "CustomerId = 'c1'",
            "CustomerId = 'c1' AND ExecutionStatus = 'Failed' AND CloseTime > '2024-01-01T00:00:10Z'",
            "CustomerId = 'c1' AND CloseTime BETWEEN '2024-01-01T00:00:10Z' AND '2024-01-01T00:01:00Z'",
            "WorkflowId = 'w7' AND CustomerId = 'c3'",
            "Tags = 't1' AND Amount >= 3",
            "Tags IN ('t', 't1')",
            "Tags IN ('t', 't1') AND WorkflowId STARTS_WITH 'w1'",
            "StartTime >= '2024-01-01T00:00:30Z' AND Amount != 2",
            "CloseTime IS NULL AND Tags = 't'",
        ):
            query = parse_query(where, SCHEMA)
            token = b""
            while True:
                expected = await oracle.list(NAMESPACE, query, 4, token)
                assert await store.list(NAMESPACE, query, 4, token) == expected, (bound, where)
                seen.update(one.workflow_id for one in expected[0])
                token = expected[1]
                if not token:
                    break
            assert await store.count(NAMESPACE, query) == await oracle.count(NAMESPACE, query)
    assert len(seen) > 40


async def test_groups_are_bounded_and_the_total_is_not(store: VisibilityStore) -> None:
    oracle = MemoryVisibility()
    rows = [row(f"w{number}") for number in range(GROUPS_MAX + 5)]
    await oracle.upsert(rows)
    await store.upsert(rows)
    query = parse_query("GROUP BY WorkflowId", SCHEMA)
    counted = await store.count(NAMESPACE, query)
    assert counted == await oracle.count(NAMESPACE, query)
    assert counted.total == GROUPS_MAX + 5
    assert len(counted.groups) == GROUPS_MAX
