"""Gate: every row of every machine's table is taken by some story or test. A row that nothing takes is a guess.

It replays the stories and the plain tests itself, so that it holds in whatever order, and on however many processes, the
suite runs.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster.core.machines
from cluster.core.table import IllegalTransition, Table
from tests.core.storyteller import play

HERE = Path(__file__).parent
assert cluster.core.machines  # imported for the tables it makes


NOT_OF_MACHINES = ("test_cron", "test_purity", "test_retry", "test_stories", "test_tables")


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """The tests of all modules beside this one that need no fixture, with each of their parameters."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.stem in NOT_OF_MACHINES:
            continue
        module = importlib.import_module(f"tests.core.{path.stem}")
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("test_") or test.__module__ != module.__name__ or "every_row" in name:
                continue
            for arguments in _parameters(test):
                if arguments.keys() == inspect.signature(test).parameters.keys():
                    yield name, functools.partial(test, **arguments)


def _parameters(test: Any) -> Iterator[dict[str, Any]]:
    """All combinations that the test's parametrize marks name."""
    axes: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = [one.strip() for one in mark.args[0].split(",")] if isinstance(mark.args[0], str) else list(mark.args[0])
            rows = [getattr(row, "values", row) for row in mark.args[1]]
            axes.append([dict(zip(names, row if len(names) > 1 else (row,), strict=True)) for row in rows])
    for chosen in itertools.product(*axes):
        yield {name: value for one in chosen for name, value in one.items()}


def test_every_row_of_every_table_is_taken() -> None:
    before = {table.name: set(table.taken) for table in Table.all.values()}
    for table in Table.all.values():
        table.taken.clear()
    for path in sorted((HERE / "stories").glob("*.txt")):
        play(path.read_text())
    for _, case in cases():
        case()
    missing = {
        table.name: [row for row in table.rows if (row.source, row.trigger) not in table.taken] for table in Table.all.values()
    }
    for table in Table.all.values():
        table.taken |= before[table.name]
    assert not {name: rows for name, rows in missing.items() if rows}


def test_the_machines_have_their_tables() -> None:
    names = {"workflow execution", "workflow task", "activity", "timer", "child workflow", "update"}
    names |= {"external signal", "external cancel", "nexus operation", "nexus cancellation", "completion callback"}
    assert set(Table.all) >= names


def test_a_step_without_a_row_is_illegal() -> None:
    table = Table.all["timer"]
    with pytest.raises(IllegalTransition, match="timer: no transition from 'none' by 'TimerFired'"):
        table.step("none", "TimerFired")


def test_no_row_is_a_dead_end_or_out_of_nowhere() -> None:
    """A state that is led to can be left, unless it is the end; a state that can be left can be reached."""
    for table in Table.all.values():
        reached = {row.target for row in table.rows} | {"none"}
        left = {row.source for row in table.rows}
        # A timer is "fired" as long as its event is buffered: for the server it is over by then.
        assert left - reached <= {"fired"}, f"{table.name}: never reached {left - reached}"
        ends = {"closed", "completed", "succeeded", "failed", "none"}
        assert reached - left <= ends, f"{table.name}: never left {reached - left}"
