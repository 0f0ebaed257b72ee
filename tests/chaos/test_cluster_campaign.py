"""A short slice of the cluster campaign: real nodes, real PostgreSQL and etcd, a few faults. The whole: `make crash-cluster`."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from chaos.cluster.campaign import run_campaign
from chaos.cluster.plan import Plan, Report
from chaos.cluster.releases import newest_release


async def campaign(folder: Path, **fields: object) -> Report:
    plan = Plan(seed=1, folder=folder / "campaign", **fields)  # type: ignore[arg-type]  # the fields that a test names
    report = await run_campaign(plan, Console(soft_wrap=True, highlight=False))
    if not report.passed:
        pytest.fail("\n".join(str(violation) for violation in report.violations[:20]), pytrace=False)
    return report


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_while_nodes_etcd_and_database_are_killed(tmp_path: Path) -> None:
    report = await campaign(tmp_path, faults=4)
    done = {one.name for one in report.faults}
    assert {"kill", "freeze", "etcd_kill", "database_kill"} <= done
    assert report.figures["node faults"] >= 4
    assert report.figures["recovery s after SIGKILL, all"]["count"] > 0


@pytest.mark.timeout(180)
async def test_a_rolling_restart_under_load_costs_retryable_answers_only(tmp_path: Path) -> None:
    report = await campaign(tmp_path, course="rolling", load_s=2.0)
    assert len(report.figures["restarts"]) == 3


@pytest.mark.timeout(180)
async def test_a_node_more_and_a_node_less_moves_only_its_share(tmp_path: Path) -> None:
    report = await campaign(tmp_path, course="resize", load_s=2.0)
    assert 0 < report.figures["moved to the new node"] < report.figures["shards"] / 2


@pytest.mark.timeout(300)
async def test_a_node_of_the_release_and_two_of_this_version_share_one_database_and_ring(tmp_path: Path) -> None:
    release = newest_release()
    if not release:
        pytest.skip("NOT PROVEN: there is no tag release-*, so there is no older version to share a ring with")
    report = await campaign(tmp_path, course="versions", load_s=3.0, release=release)
    assert report.acks > 100
