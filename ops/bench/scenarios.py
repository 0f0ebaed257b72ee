"""The scenarios, one row each: what is done, by how many at once, over how many workflows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    name: str
    load: str
    concurrency: int
    unit: str
    activities: int = 0
    runs: int = 1
    count_max: int = 1_000_000


SCENARIOS = (
    Scenario("workflow, 0 activities", "workflows", 40, "workflow"),
    Scenario("workflow, 1 activity", "workflows", 40, "workflow", activities=1),
    Scenario("workflow, 5 activities", "workflows", 40, "workflow", activities=5),
    Scenario("workflow, 1 activity, 2 at a time", "workflows", 2, "workflow", activities=1),
    Scenario("signals on one run", "signals", 20, "signal", count_max=9_000),  # a run takes 10,000 signals
    Scenario("signals on 200 runs", "signals", 40, "signal", runs=200),
    Scenario("queries on 50 runs", "queries", 20, "query", runs=50),
    Scenario("updates on 50 runs", "updates", 20, "update", runs=50, count_max=80_000),  # a run takes 2,000 updates
)
TARGET_SCENARIO = "workflow, 1 activity"
TARGET_CPU_MS_MAX = 6.0  # issue 3: server CPU per workflow with one activity, SQLite
TARGET_PEER_RATIO_MIN = 4.0  # ... and this many times less than the real server in the same run
