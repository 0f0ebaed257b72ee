"""Differences from the real server that are meant to be, each with its reason. Everything else is a failure."""

from __future__ import annotations

from tests.compare.difference import Accepted

ACCEPTED: tuple[Accepted, ...] = (
    Accepted(
        "bad_command_child_without_attributes",
        "*",
        "The real server panics (INTERNAL) on a child command without attributes and leaves the task open; "
        "Outlast fails the task with BAD_START_CHILD_EXECUTION_ATTRIBUTES as for every other command.",
    ),
)
