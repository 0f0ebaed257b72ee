"""`outlast server` as a process: what it prints, what it warns of, how it ends. What keeps it from that: test_start_faults.py."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
import yaml

from ops.cli.exit_codes import EXIT_OK, EXIT_USAGE
from ops.cli.logs import configure_logging
from ops.cli.server import json_schema
from ops.servers import LoggedProcess

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"grpc": {"port": 0}, "http": {"port": 0}}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", "server", *arguments]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def region(folder: Path, **settings: object) -> str:
    (folder / "region.yaml").write_text(yaml.safe_dump({**SMALL, **settings}))
    return str(folder / "region.yaml")


def test_what_is_in_effect_is_printed_without_secrets_and_nothing_is_started(tmp_path: Path) -> None:
    path = region(tmp_path, store={"url": "postgresql://me:hunter2@127.0.0.1:1/db"})
    secret = {"OUTLAST_CLUSTER_NAME": "north", "OUTLAST_STORE__PASSWORD": "hunter3"}
    told = run("--config", path, "--print-config", "--processes", "3", **secret)
    assert told.returncode == EXIT_OK and "hunter" not in told.stdout + told.stderr
    shown = yaml.safe_load(told.stdout)
    assert (shown["cluster_name"], shown["processes"], shown["store"]["url"]) == ("north", 3, "postgresql://me:********@127.0.0.1:1/db")


def test_the_file_may_be_named_by_the_environment_and_be_missing_altogether(tmp_path: Path) -> None:
    path = region(tmp_path, store={"kind": "memory"}, cluster_name="north")
    assert "cluster_name: north" in run("--print-config", OUTLAST_CONFIG=path).stdout
    told = run("--print-config", OUTLAST_STORE__KIND="memory")
    assert told.returncode == EXIT_OK and "kind: memory" in told.stdout


def test_the_schema_is_printed_as_it_is_kept() -> None:
    assert run("--json-schema").stdout == json_schema()


def test_wrong_settings_are_a_usage_error_with_a_line_each(tmp_path: Path) -> None:
    told = run("--config", region(tmp_path, store={"urll": "x", "kind": "memory"}, shards=0))
    assert told.returncode == EXIT_USAGE and told.stdout == ""
    lines = told.stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"outlast: {tmp_path / 'region.yaml'}: ") for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_a_signal_ends_it_with_zero(tmp_path: Path, number: signal.Signals) -> None:
    store = str(tmp_path / "o.db")
    path = region(tmp_path, store={"url": store}, node={"id": "n1"}, shards=2, log={"level": "error"})
    server = LoggedProcess(command("--config", path), tmp_path / "log", "Outlast ready")
    server.wait_ready(30)
    server.end(number)
    (line,) = (tmp_path / "log").read_text().splitlines()
    form = r"Outlast ready: grpc 127\.0\.0\.1:\d+ http 127\.0\.0\.1:\d+ node n1 "
    assert re.fullmatch(rf"{form}store sqlite:{store} sync full shards 2 \(\d+ ms\)", line)
    assert server.process.returncode == EXIT_OK


def test_an_insecure_start_is_warned_of_in_a_line_of_json_each_time(tmp_path: Path) -> None:
    path = region(
        tmp_path, store={"kind": "memory"}, grpc={"ip": "0.0.0.0", "port": 0}, allow_insecure=True, log={"format": "json"}
    )
    server = LoggedProcess(command("--config", path), tmp_path / "log", "Outlast ready")
    server.wait_ready(30)
    server.end(signal.SIGTERM)
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("Outlast ready")]
    warned = [line for line in map(json.loads, lines) if line["level"] == "warning"]
    assert len(warned) == 1 and "allow_insecure" in warned[0]["event"] and warned[0]["ip"] == "0.0.0.0"


def test_lines_of_ours_and_of_libraries_have_one_form_and_name_their_process(capfd: pytest.CaptureFixture[str]) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure_logging("info", "json", "n-1")
        try:
            raise ValueError("broken \ud800")
        except ValueError:
            structlog.get_logger("ours").error("failed", exc_info=True, thing=object())
        logging.getLogger("theirs").warning("beware of %s", "it")
        logging.getLogger("theirs").debug("not shown")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
        structlog.reset_defaults()
    ours, theirs = map(json.loads, capfd.readouterr().err.splitlines())
    assert ours["event"] == "failed" and ours["process"] == "n-1" and "ValueError" in ours["exception"]
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("beware of it", "warning", "theirs")
    assert set(ours) & set(theirs) == {"event", "level", "timestamp"}
