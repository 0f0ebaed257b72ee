"""Runs as a database server's statements write them, and columns back to rows. The same for PostgreSQL and MySQL.

A write is one message of three statements in one transaction, which never waits for its client:

| statement                                    | what it does                                                                    |
|----------------------------------------------|---------------------------------------------------------------------------------|
| insert runs, or overwrite those not newer    | locks the runs in the order of their keys, which any two writers have in common |
| insert their values under the row's stamp    | none that are there already                                                     |
| delete values under another stamp            | those of the row before; or those just written, if the stored row was newer     |

The stamp is a digest of what the values are made from, so a row that comes again, or changed in other columns only, writes none.

The texts hold numbers and hexadecimal literals, nothing else: there is nothing to escape and nothing to inject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

import msgspec

from cluster.stores.base import RunKey
from cluster.stores.sql_rows import NAMESPACE_BYTES_MAX, RUN_BYTES_MAX, WORKFLOW_BYTES_MAX
from cluster.visibility.base import VisibilityRow, system_value
from cluster.visibility.search_attributes import NAMESPACE_DIVISION, all_index_terms
from cluster.visibility.sql_query import COLUMN
from cluster.visibility.sql_rows import COLUMNS, close_at_of, row_of_columns
from cluster.visibility.stored_values import HEAD_BYTES, attribute_key, digest_of, stored_value

Dialect = Literal["postgres", "mysql"]
RUNS: Final = "outlast_visibility_runs"
VALUES: Final = "outlast_visibility_values"

# A message stays below the 8 MiB that every server takes; the literals double what they hold. A single run may be larger.
MESSAGE_BYTES_MAX: Final = 6 << 20

_WRITTEN: Final = ("namespace_key", "namespace_id", "stamp", "close_at", "is_divided", "memo", "attributes", *COLUMN.values())
_VALUE_COLUMNS: Final = "run_key, attribute, value_no, stamp, head, whole, close_at, start_at"
# Texts have a longest length, so that every index entry fits: whoever lets longer ones in is told so, and nothing is cut.
_BYTES_MAX: Final = {"run_id": RUN_BYTES_MAX, "parent_run_id": RUN_BYTES_MAX, "root_run_id": RUN_BYTES_MAX}
_TEXTS: Final = {
    "workflow_id", "run_id", "workflow_type", "task_queue", "parent_workflow_id", "parent_run_id", "root_workflow_id",
    "root_run_id",
}  # fmt: skip
_TEXT_PLACES: Final = tuple(place for place, column in enumerate(COLUMNS) if column in _TEXTS)

_encode_attributes = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_attributes = msgspec.msgpack.Decoder(dict[str, bytes]).decode


def namespace_key(namespace_id: str) -> bytes:
    return digest_of(16, namespace_id)


def run_key(key: RunKey) -> bytes:
    return digest_of(16, key.namespace_id, key.workflow_id, key.run_id)


def literal(value: int | bytes | None, dialect: Dialect) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return f"{value:d}"
    return f"X'{value.hex()}'" if dialect == "mysql" else f"'\\x{value.hex()}'"


# --- writes -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class WrittenRun:
    """A row in literals: its key, its tuple for the runs, its tuples for the values."""

    key: str
    run: str
    values: tuple[str, ...]
    size: int


def _column(name: str, value: str | int | None) -> int | bytes | None:
    if not isinstance(value, str):
        if value is not None and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} {value} does not fit 64 bits")
        return value
    stored = value.encode()
    limit = _BYTES_MAX.get(name, WORKFLOW_BYTES_MAX)
    if len(stored) > limit:
        raise ValueError(f"a {name} of {len(stored)} bytes is longer than {limit}")
    return stored


def _value_tuples(row: VisibilityRow) -> tuple[list[tuple[int, int, bytes, bytes | None]], bool]:
    """(attribute, value_no, head, whole) of all values, and whether the run belongs to a division."""
    terms = all_index_terms(row.search_attributes)
    found = []
    for name, (kind, values) in terms.items():
        attribute = attribute_key(row.namespace_id, name, kind)
        for number, stored in enumerate(sorted({stored_value(kind, value) for value in values})):
            found.append((attribute, number, stored[:HEAD_BYTES], stored if len(stored) >= HEAD_BYTES else None))
    return found, NAMESPACE_DIVISION in terms


def written_run(row: VisibilityRow, dialect: Dialect) -> WrittenRun:
    """Raises ValueError for what no column takes."""
    values, is_divided = _value_tuples(row)
    attributes, close_at = _encode_attributes(row.search_attributes), close_at_of(row)
    stamp = int.from_bytes(digest_of(8, attributes, close_at, row.start_time), "big", signed=True)
    namespace_id = row.namespace_id.encode()
    if len(namespace_id) > NAMESPACE_BYTES_MAX:
        raise ValueError(f"a namespace id of {len(namespace_id)} bytes is longer than {NAMESPACE_BYTES_MAX}")
    columns: list[int | bytes | None] = [namespace_key(row.namespace_id), namespace_id, stamp, _column("close_at", close_at)]
    columns += [int(is_divided), row.memo, attributes]
    columns += [_column(column, system_value(row, name)) for name, column in COLUMN.items()]
    key = literal(run_key(row.key), dialect)
    run = ",".join((key, *(literal(column, dialect) for column in columns), literal(_column("position", row.position), dialect)))
    written = tuple(
        f"({key},{attribute:d},{number:d},{stamp:d},{literal(head, dialect)},{literal(whole, dialect)},{close_at:d},"
        f"{row.start_time:d})"
        for attribute, number, head, whole in values
    )
    return WrittenRun(key, f"({run})", written, len(run) + sum(map(len, written)))


def newest(rows: Iterable[VisibilityRow]) -> list[VisibilityRow]:
    """One row per run, as if they had been written one after the other."""
    kept: dict[RunKey, VisibilityRow] = {}
    for row in rows:
        known = kept.get(row.key)
        if known is None or known.position <= row.position:
            kept[row.key] = row
    return list(kept.values())


def upsert_messages(rows: Sequence[VisibilityRow], dialect: Dialect) -> Iterator[list[str]]:
    """The statements of each transaction. Everything is encoded before the first one is given out."""
    runs = sorted((written_run(row, dialect) for row in newest(rows)), key=lambda run: run.key)
    start = size = 0
    for place, run in enumerate(runs):
        if place > start and size + run.size > MESSAGE_BYTES_MAX:
            yield _upsert(runs[start:place], dialect)
            start, size = place, 0
        size += run.size
    if runs:
        yield _upsert(runs[start:], dialect)


def _upsert(runs: Sequence[WrittenRun], dialect: Dialect) -> list[str]:
    insert = f"INSERT INTO {RUNS} (run_key, {', '.join(_WRITTEN)}, position) VALUES {','.join(run.run for run in runs)}"
    keys = ",".join(run.key for run in runs)
    if dialect == "postgres":
        changes = ", ".join(f"{column} = excluded.{column}" for column in (*_WRITTEN, "position"))
        insert += f" ON CONFLICT (run_key) DO UPDATE SET {changes} WHERE {RUNS}.position <= excluded.position"
        repeated = "ON CONFLICT DO NOTHING"
        clean = f"""DELETE FROM {VALUES} v USING {RUNS} r
            WHERE r.run_key IN ({keys}) AND v.run_key = r.run_key AND v.stamp <> r.stamp"""
    else:
        # From left to right: the position is compared until it is overwritten itself.
        changes = ", ".join(f"{column} = IF(VALUES(position) >= position, VALUES({column}), {column})" for column in _WRITTEN)
        insert += f" ON DUPLICATE KEY UPDATE {changes}, position = GREATEST(position, VALUES(position))"
        repeated = "ON DUPLICATE KEY UPDATE value_no = value_no"
        clean = f"""DELETE v FROM {RUNS} r FORCE INDEX (PRIMARY) STRAIGHT_JOIN {VALUES} v FORCE INDEX (PRIMARY)
            ON v.run_key = r.run_key WHERE r.run_key IN ({keys}) AND v.stamp <> r.stamp"""
    values = ",".join(chain.from_iterable(run.values for run in runs))
    insert_values = [f"INSERT INTO {VALUES} ({_VALUE_COLUMNS}) VALUES {values} {repeated}"] if values else []
    return [insert, *insert_values, clean]


def delete_statements(keys: Sequence[RunKey], dialect: Dialect) -> list[str]:
    """Values go only with their run: one that is written again meanwhile keeps them."""
    listed = ",".join(sorted({literal(run_key(key), dialect) for key in keys}))
    runs = f"DELETE FROM {RUNS} WHERE run_key IN ({listed})"
    if dialect == "postgres":
        orphans = f"NOT EXISTS (SELECT 1 FROM {RUNS} r WHERE r.run_key = v.run_key)"
        return [runs, f"DELETE FROM {VALUES} v WHERE v.run_key IN ({listed}) AND {orphans}"]
    values = f"""DELETE v FROM {VALUES} v LEFT JOIN {RUNS} r ON r.run_key = v.run_key
        WHERE v.run_key IN ({listed}) AND r.run_key IS NULL"""
    return [runs, values]


# --- reads ------------------------------------------------------------------------------------------------------------
def read_run(namespace_id: str, found: Sequence[Any]) -> VisibilityRow:
    columns = list(found[: len(COLUMNS)])
    for place in _TEXT_PLACES:
        if columns[place] is not None:
            columns[place] = columns[place].decode()
    return row_of_columns(namespace_id, columns, _decode_attributes(columns[-1]))
