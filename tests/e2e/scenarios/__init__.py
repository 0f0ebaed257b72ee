"""The corpus. Importing this package fills the registry; one module per machine of the core."""

from tests.e2e.scenarios import (
    activity,
    activity_control,
    bad_commands,
    child_workflow,
    external_workflow,
    queries,
    records,
    timers,
    updates,
    workflow_task,
)

__all__ = [
    "activity",
    "activity_control",
    "bad_commands",
    "child_workflow",
    "external_workflow",
    "queries",
    "records",
    "timers",
    "updates",
    "workflow_task",
]
