"""One priority of a queue: fairness keys take turns by weight, tasks of one key leave in the order of their age.

Stride scheduling (start-time fair queueing): every key has a `turn`, the key with the lowest turn goes next and then
moves on by 1/weight. A key that comes back from idleness starts at the level's present turn, so it can neither save
up turns nor be punished for having been alone. Every operation is O(log n).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from enum import IntEnum
from heapq import heapify, heappop, heappush

from cluster.matching.rates import TokenBucket
from cluster.matching.tasks import TaskHint

WEIGHT_MIN, WEIGHT_MAX = 0.001, 1000.0  # temporal.api.common.v1.Priority.fairness_weight


class EntryState(IntEnum):
    """Where a hint is.

    WAITING    in a lane of its level                  -> IN_FLIGHT (taken), DROPPED (withdrawn, evicted)
    IN_FLIGHT  a poller asks history to start it       -> WAITING, DELAYED (put back), DROPPED (started, gone)
    DELAYED    put back, waits out a back-off          -> WAITING, DROPPED (withdrawn)
    DROPPED    not in the window
    """

    WAITING = 1
    IN_FLIGHT = 2
    DELAYED = 3
    DROPPED = 4


class Entry:
    """A hint in the window. `offered_again`: its shard offered it while it was in flight, so a "gone" may be stale."""

    __slots__ = ("failures", "hint", "lane", "level", "offered_again", "serial", "state", "withdrawn")

    def __init__(self, hint: TaskHint, serial: int, level: int) -> None:
        self.hint = hint
        self.serial = serial
        self.level = level
        self.lane: Lane | None = None
        self.state = EntryState.WAITING
        self.failures = 0
        self.offered_again = False
        self.withdrawn = False


class Lane:
    """The tasks of one fairness key. Withdrawn entries stay in the heap until they surface or outnumber the live ones."""

    __slots__ = ("bucket", "heap", "is_listed", "key", "live_count", "turn", "weight")

    def __init__(self, key: str) -> None:
        self.key = key
        self.weight = 1.0
        self.heap: list[tuple[int, int, Entry]] = []
        self.live_count = 0
        self.turn = 0.0
        self.bucket: TokenBucket | None = None
        self.is_listed = False  # in the level's turns or its throttled heap

    def surface(self) -> Entry | None:
        """The oldest live entry, left in place; dead ones above it go."""
        heap = self.heap
        while heap:
            entry = heap[0][2]
            if entry.state is EntryState.WAITING:
                return entry
            heappop(heap)
        return None

    def compact(self) -> None:
        if len(self.heap) > 2 * self.live_count + 16:
            self.heap = [item for item in self.heap if item[2].state is EntryState.WAITING]
            heapify(self.heap)


class Level:
    """All waiting tasks of one priority. `rate` limits each fairness key to rate x weight tasks per second."""

    __slots__ = (
        "_lanes",
        "_longest",
        "_retained",
        "_serial",
        "_throttled",
        "_turn",
        "_turn_max",
        "_turns",
        "live_count",
        "rate",
        "retained_max",
        "weights",
    )

    def __init__(self, retained_max: int, weights: dict[str, float]) -> None:
        self.live_count = 0
        self.rate: float | None = None
        self.weights = weights  # overrides, shared with the window
        self.retained_max = retained_max
        self._lanes: dict[str, Lane] = {}  # with tasks
        self._retained: OrderedDict[str, Lane] = OrderedDict()  # empty, but they may owe a turn or a token
        self._turns: list[tuple[float, int, Lane]] = []
        self._throttled: list[tuple[float, int, Lane]] = []
        self._turn = self._turn_max = 0.0  # of the task that left last; of any lane
        self._serial = 0
        self._longest: Lane | None = None

    def push(self, entry: Entry) -> None:
        hint = entry.hint
        lane = self._lanes.get(hint.fairness_key)
        if lane is None:
            lane = self._retained.pop(hint.fairness_key, None) or Lane(hint.fairness_key)
            self._lanes[hint.fairness_key] = lane
        weight = self.weights.get(hint.fairness_key) or hint.fairness_weight or 1.0
        if weight != lane.weight or (self.rate is None) is not (lane.bucket is None):
            self._weigh(lane, weight)
        entry.state = EntryState.WAITING
        entry.lane = lane
        heappush(lane.heap, (hint.created_at, entry.serial, entry))
        lane.live_count += 1
        self.live_count += 1
        if self._longest is None or lane.live_count > self._longest.live_count:
            self._longest = lane
        if not lane.is_listed:
            lane.turn = max(lane.turn, self._turn)
            self._list(lane)

    def pop(self, now: float) -> Entry | None:
        """The next task that may go now; it leaves the level. None if there is none or every key is at its rate limit."""
        self._release(now)
        while self._turns:
            turn, _, lane = heappop(self._turns)
            lane.is_listed = False
            entry = lane.surface()
            if entry is None:
                self._retire(lane)
                continue
            bucket = lane.bucket
            if bucket is not None:
                if (ready_at := bucket.ready_at()) > now:
                    self._serial += 1
                    heappush(self._throttled, (ready_at, self._serial, lane))
                    lane.is_listed = True
                    continue
                bucket.take(now)
            heappop(lane.heap)
            lane.live_count -= 1
            self.live_count -= 1
            entry.lane = None
            self._turn = max(self._turn, turn)
            lane.turn = turn + 1.0 / lane.weight
            self._turn_max = max(self._turn_max, lane.turn)
            if lane.live_count:
                self._list(lane)
            else:
                self._retire(lane)
            return entry
        return None

    def ready_at(self, now: float) -> float:
        """When `pop` can give something: now or earlier, later, or never (inf)."""
        if not self.live_count:
            return math.inf
        self._release(now)
        for _, _, lane in self._turns:
            if lane.live_count and (lane.bucket is None or lane.bucket.ready_at() <= now):
                return now
        waits = [lane.bucket.ready_at() for _, _, lane in self._turns if lane.live_count and lane.bucket is not None]
        if self._throttled:
            waits.append(self._throttled[0][0])
        return min(waits, default=math.inf)

    def drop(self, entry: Entry) -> None:
        lane = entry.lane
        assert lane is not None and entry.state is EntryState.WAITING
        entry.state = EntryState.DROPPED
        entry.lane = None
        lane.live_count -= 1
        self.live_count -= 1
        if lane.heap[-1][2] is entry:
            lane.heap.pop()
        else:
            lane.compact()

    def longest_lane(self) -> Lane:
        """About the longest: a stale candidate is replaced once it has fallen below the average."""
        longest = self._longest
        if longest is None or longest.live_count * len(self._lanes) < self.live_count:
            longest = self._longest = max(self._lanes.values(), key=lambda lane: lane.live_count)
        return longest

    def live_count_of(self, fairness_key: str) -> int:
        lane = self._lanes.get(fairness_key)
        return 0 if lane is None else lane.live_count

    def youngest(self) -> Entry:
        """A young entry of the longest lane: a leaf of its heap, so hardly ever its oldest. It stays where it is."""
        heap = self.longest_lane().heap
        while heap[-1][2].state is not EntryState.WAITING:
            heap.pop()
        return heap[-1][2]

    def oldest_created_at(self) -> int | None:
        ages = [entry.hint.created_at for lane in self._lanes.values() if (entry := lane.surface()) is not None]
        return min(ages, default=None)

    def reweigh(self) -> None:
        """After a change of the rate or of the weight overrides: every key is looked at again."""
        for lane in self._lanes.values():
            self._weigh(lane, self.weights.get(lane.key) or lane.weight)
        for _, _, lane in self._throttled:
            lane.is_listed = False
            self._list(lane)
        self._throttled.clear()

    def _weigh(self, lane: Lane, weight: float) -> None:
        lane.weight = min(WEIGHT_MAX, max(WEIGHT_MIN, weight))
        if self.rate is None:
            lane.bucket = None
        elif lane.bucket is None:
            lane.bucket = TokenBucket(self.rate * lane.weight)
        else:
            lane.bucket.set_rate(self.rate * lane.weight)

    def _list(self, lane: Lane) -> None:
        self._serial += 1
        heappush(self._turns, (lane.turn, self._serial, lane))
        lane.is_listed = True

    def _release(self, now: float) -> None:
        while self._throttled and self._throttled[0][0] <= now:
            lane = heappop(self._throttled)[2]
            self._list(lane)

    def _retire(self, lane: Lane) -> None:
        """An empty lane is kept for a while: it may owe a turn or a token, and emptying often must be no advantage."""
        lane.heap.clear()
        del self._lanes[lane.key]
        if self._longest is lane:
            self._longest = None
        if not self.live_count:
            self._turn = self._turn_max  # nobody competes: all debts of turns are settled
            if self.rate is None:
                self._retained.clear()
                return
        self._retained[lane.key] = lane
        if len(self._retained) > self.retained_max:
            self._retained.popitem(last=False)  # the bound goes before the memory of the oldest debt
