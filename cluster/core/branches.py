"""Failover versions, and what two regions' copies of one run have in common.

A failover version belongs to one region (its owner), and one region writes a run in one line. So a pair (last event id,
version) names a history exactly, and a pair (transition count, version) a state: heads can be compared without what they
are the heads of. Where the lines of two heads part, both are branches of the run; which one is its history is a total order
that no clock has a say in, so all regions choose alike in whatever order they hear of the branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from cluster.core.events import next_hash
from cluster.core.state import RunState

VERSION_INCREMENT = 10  # clusterMetadata.failoverVersionIncrement: nine regions at most, initial versions 1..9
NOT_REPLICATED = 0  # the version of a namespace that has one region only


class Point(NamedTuple):
    """An event (its id) or a state (its transition count), and the version under which it was written."""

    number: int
    version: int


BEGIN = Point(0, 0)  # before the first event, and the first transition
Line = tuple[tuple[int, int], ...]  # (last number, version) of each stretch of one version, both ascending


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Where a branch of a run ends. history_hash b"" = not known (a row from before there were hashes)."""

    transitions: Line
    versions: Line  # of the events
    last_event_id: int
    history_hash: bytes

    @property
    def last_event(self) -> Point:
        return Point(*self.versions[-1]) if self.versions else BEGIN

    @property
    def last_transition(self) -> Point:
        return Point(*self.transitions[-1]) if self.transitions else BEGIN

    @property
    def is_empty(self) -> bool:
        return not self.transitions


NOTHING = Head((), (), 0, b"")  # of a run that is not here


def head_of(state: RunState) -> Head:
    transitions = tuple(state.transition_history)
    if not transitions and state.transition_count:
        transitions = ((state.transition_count, NOT_REPLICATED),)  # a row older than the list
    return Head(transitions, tuple(state.version_history), state.next_event_id - 1, state.history_hash)


def history_hash(events: Iterable[bytes]) -> bytes:
    """Of encoded events, from the first one on: what a Head at the last of them has."""
    found = b""
    for event in events:
        found = next_hash(found, event)
    return found


# --- what two heads share ----------------------------------------------------------------------------------------------


def lca_event(one: Head, other: Head) -> Point:
    """The last event that both histories have, BEGIN if there is none."""
    return _last_common(one.versions, other.versions)


def lca_transition(one: Head, other: Head) -> Point:
    """The last state that both lines went through."""
    return _last_common(one.transitions, other.transitions)


def contains(head: Head, other: Head) -> bool:
    """Whether the head's line went through the other's state (or ends there)."""
    return lca_transition(head, other) == other.last_transition


def extends(head: Head, other: Head) -> bool:
    """Whether the head is the other, gone on."""
    return contains(head, other) and head.last_transition != other.last_transition


def contradicts(one: Head, other: Head) -> bool:
    """Whether two heads of the same history have different hashes: what one version wrote is not what it wrote."""
    if one.versions != other.versions or not one.history_hash or not other.history_hash:
        return False
    return one.history_hash != other.history_hash


def _last_common(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> Point:
    """From the front: stretches are shared until they differ, and the first that differs is shared up to its shorter end."""
    found = BEGIN
    for (number, version), (other_number, other_version) in zip(one, other, strict=False):
        if version != other_version:
            break
        found = Point(min(number, other_number), version)
        if number != other_number:
            break
    return found


# --- which one it is ---------------------------------------------------------------------------------------------------

Rank = tuple[int, int, int, int, Line, Line, int, bytes]


def rank(head: Head) -> Rank:
    """The order of branches: later last version, then more events, then later notes. A head ranks below what extends it.

    What follows only keeps the order total where heads are not what one line per version makes them.
    """
    event, transition = head.last_event, head.last_transition
    return (
        event.version,
        event.number,
        transition.version,
        transition.number,
        head.versions,
        head.transitions,
        head.last_event_id,
        head.history_hash,
    )


def winner(one: Head, other: Head) -> Head:
    """The branch that is the run's history. Commutative, associative, and the same wherever it is asked."""
    return max(one, other, key=rank)


# --- failover versions -------------------------------------------------------------------------------------------------


def owner_of(version: int, increment: int = VERSION_INCREMENT) -> int:
    """The initial version of the region that may write under this version; 0 = nobody's: the namespace is not replicated."""
    return version % increment


def next_version(current: int, initial: int, increment: int = VERSION_INCREMENT) -> int:
    """The version under which the region of this initial version becomes active: its lowest that is not below `current`.

    A region that is active already keeps its version. As the public server's cluster.GetNextFailoverVersion.
    """
    if not 0 < initial < increment:
        raise ValueError(f"initial failover version {initial} is not in 1..{increment - 1}")
    found = current - current % increment + initial
    return found if found >= current else found + increment
