"""One file per state machine. Importing the package registers every applier and every command."""

from cluster.core.machines import (
    activity,
    activity_commands,
    child,
    close,
    commands,
    completion,
    external,
    history_limits,
    lifecycle,
    properties,
    start,
    successor,
    timer,
    update,
    workflow_task,
)

__all__ = [
    "activity",
    "activity_commands",
    "child",
    "close",
    "commands",
    "completion",
    "external",
    "history_limits",
    "lifecycle",
    "properties",
    "start",
    "successor",
    "timer",
    "update",
    "workflow_task",
]
