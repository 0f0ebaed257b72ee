"""A history that is too long ends its run with the reason; what made it too long stays in it."""

from __future__ import annotations

import pytest
from temporalio.api.history.v1 import WorkflowExecutionSignaledEventAttributes

from cluster.config import Limits
from cluster.core.machines import history_limits, lifecycle
from cluster.core.state import Status
from cluster.core.transition import Transition
from tests.core.build import Run


def signal(run: Run) -> None:
    """As the shard does it: the decision, then the limits."""

    def decide(t: Transition) -> None:
        lifecycle.signal(t, WorkflowExecutionSignaledEventAttributes(signal_name="go"))
        history_limits.enforce(t)

    run.do(decide)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_run_ends_when_it_has_more_events_than_allowed(beyond: int) -> None:
    run = Run(limits=Limits(history_events_max=6))  # started, task scheduled, and the signals
    for _ in range(4 + beyond):
        signal(run)
    assert run.state.is_open == (beyond <= 0)
    if beyond > 0:
        assert run.state.status == Status.TERMINATED
        assert run.last("WorkflowExecutionTerminated").reason == history_limits.COUNT_REASON
        assert run.state.signal_count == 5  # the last one, too, is in the history


def test_the_events_that_wait_for_a_task_count_too() -> None:
    run = Run(limits=Limits(history_events_max=4))
    run.start_task()
    signal(run)
    assert run.state.is_open
    signal(run)
    assert run.state.status == Status.TERMINATED and run.state.signal_count == 2


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_run_ends_when_its_history_has_more_bytes_than_allowed(beyond: int) -> None:
    measured = Run()
    signal(measured)
    run = Run(limits=Limits(history_bytes_max=measured.state.history_bytes - beyond))
    signal(run)
    assert run.state.is_open == (beyond <= 0)
    if beyond > 0:
        assert run.last("WorkflowExecutionTerminated").reason == history_limits.SIZE_REASON
