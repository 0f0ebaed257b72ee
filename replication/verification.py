"""Do two regions have the same? A hash tree per namespace over its workflow ids: compare roots, descend where they differ.

    level 0        1 root
    level 1..DEPTH 16 children each, by the hex digits of the hash of the workflow id: slots, the same in every region
    below          the workflow ids of one slot

A digest is the sum of the digests of the items below it (modulo 2^128), so trees of parts of a region, by shard or by node, are
added up: positions, shard counts and stores do not come in. An item is a run, the pointer to a workflow id's current run, or a
tombstone. Pure: the other region's sums are asked by prefixes, so a comparison costs a few questions per difference, however
large the namespace is.

What each region removes in its own time (a run whose retention is over, a tombstone that every region has had) is left out, and
named as fading while that may be so in one region and not yet in the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from cluster.core.branches import Head, contains

DEPTH = 4  # 65,536 slots: a few workflow ids in each, of a namespace of some 100,000
DIGITS = "0123456789abcdef"
MODULUS = 1 << 128
Sums = dict[str, int]  # by prefix or workflow id; what is not there is 0: nothing lies below it


class RunFacts(msgspec.Struct, frozen=True, array_like=True):
    """What of one run must be equal. checksum: of its state. losers: the heads of the branches that lost, in their order.
    damage: why what is stored of it cannot be right, with the region's name, so that no two are equal."""

    head: Head
    checksum: str
    losers: tuple[Head, ...] = ()
    damage: str = ""


class WorkflowFacts(msgspec.Struct, frozen=True, array_like=True):
    """One region's view of one workflow id. runs: run id -> facts; tombstones: run ids.

    fading: run ids that count in neither region. untold: run ids of which the region that asks has not acknowledged all yet.
    """

    workflow_id: str
    current_run_id: str
    runs: dict[str, RunFacts]
    tombstones: tuple[str, ...] = ()
    fading: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


class Kind(StrEnum):
    BEHIND = "behind"  # one region has not told the other yet, and is about to
    MISMATCH = "mismatch"
    MISSING_HERE = "missing here"
    MISSING_THERE = "missing there"


class Difference(msgspec.Struct, frozen=True):
    """run_id "": of the workflow id itself. what: see the texts in `differences_of`."""

    workflow_id: str
    run_id: str
    kind: Kind
    what: str


# --- items -------------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()


def run_item(workflow_id: str, run_id: str, facts: RunFacts) -> int:
    return _item("run", workflow_id, run_id, _encoder.encode(facts))


def current_item(workflow_id: str, run_id: str) -> int:
    return _item("current", workflow_id, run_id)


def tombstone_item(workflow_id: str, run_id: str) -> int:
    return _item("tombstone", workflow_id, run_id)


def _item(kind: str, workflow_id: str, run_id: str, data: bytes = b"") -> int:
    digest = hashlib.blake2b(f"{kind}\0{workflow_id}\0{run_id}\0".encode() + data, digest_size=16).digest()
    return int.from_bytes(digest, "big") or 1  # 0 says that there is nothing


# --- the tree ----------------------------------------------------------------------------------------------------------


class HashTree:
    """Of one namespace, or of the part of it that one shard has."""

    def __init__(self) -> None:
        self._sums: Sums = {}
        self._slots: dict[str, Sums] = {}

    def add(self, workflow_id: str, item: int) -> None:
        slot = slot_of(workflow_id)
        for depth in range(DEPTH + 1):
            self._sums[slot[:depth]] = (self._sums.get(slot[:depth], 0) + item) % MODULUS
        names = self._slots.setdefault(slot, {})
        names[workflow_id] = (names.get(workflow_id, 0) + item) % MODULUS

    @property
    def root(self) -> int:
        return self._sums.get("", 0)

    def children(self, prefix: str) -> Sums:
        """One digit longer; below a slot, its workflow ids."""
        if len(prefix) == DEPTH:
            return dict(self._slots.get(prefix, {}))
        return {prefix + digit: found for digit in DIGITS if (found := self._sums.get(prefix + digit, 0))}


def slot_of(workflow_id: str) -> str:
    return hashlib.blake2b(workflow_id.encode(), digest_size=8).hexdigest()[:DEPTH]


def add_up(parts: Iterable[Sums]) -> Sums:
    total: Sums = {}
    for part in parts:
        for name, item in part.items():
            total[name] = (total.get(name, 0) + item) % MODULUS
    return total


def differing(ours: Mapping[str, Sums], theirs: Mapping[str, Sums]) -> list[str]:
    """Children, by prefix, in two regions -> those that differ: to be asked for next, or workflow ids at the end."""
    found: list[str] = []
    for prefix in sorted({*ours, *theirs}):
        mine, other = ours.get(prefix, {}), theirs.get(prefix, {})
        found += sorted(child for child in {*mine, *other} if mine.get(child, 0) != other.get(child, 0))
    return found


# --- one workflow id ---------------------------------------------------------------------------------------------------


def differences_of(ours: WorkflowFacts, theirs: WorkflowFacts) -> list[Difference]:
    """Of the same workflow id."""
    fading = {*ours.fading, *theirs.fading}
    untold = {*ours.untold, *theirs.untold} - fading
    found: list[Difference] = []
    current = [("" if one.current_run_id in fading else one.current_run_id) for one in (ours, theirs)]
    is_over = ours.current_run_id in fading or theirs.current_run_id in fading
    if current[0] != current[1] and not is_over:
        what = f"current run: {current[0] or 'none'} here, {current[1] or 'none'} there"
        found.append(Difference(ours.workflow_id, "", Kind.BEHIND if untold else Kind.MISMATCH, what))
    for run_id in sorted({*ours.runs, *theirs.runs, *ours.tombstones, *theirs.tombstones} - fading):
        named = _of_run(run_id, ours, theirs)
        if named is not None:
            kind, what = named
            found.append(Difference(ours.workflow_id, run_id, Kind.BEHIND if run_id in untold else kind, what))
    return found


def _of_run(run_id: str, ours: WorkflowFacts, theirs: WorkflowFacts) -> tuple[Kind, str] | None:
    mine, other = ours.runs.get(run_id), theirs.runs.get(run_id)
    is_dead_here, is_dead_there = run_id in ours.tombstones, run_id in theirs.tombstones
    if mine is not None and other is not None:
        what = _of_facts(mine, other)
        return (Kind.MISMATCH, what) if what else None
    if mine is not None:
        return (Kind.MISMATCH, "deleted there, and not here") if is_dead_there else (Kind.MISSING_THERE, "only here")
    if other is not None:
        return (Kind.MISMATCH, "deleted here, and not there") if is_dead_here else (Kind.MISSING_HERE, "only there")
    if is_dead_here != is_dead_there:
        where = "there" if is_dead_here else "here"
        return Kind.MISSING_HERE if is_dead_there else Kind.MISSING_THERE, f"its tombstone is missing {where}"
    return None


def _of_facts(mine: RunFacts, other: RunFacts) -> str:
    if mine.damage or other.damage:
        return "; ".join(one.damage for one in (mine, other) if one.damage)
    if mine == other:
        return ""
    ours, theirs = mine.head, other.head
    if ours != theirs:
        if ours.versions == theirs.versions and ours.history_hash != theirs.history_hash:
            return "the same history by its versions, with different events"
        if contains(ours, theirs):
            return "behind there"
        return "behind here" if contains(theirs, ours) else "two branches"
    if mine.checksum != other.checksum:
        return "the same events and transitions, with different states"
    return f"branches that lost: {len(mine.losers)} here, {len(other.losers)} there, and not the same"
