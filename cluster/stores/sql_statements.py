"""The statements that PostgreSQL and MySQL share, written once with named values and compiled for each.

    :name        a value; PostgreSQL gets `$1`, MySQL `?` (once per use)
    {use:index}  MySQL is told which index to read; PostgreSQL is kept from anything but index scans by its session's settings
    {behind:a=x,b=y}  the row (a, b) comes after the values (x, y). MySQL reads an index range only if this is spelled out

Every list is read in the order of an index and cut by LIMIT, so a page costs what it returns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

Dialect = Literal["postgres", "mysql"]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement in the database's own form, and which values it wants in which place."""

    text: str
    names: tuple[str, ...]

    def values(self, named: dict[str, Any]) -> tuple[Any, ...]:
        return tuple([named[name] for name in self.names])


def compiled(template: str, dialect: Dialect) -> Statement:
    text = re.sub(r"\{behind:([^}]*)\}", lambda found: _behind(found[1], dialect), template)
    text = re.sub(r"\{use:(\w+)\}", lambda found: f"FORCE INDEX ({found[1]})" if dialect == "mysql" else "", text)
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        name = found[1]
        if dialect == "mysql":
            names.append(name)
            return "?"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    # A cast in PostgreSQL's form (::bigint) is no value.
    text = re.sub(r"(?<!:):([a-z]\w*)", place, text)
    return Statement(" ".join(text.split()), tuple(names))


def _behind(pairs: str, dialect: Dialect) -> str:
    columns, values = zip(*(pair.split("=") for pair in pairs.split(",")), strict=True)
    if dialect == "postgres":
        return f"({', '.join(columns)}) > ({', '.join(f':{value}' for value in values)})"
    cases = []
    for place in reversed(range(len(columns))):
        equal = [f"{columns[before]} = :{values[before]}" for before in range(place)]
        cases.append(" AND ".join([*equal, f"{columns[place]} > :{values[place]}"]))
    return "(" + " OR ".join(f"({case})" for case in cases) + ")"


_KEY: Final = "namespace_id = :namespace_id AND workflow_id = :workflow_id AND run_id = :run_id"
_SNAPSHOT: Final = """SELECT r.namespace_id, r.workflow_id, r.run_id, r.is_open, r.wake_at, r.changed_position, r.data,
    EXISTS (SELECT 1 FROM outlast_current c WHERE c.shard = r.shard AND c.namespace_id = r.namespace_id
            AND c.workflow_id = r.workflow_id AND c.run_id = r.run_id) FROM outlast_runs r """
_BEHIND_KEY: Final = "r.namespace_id=namespace_id,r.workflow_id=workflow_id,r.run_id=run_id"
_IN_KEY_ORDER: Final = "r.namespace_id, r.workflow_id, r.run_id LIMIT :limit"
_MARK: Final = "coalesce((SELECT s.truncated_to FROM outlast_shards s WHERE s.shard = :shard), 0)"

READS: Final[dict[str, str]] = {
    "bounds": """SELECT s.range_id, s.truncated_to,
        coalesce((SELECT max(j.position) FROM outlast_journal j WHERE j.shard = :shard), 0)
        FROM outlast_shards s WHERE s.shard = :shard""",
    # Mark and records are of one moment, or a truncation in between would look like a gap.
    "read_journal": f"""SELECT {_MARK}, j.position, j.data FROM outlast_journal j
        WHERE j.shard = :shard AND j.position > :after AND j.position > {_MARK} ORDER BY j.position LIMIT :limit""",
    "first_position": "SELECT min(position) FROM outlast_journal WHERE shard = :shard",
    "load": f"{_SNAPSHOT} WHERE r.shard = :shard AND r.namespace_id = :namespace_id "
    "AND r.workflow_id = :workflow_id AND r.run_id = :run_id",
    "current_run": """SELECT r.namespace_id, r.workflow_id, r.run_id, r.is_open, r.wake_at, r.changed_position, r.data, 1
        FROM outlast_current c JOIN outlast_runs r ON r.shard = c.shard AND r.namespace_id = c.namespace_id
        AND r.workflow_id = c.workflow_id AND r.run_id = c.run_id
        WHERE c.shard = :shard AND c.namespace_id = :namespace_id AND c.workflow_id = :workflow_id""",
    # Blobs of a branch do not overlap, so the first wanted one is the last that begins at or before the first wanted event.
    "history": f"""SELECT first_event_id, last_event_id, data FROM outlast_history
        WHERE shard = :shard AND {_KEY} AND branch = :branch AND first_event_id <= :last AND last_event_id >= :first
        AND first_event_id >= coalesce((SELECT max(h.first_event_id) FROM outlast_history h
            WHERE h.shard = :shard AND h.namespace_id = :namespace_id AND h.workflow_id = :workflow_id AND h.run_id = :run_id
            AND h.branch = :branch AND h.first_event_id <= :first), :first)
        ORDER BY first_event_id""",
    "due": f"""{_SNAPSHOT} {{use:outlast_runs_wake}} WHERE r.shard = :shard AND r.wake_at <= :until
        ORDER BY r.wake_at, {_IN_KEY_ORDER}""",
    "due_after": f"""{_SNAPSHOT} {{use:outlast_runs_wake}} WHERE r.shard = :shard AND r.wake_at <= :until
        AND {{behind:r.wake_at=wake_at,{_BEHIND_KEY}}} ORDER BY r.wake_at, {_IN_KEY_ORDER}""",
    "next_wake_at": """SELECT r.wake_at FROM outlast_runs r {use:outlast_runs_wake}
        WHERE r.shard = :shard AND r.wake_at > :after ORDER BY r.wake_at LIMIT 1""",
    "changed": f"""{_SNAPSHOT} {{use:outlast_runs_changed}} WHERE r.shard = :shard AND r.changed_position > :position
        ORDER BY r.changed_position LIMIT :limit""",
    "changed_at": f"""{_SNAPSHOT} {{use:outlast_runs_changed}} WHERE r.shard = :shard AND r.changed_position = :position""",
    "runs": f"{_SNAPSHOT} {{use:PRIMARY}} WHERE r.shard = :shard ORDER BY {_IN_KEY_ORDER}",
    "runs_after": f"""{_SNAPSHOT} {{use:PRIMARY}} WHERE r.shard = :shard AND {{behind:{_BEHIND_KEY}}}
        ORDER BY {_IN_KEY_ORDER}""",
    "metadata_get": "SELECT id, version, data FROM outlast_metadata WHERE kind = :kind AND id = :id",
    "metadata_list": "SELECT id, version, data FROM outlast_metadata WHERE kind = :kind ORDER BY id",
}

WRITES: Final[dict[str, str]] = {
    "metadata_update": """UPDATE outlast_metadata SET version = :version, data = :data
        WHERE kind = :kind AND id = :id AND version = :expected_version""",
    "metadata_delete": "DELETE FROM outlast_metadata WHERE kind = :kind AND id = :id AND version = :expected_version",
    "remove": "DELETE FROM outlast_journal WHERE shard = :shard AND position > :above AND position <= :up_to",
}
