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
from chaos.sim.store_faults import STORE
from chaos.sim.seeds import run_seed

Put = Callable[[Any, str, Any], None]
Patch = Callable[[Put], None]
SAFEGUARDS: dict[str, Patch] = {}
NODES: dict[str, int] = {}  # of those that only a cluster can miss


def safeguard(patch: Patch) -> Patch:
    SAFEGUARDS[patch.__name__] = patch
    return patch


def cluster_safeguard(patch: Patch) -> Patch:
    NODES[patch.__name__] = 3
    return safeguard(patch)


@contextmanager
def removed(name: str | None) -> Iterator[None]:
    """Inside, the program runs without this safeguard; None removes nothing."""
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, attribute: str, value: Any) -> None:
        undo.append((owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)

    try:
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
    nodes = NODES.get(name, 1)
    for seed in seeds:
        with removed(name):
            violations = run_seed(seed, nodes=nodes).violations
        if violations and not run_seed(seed, nodes=nodes).violations:
            return Found(f"seed {seed}", violations[0])
    target = PEERS if nodes > 1 else STORE
    for story in STORIES:
        with removed(name):
            failures = run_all(target, story, every=3).failures
        if failures and not run_all(target, story, every=3).failures:
            return Found(f"one fault in {story}", failures[0])
    return None
