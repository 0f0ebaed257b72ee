"""Commands: what a worker wishes in answer to a workflow task. Each machine registers the commands it serves.

A wish that cannot be a fact raises BadCommand: the workflow task fails with its cause, the run is unharmed, and nothing
of the same answer counts (the whole transition is thrown away).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, WorkflowTaskFailedCause
from temporalio.api.protocol.v1 import Message as ProtocolMessage

from cluster.core.transition import Transition


class BadCommand(Exception):
    """message: what is wrong, in words for the workflow's developer ("" = the cause says it all).

    terminates: what is wrong will never be right (a payload over the limit): the run is terminated.
    """

    def __init__(self, cause: WorkflowTaskFailedCause.ValueType, message: str, *, terminates: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.terminates = terminates

    @property
    def text(self) -> str:
        """As the worker and the history are told."""
        name = WorkflowTaskFailedCause.Name(self.cause).removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")
        label = "".join(part.capitalize() for part in name.split("_"))
        return f"{label}: {self.message}" if self.message else label


class Completion:
    """The answer to a workflow task while its commands are taken one by one.

    completed_event_id: the event all command events refer to.
    eager_activity_ids: scheduled event ids of activities whose task goes back with the reply.
    successor: the new run of a continue-as-new, retry or cron, in the same append as the close.
    messages: protocol messages by id, removed as commands consume them.
    resolve_namespace: name -> (id, name) of a namespace a command may name; None if there is none.
    check_search_attributes: raises ValueError with the reason if names or values are not registered ones; writes the
        type's name into the metadata of each payload.
    has_news: something came that the worker has not seen: then it may not end the run.
    initiated_child_ids: workflow ids of the children of this answer.
    """

    __slots__ = (
        "check_search_attributes",
        "close_command_seen",
        "completed_event_id",
        "eager_activity_ids",
        "has_news",
        "identity",
        "initiated_child_ids",
        "may_be_eager",
        "messages",
        "needs_task",
        "original_scheduled_at",
        "resolve_namespace",
        "successor",
        "t",
        "worker_queue",
    )

    def __init__(
        self,
        t: Transition,
        completed_event_id: int,
        identity: str,
        *,
        messages: dict[str, ProtocolMessage],
        resolve_namespace: Callable[[str], tuple[str, str] | None],
        check_search_attributes: Callable[[Any], None],
        may_be_eager: bool,
    ) -> None:
        self.t = t
        self.completed_event_id = completed_event_id
        self.identity = identity
        self.messages = messages
        self.resolve_namespace = resolve_namespace
        self.check_search_attributes = check_search_attributes
        self.may_be_eager = may_be_eager
        self.has_news = bool(t.state.buffered)
        self.initiated_child_ids: set[str] = set()
        self.eager_activity_ids: list[int] = []
        self.successor: Transition | None = None
        self.close_command_seen = False
        self.original_scheduled_at = 0  # of the task that was answered: a chain of heartbeats keeps it
        self.needs_task = False  # a command's outcome (a cancelled activity nobody had) must be told at once


def check_queue(name: str, limit: int) -> None:
    """Raises ValueError with the public server's words for a task queue that users may not name."""
    if len(name.encode()) > limit:
        raise ValueError("taskQueue length exceeds limit")
    if name.startswith("/_sys/"):
        raise ValueError("task queue name cannot start with reserved prefix /_sys/")


def check_size(
    c: Completion, size_bytes: int, cause: WorkflowTaskFailedCause.ValueType, message: str, *, limit: int = 0
) -> None:
    """A payload over the limit (0 = the one of payloads) ends the run: its worker would send it again for ever."""
    if size_bytes > (limit or c.t.context.limits.payload_bytes_max):
        raise BadCommand(cause, message, terminates=True)


def check_search_attributes(c: Completion, attributes: Any) -> None:
    """Raises BadCommand if names, types or sizes are not as they must be. Fills in the types."""
    bad = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
    try:
        c.check_search_attributes(attributes)
    except ValueError as error:
        raise BadCommand(bad, str(error)) from error


# Nexus operations have their machine, and nobody yet who delivers them: until then their commands are unknown, as what closes
# a run owes no callback.
NEXUS_IS_SERVED = True
_OF_NEXUS = frozenset(
    (CommandType.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION, CommandType.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION)
)

CommandHandler = Callable[[Completion, Command], None]
COMMANDS: dict[int, CommandHandler] = {}
C = TypeVar("C", bound=CommandHandler)


def is_served(command_type: int) -> bool:
    """Whether a worker may wish for this."""
    return command_type in COMMANDS and (NEXUS_IS_SERVED or command_type not in _OF_NEXUS)


def command(command_type: CommandType.ValueType) -> Callable[[C], C]:
    """Registers the one function that decides this command."""

    def register(function: C) -> C:
        assert command_type not in COMMANDS, f"two handlers for command {command_type}"
        COMMANDS[command_type] = function
        return function

    return register
