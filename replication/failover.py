"""Which region owns a namespace: the machine of its ownership, pure. Everything else about namespaces is in cluster/namespaces.

| state    | step            | becomes  | failover version                            |
|----------|-----------------|----------|---------------------------------------------|
| local    | promote         | normal   | the first one of the region that is active  |
| normal   | fail over       | normal   | the next one of the region that becomes it  |
| normal   | begin handover  | handover | stays: the owner answers nothing any more   |
| handover | finish handover | normal   | the next one of the region it goes to       |
| handover | abort handover  | normal   | stays: the owner goes on                    |
| handover | fail over       | normal   | the next one: forced, without waiting       |

A failover version belongs to the region whose initial version it has modulo the increment, so two regions that decide at the same
time issue different versions, and the higher one wins everywhere. Within one version, the higher revision wins, then the name of
the region that wrote it. No clock decides: times are only shown. Two records that give one version to different regions are an
alarm: it needs two regions with one initial version, and neither is written over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import msgspec

# As many as the public server keeps (maxReplicationHistorySize).
HISTORY_COUNT_MAX = 10
LOCAL_VERSION = 0


class State(Enum):
    LOCAL = "local"
    NORMAL = "normal"
    HANDOVER = "handover"


TABLE: dict[tuple[State, str], State] = {
    (State.LOCAL, "promote"): State.NORMAL,
    (State.NORMAL, "fail over"): State.NORMAL,
    (State.NORMAL, "begin handover"): State.HANDOVER,
    (State.HANDOVER, "finish handover"): State.NORMAL,
    (State.HANDOVER, "abort handover"): State.NORMAL,
    (State.HANDOVER, "fail over"): State.NORMAL,
}


class NotAllowed(Exception):
    """The machine has no such step, or it leads nowhere; nothing changed."""


class OwnershipAlarm(Exception):
    """A record that cannot be right. Nothing is written over; somebody has to look."""


class Failover(msgspec.Struct, frozen=True):
    """When the active region of a namespace changed, and the version that events carry since."""

    at: int
    version: int


class Regions(msgspec.Struct, frozen=True):
    """The regions that this one knows, itself among them. usable: they may be connected to. are_linked: there is another one."""

    initial_versions: Mapping[str, int]
    increment: int
    usable: frozenset[str]
    are_linked: bool = False

    def next_version(self, name: str, current: int) -> int:
        """The smallest version above `current` that belongs to the region. Raises NotAllowed for one that is not known."""
        initial = self.initial_versions.get(name)
        if initial is None:
            raise NotAllowed(f"no region is named {name}")
        version = current // self.increment * self.increment + initial
        return version if version > current else version + self.increment

    def owner_of(self, version: int) -> str | None:
        """None: it belongs to a region that is not known here."""
        remainder = version % self.increment
        return next((name for name, initial in self.initial_versions.items() if initial % self.increment == remainder), None)


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """handover_to: where a handover leads, "" if that is said at its end. handover_until: when the owner gives it up, 0 = never.
    revision, writer: of what was changed within one version, and by which region."""

    active: str
    version: int = LOCAL_VERSION
    state: State = State.LOCAL
    handover_to: str = ""
    handover_until: int = 0
    revision: int = 0
    writer: str = ""
    history: tuple[Failover, ...] = ()


def step(ownership: Ownership, trigger: str) -> State:
    """Raises NotAllowed where the table has no row."""
    target = TABLE.get((ownership.state, trigger))
    if target is None:
        raise NotAllowed(f"a namespace that is {ownership.state.value} cannot {trigger}")
    return target


# --- decisions: each returns the ownership after the step, and changes nothing when it raises ---------------------------------
def promote(ownership: Ownership, regions: Regions, here: str) -> Ownership:
    state = step(ownership, "promote")
    version = regions.next_version(ownership.active, ownership.version)
    return msgspec.structs.replace(ownership, state=state, version=version, revision=0, writer=here)


def fail_over(ownership: Ownership, to: str, regions: Regions, here: str, now_ns: int) -> Ownership:
    """To the region that is active already: a handover is aborted, nothing else happens. `here` is the region that decides."""
    if to == ownership.active and ownership.state is State.HANDOVER:
        return abort_handover(ownership, here, now_ns)
    if to == ownership.active and ownership.state is State.NORMAL:
        return ownership
    return _moved(ownership, "fail over", to, regions, here, now_ns)


def begin_handover(ownership: Ownership, here: str, now_ns: int, to: str = "", until_ns: int = 0) -> Ownership:
    state = step(ownership, "begin handover")
    if to == ownership.active:
        raise NotAllowed(f"{to} is active already")
    return _noted(_revised(ownership, here, state=state, handover_to=to, handover_until=until_ns), now_ns)


def finish_handover(ownership: Ownership, regions: Regions, here: str, now_ns: int) -> Ownership:
    """To where it was begun for; a handover without a destination ends by `fail_over`."""
    if ownership.state is State.HANDOVER and not ownership.handover_to:
        raise NotAllowed("this handover names no destination")
    return _moved(ownership, "finish handover", ownership.handover_to, regions, here, now_ns)


def abort_handover(ownership: Ownership, here: str, now_ns: int) -> Ownership:
    state = step(ownership, "abort handover")
    return _noted(_revised(ownership, here, state=state, handover_to="", handover_until=0), now_ns)


def give_up_overdue(ownership: Ownership, here: str, now_ns: int) -> Ownership:
    """The owner's own job: a handover that nobody finishes in time ends, and the namespace is served again."""
    is_overdue = ownership.state is State.HANDOVER and 0 < ownership.handover_until <= now_ns
    return abort_handover(ownership, here, now_ns) if is_overdue and ownership.active == here else ownership


