"""Nothing that a client can send breaks the server: no INTERNAL, no crash, nothing hangs, and what was there is still whole.

`make test` gives each campaign a few seconds from a fixed seed; `make fuzz FUZZ_S=600` gives them longer, from a new seed each
time. A failure prints its file under /tmp (or OUTLAST_FUZZ_FOUND): shorten it, and put it into tests/fuzz/regressions/.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.servers import OutlastServer
from tests.fuzz.campaign import SERVED, Campaign
from tests.fuzz.stage import Stage
from tests.fuzz.targets import OverGrpc, in_process

BUDGET_S = float(os.environ.get("OUTLAST_FUZZ_S", "24"))
SEED = int(os.environ.get("OUTLAST_FUZZ_SEED", "1" if "OUTLAST_FUZZ_S" not in os.environ else str(int(time.time()))))
FOUND = Path(os.environ.get("OUTLAST_FUZZ_FOUND", str(Path(tempfile.gettempdir()) / "outlast-fuzz-found")))
# What even a slow machine sends in a second: a campaign that did less has not done its work.
CALLS_PER_S_MIN = 10

pytestmark = [pytest.mark.timeout(BUDGET_S + 240), pytest.mark.xdist_group("fuzz")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutlastServer]:
    running = OutlastServer(tmp_path_factory.mktemp("fuzz") / "server")
    running.start()
    yield running
    assert running.alive(), "the server ended during the campaigns"
    running.stop()


def check_worked(campaign: Campaign, title: str, seconds: float) -> None:
    print(campaign.tally.report(f"{title}, seed {campaign.seed}"))
    assert campaign.tally.calls > seconds * CALLS_PER_S_MIN
    codes = campaign.tally.codes()
    assert codes["OK"] > 0 and codes["INVALID_ARGUMENT"] > 0, "only one kind of answer: the generator aims badly"


async def check_starts_again(stage: Stage, folder: Path) -> None:
    """Whatever was stored, a node can start on it, and everything is still there."""
    async with in_process(folder) as target:
        stage.target = target
        await stage.check_whole(random.Random(1))


async def test_no_generated_request_breaks_the_handlers(tmp_path: Path) -> None:
    seconds = BUDGET_S * 0.3
    async with in_process(tmp_path) as target:
        stage = Stage(target)
        await stage.set_up()
        campaign = Campaign(stage, SEED, FOUND)
        await campaign.calls(seconds)
    await check_starts_again(stage, tmp_path)
    check_worked(campaign, "calls in process", seconds)
    assert campaign.tally.by_method.keys() >= set(SERVED), "every served call is fuzzed"


async def test_no_sequence_of_calls_breaks_a_run_or_its_server(tmp_path: Path) -> None:
    seconds = BUDGET_S * 0.3
    async with in_process(tmp_path) as target:
        stage = Stage(target)
        await stage.set_up()
        campaign = Campaign(stage, SEED, FOUND)
        await campaign.sequences(seconds)
    await check_starts_again(stage, tmp_path)
    check_worked(campaign, "sequences in process", seconds)
    assert campaign.answered_tasks > campaign.refused_tasks > 0 and campaign.activities_taken > 0


async def test_no_generated_request_breaks_a_server_over_grpc(server: OutlastServer) -> None:
    seconds = BUDGET_S * 0.2
    target = OverGrpc(server)
    stage = Stage(target)
    await stage.set_up()
    campaign = Campaign(stage, SEED, FOUND)
    await campaign.calls(seconds)
    await target.close()
    check_worked(campaign, "calls over gRPC", seconds)


async def test_no_damaged_bytes_break_a_server_over_grpc(server: OutlastServer) -> None:
    seconds = BUDGET_S * 0.2
    target = OverGrpc(server)
    stage = Stage(target, "wire-")
    await stage.set_up()
    campaign = Campaign(stage, SEED + 1, FOUND)
    await campaign.wire(seconds)
    await target.close()
    check_worked(campaign, "damaged bytes over gRPC", seconds)
