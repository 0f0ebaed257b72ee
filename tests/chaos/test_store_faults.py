"""Every store fault at every call of twelve canonical workflows: nothing is lost, nothing is done twice.

A slice by default; OUTLAST_STORE_FAULTS=full (or `python -m chaos.sim store-faults`) tries every call index.
"""

from __future__ import annotations

import os

import pytest

from chaos.sim.store_faults import STORIES, run_all, run_once
from cluster.stores.faulty import FaultKind

EVERY = 1 if os.environ.get("OUTLAST_STORE_FAULTS") == "full" else 3


@pytest.mark.parametrize("name", sorted(STORIES))
def test_a_store_fault_at_any_call_loses_and_doubles_nothing(name: str) -> None:
    report = run_all(name, EVERY, offset=sorted(STORIES).index(name) % EVERY)
    assert report.failures == []
    assert report.tries_count >= report.calls_count // EVERY * 2, "most calls allow more than one kind of fault"


def test_the_canonical_workflows_make_every_kind_of_write_and_read() -> None:
    methods = {method for name in STORIES for method in run_once(name).plan.methods}
    assert methods >= {"append", "checkpoint", "load", "current_run", "history"}


def test_a_fault_that_hits_is_reported_as_hit() -> None:
    tried = run_once("hello_activity", 0, FaultKind.ERROR_BEFORE)
    assert tried.plan.hit and not tried.violations
    assert run_once("hello_activity", 10_000, FaultKind.ERROR_BEFORE).plan.hit == ""
