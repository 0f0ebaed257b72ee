"""How tasks and polls of one queue meet although they are on different nodes. Hints move, polls stay.

A node's share of a queue is one `Partition` here, however many of the queue's partitions the ring gives this node. The share
that holds partition 0 is the root, the others are its children. A hint that goes to another share is in flight where it came
from (AWAY) and a GUEST where it went; it is a copy, so whatever breaks, its origin still has it.

    child                                                       root
    tasks  idle polls  root knows   does                        tasks  idle polls  a child is idle   does
    yes    yes         -            they meet here              yes    yes         -                 they meet here
    yes    no          -            FORWARD up to a bound       yes    no          yes               LEND
    no     yes         no           TELL the root               yes    no          no                WAIT
    no     yes         yes          WAIT                        no     -           -                 WAIT
    no     no          -            WAIT (told at a refresh)

Invariant: where the rings agree, a task outstanding at A and an idle poll parked at B meet after at most four messages:
A forwards to the root, B tells the root, the root lends to B, and one answer of a share whose polls had just gone.
No ping-pong: a guest is never forwarded; a child takes what is lent only into the hands of a parked poll, or gives it back with
its answer, which says how many idle polls it has left. An answer of none silences the root until the child tells again.

A queue with a rate limit is matched at its root alone: children forward all, and their polls take only what the root lends. So
one bucket of tokens holds for the whole queue, wherever its polls are.

Pure but for the futures of the polls: no clock, no message is sent here. `mark(queue, node)` says that there is news for a node.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

import msgspec

from cluster.matching.fairness import Entry
from cluster.matching.limits import MatchingLimits
from cluster.matching.tasks import QueueKey, TaskHint
from cluster.matching.window import TaskKey, key_of


class Need(Enum):
    """What the tables above ask for."""

    WAIT = 1
    MEET = 2
    FORWARD = 3
    TELL = 4
    LEND = 5


# (has tasks, has idle polls, the root knows of idle polls)
CHILD_NEEDS: dict[tuple[bool, bool, bool], Need] = {
    (True, True, True): Need.MEET,
    (True, True, False): Need.MEET,
    (True, False, True): Need.FORWARD,
    (True, False, False): Need.FORWARD,
    (False, True, True): Need.WAIT,
    (False, True, False): Need.TELL,
    (False, False, True): Need.WAIT,
    (False, False, False): Need.WAIT,
}
# (has tasks, has idle polls, a child has idle polls)
ROOT_NEEDS: dict[tuple[bool, bool, bool], Need] = {
    (True, True, True): Need.MEET,
    (True, True, False): Need.MEET,
    (True, False, True): Need.LEND,
    (True, False, False): Need.WAIT,
    (False, True, True): Need.WAIT,
    (False, True, False): Need.WAIT,
    (False, False, True): Need.WAIT,
    (False, False, False): Need.WAIT,
}


class Away(msgspec.Struct):
    """An entry that another share has. until: when it is taken to be lost there (monotonic seconds)."""

    entry: Entry
    node_id: str
    until: float


class Interest(msgspec.Struct):
    """What the root knows of a child's polls. Monotonic seconds: until when it holds, and until when there are recent pollers."""

    idle: int
    until: float
    polled_until: float
    serial: int = 0


class PartNews(msgspec.Struct, omit_defaults=True):
    """From one share of a queue to another, one way.

    over: started or gone, so that the receiver's copy (as a guest) or original (away) goes. returned: the receiver's hints that
    found no poll; failed: whose start was refused for now, so that they must rest. is_whole: `guests` are all this child has
    forwarded. idle: parked polls (None: nothing is said). has_pollers: somebody polled lately. rate: max_tasks_per_second as
    the child's latest poll has it, if `idle` says anything. serial: the higher one is the later word on idle polls.
    """

    queue: QueueKey
    guests: list[TaskHint] = []
    over: list[TaskKey] = []
    returned: list[TaskKey] = []
    failed: list[TaskKey] = []
    is_whole: bool = False
    idle: int | None = None
    serial: int = 0
    has_pollers: bool = False
    rate: float | None = None


class PartAnswer(msgspec.Struct, omit_defaults=True):
    """What became of the guests. not_here: the receiver has no share of this queue (by its ring).
    returned: no poll, no room. own: the receiver has these as its own. idle: its idle polls now."""

    queue: QueueKey
    not_here: bool = False
    returned: list[TaskKey] = []
    own: list[TaskKey] = []
    idle: int = 0
    serial: int = 0


