"""`outlast dev --regions`, `region`, `failover` and `ledger` as an operator uses them, on real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.cli.dev_plan import RegionPlan, load
from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, EXIT_OK, EXIT_USAGE
from ops.servers import LoggedProcess, free_port

OUTLAST = str(Path(sys.executable).with_name("outlast"))
READY_S = 60.0


class Regions:
    """`outlast dev --regions 2`, and commands against it."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        command = [OUTLAST, "dev", "--regions", "2", "--port", "0", "--http-port", "0", "--db", str(directory / "db"), *options]
        self.process = LoggedProcess(command, directory / "dev.log", "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        self.process.wait_ready(READY_S)

    @property
    def plans(self) -> dict[str, RegionPlan]:
        return load(self.directory / "db")

    @property
    def log(self) -> str:
        return (self.directory / "dev.log").read_text()

    def outlast(self, asked: str, *words: str) -> subprocess.CompletedProcess[str]:
        return outlast(*words, "--address", self.plans[asked].http_address)

    def json(self, asked: str, *words: str) -> Any:
        done = self.outlast(asked, *words, "--output", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def owner(self, asked: str) -> str:
        return str(self.json(asked, "failover", "status")["namespaces"][0]["active"])

    def until_owner(self, asked: str, wanted: str) -> None:
        deadline = time.monotonic() + READY_S
        while self.owner(asked) != wanted:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)


def outlast(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([OUTLAST, *words], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    running = Regions(tmp_path_factory.mktemp("regions"))
    yield running
    running.process.end(signal.SIGTERM)
    assert running.process.process.returncode == EXIT_OK


def table_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line]


# --- dev --regions ---
def test_both_regions_are_shown_with_their_ports_and_stores(regions: Regions) -> None:
    for name, shards in (("one", 4), ("two", 7)):
        plan = regions.plans[name]
        assert plan.config.port and plan.pid
        told = f"region {name:<5} grpc {plan.address} http {plan.http_address} store sqlite:{regions.directory}/db/{name}.db"
        assert f"{told} shards {shards} pid {plan.pid}" in regions.log
    assert "default in all of them" in regions.log


def test_regions_that_were_planned_wrongly_end_with_a_word_to_it(tmp_path: Path) -> None:
    done = outlast("dev", "--regions", "2", "--stores", "oracle", "--db", str(tmp_path))
    assert done.returncode == EXIT_USAGE and "--stores" in done.stderr
    done = outlast("dev", "--db", str(tmp_path), "--region", "one")
    assert done.returncode == EXIT_USAGE and "no directory of" in done.stderr


# --- looking ---
def test_status_tells_links_namespaces_and_lag(regions: Regions) -> None:
    done = regions.outlast("one", "region", "status", "--shards", "--wait-s", "20")
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    rows = table_of(done.stdout)
    assert ["two", "2", regions.plans["two"].address, "7", "up", "0", "0.000"] in rows
    assert ["default", "one", "1", "normal", "one,two"] in [row[:5] for row in rows]
    page = regions.json("two", "region", "status")
    assert page["region"] == "two" and page["problems"] == [] and page["regions"][0]["is_up"]
    assert {row["shard"] for row in page["shards"]} == set(range(7))
    assert page["namespaces"][0]["lag"] == {"one": {"events": 0, "runs_left": 0, "seconds": 0.0}}


def test_regions_that_agree_are_verified_to_be_equal(regions: Regions) -> None:
    done = regions.outlast("one", "region", "verify", "default")
    rows = [row[:2] for row in table_of(done.stdout)]
    assert done.returncode == EXIT_OK and ["two", "equal"] in rows, done.stdout + done.stderr
    assert regions.json("two", "region", "verify", "default", "--region", "one")[0]["verdict"] == "equal"


def test_nothing_lost_nothing_quarantined_nothing_in_conflict(regions: Regions) -> None:
    assert "no branch has lost" in regions.outlast("one", "region", "conflicts").stdout
    assert "nothing is in quarantine" in regions.outlast("one", "region", "quarantine", "list").stdout
    assert "0 lines of 0 workflows" in regions.outlast("one", "ledger").stdout
    summary = regions.json("one", "ledger", "--namespace", "default", "--summary")
    assert summary["lines"] == summary["unexplained"] == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("region", "verify", "nowhere"), EXIT_USAGE, "NOT_FOUND"),
        (("region", "quarantine", "show", "x"), EXIT_USAGE, "NOT_FOUND"),
        (("region", "quarantine", "retry", "x"), EXIT_USAGE, "NOT_FOUND"),
        (("region", "quarantine", "drop", "x"), EXIT_USAGE, "NOT_FOUND"),
        (("ledger", "--namespace", "nowhere"), EXIT_USAGE, "NOT_FOUND"),
        (("failover", "plan", "default", "--to", "five"), EXIT_FAILED, ""),
        (("failover", "run", "default", "--to", "five"), EXIT_FAILED, "nothing was moved"),
        (("failover", "run", "--to", "two"), EXIT_USAGE, "name the namespaces"),
        (("failover", "run", "default", "--to", "two", "--force", "--hybrid"), EXIT_USAGE, "one of"),
        (("failover", "run", "nowhere", "--to", "two", "--force"), EXIT_USAGE, "NOT_FOUND"),
        (("failover", "run", "default", "--to", "two", "--without-witness"), EXIT_USAGE, "goes with --force"),
        (("failover", "rollback", "nowhere"), EXIT_USAGE, "no earlier owner"),
        (("region", "unlink", "two"), EXIT_FAILED, "still referenced by namespace"),
        (("region", "link", "127.0.0.1:1"), EXIT_FAILED, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_an_exit_code_and_a_reason(regions: Regions, words: tuple[str, ...], code: int, told: str) -> None:
    done = regions.outlast("one", *words)
    assert done.returncode == code and told in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert regions.owner("one") == "one"


def test_whoever_does_not_answer_is_named() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    for words in (["region", "status"], ["failover", "status"], ["ledger"]):
        done = outlast(*words, "--address", nobody)
        assert done.returncode == EXIT_CLUSTER and f"{nobody} does not answer" in done.stderr


# --- doing ---
def test_linking_again_changes_nothing(regions: Regions) -> None:
    one, two = (regions.plans[name].address for name in ("one", "two"))
    done = regions.outlast("one", "region", "link", two, "--own", one)
    assert done.returncode == EXIT_OK and "linked with region two" in done.stdout
    assert regions.outlast("one", "region", "status", "--wait-s", "20").returncode == EXIT_OK


def test_a_graceful_failover_and_its_rollback_lose_nothing(regions: Regions) -> None:
    done = regions.outlast("one", "failover", "plan", "default", "--to", "two")
    checks = table_of(done.stdout)
    assert done.returncode == EXIT_OK and ["default", "link", "ok", "-"] in checks and ["default", "witness", "ok", "-"] in checks
    (moved,) = regions.json("one", "failover", "run", "default", "--to", "two")
    assert moved["is_done"] and moved["kind"] == "graceful" and moved["events_behind"] == 0 and moved["version"] == 2
    assert moved["freeze_ns"] > 0
    again = regions.outlast("two", "failover", "run", "--all", "--to", "two")
    assert again.returncode == EXIT_OK and "no namespace could move there" in again.stdout
    done = regions.outlast("two", "failover", "rollback", "default")
    assert done.returncode == EXIT_OK and "moved" in done.stdout, done.stdout + done.stderr
    regions.until_owner("one", "one")
    assert regions.json("one", "ledger", "--summary")["lines"] == 0


@pytest.mark.parametrize("kind", ["--force", "--hybrid"])
def test_a_failover_may_be_asked_of_any_region(regions: Regions, kind: str) -> None:
    """Of the one that shall own it, here, and there and back."""
    for to, other in (("two", "one"), ("one", "two")):
        (moved,) = regions.json(to, "failover", "run", "default", "--to", to, kind)
        assert moved["is_done"] and moved["moved_from"] == other, moved
        regions.until_owner(other, to)


def test_a_web_page_cannot_fail_anything_over(regions: Regions) -> None:
    """A form that somebody's browser sends is no JSON: it is refused before it is read."""
    url = f"http://{regions.plans['one'].http_address}/regions/failover/run"
    body = b'{"to": "two", "kind": "forced", "namespaces": []}'
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, data=body, headers={"Content-Type": kind}), timeout=10)
        assert refused.value.code == 400 and json.load(refused.value)["code"] == "INVALID_ARGUMENT"
    with pytest.raises(urllib.error.HTTPError) as refused:
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(url, data=b'{"to": 1}', headers=headers), timeout=10)
    assert refused.value.code == 400
    assert regions.owner("one") == "one"


