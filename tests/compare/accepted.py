"""Differences from the real server that are meant to be, each with its reason. Everything else is a failure."""

from __future__ import annotations

from tests.compare.difference import Accepted

ACCEPTED: tuple[Accepted, ...] = (
    Accepted("*", "*/task_id", "A number of the other server's storage; no client reads it, and Outlast has no such thing."),
    Accepted(
        "*",
        "histories/*/attributes/worker_version",
        "Outlast announces build_id_based_versioning=false, which is the truth, so the official SDK sends no build id; "
        "what a worker does send is recorded (tests/core).",
    ),
    Accepted(
        "*",
        "histories/*/attributes/binary_checksum",
        "The other side of worker_version: without build_id_based_versioning the official SDK sends its build in this field.",
    ),
    Accepted(
        "*",
        "histories/*/attributes/prev_auto_reset_points/points/*/b*",
        "The same in the points a next run is told of: the official SDK's build is a binary_checksum there, not a build_id.",
    ),
    Accepted(
        "upserts",
        "observed/described search attributes/indexed_fields/B*s*",
        "The same in search attributes: the official SDK's build is in BinaryChecksums, not in BuildIds (as in the real server).",
    ),
    Accepted(
        "bad_command_child_without_attributes",
        "*",
        "The real server panics (INTERNAL) on a child command without attributes and leaves the task open; "
        "Outlast fails the task with BAD_START_CHILD_EXECUTION_ATTRIBUTES as for every other command.",
    ),
)
