"""When a region takes over what another one owns, without being told to: one machine per other region. Pure.

| state       | what is seen                            | becomes     |
|-------------|-----------------------------------------|-------------|
| watching    | its lease has expired                   | suspect     |
| suspect     | its lease lives                         | watching    |
| suspect     | a majority cannot reach it              | probing     |
| probing     | its lease lives                         | watching    |
| probing     | no majority                             | suspect     |
| probing     | a majority cannot, for `failing_s`      | claiming    |
| claiming    | its lease lives                         | watching    |
| claiming    | no majority                             | suspect     |
| claiming    | nothing is left to take                 | moved       |
| moved       | its lease lives                         | watching    |
| moved       | there is something to take again        | claiming    |
| any of them | the witness cannot be read              | partitioned |
| partitioned | its lease lives                         | watching    |
| partitioned | its lease has expired                   | suspect     |

Whatever is not in the table changes nothing. Only `claiming` takes anything, so a region that cannot read the witness (it may be
the one that is cut off) never does. The votes are: our own probe, the lease, and each further region's opinion. One that does not
answer has no opinion but is counted, so a majority is one of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from replication.witness import LagNote
from replication.witness_lease import Life


class State(Enum):
    WATCHING = "watching"
    SUSPECT = "suspect"
    PROBING = "probing"
    CLAIMING = "claiming"
    MOVED = "moved"
    PARTITIONED = "partitioned"


class Seen(Enum):
    WITNESS_LOST = "the witness cannot be read"
    LEASE_LIVES = "its lease lives"
    NO_MAJORITY = "no majority"
    MAJORITY = "a majority cannot reach it"
    MAJORITY_LONG = "a majority cannot, for failing_s"
    NOTHING_LEFT = "nothing is left to take"
    SOMETHING_LEFT = "there is something to take again"


_SILENT = (Seen.NO_MAJORITY, Seen.MAJORITY, Seen.MAJORITY_LONG)

TABLE: dict[tuple[State, Seen], State] = {
    **{(State.WATCHING, seen): State.SUSPECT for seen in _SILENT},
    **{(State.PARTITIONED, seen): State.SUSPECT for seen in _SILENT},
    **{(state, Seen.WITNESS_LOST): State.PARTITIONED for state in State},
    **{(state, Seen.LEASE_LIVES): State.WATCHING for state in State},
    **{(state, Seen.NO_MAJORITY): State.SUSPECT for state in (State.PROBING, State.CLAIMING)},
    (State.SUSPECT, Seen.MAJORITY): State.PROBING,
    (State.PROBING, Seen.MAJORITY_LONG): State.CLAIMING,
    (State.CLAIMING, Seen.NOTHING_LEFT): State.MOVED,
    (State.MOVED, Seen.SOMETHING_LEFT): State.CLAIMING,
}


class AutomaticSettings(msgspec.Struct, frozen=True):
    """failing_s: how long a majority must fail. lag_*_max: what a candidate may lack. cool_down_s: between two automatic moves of
    one namespace. stagger_s: how much longer each further region of the list waits. fail_back_s: 0 = only by an operator; else
    how long the region that was left must be well before its namespaces go back, gracefully."""

    is_on: bool = True
    failing_s: float = 5.0
    probe_timeout_s: float = 2.0
    lag_events_max: int = 5_000
    lag_s_max: float = 60.0
    cool_down_s: float = 600.0
    stagger_s: float = 10.0
    fail_back_s: float = 0.0
    concurrency: int = 16


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a region at now_s (monotonic). is_probe_ok: ours. opinions: of the further regions that answered;
    others_count: of all of them. left_count: namespaces that it still owns and that may be taken here."""

    now_s: float
    life: Life
    is_probe_ok: bool
    opinions: Mapping[str, bool] = {}
    others_count: int = 0
    left_count: int = 0


class Watch(msgspec.Struct, frozen=True):
    """Where the machine of one region stands. since_s: when it came there; silent_since_s: when its lease was seen to expire."""

    state: State = State.WATCHING
    since_s: float = 0.0
    silent_since_s: float = 0.0


def has_majority(sight: Sight) -> bool:
    """Whether more than half of all voters cannot reach the region."""
    votes_count = 2 + sight.others_count
    opinions_count = sum(not is_reachable for is_reachable in sight.opinions.values())
    failing_count = (not sight.is_probe_ok) + (sight.life in (Life.EXPIRED, Life.ENDED)) + opinions_count
    return 2 * failing_count > votes_count


def seen_of(watch: Watch, sight: Sight, settings: AutomaticSettings) -> Seen:
    if sight.life is Life.UNKNOWN:
        return Seen.WITNESS_LOST
    if sight.life in (Life.ALIVE, Life.NONE):
        return Seen.LEASE_LIVES
    if not has_majority(sight):
        return Seen.NO_MAJORITY
    if watch.state in (State.CLAIMING, State.MOVED):
        return Seen.SOMETHING_LEFT if sight.left_count else Seen.NOTHING_LEFT
    is_long = watch.state is State.PROBING and sight.now_s - watch.since_s >= settings.failing_s
    return Seen.MAJORITY_LONG if is_long else Seen.MAJORITY


def next_watch(watch: Watch, sight: Sight, settings: AutomaticSettings) -> Watch:
    state = TABLE.get((watch.state, seen_of(watch, sight, settings)), watch.state)
    if state is watch.state:
        return watch
    is_fresh = watch.state in (State.WATCHING, State.PARTITIONED)
    return Watch(state, sight.now_s, sight.now_s if is_fresh else watch.silent_since_s)


# --- which namespaces, and which region -----------------------------------------------------------------------------------------
class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """This region, for one namespace. rank: its place among the regions of the namespace's list, without the one that is gone
    (`rank_of`). waited_s: since the machine came to `claiming`. lag: as the region that is gone said last, None = it did not.
    cooling_s: what is left of the cool-down. is_allowed: the namespace has not opted out."""

    namespace_id: str
    rank: int
    waited_s: float
    lag: LagNote | None
    cooling_s: float
    is_allowed: bool = True


def rank_of(clusters: Sequence[str], gone: str, here: str) -> int:
    return [name for name in clusters if name != gone].index(here)


def why_not(candidate: Candidate, settings: AutomaticSettings) -> str:
    """"" = take it now. The others of the list come later, and then whoever's lag is within bound takes it."""
    lag = candidate.lag
    if not candidate.is_allowed:
        return "automatic failover is switched off for the namespace"
    if candidate.cooling_s > 0:
        return f"it was moved within the cool-down of {settings.cool_down_s:g} s"
    if lag is None:
        return "the lag is not known"
    if lag.is_catching_up:
        return "a catch-up was under way"
    if (events := lag.events_of(candidate.namespace_id)) > settings.lag_events_max:
        return f"{events} events were not here yet, and the bound is {settings.lag_events_max}"
    if lag.oldest_ns > settings.lag_s_max * 1e9:
        return f"the lag was {lag.oldest_ns / 1e9:.1f} s, and the bound is {settings.lag_s_max:g} s"
    if candidate.waited_s < candidate.rank * settings.stagger_s:
        return "another region of the list comes first"
    return ""


def cooling_s(moved_at: int, now_ns: int, known_for_s: float | None, settings: AutomaticSettings) -> float:
    """What is left of a namespace's cool-down. known_for_s: since this node saw the move by its own clock; None = it was moved
    before this node began, so the time that was noted must do: a clock that is wrong shortens or prolongs the cool-down."""
    passed_s = known_for_s if known_for_s is not None else max(0.0, (now_ns - moved_at) / 1e9)
    return max(0.0, settings.cool_down_s - passed_s)