class Pending:
    """News for one node that have not been sent."""

    __slots__ = ("failed", "guests", "is_whole", "over", "returned", "tells")

    def __init__(self) -> None:
        self.guests: dict[TaskKey, TaskHint] = {}
        self.over: dict[TaskKey, None] = {}
        self.returned: dict[TaskKey, None] = {}
        self.failed: dict[TaskKey, None] = {}
        self.is_whole = False
        self.tells = False


class PartLink:
    """What a share knows of the other shares of its queue. `root_id` is "" at the root itself."""

    __slots__ = (
        "_mark",
        "away",
        "guests",
        "interest",
        "is_told",
        "key",
        "lacking_since",
        "limits",
        "others",
        "pending",
        "refresh_at",
        "root_id",
        "told_pollers_until",
    )

    def __init__(
        self, key: QueueKey, limits: MatchingLimits, root_id: str, others: dict[str, str], mark: Callable[[QueueKey, str], None]
    ) -> None:
        self.key = key
        self.limits = limits
        self.root_id = root_id
        self.others = others  # the other nodes that have a share, and which life of each
        self.away: OrderedDict[TaskKey, Away] = OrderedDict()  # the oldest first
        self.guests: dict[TaskKey, str] = {}  # by the node they came from
        self.pending: dict[str, Pending] = {}
        self.interest: dict[str, Interest] = {}  # at the root
        self.is_told = False  # at a child: the root knows of idle polls
        self.told_pollers_until = -math.inf
        self.lacking_since: float | None = None
        self.refresh_at = math.inf
        self._mark = mark

    @property
    def is_root(self) -> bool:
        return not self.root_id

    def is_partner(self, node_id: str) -> bool:
        """News goes between the root and its children, never between children."""
        return node_id in self.others and node_id == (self.root_id or node_id)

    def news_for(self, node_id: str) -> Pending:
        """To be filled; the driver is told that there is something to send."""
        pending = self.pending.get(node_id)
        if pending is None:
            pending = self.pending[node_id] = Pending()
        self._mark(self.key, node_id)
        return pending

    # --- hints that go --------------------------------------------------------------------------------------------------
    def send(self, entry: Entry, node_id: str, until: float) -> None:
        key = key_of(entry.hint)
        self.away[key] = Away(entry, node_id, until)
        pending = self.news_for(node_id)
        pending.guests[key] = entry.hint
        pending.over.pop(key, None)

    def recall(self, key: TaskKey) -> Entry:
        """The entry is this share's matter again; the other one forgets its copy."""
        away = self.away.pop(key)
        self.tell_over(key, away.node_id)
        return away.entry

    def recall_oldest(self) -> Entry | None:
        """For a poll of a child: what it waits for was forwarded and has not been started yet, as far as is known."""
        if self.is_root or not self.away:
            return None
        return self.recall(next(iter(self.away)))

    def tell_over(self, key: TaskKey, node_id: str) -> None:
        pending = self.news_for(node_id)
        pending.guests.pop(key, None)
        pending.over[key] = None

    # --- guests ---------------------------------------------------------------------------------------------------------
    def ended(self, key: TaskKey) -> None:
        """A task was started or is gone, as a poll of this share learned."""
        origin = self.guests.pop(key, None)
        if origin is not None:
            self.tell_over(key, origin)

    def give_back(self, key: TaskKey, has_failed: bool) -> bool:
        """A child keeps no guest that has no poll. True if it was one."""
        if self.is_root or (origin := self.guests.pop(key, None)) is None:
            return False
        pending = self.news_for(origin)
        (pending.failed if has_failed else pending.returned)[key] = None
        return True

    # --- the root's view of its children ----------------------------------------------------------------------------------
    def learn(self, node_id: str, interest: Interest) -> None:
        known = self.interest.get(node_id)
        if known is None or known.serial < interest.serial:
            self.interest[node_id] = interest

    def idlest(self, now: float) -> str | None:
        """The child with the most idle polls."""
        best, most = None, 0
        for node_id, interest in self.interest.items():
            if interest.idle > most and interest.until > now:
                best, most = node_id, interest.idle
        return best

    def polled_children(self, now: float) -> list[str]:
        """Children with polls, now or lately."""
        return [
            node_id
            for node_id, interest in self.interest.items()
            if (interest.idle and interest.until > now) or interest.polled_until > now
        ]

    def is_used(self, now: float) -> bool:
        return bool(self.away or self.guests or self.polled_children(now))

    def take_news(self, node_id: str) -> Pending | None:
        return self.pending.pop(node_id, None)
