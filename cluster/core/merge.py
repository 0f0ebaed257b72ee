"""What becomes of another region's news of a run: known, taken, asked for anew, or a fork.

Pure, and free of arrival order: a region's copy of a run is the set of the branches it knows of, of which one is current, and
taking a branch in (`take`) is a join: commutative, associative, idempotent. So regions that have heard the same agree, however
often and in whatever order they heard it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from cluster.core.branches import (
    NOTHING,
    Head,
    Point,
    contains,
    contradicts,
    extends,
    lca_event,
    lca_transition,
    rank,
    winner,
)
from cluster.core.state import RunState


class Side(StrEnum):
    OURS = "ours"
    THEIRS = "theirs"


class Known(NamedTuple):
    """Nothing new: our branch (or one that lost) has it."""


class Extends(NamedTuple):
    """Ours goes on. skip: that many of the delta's entries are known; 0 for a snapshot, which replaces our state."""

    skip: int


class Gap(NamedTuple):
    """What we have does not reach the delta's base: to be sent as a snapshot, with the events from events_from on."""

    have: Head
    events_from: int


class Fork(NamedTuple):
    """Both have gone on from the last common event and state. The loser is kept, readable, and salvaged (salvage.py)."""

    wins: Side
    event: Point
    transition: Point


class Contradiction(NamedTuple):
    """Not to be merged but put into quarantine: the same history by its versions, and not by its hash."""

    reason: str


Verdict = Known | Extends | Gap | Fork | Contradiction


def merge(
    ours: Head, theirs: Head, *, base: Head | None = None, events_from: int = 1, kept: Iterable[Head] = ()
) -> Verdict:
    """theirs: what a delta leads to. kept: our branches that have lost.

    base: what a delta of entries builds on; None = it is a snapshot, with the events from events_from on.
    """
    if theirs.is_empty:
        return Known()
    for mine in (ours, *kept):
        if contradicts(mine, theirs):
            event = theirs.last_event
            return Contradiction(f"two histories up to event {event.number} of version {event.version} with different hashes")
        if contains(mine, theirs):
            return Known()
    common = lca_event(ours, theirs).number
    if base is not None:
        if not contains(ours, base) or not contains(theirs, ours):
            return Gap(ours, common + 1)
        return Extends(ours.last_transition.number - base.last_transition.number)
    if events_from > common + 1:
        return Gap(ours, common + 1)
    if contains(theirs, ours):
        return Extends(0)
    wins = Side.THEIRS if winner(ours, theirs) == theirs else Side.OURS
    return Fork(wins, lca_event(ours, theirs), lca_transition(ours, theirs))


# --- all branches of a run ---------------------------------------------------------------------------------------------


class Branches(NamedTuple):
    """What a region knows of a run: none of these contains another; the losers are in the order of their ranks."""

    current: Head = NOTHING
    losers: tuple[Head, ...] = ()


def take(known: Branches, head: Head) -> Branches:
    """The branches once this one is known, too."""
    heads = [one for one in (known.current, *known.losers) if not one.is_empty]
    if head.is_empty or any(contains(one, head) for one in heads):
        return known
    heads = sorted([one for one in heads if not extends(head, one)] + [head], key=rank)
    return Branches(heads[-1], tuple(heads[:-1]))


# --- the runs of a workflow id -----------------------------------------------------------------------------------------


class RunClaim(NamedTuple):
    """A run's claim to be the current one of its workflow id, in the order in which its parts count.

    The versions are those of events: notes of a closed run (its parent knows, its callbacks are delivered) make no claim.
    Runs of equal versions were written by one region, one after the other: there a run that has a successor is not the
    last, and that region's own clock tells which began later. Between regions no clock is asked.
    """

    last_version: int
    start_version: int
    is_last_of_chain: bool
    began_at: int  # ns since the epoch
    run_id: str


def claim_of(state: RunState) -> RunClaim:
    has_successor = bool(state.new_run_id or state.reset_run_id or state.is_reset_away)
    start_version = state.version_history[0][1] if state.version_history else 0
    return RunClaim(state.last_version, start_version, not has_successor, state.took_id_at, state.run_id)


def winner_of_runs(one: RunClaim, other: RunClaim) -> RunClaim:
    """The current run of the workflow id. An open run that loses is closed by the active region, with the reason."""
    return max(one, other)
