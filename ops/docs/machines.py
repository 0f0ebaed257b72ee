"""`python -m ops.docs` writes it; this renders the core's transition tables into machines.md, as tables and as state diagrams.

`tests/test_docs.py` compares the file with what this renders, so a changed table without a changed file is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.core import machines
from cluster.core.table import Row, Table

FILE = Path(__file__).with_name("machines.md")
NONE = "none"  # the state before the first and after the last step: mermaid's [*]
HEAD = """# State machines

Made by `.venv/bin/python -m ops.docs` from the transition tables of
[cluster/core/machines](../../cluster/core/machines): change the table, then run it. `Table.step` in
[cluster/core/table.py](../../cluster/core/table.py) is the only way from one state to another, and a step without a row is
refused and changes nothing. A trigger in CamelCase is an event of the public history; one in small words is a note or a decision.

State is derived from a run's fields ([cluster/core/state.py](../../cluster/core/state.py)), never stored beside them. `none` (the
dot of a diagram) is the state before the first step and after the last one.
"""


def tables() -> list[Table]:
    """All of them, in the order of their names."""
    assert machines.__all__, "importing the package registers the tables"
    return [Table.all[name] for name in sorted(Table.all)]


def render() -> str:
    """The whole file."""
    contents = [f"- [{table.name}](#{table.name.replace(' ', '-')}), {len(table.rows)} transitions\n" for table in tables()]
    return "\n".join([HEAD, "".join(contents), *map(_section, tables())])


def _section(table: Table) -> str:
    rows = "\n".join(f"| {row.source} | {row.trigger} | {row.target} |" for row in table.rows)
    return f"## {table.name}\n\n```mermaid\n{diagram(table)}\n```\n\n| in | by | becomes |\n|---|---|---|\n{rows}\n"


def diagram(table: Table) -> str:
    """One arrow for each pair of states, with all triggers between them."""
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{state}" as {_alias(state)}' for state in _states(table.rows) if " " in state]
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        arrows.setdefault((row.source, row.target), []).append(row.trigger)
    lines += [f"    {_alias(source)} --> {_alias(target)}: {'<br>'.join(by)}" for (source, target), by in arrows.items()]
    return "\n".join(lines)


def _states(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(state for row in rows for state in (row.source, row.target)))


def _alias(state: str) -> str:
    return "[*]" if state == NONE else state.replace(" ", "_")