def noted(ownership: Ownership, now_ns: int) -> Ownership:
    """With its version in the history. Changing the list of regions notes it too, as on the public server."""
    return ownership if ownership.state is State.LOCAL else _noted(ownership, now_ns)


def _moved(ownership: Ownership, trigger: str, to: str, regions: Regions, here: str, now_ns: int) -> Ownership:
    state = step(ownership, trigger)
    version = regions.next_version(to, ownership.version)
    moved = msgspec.structs.replace(
        ownership, active=to, version=version, state=state, handover_to="", handover_until=0, revision=0, writer=here
    )
    return _noted(moved, now_ns)


def _revised(ownership: Ownership, here: str, **fields: Any) -> Ownership:
    return msgspec.structs.replace(ownership, revision=ownership.revision + 1, writer=here, **fields)


def _noted(ownership: Ownership, now_ns: int) -> Ownership:
    if ownership.history and ownership.history[-1].version == ownership.version:
        return ownership
    history = union_of_histories([*ownership.history, Failover(now_ns, ownership.version)])
    return msgspec.structs.replace(ownership, history=history)


# --- what another region says -----------------------------------------------------------------------------------------------
def check_owner(ownership: Ownership, regions: Regions) -> None:
    """Raises OwnershipAlarm when the version belongs to another region than the one it names."""
    owner = regions.owner_of(ownership.version)
    if owner is not None and owner != ownership.active:
        raise OwnershipAlarm(f"failover version {ownership.version} belongs to {owner}, a record gives it to {ownership.active}")


def merge(ours: Ownership, theirs: Ownership) -> Ownership:
    """The same for any order, number and repetition of records. Raises OwnershipAlarm."""
    if ours.version == theirs.version and ours.active != theirs.active:
        raise OwnershipAlarm(f"failover version {ours.version} is given to {ours.active} and to {theirs.active}")
    winner = max(ours, theirs, key=_order)
    return msgspec.structs.replace(winner, history=union_of_histories([*ours.history, *theirs.history]))


def _order(ownership: Ownership) -> tuple[int, int, str, str, str, int]:
    """The last three differ only between records that one region wrote as one revision, which its registry does not do."""
    one = ownership
    return one.version, one.revision, one.writer, one.state.value, one.handover_to, one.handover_until


def union_of_histories(failovers: Iterable[Failover]) -> tuple[Failover, ...]:
    """The newest ones by version, each once: two regions may have issued the same version at different times."""
    at: dict[int, int] = {}
    for failover in failovers:
        at[failover.version] = min(failover.at, at.get(failover.version, failover.at))
    return tuple(Failover(at[version], version) for version in sorted(at)[-HISTORY_COUNT_MAX:])
