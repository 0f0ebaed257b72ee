"""Do two regions have the same? A hash tree per namespace over its workflow ids: compare roots, descend where they differ.

    level 0        1 root
    level 1..DEPTH 16 children each, by the hex digits of the hash of the workflow id
    a leaf         the workflow ids of one bucket, each with its current run, the heads of its runs, and its tombstones

Pure: the other region's tree is asked by prefixes, so a comparison costs a few questions per difference, however large it is.
Positions, shard counts and stores do not come in. A run whose retention has ended is left out by whoever builds the tree, since
each region removes it in its own time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from cluster.core.branches import Head, contains

DEPTH = 4  # 65,536 buckets: a few workflow ids in each, of a namespace of some 100,000
DIGITS = "0123456789abcdef"
EMPTY = b""  # the digest of what has no workflow ids


class WorkflowFacts(msgspec.Struct, frozen=True, array_like=True):
    """What of one workflow id must be equal. runs: run id -> head; tombstones: run ids."""

    workflow_id: str
    current_run_id: str
    runs: dict[str, Head]
    tombstones: tuple[str, ...] = ()


class Difference(msgspec.Struct, frozen=True):
    """run_id "": of the workflow id itself. what: see the texts in `differences_of`."""

    workflow_id: str
    run_id: str
    what: str


_encoder = msgspec.msgpack.Encoder(order="sorted")


class HashTree:
    """One region's copy of one namespace."""

    def __init__(self, facts: Iterable[WorkflowFacts]) -> None:
        self._buckets: dict[str, dict[str, WorkflowFacts]] = {}
        for one in facts:
            self._buckets.setdefault(bucket_of(one.workflow_id), {})[one.workflow_id] = one
        self._digests: dict[str, bytes] = {}
        level = {prefix: _digest(map(_encoder.encode, self.bucket(prefix))) for prefix in self._buckets}
        self._digests.update(level)
        for depth in range(DEPTH - 1, -1, -1):
            children: dict[str, list[bytes]] = {}
            for prefix in sorted(level):
                children.setdefault(prefix[:depth], []).append(prefix[depth:].encode() + level[prefix])
            level = {prefix: _digest(parts) for prefix, parts in children.items()}
            self._digests.update(level)

    @property
    def root(self) -> bytes:
        return self.digest("")

    def digest(self, prefix: str) -> bytes:
        return self._digests.get(prefix, EMPTY)

    def children(self, prefix: str) -> dict[str, bytes]:
        """Those that are not empty, one digit longer."""
        return {prefix + digit: found for digit in DIGITS if (found := self.digest(prefix + digit)) != EMPTY}

    def bucket(self, prefix: str) -> list[WorkflowFacts]:
        """Of a prefix of full length."""
        bucket = self._buckets.get(prefix, {})
        return [bucket[name] for name in sorted(bucket)]


def bucket_of(workflow_id: str) -> str:
    return hashlib.blake2b(workflow_id.encode(), digest_size=8).hexdigest()[:DEPTH]


def compare(
    ours: HashTree,
    root: bytes,
    children: Callable[[Sequence[str]], Mapping[str, Mapping[str, bytes]]],
    buckets: Callable[[Sequence[str]], Mapping[str, Sequence[WorkflowFacts]]],
) -> list[Difference]:
    """root, children, buckets: the other region's, asked level by level for the prefixes that differ."""
    if ours.root == root:
        return []
    differing = [""]
    for _ in range(DEPTH):
        theirs = children(differing)
        found: list[str] = []
        for prefix in differing:
            mine, other = ours.children(prefix), theirs.get(prefix, {})
            found += sorted(child for child in {**mine, **other} if mine.get(child, EMPTY) != other.get(child, EMPTY))
        differing = found
    answers = buckets(differing)
    differences: list[Difference] = []
    for prefix in differing:
        differences += differences_of(ours.bucket(prefix), answers.get(prefix, ()))
    return differences


def differences_of(ours: Iterable[WorkflowFacts], theirs: Iterable[WorkflowFacts]) -> list[Difference]:
    mine, other = {one.workflow_id: one for one in ours}, {one.workflow_id: one for one in theirs}
    found: list[Difference] = []
    for workflow_id in sorted({**mine, **other}):
        left = mine.get(workflow_id, WorkflowFacts(workflow_id, "", {}))
        right = other.get(workflow_id, WorkflowFacts(workflow_id, "", {}))
        if left.current_run_id != right.current_run_id:
            what = f"current run: {left.current_run_id or 'none'} here, {right.current_run_id or 'none'} there"
            found.append(Difference(workflow_id, "", what))
        for run_id in sorted({**left.runs, **right.runs}):
            what = _of_run(left.runs.get(run_id), right.runs.get(run_id), run_id in left.tombstones, run_id in right.tombstones)
            if what:
                found.append(Difference(workflow_id, run_id, what))
        for run_id in sorted(set(left.tombstones) ^ set(right.tombstones)):
            if run_id not in left.runs and run_id not in right.runs:
                found.append(Difference(workflow_id, run_id, "deleted " + ("here" if run_id in left.tombstones else "there")))
    return found


def _of_run(ours: Head | None, theirs: Head | None, is_dead_here: bool, is_dead_there: bool) -> str:
    if ours == theirs:
        return ""
    if ours is None or theirs is None:
        where = "there" if ours is None else "here"
        is_dead = is_dead_here if ours is None else is_dead_there
        return f"only {where}" + (", and deleted on the other side" if is_dead else "")
    if ours.versions == theirs.versions and ours.history_hash != theirs.history_hash:
        return "the same history by its versions, with different events"
    if contains(ours, theirs):
        return "behind there"
    if contains(theirs, ours):
        return "behind here"
    return "two branches"


def _digest(parts: Iterable[bytes]) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(4, "big") + part)
    return found.digest()
