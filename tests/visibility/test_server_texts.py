"""What may stand in ids, values and attribute names on a database server: SQL, bytes of any kind, lengths up to the limits."""

from __future__ import annotations

import random

import msgspec
import pytest
from temporalio.api.common.v1 import Payload

from cluster.visibility.base import VisibilityRow
from cluster.visibility.memory import MemoryVisibility
from cluster.visibility.query import parse_query
from cluster.visibility.search_attributes import AttributeType, Schema, encode_value
from cluster.visibility.server_rows import MESSAGE_BYTES_MAX
from tests.visibility.rows import NAMESPACE, SCHEMA, attributes, ids, row
from tests.visibility.servers import VisibilityDatabase

_HOSTILE = [
    "'; DROP TABLE outlast_visibility_runs; --", "\\'; DROP TABLE outlast_visibility_runs; --", '" OR 1=1 --', "' OR ''='", "?",
    "$1", "%s", ":name", "`", "\\", "\0", "*/", "/*", "#", "\n", "\r", "\x1a", "\\x41", "X'41'",
]  # fmt: skip


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


async def test_nothing_in_a_text_is_read_as_sql(database: VisibilityDatabase) -> None:
    """As workflow id, type, value, element and attribute's name; asked for by =, IN, a range, a prefix, ORDER BY and GROUP BY."""
    names = {text: AttributeType.KEYWORD for text in _HOSTILE if "`" not in text}
    schema = Schema({**SCHEMA.custom, **names})
    rows = [
        row(
            text,
            run_id=f"run-{number}{text}",
            workflow_type=text,
            task_queue=text,
            search_attributes={
                **attributes(CustomerId=text, Tags=[text, "t"], Note=text + " word"),
                **{name: encode_value(text, AttributeType.KEYWORD).SerializeToString() for name in names},
            },
        )
        for number, text in enumerate(_HOSTILE)
    ]
    oracle = MemoryVisibility()
    async with database.opened() as store:
        await oracle.upsert(rows)
        await store.upsert(rows)
        asked = ["", "ORDER BY CustomerId DESC, WorkflowId", *(f"ORDER BY `{name}` DESC" for name in names)]
        for text in _HOSTILE:
            quoted = _literal(text)
            asked += [f"WorkflowId = {quoted}", f"CustomerId IN ({quoted}, 'x')", f"Tags = {quoted} AND WorkflowType >= {quoted}"]
            asked += [f"TaskQueue STARTS_WITH {quoted} OR CustomerId < {quoted}"]
            asked += [f"`{name}` STARTS_WITH {quoted} ORDER BY `{name}`" for name in list(names)[:3]]
        for one in asked:
            query, token = parse_query(one, schema), b""
            while True:
                expected = await oracle.list(NAMESPACE, query, 7, token)
                assert await store.list(NAMESPACE, query, 7, token) == expected, one
                token = expected[1]
                if not token:
                    break
        for name in ("WorkflowId", "CustomerId", *(f"`{name}`" for name in names)):
            grouped = parse_query(f"GROUP BY {name}", schema)
            assert await store.count(NAMESPACE, grouped) == await oracle.count(NAMESPACE, grouped)
        await store.delete([each.key for each in rows])
        assert await ids(store, "") == []
    assert await database.value_count() == 0


async def test_texts_that_a_collation_would_call_equal_are_different(database: VisibilityDatabase) -> None:
    alike = ["a", "A", "\u00e1", "a\u0301", "\uff41", "a ", "a\0", " a", "ß", "ss", "SS", "ǆ", "ǅ", "\U0001f600", "\U0001f601"]
    async with database.opened() as store:
        await store.upsert([row(text, search_attributes=attributes(CustomerId=text, Tags=[text])) for text in alike])
        for text in alike:
            for name in ("WorkflowId", "CustomerId", "Tags"):
                assert await ids(store, f"{name} = '{text}'") == [text]
        assert await ids(store, "ORDER BY CustomerId") == await ids(store, "ORDER BY WorkflowId") == sorted(alike)
        groups = (await store.count(NAMESPACE, parse_query("GROUP BY CustomerId", SCHEMA))).groups
        assert [group.value for group in groups] == sorted(alike)


async def test_the_longest_ids_and_values_fit_their_indexes_and_longer_ids_are_refused(database: VisibilityDatabase) -> None:
    """Of random characters, so that no compression makes an index entry fit that another one would not."""
    draw = random.Random(3)

    def text(size: int) -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))

    longest = row(
        text(1_024),
        namespace_id=text(255),
        run_id=text(255),
        workflow_type=text(1_024),
        task_queue=text(1_024),
        parent_workflow_id=text(1_024),
        parent_run_id=text(255),
        root_workflow_id=text(1_024),
        root_run_id=text(255),
        search_attributes=attributes(CustomerId=text(30_000), Tags=[text(3_000), text(254), text(255)], Note=text(5_000)),
    )
    async with database.opened() as store:
        await store.upsert([longest])
        value = msgspec.json.decode(_json_of(longest, "CustomerId"))
        for asked in (
            f"WorkflowType = '{longest.workflow_type}'",
            f"ParentWorkflowId = '{longest.parent_workflow_id}' AND RunId = '{longest.run_id}'",
            f"CustomerId = '{value}'",
            f"CustomerId >= '{value}' AND CustomerId <= '{value}'",
            f"CustomerId STARTS_WITH '{value[:2_000]}'",
            "ORDER BY CustomerId",
        ):
            assert await ids(store, asked, namespace=longest.namespace_id) == [longest.workflow_id]
        for missed in (f"CustomerId = '{value[:-1]}'", f"CustomerId = '{value}a'", f"CustomerId > '{value}'"):
            assert await ids(store, missed, namespace=longest.namespace_id) == []
        for name, size in (("workflow_id", 1_025), ("run_id", 256), ("workflow_type", 1_025), ("namespace_id", 256)):
            with pytest.raises(ValueError, match=f"{size} bytes"):
                await store.upsert([row("fine"), row(**{"workflow_id": "w", name: text(size)})])
        assert await ids(store, "") == []


def _json_of(one: VisibilityRow, name: str) -> bytes:
    return Payload.FromString(one.search_attributes[name]).data


async def test_a_large_write_goes_in_parts_and_arrives(database: VisibilityDatabase) -> None:
    size = MESSAGE_BYTES_MAX // 5
    async with database.opened() as store:
        written = [row(f"w{number}", memo=bytes([number]) * size) for number in range(6)]
        await store.upsert(written)
        found, _ = await store.list(NAMESPACE, parse_query("ORDER BY WorkflowId", SCHEMA), 10, b"")
        assert found == [msgspec.structs.replace(each, execution_time=each.start_time) for each in written]
