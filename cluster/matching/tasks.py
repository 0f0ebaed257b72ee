"""The words matching and history exchange. A hint says that a run has a task outstanding; the run alone decides if it
still has. Losing a hint loses nothing: the shard offers again."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import IntEnum
from typing import Protocol

import msgspec
from google.protobuf.message import Message


class TaskKind(IntEnum):
    """Task queues of the kinds are separate, even under one name. Nexus tasks are no hints: who asks waits, as with a query."""

    WORKFLOW = 1
    ACTIVITY = 2
    NEXUS = 3


class QueueKey(msgspec.Struct, frozen=True, order=True):
    """One task queue (or one sticky queue: `normal_name` then names the queue it falls back to)."""

    namespace_id: str
    name: str
    kind: TaskKind


class TaskHint(msgspec.Struct, frozen=True):
    """An outstanding task of a run, about 100 bytes.

    stamp: differs between two offers of what is not the same task (attempt, reset), so that stale hints are recognised.
    created_at: ns since the epoch, when the task became outstanding (backlog age, schedule-to-start latency).
    priority: 1..5, 0 = default (3). fairness_key and weight: as in temporal.api.common.v1.Priority.
    """

    queue: QueueKey
    shard: int
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    stamp: int
    created_at: int
    priority: int = 0
    fairness_key: str = ""
    fairness_weight: float = 1.0
    is_sticky: bool = False


class TaskGone(Exception):
    """The run has no such task any more (started elsewhere, timed out, closed): the poller waits for another."""


class StickyWorkerUnavailable(Exception):
    """The sticky queue has had no poller for a while: ask again on the normal queue (the worker lost its cache or is gone)."""


class HistoryPort(Protocol):
    """What matching asks of history."""

    def start_workflow_task(self, hint: TaskHint, poll: Message) -> Awaitable[bytes | Message]:
        """Marks the task started for this poll (idempotent per poll request id) and returns the encoded
        PollWorkflowTaskQueueResponse. Raises TaskGone."""
        ...

    def start_activity_task(self, hint: TaskHint, poll: Message) -> Awaitable[bytes | Message]:
        """The same for an activity; an encoded PollActivityTaskQueueResponse. Raises TaskGone."""
        ...

    def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> Awaitable[list[TaskHint]]:
        """The oldest outstanding tasks of one shard for a queue, after the first `skip`: asked when a window ran dry.

        Fewer than `limit` rows mean that the shard has no more: matching forgets the shard on that word, so an
        implementation must honour `limit` in full (matching never asks for more than a window holds)."""
        ...
