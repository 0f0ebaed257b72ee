"""Every fault of a call between nodes, at every call of twelve canonical workflows on three nodes: nothing is lost or done twice.

A slice by default; OUTLAST_PEER_FAULTS=full (or `python -m chaos.sim peer-faults`) tries every call index.
"""

from __future__ import annotations

import os

import pytest

from chaos.sim.peer_calls import PeerFault
from chaos.sim.peer_faults import STORIES, run_all, run_once

EVERY = 1 if os.environ.get("OUTLAST_PEER_FAULTS") == "full" else 8


@pytest.mark.parametrize("name", sorted(STORIES))
def test_a_fault_of_any_call_between_nodes_loses_and_doubles_nothing(name: str) -> None:
    report = run_all(name, EVERY, offset=sorted(STORIES).index(name) % EVERY)
    assert report.failures == []
    assert report.calls_count > 0, "a story that stays on one node proves nothing"


def test_the_canonical_workflows_make_every_kind_of_call_between_nodes() -> None:
    methods = {method for name in STORIES for method in run_once(name).plan.methods}
    assert methods >= {"history.invoke", "history.reach", "history.start_task"}, methods


def test_a_fault_that_hits_is_reported_as_hit() -> None:
    tried = run_once("hello_activity", 0, PeerFault.ANSWER_LOST)
    assert tried.plan.hit and not tried.violations
    assert run_once("hello_activity", 10_000, PeerFault.ANSWER_LOST).plan.hit == ""
