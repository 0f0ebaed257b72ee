"""Where pollers meet tasks: the driver of `partition.py` and `window.py`. Everything happens in one event loop.

The way of a task: the shard offers a hint -> a parked poll gets it in the same step (or it waits in the window) -> the poll's
own coroutine asks history to start it -> the run decides. A hint is forgotten only when history says started or gone; a poll
that ends in between, for whatever reason, puts it back. Needs no job of its own per task, and no lock.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import Message
from temporalio.api.taskqueue.v1 import TaskQueueConfig

from cluster.core.errors import CallerError, Code, resource_exhausted, unavailable
from cluster.matching.describe import rate_asked
from cluster.matching.fairness import Entry
from cluster.matching.limits import MatchingLimits
from cluster.matching.partition import Matched, ParkedPoll, Partition
from cluster.matching.queries import DirectQuery
from cluster.matching.queue_config import apply_config
from cluster.matching.refill import Refill
from cluster.matching.sharing import Sharing
from cluster.matching.tasks import HistoryPort, QueueKey, TaskGone, TaskHint, TaskKind
from cluster.matching.window import Offered, TaskKey, key_of
from cluster.seams import Clock, Spawn

TRANSIENT = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED})
WAKE_MARGIN_S = 1e-6  # a loop that rounds times to ns must not wake us before the time has come, again and again
_BACKLOG_HINT_TAG = b"\x38"  # PollWorkflowTaskQueueResponse.backlog_count_hint = 7, varint


class MatchingMetrics(Protocol):
    def count(self, event: str, kind: TaskKind) -> None:
        """event: sync_match, backlog_match, lent_match, query_match, poll_expired, task_gone, start_failed,
        offer_beyond_window, sticky_unavailable, backlog_failed."""
        ...


class Matcher:
    """See the module's text. `counts` has the same events as `metrics` gets."""

    def __init__(self, limits: MatchingLimits, clock: Clock, spawn: Spawn, metrics: MatchingMetrics | None) -> None:
        assert limits.window_hints_low < limits.window_hints_max
        self.limits = limits
        self.history: HistoryPort | None = None
        self.sharing: Sharing | None = None  # with other nodes; None while there are none
        self.counts: Counter[str] = Counter()
        self.configs: dict[QueueKey, TaskQueueConfig] = {}
        self.partitions: dict[QueueKey, Partition] = {}
        self.is_draining = False
        self._clock, self._metrics = clock, metrics
        self._refill = Refill(self, spawn)
        self._unplaced: set[int] = set()  # shards whose hints found no queue because there were too many
        self._swept_at = self._crowded_until = -math.inf
        self._sweeper: asyncio.TimerHandle | None = None

    # --- for the shards -------------------------------------------------------------------------------------------------
    def offer(self, hint: TaskHint) -> bool:
        """A task is outstanding. Idempotent. False = not taken: its sticky queue has no poller, offer it on the normal one."""
        now = _loop().time()
        partition = self.partitions.get(hint.queue)
        if hint.is_sticky and partition is not None and not partition.has_poller(now, self.limits.sticky_poller_s):
            self.count("sticky_unavailable", hint.queue.kind)
            return False
        if partition is None:
            partition = self.open(hint.queue, now, is_wanted=False)
            if partition is not None and hint.is_sticky:
                # Its worker may be on its way: nothing is known of a queue just made.
                partition.last_polled_at = now - self.limits.sticky_poller_s + self.limits.sticky_grace_s
            if partition is None:
                self._unplaced.add(hint.shard)
                self.count("offer_beyond_window", hint.queue.kind)
                return True
        outcome = partition.window.offer(hint)
        if outcome is Offered.ADDED:
            partition.used_at = now
            partition.add_rate.add(now)
            self.changed(partition, "sync_match")
        elif outcome is Offered.BEYOND:
            self.count("offer_beyond_window", hint.queue.kind)
        elif partition.link is not None and self.sharing is not None:
            self.sharing.offered_again(partition, hint)
        return True

    def withdraw(self, hint: TaskHint) -> None:
        """The task is gone (run closed, timed out). Optional: a stale hint costs one TaskGone."""
        self.withdraw_keys(hint.queue, hint.shard, (key_of(hint),))

    def withdraw_keys(self, queue: QueueKey, shard: int, keys: Iterable[TaskKey]) -> None:
        if (partition := self.partitions.get(queue)) is None:
            return
        for key in keys:
            if partition.link is None or self.sharing is None:
                partition.window.withdraw_key(key, shard)
            else:
                self.sharing.withdraw(partition, key, shard)
        if partition.link is None:
            self._refill.if_low(partition)
        else:
            self.settle(partition)

    def remember_shard(self, queue: QueueKey, shard: int) -> None:
        """The shard has more for the queue than it offered."""
        partition = self.partitions.get(queue) or self.open(queue, _loop().time(), is_wanted=False)
        if partition is None:
            self._unplaced.add(shard)
        else:
            partition.window.remember_shard(shard)
            self._refill.if_low(partition)

    # --- for the pollers ---------------------------------------------------------------------------------------------------
    async def poll(self, key: QueueKey, request: Any, deadline: float | None) -> Message | bytes | None:
        """The answer to a poll; None when the time is over. `request` is a Poll*TaskQueueRequest."""
        loop = _loop()
        now = loop.time()
        until = now + self.limits.long_poll_s
        if deadline is not None:
            until = min(until, deadline - self.limits.poll_margin_s)
            if deadline <= now:
                return None  # nobody would receive a task
        partition = self.partitions.get(key) or self.open(key, now)
        if partition is None:
            raise resource_exhausted(f"more than {self.limits.queues_max} task queues are polled on this node")
        partition.note_poll(request.identity, request, now, self._clock.now_ns())
        if key.kind is TaskKind.ACTIVITY:
            partition.ask_rate(rate_asked(request))
        if partition.link is not None and self.sharing is not None:
            self.sharing.polled(partition, now)
        while partition is not None and not self.is_draining:
            matched = None if partition.parked else partition.next_item(loop.time())
            if matched is not None:
                self._count_match(matched, "backlog_match", key.kind)
            elif loop.time() >= until:
                self.count("poll_expired", key.kind)
                return None
            else:
                matched = await self._park(partition, request, until)
                if matched is None:
                    self.count("poll_expired", key.kind)
                    return None
            response = (
                matched.task_for(request)
                if isinstance(matched, DirectQuery)
                else await self._start(partition, matched, request)
            )
            if response is not None:
                return response
            await asyncio.sleep(0)  # a long run of stale hints must not hold up the loop
            if loop.time() >= until or (self.sharing is not None and not self.sharing.is_here(key)):
                break
            partition = self.partitions.get(key) or self.open(key, loop.time())  # it may have been swept meanwhile
        return None

    async def _park(self, partition: Partition, request: Message, until: float) -> Matched | None:
        loop = _loop()
        poll = ParkedPoll(loop.create_future(), request)
        poll.timer = loop.call_at(until, self._expire, partition, poll)
        partition.parked[poll] = None
        self.dispatch(partition, "backlog_match")
        try:
            return await poll.future
        except asyncio.CancelledError:
            partition.parked.pop(poll, None)
            if poll.timer is not None:
                poll.timer.cancel()
            if poll.matched is not None:
                self._take_back(partition, poll.matched)
            raise

    def _expire(self, partition: Partition, poll: ParkedPoll) -> None:
        now = _loop().time()
        partition.parked.pop(poll, None)
        partition.last_polled_at = partition.used_at = now
        poll.resolve(None)

    async def _start(self, partition: Partition, entry: Entry, request: Message) -> Message | bytes | None:
        """Asks the run. None = take another task; the entry is settled or back in the window in every case."""
        history = self.history
        assert history is not None, "bind(history) comes before the first poll"
        is_workflow = partition.key.kind is TaskKind.WORKFLOW
        try:
            if is_workflow:
                response = await history.start_workflow_task(entry.hint, request)
            else:
                response = await history.start_activity_task(entry.hint, request)
        except TaskGone:
            partition.window.gone(entry)
            self._ended(partition, entry)
            self.count("task_gone", partition.key.kind)
            self.settle(partition)
            return None
        except asyncio.CancelledError:
            self._take_back(partition, entry)
            raise
        except Exception as failure:
            is_transient = isinstance(failure, CallerError) and failure.code in TRANSIENT
            self.delay(partition, entry, is_transient)
            if is_transient:
                return None
            raise
        partition.window.started(entry)
        self._ended(partition, entry)
        self._refill.if_low(partition)
        if is_workflow and isinstance(response, bytes) and (backlog := partition.window.backlog_count()):
            return response + _BACKLOG_HINT_TAG + _varint(backlog)
        return response

    # --- matching ---------------------------------------------------------------------------------------------------------
    def dispatch(self, partition: Partition, event: str) -> None:
        """Gives parked polls what may go now, and sets the timer for what may go later."""
        loop = _loop()
        now = loop.time()
        while partition.has_waiting_poll():
            matched = partition.next_item(now)
            if matched is None:
                if partition.meets_here:
                    self.wake_at(partition, partition.window.next_at(now))
                break
            self._count_match(matched, event, partition.key.kind)
            partition.hand_over(matched, now)
        self._refill.if_low(partition)
        if partition.link is not None and self.sharing is not None:
            self.sharing.look(partition)

    def wake_at(self, partition: Partition, due: float) -> None:
        """Looks again when something may go."""
        if due < partition.wake_at:
            if partition.waker is not None:
                partition.waker.cancel()
            partition.wake_at = due
            partition.waker = _loop().call_at(due + WAKE_MARGIN_S, self._wake, partition)

    def _wake(self, partition: Partition) -> None:
        partition.waker = None
        partition.wake_at = math.inf
        self.dispatch(partition, "backlog_match")

    def _take_back(self, partition: Partition, matched: Matched) -> None:
        """The poll that had it is gone: somebody else gets it, before all others."""
        if isinstance(matched, DirectQuery):
            partition.queries.appendleft(matched)
        elif partition.link is not None and partition.link.give_back(key_of(matched.hint), has_failed=False):
            partition.window.remove(matched)
        else:
            partition.window.put_back(matched)
            self._ended(partition, matched)
        self.settle(partition)

    def _ended(self, partition: Partition, entry: Entry) -> None:
        """If it is not to be done any more, the share it came from is told."""
        key = key_of(entry.hint)
        if partition.link is not None and partition.window.entry(key) is not entry:
            partition.link.ended(key)

    def delay(self, partition: Partition, entry: Entry, is_transient: bool) -> None:
        """Its start was refused: it rests, each time longer."""
        limits = self.limits
        if partition.link is not None and partition.link.give_back(key_of(entry.hint), has_failed=True):
            partition.window.remove(entry)
            self.count("start_failed", partition.key.kind)
            return
        first_s, max_s = (
            (limits.transient_backoff_s, limits.transient_backoff_max_s)
            if is_transient
            else (limits.poison_backoff_s, limits.poison_backoff_max_s)
        )
        backoff_s = min(max_s, first_s * 2.0 ** min(entry.failures, 30))
        entry.failures += 1
        self.count("start_failed", partition.key.kind)
        partition.window.put_back(entry, _loop().time() + backoff_s)
        self._ended(partition, entry)
        self.settle(partition)

    def changed(self, partition: Partition, event: str) -> None:
        """There may be more for the polls here or, without any, for those of other shares."""
        if partition.parked:
            self.dispatch(partition, event)
        elif partition.link is not None and self.sharing is not None:
            self.sharing.look(partition)

    def settle(self, partition: Partition) -> None:
        """There may be less, too."""
        if not partition.parked:
            self._refill.if_low(partition)
        self.changed(partition, "backlog_match")

    # --- queues come and go -------------------------------------------------------------------------------------------------
    def open(self, key: QueueKey, now: float, is_wanted: bool = True) -> Partition | None:
        """A new queue in memory. None if there are too many: for an offer (not `is_wanted`) when the table is full, for
        a poll or query only when every queue in it has somebody waiting."""
        if len(self.partitions) >= self.limits.queues_max:
            if now - self._swept_at >= 1.0:
                self._sweep(now, idle_s=0.0)
            if is_wanted:
                self._evict(now)
        if len(self.partitions) >= self.limits.queues_max:
            return None
        partition = self.partitions[key] = Partition(key, self.limits, now)
        if self.sharing is not None:
            partition.link = self.sharing.link_for(key)
        if (config := self.configs.get(key)) is not None:
            apply_config(partition, config)
        for shard in sorted(self._unplaced):
            partition.window.remember_shard(shard)
        self._refill.if_low(partition)
        if self._sweeper is None and not self.is_draining:
            self._sweeper = _loop().call_later(self.limits.idle_queue_s / 2, self._sweep_again)
        return partition

    def _evict(self, now: float) -> None:
        """Queues with tasks that nobody polls make room (a hundredth of the table at a time): their shards are remembered."""
        if len(self.partitions) < self.limits.queues_max or now < self._crowded_until:
            return
        silent = sorted((p for p in self.partitions.values() if p.is_evictable()), key=lambda p: p.used_at)
        if not silent:
            self._crowded_until = now + 0.1  # looking through the whole table for every refused poll would cost too much
        for partition in silent[: max(1, self.limits.queues_max // 100)]:
            self._unplaced.update(partition.window.held, partition.window.more)
            partition.close()
            del self.partitions[partition.key]

    def _sweep_again(self) -> None:
        self._sweeper = None
        self._sweep(_loop().time(), self.limits.idle_queue_s)
        if self.partitions:
            self._sweeper = _loop().call_later(self.limits.idle_queue_s / 2, self._sweep_again)

    def _sweep(self, now: float, idle_s: float) -> None:
        self._swept_at = now
        for partition in [partition for partition in self.partitions.values() if partition.is_idle(now, idle_s)]:
            partition.close()
            del self.partitions[partition.key]

    def drop(self, partition: Partition, reason: CallerError) -> None:
        """The queue is others' now. Polls end empty and are made again there; whoever waits for a query asks there."""
        partition.window.more.clear()
        for query in partition.queries:
            query.refuse(reason)
        partition.queries.clear()
        partition.close()
        self.partitions.pop(partition.key, None)

    def drain(self) -> None:
        """This node takes no more part: every parked poll ends empty. Its hints are dropped; shards offer them elsewhere."""
        self.is_draining = True
        if self.sharing is not None:
            self.sharing.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for partition in self.partitions.values():
            for query in partition.queries:
                query.refuse(unavailable("this node is shutting down"))
            partition.close()

    # --- counting -----------------------------------------------------------------------------------------------------------
    def count(self, event: str, kind: TaskKind) -> None:
        self.counts[event] += 1
        if self._metrics is not None:
            self._metrics.count(event, kind)

    def _count_match(self, matched: Matched, event: str, kind: TaskKind) -> None:
        self.count("query_match" if isinstance(matched, DirectQuery) else event, kind)


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
