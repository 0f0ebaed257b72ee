"""The corpus. Importing this package fills the registry; one module per machine of the core."""

from tests.e2e.registry import SCENARIOS
from tests.e2e.scenarios import (
    activity,
    activity_control,
    bad_commands,
    child_workflow,
    external_workflow,
    lifecycle,
    nexus,
    queries,
    reading,
    records,
    reset,
    starting,
    timers,
    updates,
    updates_by_task,
    workflow_task,
)

__all__ = [
    "SCENARIOS",
    "activity",
    "activity_control",
    "bad_commands",
    "child_workflow",
    "external_workflow",
    "lifecycle",
    "nexus",
    "queries",
    "reading",
    "records",
    "reset",
    "starting",
    "timers",
    "updates",
    "updates_by_task",
    "workflow_task",
]
