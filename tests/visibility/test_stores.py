"""What every visibility engine promises."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from cluster.core.errors import CallerError, Code
from cluster.visibility.base import STILL_OPEN, VisibilityStore, VisibilityUnavailable, encode_page_token
from cluster.visibility.query import parse_query
from cluster.visibility.search_attributes import AttributeType, Schema
from cluster.visibility.sqlite import SqliteVisibility
from cluster.visibility.sqlite_schema import SchemaMismatch
from tests.visibility.rows import DAY_ONE, NAMESPACE, SCHEMA, SECOND_NS, attributes, ids, opened, row


async def test_an_older_row_never_replaces_a_newer_one(store: VisibilityStore) -> None:
    await store.upsert([row("w", position=5, status=2), row("w", position=4, status=1)])
    await store.upsert([row("w", position=3, status=1)])
    assert await ids(store, "ExecutionStatus = 'Completed'") == ["w"]
    await store.upsert([row("w", position=5, status=3)])
    assert await ids(store, "ExecutionStatus = 'Failed'") == ["w"]


async def test_a_row_comes_back_as_it_was_written(store: VisibilityStore) -> None:
    written = row(
        "w",
        execution_time=DAY_ONE + 1,
        close_time=DAY_ONE + 2,
        history_length=3,
        history_size_bytes=4,
        state_transition_count=5,
        parent_workflow_id="p",
        parent_run_id="pr",
        root_workflow_id="o",
        root_run_id="or",
        memo=b"memo",
        search_attributes=attributes(CustomerId="c", Tags=["a", "b"]),
    )
    await store.upsert([written])
    assert (await store.list(NAMESPACE, parse_query("", SCHEMA), 10, b""))[0] == [written]


async def test_open_runs_come_first_then_the_latest_close(store: VisibilityStore) -> None:
    await store.upsert(
        [
            row("closed-early", close_time=DAY_ONE + 5),
            row("closed-late", close_time=DAY_ONE + 9),
            row("open-old", start_time=DAY_ONE),
            row("open-new", start_time=DAY_ONE + 1),
        ]
    )
    expected = ["open-new", "open-old", "closed-late", "closed-early"]
    assert await ids(store, "") == expected
    assert await ids(store, "", page_size=1) == expected
    assert await ids(store, "ORDER BY WorkflowId DESC", page_size=2) == sorted(expected, reverse=True)


@pytest.mark.parametrize("page_size", [1, 4, 7, 19, 20, 100])
async def test_runs_with_equal_times_come_by_run_and_workflow_id_wherever_a_page_ends(
    store: VisibilityStore, page_size: int
) -> None:
    numbers = [*range(9, -1, -1), *range(10, 20)]
    tied = [row(f"w{number}", run_id=f"r{number // 2:02}", close_time=DAY_ONE + 1) for number in numbers]
    around = [row("open"), row("last", close_time=DAY_ONE)]
    await store.upsert([*tied, *around])
    expected = [one.workflow_id for one in sorted(tied, key=lambda one: (one.run_id, one.workflow_id))]
    assert await ids(store, "", page_size) == ["open", *expected, "last"]
    assert await ids(store, "WorkflowType = 'Transfer'", page_size) == ["open", *expected, "last"]


async def test_runs_without_the_attribute_come_last_in_either_direction(store: VisibilityStore) -> None:
    await store.upsert(
        [row("none"), row("one", search_attributes=attributes(Amount=1)), row("two", search_attributes=attributes(Amount=2))]
    )
    assert await ids(store, "ORDER BY Amount", page_size=1) == ["one", "two", "none"]
    assert await ids(store, "ORDER BY Amount DESC", page_size=1) == ["two", "one", "none"]


async def test_paging_neither_repeats_nor_skips_while_runs_close_and_start(store: VisibilityStore) -> None:
    await store.upsert([row(f"w{number}", start_time=DAY_ONE + number) for number in range(6)])
    query = parse_query("", SCHEMA)
    page, token = await store.list(NAMESPACE, query, 3, b"")
    assert [one.workflow_id for one in page] == ["w5", "w4", "w3"]
    await store.upsert([row("later", start_time=DAY_ONE + 99)])
    page, token = await store.list(NAMESPACE, query, 3, token)
    assert [one.workflow_id for one in page] == ["w2", "w1", "w0"] and token == b""


async def test_missing_is_neither_equal_nor_unequal_except_for_lists_and_texts(store: VisibilityStore) -> None:
    await store.upsert([row("has", search_attributes=attributes(CustomerId="c", Tags=["t"], Note="n")), row("none")])
    assert await ids(store, "CustomerId != 'x'") == ["has"]
    assert await ids(store, "NOT CustomerId = 'x'") == ["has"]
    assert await ids(store, "CustomerId IS NULL") == ["none"]
    assert await ids(store, "NOT (CustomerId = 'x' OR Amount = 1)") == []
    for name in ("Tags", "Note"):
        assert sorted(await ids(store, f"{name} != 'x'")) == ["has", "none"]


async def test_text_matches_any_word_and_lists_any_element(store: VisibilityStore) -> None:
    await store.upsert([row("w", search_attributes=attributes(Note="The quick, brown fox", Tags=["red", "Blue"]))])
    assert await ids(store, "Note = 'QUICK turtle'") == ["w"]
    assert await ids(store, "Note = 'turtle'") == await ids(store, "Note != 'brown'") == []
    assert await ids(store, "Note = '...'") == [] and await ids(store, "Note != '...'") == ["w"]  # no word at all
    assert await ids(store, "Tags = 'Blue'") == await ids(store, "Tags IN ('x', 'red')") == ["w"]
    assert await ids(store, "Tags = 'blue'") == await ids(store, "Tags NOT IN ('x', 'red')") == []


async def test_runs_of_a_division_are_hidden_unless_the_query_names_it(store: VisibilityStore) -> None:
    await store.upsert([row("plain"), row("schedule", search_attributes=attributes(TemporalNamespaceDivision="scheduler"))])
    assert await ids(store, "") == ["plain"]
    assert await ids(store, "TemporalNamespaceDivision = 'scheduler'") == ["schedule"]
    assert await ids(store, "WorkflowType = 'Transfer' AND TemporalNamespaceDivision IS NOT NULL") == ["schedule"]
    assert (await store.count(NAMESPACE, parse_query("", SCHEMA))).total == 1


async def test_no_query_sees_another_namespace(store: VisibilityStore) -> None:
    await store.upsert([row("mine"), row("theirs", namespace_id="ns-2", search_attributes=attributes(CustomerId="c"))])
    for text in ("", "CustomerId = 'c'", "CustomerId = 'c' OR WorkflowId = 'theirs'", "NOT WorkflowId = 'mine'"):
        assert "theirs" not in await ids(store, text)
    assert await ids(store, "CustomerId = 'c'", namespace="ns-2") == ["theirs"]
    await store.delete([row("theirs").key])
    assert await ids(store, "", namespace="ns-2") == ["theirs"]


async def test_an_attribute_defined_again_with_another_type_does_not_find_old_values(store: VisibilityStore) -> None:
    await store.upsert([row("old", search_attributes=attributes(Amount=5))])
    redefined = Schema({"Amount": AttributeType.KEYWORD})
    for text in ("Amount > 'a'", "Amount IS NOT NULL"):
        rows, _ = await store.list(NAMESPACE, parse_query(text, redefined), 10, b"")
        assert rows == []
    assert await ids(store, "Amount = 5") == ["old"]


async def test_a_deleted_run_is_gone_and_deleting_it_again_is_no_error(store: VisibilityStore) -> None:
    gone = row("gone", search_attributes=attributes(CustomerId="c"))
    await store.upsert([gone, row("kept")])
    await store.delete([gone.key])
    await store.delete([gone.key])
    assert await ids(store, "") == ["kept"]
    assert await ids(store, "CustomerId = 'c'") == []


async def test_an_upsert_replaces_the_values_of_attributes(store: VisibilityStore) -> None:
    await store.upsert([row("w", search_attributes=attributes(CustomerId="a", Tags=["x", "y"]))])
    await store.upsert([row("w", position=2, search_attributes=attributes(CustomerId="b", Tags=["y"]))])
    assert await ids(store, "CustomerId = 'a' OR Tags = 'x'") == []
    assert await ids(store, "CustomerId = 'b' AND Tags = 'y'") == ["w"]


async def test_count_groups_by_status_and_by_any_keyword(store: VisibilityStore) -> None:
    await store.upsert(
        [row(f"w{number}", status=number % 2 + 1, search_attributes=attributes(CustomerId="c")) for number in range(3)]
        + [row("other")]
    )
    counted = await store.count(NAMESPACE, parse_query("GROUP BY ExecutionStatus", SCHEMA))
    assert [(group.value, group.count) for group in counted.groups] == [(1, 3), (2, 1)] and counted.total == 4
    counted = await store.count(NAMESPACE, parse_query("WorkflowType = 'Transfer' GROUP BY CustomerId", SCHEMA))
    assert [(group.value, group.count) for group in counted.groups] == [("c", 3), (None, 1)]


async def test_a_bad_page_token_is_refused(store: VisibilityStore) -> None:
    await store.upsert([row("a"), row("b")])
    query, other = parse_query("ORDER BY Amount", SCHEMA), parse_query("Amount > 1 ORDER BY Amount", SCHEMA)
    _, token = await store.list(NAMESPACE, query, 1, b"")
    foreign = [
        b"x",
        token[:-1],
        token[:-1] + bytes([token[-1] ^ 1]),
        encode_page_token(NAMESPACE, other, (1, STILL_OPEN, 1, "r", "w")),
        encode_page_token("ns-2", query, (1, STILL_OPEN, 1, "r", "w")),
        encode_page_token(NAMESPACE, query, ("text", STILL_OPEN, 1, "r", "w")),
        encode_page_token(NAMESPACE, query, (1, STILL_OPEN, None, "r", "w")),
        encode_page_token(NAMESPACE, query, (1, STILL_OPEN, "1", "r", "w")),
        encode_page_token(NAMESPACE, query, (1, 2)),
    ]
    for bad in foreign:
        with pytest.raises(CallerError, match=r"Invalid NextPageToken\.") as refused:
            await store.list(NAMESPACE, query, 1, bad)
        assert refused.value.code is Code.INVALID_ARGUMENT
    assert (await store.list(NAMESPACE, query, 1, token))[1] == b""


async def test_a_list_refuses_group_by_and_an_empty_page(store: VisibilityStore) -> None:
    with pytest.raises(CallerError, match="'GROUP BY' clause"):
        await store.list(NAMESPACE, parse_query("GROUP BY ExecutionStatus", SCHEMA), 1, b"")
    with pytest.raises(CallerError, match="PageSize"):
        await store.list(NAMESPACE, parse_query("", SCHEMA), 0, b"")


async def test_a_query_of_a_thousand_conditions_is_answered(store: VisibilityStore) -> None:
    await store.upsert([row("w")])
    assert await ids(store, " OR ".join(f"WorkflowId = 'x{number}' OR CustomerId = 'y'" for number in range(500))) == []


# --- SQLite alone ---------------------------------------------------------------------------------------------------------
async def test_rows_are_there_after_reopening_the_file(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as first:
        await first.upsert([row("w", search_attributes=attributes(CustomerId="c"))])
    async with opened("sqlite", tmp_path) as second:
        assert await ids(second, "CustomerId = 'c'") == ["w"]


async def test_a_failed_write_writes_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """The second row cannot be stored, so the first must not be: a shard repeats the whole write."""
    async with opened("sqlite", tmp_path) as store:
        with pytest.raises(OverflowError):
            await store.upsert([row("first", search_attributes=attributes(CustomerId="c")), row("second", history_length=2**70)])
        assert await ids(store, "") == []
        await store.upsert([row("first", search_attributes=attributes(CustomerId="c"))])
        assert await ids(store, "CustomerId = 'c'") == ["first"]


async def test_a_query_that_takes_too_long_is_stopped_and_the_next_one_is_answered(tmp_path: Path) -> None:
    store = SqliteVisibility(str(tmp_path / "visibility.db"), read_limit_s=0.0)
    await store.open()
    await store.upsert([row(f"w{number}", start_time=DAY_ONE + number * SECOND_NS) for number in range(3_000)])
    with pytest.raises(CallerError) as stopped:
        await ids(store, "WorkflowId != 'x' AND NOT RunId STARTS_WITH 'y'", page_size=3_000)
    assert stopped.value.code is Code.RESOURCE_EXHAUSTED
    assert await ids(store, "WorkflowId = 'w7'") == ["w7"]
    await store.close()


async def test_a_file_that_is_no_database_makes_visibility_unavailable_and_nothing_hangs(tmp_path: Path) -> None:
    path = tmp_path / "visibility.db"
    path.write_bytes(b"not a database" * 1_000)
    store = SqliteVisibility(str(path))
    with pytest.raises(VisibilityUnavailable, match="not a database"):
        await store.open()
    await store.close()
    with pytest.raises(VisibilityUnavailable, match="closed"):
        await store.upsert([row("w")])


async def test_a_file_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path):
        pass
    with sqlite3.connect(tmp_path / "visibility.db") as connection:
        connection.execute("UPDATE visibility_schema SET version = 99")
    store = SqliteVisibility(str(tmp_path / "visibility.db"))
    with pytest.raises(SchemaMismatch, match="rebuilt"):
        await store.open()
    await store.close()


async def test_reads_go_on_beside_writes(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        writes = [store.upsert([row(f"w{batch}-{number}") for number in range(50)]) for batch in range(10)]
        reads = [ids(store, "WorkflowType = 'Transfer'") for _ in range(10)]
        _, answers = await asyncio.gather(asyncio.gather(*writes), asyncio.gather(*reads))
        assert all(len(found) % 50 == 0 for found in answers)
        assert len(await ids(store, "")) == 500
