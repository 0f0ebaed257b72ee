"""The story of two regions, small: twenty transfers through the loss of a region. Its checks see what they are there to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from ops.demo.region_audit import differing, outcomes, unexplained
from ops.servers import ROOT


def test_the_demo_of_two_regions_ends_well() -> None:
    command = [sys.executable, "-m", "ops.demo", "--transfers", "20", "--output", "json"]
    environment = {name: value for name, value in os.environ.items() if name != "STORES"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == [] and report["transferred"] + report["refunded"] == report["transfers"] == 30
    assert report["checksum_one"] == report["checksum_two"] and report["runs_compared"] >= 30
    assert 0 < report["rto_s"] <= 30 and report["fail_back_lost"] == 0


def line(number: int, **changed: Any) -> dict[str, Any]:
    told = {"workflow_id": "w", "run_id": "r", "source": "event", "number": number, "outcome": "rolled back", "reason": "since"}
    return {**told, **changed}


BRANCH = {"workflow_id": "w", "run_id": "r", "events_from": 5, "last_event_id": 6}


def test_a_branch_whose_events_all_have_a_line_is_explained() -> None:
    assert unexplained([BRANCH], [line(5), line(6)], ["w"]) == []
    assert unexplained([{**BRANCH, "events_from": 7}], [], []) == [], "a branch that lost nothing but attempts"
    assert outcomes([line(5), line(6), line(7, outcome="run again")]) == {"rolled back": 2, "run again": 1}


def test_an_event_without_a_line_a_line_without_a_reason_and_an_unnamed_start_are_found() -> None:
    assert "no line for events [6]" in unexplained([BRANCH], [line(5)], [])[0]
    assert "no line for events [5, 6]" in unexplained([BRANCH], [line(5, source="buffered"), line(6, run_id="other")], [])[0]
    assert "says nothing" in unexplained([], [line(5, reason="")], [])[0]
    assert "does not name it" in unexplained([], [line(5)], ["another"])[0]


def test_runs_that_differ_between_regions_are_found() -> None:
    here, there = {("a", "1"): "x", ("b", "1"): "y", ("c", "1"): "z"}, {("a", "1"): "x", ("b", "1"): "-", ("d", "1"): "z"}
    problems = differing(here, there)
    assert len(problems) == 3
    assert [problem.split()[0] for problem in problems] == ["c", "d", "b"]
    assert differing(here, dict(here)) == []
