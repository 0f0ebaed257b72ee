"""Whole simulated runs of the real server: a slice of the seeds, and that a seed is the same story every time.

`make sim SEEDS=500` runs many more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from chaos.sim.story import Result, run_seed

SEEDS = range(1, 21)


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
    from chaos.sim.commands import EVERY_KIND

    injected: Counter[str] = Counter()
    for result in results:
        injected.update(result.injected)
    assert not EVERY_KIND - injected.keys()
    assert injected["crash"] and injected["graceful_stop"] and injected["worker_restart"]


def test_a_seed_is_the_same_story_for_any_hash_seed_of_python() -> None:
    texts = []
    for hash_seed in ("0", "4711"):
        command = [sys.executable, "-m", "chaos.sim", "run", "--seeds", "3", "--first", "2", "--hashes"]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        texts.append([line for line in done.stdout.splitlines() if not line.endswith("seeds/s")])
    assert texts[0] == texts[1]
    assert len(set(texts[0][:3])) == 3


def test_a_seed_is_the_same_story_twice_in_one_process(results: list[Result]) -> None:
    assert run_seed(results[4].seed).digest == results[4].digest
