"""Keeps what is under way in line with what a run's state says is owed.

After every durable change: a new effect is offered (tasks) or begun (deliveries), one that is gone is withdrawn. The index
of offered tasks, per queue and about 100 bytes each, is what matching asks when its own window ran dry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from temporalio.api.common.v1 import Priority

from cluster.core.effects import Effect, OfferActivityTask, OfferWorkflowTask, effects
from cluster.core.machines import workflow_task
from cluster.core.state import RunState
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from cluster.seams import Spawn


class Matching(Protocol):
    def offer(self, hint: TaskHint) -> bool:
        """False: the sticky queue has no live poller."""
        ...

    def withdraw(self, hint: TaskHint) -> None: ...

    def forget(self, hint: TaskHint) -> None:
        """The shard has left this node. The next owner may have offered the task already, so it is not withdrawn elsewhere."""
        ...


class Outstanding:
    """One per node, over all its shards."""

    def __init__(
        self,
        matching: Matching,
        spawn: Spawn,
        deliver: Callable[[Shard, Run, Effect], Coroutine[Any, Any, None]],
        sticky_gone: Callable[[Shard, Run], None],
        acts_for: Callable[[RunState], bool] = lambda state: True,
    ) -> None:
        """acts_for: whether this region acts for the run; if not, nothing of it is offered or delivered."""
        self._matching = matching
        self._spawn = spawn
        self._deliver = deliver
        self._sticky_gone = sticky_gone
        self._acts_for = acts_for
        self._index: dict[tuple[QueueKey, int], dict[tuple[str, int, int], TaskHint]] = {}

    def reconcile(self, shard: Shard, run: Run, state: RunState) -> None:
        """Called with a durable state of the run."""
        is_active = self._acts_for(state)
        wanted = effects(state) if is_active else []
        active = run.active
        if not wanted and not active:
            return
        keys = set(wanted)
        for effect in [one for one in active if one not in keys]:
            served = active.pop(effect)
            if isinstance(served, TaskHint):
                self._unlist(served)
                self._matching.withdraw(served)
            elif isinstance(served, asyncio.Task) and not is_active:
                served.cancel()  # as if cut off: the region that is active now repeats it
        for effect in wanted:
            if effect not in active:
                self._begin(shard, run, state, effect)

    def forget_shard(self, shard: int) -> None:
        """The shard is gone from here; whoever owns it next offers anew."""
        for key in [key for key in self._index if key[1] == shard]:
            for hint in self._index.pop(key).values():
                self._matching.forget(hint)

    def listed(self) -> list[tuple[QueueKey, int]]:
        """The queues that have tasks outstanding here, by shard."""
        return list(self._index)

    def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        """The oldest outstanding tasks, in the order they became outstanding."""
        listed = self._index.get((queue, shard), {})
        return list(listed.values())[skip : skip + limit]

    def backlog_count(self, queue: QueueKey) -> int:
        return sum(len(hints) for (key, _), hints in self._index.items() if key == queue)

    def _begin(self, shard: Shard, run: Run, state: RunState, effect: Effect) -> None:
        if isinstance(effect, OfferWorkflowTask | OfferActivityTask):
            hint = hint_of(shard.id, state, effect)
            run.active[effect] = hint
            self._index.setdefault((hint.queue, hint.shard), {})[_listing(hint)] = hint
            if not self._matching.offer(hint) and hint.is_sticky:
                asyncio.get_running_loop().call_soon(self._sticky_gone, shard, run)
        else:
            run.active[effect] = self._spawn(self._deliver(shard, run, effect), type(effect).__name__)

    def _unlist(self, hint: TaskHint) -> None:
        key = (hint.queue, hint.shard)
        listed = self._index.get(key)
        if listed is not None:
            listed.pop(_listing(hint), None)
            if not listed:
                del self._index[key]


def _listing(hint: TaskHint) -> tuple[str, int, int]:
    return (hint.run_id, hint.scheduled_event_id, hint.stamp)


def hint_of(shard: int, state: RunState, effect: OfferWorkflowTask | OfferActivityTask) -> TaskHint:
    """What matching must know of an outstanding task."""
    if isinstance(effect, OfferWorkflowTask):
        task = state.task
        assert task is not None
        queue = workflow_task.queue_of(state).name if task.is_sticky else state.task_queue
        kind, created_at, own, is_sticky = TaskKind.WORKFLOW, task.scheduled_at, b"", task.is_sticky
    else:
        activity = state.activities[effect.scheduled_event_id]
        queue, kind, created_at, is_sticky = activity.task_queue, TaskKind.ACTIVITY, activity.scheduled_at, False
        own = activity.priority
    priority = Priority.FromString(own or state.priority) if own or state.priority else None
    return TaskHint(
        queue=QueueKey(state.namespace_id, queue, kind),
        shard=shard,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=effect.scheduled_event_id,
        stamp=effect.stamp,
        created_at=created_at,
        priority=priority.priority_key if priority is not None else 0,
        fairness_key=priority.fairness_key if priority is not None else "",
        fairness_weight=priority.fairness_weight or 1.0 if priority is not None else 1.0,
        is_sticky=is_sticky,
    )
