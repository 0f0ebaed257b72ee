"""Every scenario of the corpus with the official SDK, and its histories against those recorded from the real server.

The selected scenarios run once, several at a time, in one event loop against one server; the tests then look at the
outcomes. `--shape` (or OUTLAST_TEST_SHAPE) says what they run on (shapes.py). OUTLAST_TEST_ADDRESS names a server that runs
already, or several nodes of one cluster with commas between.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.compare import golden
from tests.e2e.registry import ITEMS
from tests.e2e.running import Outcome, run_scenarios
from tests.e2e.scenarios import SCENARIOS
from tests.e2e.shapes import Running, chosen, running

JOBS = 12
NAMES = sorted(SCENARIOS)
Outcomes = dict[str, Outcome]


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running | None]:
    """None when the server to test is somebody else's."""
    if os.environ.get("OUTLAST_TEST_ADDRESS"):
        yield None
        return
    with running(chosen(request.config.getoption("--shape", None)), tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def addresses(server: Running | None) -> list[str]:
    return server.addresses if server is not None else os.environ["OUTLAST_TEST_ADDRESS"].split(",")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, addresses: list[str]) -> Outcomes:
    """Only what was selected on the command line is run."""
    selected = {
        item.callspec.params["name"]
        for item in request.session.items
        if hasattr(item, "callspec") and "name" in item.callspec.params
    }
    return asyncio.run(run_scenarios(addresses, [SCENARIOS[name] for name in NAMES if name in selected], JOBS))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_the_scenario_holds(name: str, outcomes: Outcomes) -> None:
    if outcomes[name].error:
        pytest.fail(str(outcomes[name].error), pytrace=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_the_histories_agree_with_the_real_server(name: str, outcomes: Outcomes) -> None:
    if outcomes[name].error:
        pytest.fail("the scenario failed, so there is nothing to compare", pytrace=False)
    disagreement = golden.disagreement(name, outcomes[name].normal)
    if disagreement:
        pytest.fail(disagreement, pytrace=False)


def test_every_promised_item_has_a_scenario() -> None:
    covered = {item for scenario in SCENARIOS.values() for item in scenario.items}
    assert set(ITEMS) - covered == set()


def test_every_stored_state_is_the_fold_of_its_history(server: Running | None, outcomes: Outcomes) -> None:
    """The last test of this module: the server must have stopped."""
    if server is None:
        pytest.skip("the database of another server is not ours to read")
    server.stop()
    looked = server.stored_disagreements()
    if looked is None:
        pytest.skip("this shape keeps its data in memory only")
    count, found = looked
    assert not found, "\n".join(found)
    assert count >= len(outcomes)
