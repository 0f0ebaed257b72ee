"""Whole simulated runs of the real server: a slice of the seeds, and that a seed is the same story every time.

`make sim SEEDS=500` runs many more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from chaos.sim.network import LinkFault
from chaos.sim.registry import RegistryFault
from chaos.sim.seeds import Result, run_seed
from chaos.sim.tally import KINDS_OF_ONE_NODE
from chaos.sim.trouble import NodeTrouble

SEEDS = range(1, 21)
CLUSTER_SEEDS = range(1, 13)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [run_seed(seed) for seed in SEEDS]


def test_no_seed_shows_a_violation(results: list[Result]) -> None:
    assert {result.seed: result.violations for result in results if result.violations} == {}


def test_every_seed_gets_work_acknowledged(results: list[Result]) -> None:
    assert [result.seed for result in results if result.acked_count == 0 or result.runs_count == 0] == []
    acts: Counter[str] = Counter()
    for result in results:
        acts.update(result.acts)
    assert all(acts[f"{kind}.acked"] for kind in ("start", "signal", "update", "completion")), acts


def test_the_slice_injects_every_kind_of_fault(results: list[Result]) -> None:
    injected: Counter[str] = Counter()
    for result in results:
        injected.update({str(kind): number for kind, number in result.injected.items()})
    assert not KINDS_OF_ONE_NODE - injected.keys()
    assert injected["worker_restart"]


def test_the_seeds_draw_regions_of_one_node_and_of_several(results: list[Result]) -> None:
    counts = Counter(result.nodes_count for result in results)
    assert counts[1] >= len(results) / 3 and sum(counts.values()) - counts[1] >= len(results) / 4


@pytest.fixture(scope="module")
def clusters() -> list[Result]:
    return [run_seed(seed, nodes=3) for seed in CLUSTER_SEEDS]


def test_no_seed_of_three_nodes_shows_a_violation(clusters: list[Result]) -> None:
    assert {result.seed: result.violations for result in clusters if result.violations} == {}


def test_the_slice_of_three_nodes_has_troubles_of_nodes_ways_and_registry(clusters: list[Result]) -> None:
    injected = {str(kind) for result in clusters for kind in result.injected}
    assert len(injected & {str(kind) for kind in NodeTrouble}) >= 8, injected
    assert injected & {str(kind) for kind in LinkFault} and injected & {str(kind) for kind in RegistryFault}
    assert all(result.acked_count for result in clusters)


@pytest.mark.parametrize("nodes", ["1", "3"])
def test_a_seed_is_the_same_story_for_any_hash_seed_of_python(nodes: str) -> None:
    texts = []
    for hash_seed in ("0", "4711"):
        command = [sys.executable, "-m", "chaos.sim", "run", "--seeds", "3", "--first", "2", "--hashes", "--nodes", nodes]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        texts.append(done.stdout.splitlines())
    assert texts[0] == texts[1]
    assert len(set(texts[0][:3])) == 3


def test_a_seed_is_the_same_story_twice_in_one_process(results: list[Result], clusters: list[Result]) -> None:
    assert run_seed(results[4].seed).digest == results[4].digest
    assert run_seed(clusters[1].seed, nodes=3).digest == clusters[1].digest
