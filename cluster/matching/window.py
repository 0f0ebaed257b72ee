"""What one queue knows of its tasks: a bounded window of hints, and which shards have more.

Nothing is lost although hints are dropped: a shard whose hint did not fit is remembered in `more` and asked again when the
window runs low. It is forgotten only after one answer that listed everything it has (fewer rows than asked for) while none
of its hints was dropped meanwhile. Asking for `held + room` rows from the start guarantees progress without an offset,
which would skip tasks whenever earlier ones are started in between: of held + room rows at most `held` are known already.

Pure: no clock, no loop. `now` and due times are monotonic seconds.
"""

from __future__ import annotations

import math
from enum import Enum
from heapq import heappop, heappush

from cluster.matching.fairness import Entry, EntryState, Level
from cluster.matching.limits import MatchingLimits
from cluster.matching.rates import TokenBucket
from cluster.matching.tasks import TaskHint

PRIORITY_DEFAULT = 3
PRIORITY_LAST = 5

TaskKey = tuple[str, int, int]  # run id, scheduled event id, stamp


class Offered(Enum):
    """What became of an offer."""

    ADDED = 1
    DUPLICATE = 2
    BEYOND = 3  # did not fit: its shard is remembered


class Beyond:
    """Hints of one shard that are not in the window. `drops` counts up, so that an answer older than a drop is recognised."""

    __slots__ = ("count", "drops")

    def __init__(self) -> None:
        self.count = 0
        self.drops = 0


class Ask:
    """One question to a shard: its `limit` oldest tasks for this queue."""

    __slots__ = ("drops", "limit", "shard")

    def __init__(self, shard: int, limit: int, drops: int) -> None:
        self.shard = shard
        self.limit = limit
        self.drops = drops


def key_of(hint: TaskHint) -> TaskKey:
    return (hint.run_id, hint.scheduled_event_id, hint.stamp)


def priority_of(hint: TaskHint) -> int:
    return min(hint.priority, PRIORITY_LAST) if hint.priority > 0 else PRIORITY_DEFAULT


