"""Safeguards of the server, each removed in turn: a simulator that stays green without one of them has a hole.

A safeguard is a named patch of the running program. `find_hole` runs seeds without it until one shows a violation that the same
seed does not show with it; if none does, single faults in the canonical workflows are tried too: of store calls, in a cluster of
calls between nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chaos.sim.canonical import STORIES
from chaos.sim.one_fault import run_all
from chaos.sim.peer_faults import PEERS
from chaos.sim.seeds import Wanted, run_seed
from chaos.sim.store_faults import STORE

Put = Callable[[Any, str, Any], None]
Patch = Callable[[Put], None]
SAFEGUARDS: dict[str, Patch] = {}
WANTED: dict[str, Wanted] = {}  # of those that only a cluster can miss, or several regions
ONE_NODE = Wanted(1)
CLUSTER = Wanted(3)
REGIONS = Wanted(None, 2)
TOGETHER: dict[str, str] = {}  # what stands in for a safeguard, and is removed with it


def safeguard(patch: Patch) -> Patch:
    SAFEGUARDS[patch.__name__] = patch
    return patch


def cluster_safeguard(patch: Patch) -> Patch:
    WANTED[patch.__name__] = CLUSTER
    return safeguard(patch)


def region_safeguard(patch: Patch) -> Patch:
    WANTED[patch.__name__] = REGIONS
    return safeguard(patch)


@contextmanager
def removed(*names: str | None) -> Iterator[None]:
    """Inside, the program runs without these safeguards; None removes nothing."""
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, attribute: str, value: Any) -> None:
        undo.append((owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)

    try:
        for name in names:
            if name is not None:
                SAFEGUARDS[name](put)
        yield
    finally:
        for owner, attribute, value in reversed(undo):
            setattr(owner, attribute, value)


@dataclass(frozen=True)
class Found:
    where: str
    text: str


def find_hole(name: str, seeds: Iterable[int]) -> Found | None:
    """What shows that the safeguard is missing; None = nothing did."""
    and_without = TOGETHER.get(name)
    wanted = WANTED.get(name, ONE_NODE)
    for seed in seeds:
        with removed(name, and_without):
            violations = run_seed(seed, wanted=wanted).violations
        if violations and not run_seed(seed, wanted=wanted).violations:
            return Found(f"seed {seed}", violations[0])
    if wanted.regions != 1:
        return None
    target = PEERS if wanted == CLUSTER else STORE
    for story in STORIES:
        with removed(name, and_without):
            failures = run_all(target, story, every=3).failures
        if failures and not run_all(target, story, every=3).failures:
            return Found(f"one fault in {story}", failures[0])
    return None