# --- a region is gone ---
def test_a_killed_region_is_taken_over_and_comes_back_with_its_directory(tmp_path: Path) -> None:
    regions = Regions(tmp_path)
    again: LoggedProcess | None = None
    try:
        before = regions.plans["one"]
        os.kill(before.pid, signal.SIGKILL)
        regions.until_owner("two", "two")
        status = regions.json("two", "failover", "status")
        (move,) = status["moves"]
        assert move["region"] == "one" and move["reports"][0]["kind"] == "automatic" and status["regions"].keys() == {"one"}
        assert f"region one (pid {before.pid}) ended with signal SIGKILL" in regions.log
        done = regions.outlast("two", "failover", "run", "default", "--to", "one")
        assert done.returncode == EXIT_FAILED and "link: one does not answer" in done.stderr
        done = regions.outlast("two", "region", "status")
        assert done.returncode == EXIT_FAILED and "there is no link to region one" in done.stdout

        command = [OUTLAST, "dev", "--db", str(tmp_path / "db"), "--region", "one"]
        again = LoggedProcess(command, tmp_path / "one.log", "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        again.wait_ready(READY_S)
        assert f"grpc {before.address} http {before.http_address} region one" in (tmp_path / "one.log").read_text()
        regions.until_owner("one", "two")
        assert regions.outlast("one", "region", "status", "--wait-s", "30").returncode == EXIT_OK
        assert regions.json("two", "ledger")["cuts"][0]["peer"] == "one"
    finally:
        if again is not None:
            again.end(signal.SIGTERM)
        regions.process.end(signal.SIGTERM)
    # The same directory once more: linked as before, and the namespace is where it was.
    regions = Regions(tmp_path)
    try:
        assert regions.owner("one") == regions.owner("two") == "two"
        assert [plan.config.shards for plan in regions.plans.values()] == [4, 7]
    finally:
        regions.process.end(signal.SIGTERM)


def test_with_restart_a_killed_region_is_started_again_on_its_ports(tmp_path: Path) -> None:
    regions = Regions(tmp_path, "--restart")
    try:
        before = regions.plans["two"]
        os.kill(before.pid, signal.SIGKILL)
        deadline = time.monotonic() + READY_S
        while regions.plans["two"].pid in (0, before.pid):
            assert time.monotonic() < deadline, regions.log
            time.sleep(0.1)
        assert regions.plans["two"].address == before.address
        assert regions.outlast("one", "region", "status", "--wait-s", "30").returncode == EXIT_OK
    finally:
        regions.process.end(signal.SIGTERM)