class TaskWindow:
    """See the module's text. Order: priority, then fairness, then age."""

    __slots__ = (
        "_delayed",
        "_fairness_rate",
        "_known",
        "_serial",
        "delayed_count",
        "held",
        "levels",
        "limits",
        "more",
        "throttle",
        "waiting_count",
        "weights",
    )

    def __init__(self, limits: MatchingLimits) -> None:
        self.limits = limits
        self.weights: dict[str, float] = {}
        self.levels: list[Level | None] = [None] * (PRIORITY_LAST + 1)
        self.throttle = TokenBucket()
        self.more: dict[int, Beyond] = {}
        self.held: dict[int, int] = {}  # entries by shard, in flight and delayed ones included
        self.waiting_count = 0
        self.delayed_count = 0
        self._known: dict[TaskKey, Entry] = {}
        self._delayed: list[tuple[float, int, Entry]] = []
        self._serial = 0
        self._fairness_rate: float | None = None

    @property
    def is_empty(self) -> bool:
        return not self._known and not self.more

    @property
    def in_flight_count(self) -> int:
        return len(self._known) - self.waiting_count - self.delayed_count

    def backlog_count(self) -> int:
        """Tasks that wait, those beyond the window (about) included."""
        return self.waiting_count + self.delayed_count + sum(beyond.count for beyond in self.more.values())

    # --- from the shards ------------------------------------------------------------------------------------------------
    def offer(self, hint: TaskHint) -> Offered:
        key = key_of(hint)
        known = self._known.get(key)
        if known is not None:
            if known.state is EntryState.IN_FLIGHT:
                known.offered_again = True
                known.withdrawn = False
            return Offered.DUPLICATE
        priority = priority_of(hint)
        if self.waiting_count + self.delayed_count >= self.limits.window_hints_max and not self._make_room(hint, priority):
            self._note_beyond(hint.shard)
            return Offered.BEYOND
        self._push(self._enter(hint, priority))
        return Offered.ADDED

    def adopt(self, hint: TaskHint) -> Entry:
        """A hint of another node's share for a poll that waits here: in flight at once, at nobody's cost of tokens."""
        assert key_of(hint) not in self._known
        entry = self._enter(hint, priority_of(hint))
        entry.state = EntryState.IN_FLIGHT
        return entry

    def entry(self, key: TaskKey) -> Entry | None:
        return self._known.get(key)

    def withdraw(self, hint: TaskHint) -> None:
        """The task is gone. Harmless if it never was here."""
        self.withdraw_key(key_of(hint), hint.shard)

    def withdraw_key(self, key: TaskKey, shard: int) -> None:
        entry = self._known.get(key)
        if entry is None:
            if (beyond := self.more.get(shard)) is not None:
                beyond.count = max(1, beyond.count - 1)
        elif entry.state is EntryState.IN_FLIGHT:
            entry.withdrawn = True
            entry.offered_again = False
        else:
            self._remove(entry)

    def remove(self, entry: Entry) -> None:
        """It is settled elsewhere, whatever its state here."""
        if entry.state is not EntryState.DROPPED:
            self._remove(entry)

    def entries(self) -> list[Entry]:
        """All, in flight or not. O(n)."""
        return list(self._known.values())

    def waiting_hints(self) -> list[TaskHint]:
        """All that wait (a sticky queue hands them back when its worker is gone). O(n)."""
        return [entry.hint for entry in self._known.values() if entry.state is not EntryState.IN_FLIGHT]

    # --- to the pollers ---------------------------------------------------------------------------------------------------
    def take(self, now: float) -> Entry | None:
        """The next task that may go now; it is in flight until `finish` or `put_back`."""
        if self._delayed:
            self.release(now)
        if not self.waiting_count or self.throttle.ready_at() > now:
            return None
        for level in self.levels:
            if level is not None and level.live_count and (entry := level.pop(now)) is not None:
                self.throttle.take(now)
                self.waiting_count -= 1
                entry.state = EntryState.IN_FLIGHT
                return entry
        return None

    def next_at(self, now: float) -> float:
        """When `take` can give something: <= now, later, or inf (not before another offer)."""
        if self._delayed:
            self.release(now)
        released_at = self._delayed[0][0] if self._delayed else math.inf
        if not self.waiting_count:
            return released_at
        lanes_at = min(level.ready_at(now) for level in self.levels if level is not None)
        return min(released_at, max(lanes_at, self.throttle.ready_at()))

    def started(self, entry: Entry) -> None:
        self._remove(entry)

    def gone(self, entry: Entry) -> None:
        """The run does not know the task. Offered once more while we asked: the answer may be the older word."""
        self.throttle.refund()
        if entry.offered_again:
            entry.offered_again = False
            self._push(entry)
        else:
            self._remove(entry)

    def put_back(self, entry: Entry, until: float | None = None) -> None:
        """The poller could not start it: it waits again, from `until` on."""
        assert entry.state is EntryState.IN_FLIGHT
        self.throttle.refund()
        entry.offered_again = False
        if entry.withdrawn:
            self._remove(entry)
        elif until is None:
            self._push(entry)
        else:
            entry.state = EntryState.DELAYED
            self.delayed_count += 1
            self._serial += 1
            heappush(self._delayed, (until, self._serial, entry))

    # --- beyond the window --------------------------------------------------------------------------------------------------
    def is_low(self) -> bool:
        """Time to ask. Delayed tasks do not count as supply, but the room must be worth a question."""
        if not self.more or self.waiting_count > self.limits.window_hints_low:
            return False
        room = self.limits.window_hints_max - self.waiting_count - self.delayed_count
        return room >= max(1, self.limits.window_hints_max // 8)

    def plan_asks(self) -> list[Ask]:
        """Which shards to ask for how much: an equal share of the room each."""
        room = self.limits.window_hints_max - self.waiting_count - self.delayed_count
        share = max(1, room // max(1, len(self.more)))
        return [Ask(shard, self.held.get(shard, 0) + share, beyond.drops) for shard, beyond in self.more.items()]

    def answer(self, ask: Ask, hints: list[TaskHint]) -> bool:
        """Takes in a shard's answer; True if it brought anything: tasks, or the word that there are no more."""
        beyond = self.more.get(ask.shard)
        added = sum(self.offer(hint) is Offered.ADDED for hint in hints)
        if beyond is None:
            return added > 0
        if len(hints) < ask.limit and beyond.drops == ask.drops:
            del self.more[ask.shard]
            return True
        beyond.count = max(1, beyond.count - added)
        return added > 0

    def remember_shard(self, shard: int) -> None:
        """The shard may have tasks for this queue that were never offered to this window."""
        self._note_beyond(shard)

    # --- figures ------------------------------------------------------------------------------------------------------------
    def waiting_by_priority(self) -> dict[int, int]:
        return {number: level.live_count for number, level in enumerate(self.levels) if level is not None and level.live_count}

    def oldest_created_at(self, priority: int | None = None) -> int | None:
        levels = [level for number, level in enumerate(self.levels) if level is not None and priority in (None, number)]
        ages = [age for level in levels if level.live_count and (age := level.oldest_created_at()) is not None]
        return min(ages, default=None)

    # --- configuration --------------------------------------------------------------------------------------------------------
    def configure(self, rate: float | None, fairness_rate: float | None, weights: dict[str, float]) -> None:
        self.throttle.set_rate(rate)
        self.weights.clear()
        self.weights.update(weights)
        self._fairness_rate = fairness_rate
        for level in self.levels:
            if level is not None:
                level.rate = fairness_rate
                level.reweigh()

    # --- inside -----------------------------------------------------------------------------------------------------------
    def _level(self, priority: int) -> Level:
        level = self.levels[priority]
        if level is None:
            level = self.levels[priority] = Level(self.limits.fairness_keys_retained_max, self.weights)
            level.rate = self._fairness_rate
        return level

    def _enter(self, hint: TaskHint, priority: int) -> Entry:
        self._serial += 1
        entry = self._known[key_of(hint)] = Entry(hint, self._serial, priority)
        self.held[hint.shard] = self.held.get(hint.shard, 0) + 1
        return entry

    def _push(self, entry: Entry) -> None:
        self._level(entry.level).push(entry)
        self.waiting_count += 1

    def release(self, now: float) -> None:
        """Those whose pause is over wait with the others again."""
        delayed = self._delayed
        while delayed and (delayed[0][0] <= now or delayed[0][2].state is not EntryState.DELAYED):
            entry = heappop(delayed)[2]
            if entry.state is EntryState.DELAYED:
                self.delayed_count -= 1
                self._push(entry)

    def _remove(self, entry: Entry) -> None:
        hint = entry.hint
        if entry.state is EntryState.WAITING:
            level = self.levels[entry.level]
            assert level is not None
            level.drop(entry)
            self.waiting_count -= 1
        elif entry.state is EntryState.DELAYED:
            self.delayed_count -= 1
        entry.state = EntryState.DROPPED
        self._known.pop(key_of(hint), None)
        if (left := self.held[hint.shard] - 1) > 0:
            self.held[hint.shard] = left
        else:
            del self.held[hint.shard]

    def _make_room(self, hint: TaskHint, priority: int) -> bool:
        """A full window drops a task of a later priority, or of a fairness key with far more tasks, for a better one."""
        for number in range(PRIORITY_LAST, priority - 1, -1):
            level = self.levels[number]
            if level is None or not level.live_count:
                continue
            if number == priority and level.longest_lane().live_count <= level.live_count_of(hint.fairness_key) + 1:
                return False
            evicted = level.youngest()
            self._remove(evicted)
            self._note_beyond(evicted.hint.shard)
            return True
        return False

    def _note_beyond(self, shard: int) -> None:
        beyond = self.more.get(shard)
        if beyond is None:
            beyond = self.more[shard] = Beyond()
        beyond.count += 1
        beyond.drops += 1
