"""A fair slice of the matrix for `make test`: telling scenarios on each real database, and on three nodes. All: tests/matrix.

Chosen so that each way between the parts is gone at least once: pages of the store, far and near timers, every kind of task,
sticky queues and queries, updates that wait, children and signals between runs (which live on different nodes), resets, lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.compare import golden
from tests.e2e.running import Outcome, run_scenarios
from tests.e2e.scenarios import SCENARIOS
from tests.e2e.shapes import SHAPES, Running, running

SLICE = (
    "activity_completed_by_id",
    "activity_heartbeat_details",
    "activity_paused_while_scheduled",
    "activity_retries",
    "child_continues_as_new",
    "child_is_cancelled",
    "continue_as_new_with_a_late_signal",
    "external_cancel",
    "external_signal",
    "history_by_long_poll",
    "history_in_pages",
    "list_in_pages",
    "parent_close_terminates",
    "query_on_the_sticky_queue",
    "query_rides_on_a_buffered_task",
    "query_running_and_closed",
    "reset_in_the_middle_of_work",
    "reset_reapplies_updates",
    "signal_with_start_policies",
    "start_with_the_same_request_id",
    "sticky_falls_back_after_schedule_to_start",
    "timers_fire_in_order_of_time",
    "update_speculative_task_seen_by_a_worker",
    "update_waits_by_stage",
    "update_with_start_existing",
    "upserts",
    "workflow_deleted",
    "workflow_task_transient_then_signal",
)
IN_MAKE_TEST = ("postgres", "mariadb", "cassandra", "postgres-3")
JOBS = 8


@pytest.fixture(scope="module", params=IN_MAKE_TEST)
def running_shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(SHAPES[request.param], tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture(scope="module")
def outcomes(running_shape: Running) -> dict[str, Outcome]:
    return asyncio.run(run_scenarios(running_shape.addresses, [SCENARIOS[name] for name in SLICE], JOBS))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SLICE)
def test_the_scenario_holds_and_its_histories_agree(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    if outcome.error or (disagreement := golden.disagreement(name, outcome.normal)):
        pytest.fail(str(outcome.error or disagreement), pytrace=False)


@pytest.mark.timeout(300)
def test_every_stored_state_is_the_fold_of_its_history(running_shape: Running, outcomes: dict[str, Outcome]) -> None:
    """The last test of each shape: its nodes must have stopped."""
    running_shape.stop()
    looked = running_shape.stored_disagreements()
    assert looked is not None
    count, found = looked
    assert not found, "\n".join(found)
    assert count >= len(SLICE) - 1  # one scenario deletes its run
