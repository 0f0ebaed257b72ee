"""Transition tables: what each machine may do, told as rows, enforced on every step, rendered into the docs.

A machine file begins with its table. `Table.step` is the only way from one state to another: a step without a row is an
IllegalTransition and changes nothing. Rows taken are remembered, so that a test can demand that all were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple, TypeVar

from google.protobuf.message import Message
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from cluster.core.state import RunState


class IllegalTransition(Exception):
    """A history or an entry asks for a step that its machine does not have."""


class Row(NamedTuple):
    """In `source`, `trigger` leads to `target`."""

    source: str
    trigger: str
    target: str


class Table:
    """One machine's transitions."""

    all: ClassVar[dict[str, Table]] = {}

    def __init__(self, name: str, rows: Iterable[tuple[str, str, str]]) -> None:
        self.name = name
        self.rows = [Row(*row) for row in rows]
        self._targets = {(row.source, row.trigger): row.target for row in self.rows}
        assert len(self._targets) == len(self.rows), f"{name}: two rows for one step"
        self.taken: set[tuple[str, str]] = set()
        Table.all[name] = self

    def step(self, source: str, trigger: str) -> str:
        """The target state. Raises IllegalTransition where no row allows the step."""
        target = self._targets.get((source, trigger))
        if target is None:
            raise IllegalTransition(f"{self.name}: no transition from {source!r} by {trigger!r}")
        self.taken.add((source, trigger))
        return target

    def allows(self, source: str, trigger: str) -> bool:
        return (source, trigger) in self._targets


Applier = Callable[[RunState, HistoryEvent, "Message"], None]
APPLIERS: dict[int, Applier] = {}
Flusher = Callable[[RunState, HistoryEvent], None]
FLUSHERS: dict[int, Flusher] = {}
F = TypeVar("F", bound=Callable[..., None])


def applies(event_type: EventType.ValueType) -> Callable[[F], F]:
    """Registers the one function that folds this event type into the state: (state, event, attributes)."""

    def register(function: F) -> F:
        assert event_type not in APPLIERS, f"two appliers for event type {event_type}"
        APPLIERS[event_type] = function
        return function

    return register


def on_flush(event_type: EventType.ValueType) -> Callable[[F], F]:
    """Registers what a flush must mend when a buffered event gets its id: (state, event)."""

    def register(function: F) -> F:
        FLUSHERS[event_type] = function
        return function

    return register
