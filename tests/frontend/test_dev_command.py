"""`outlast dev` as a process: what it prints, when it ends, and with which exit code."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

READY_S = 20.0
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("dev", "--port", "0", "--http-port", "0", *arguments)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its ready line."""
    process = subprocess.Popen(
        command("dev", "--port", "0", "--http-port", "0", *arguments), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Outlast ready"), (line, process.poll())
        yield process, line
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def ports(line: str) -> tuple[int, int]:
    found = re.search(r"grpc 127\.0\.0\.1:(\d+) http 127\.0\.0\.1:(\d+)", line)
    assert found is not None, line
    return int(found[1]), int(found[2])


def page(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


# --- options ----------------------------------------------------------------------------------------------------------------
def test_help_names_the_commands_and_the_version_is_told() -> None:
    shown = run("--help")
    assert shown.returncode == 0 and "dev" in shown.stdout
    assert re.fullmatch(r"outlast \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sync", "sometimes"), "--sync is full or normal"),
        (("--log-level", "loud"), "--log-level is one of"),
        (("--search-attribute", "Name"), "--search-attribute is NAME=TYPE"),
        (("--search-attribute", "Name=Colour"), "--search-attribute is NAME=TYPE"),
        (("--shards", "0"), "shards"),
    ],
)
def test_a_wrong_option_is_named(arguments: tuple[str, ...], words: str) -> None:
    ended = dev(*arguments)
    assert ended.returncode == 2 and words in ended.stderr and "Traceback" not in ended.stderr


def test_an_address_that_others_can_reach_is_refused_without_security() -> None:
    ended = dev("--ip", "0.0.0.0")
    assert ended.returncode == 3 and "loopback" in ended.stderr


# --- databases that cannot be used ----------------------------------------------------------------------------------------------
def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE outlast_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID")
        database.execute("INSERT INTO outlast_schema VALUES ('store', 999)")
    ended = dev("--db", str(path))
    assert ended.returncode == 4 and "999" in ended.stderr and "Traceback" not in ended.stderr


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 1000)
    ended = dev("--db", str(path))
    assert ended.returncode == 4 and str(path) in ended.stderr and "Traceback" not in ended.stderr
    assert path.read_text().startswith("Dear reader")


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = dev("--db", str(tmp_path / "file" / "db"))
    assert ended.returncode == 4 and "Traceback" not in ended.stderr


# --- running --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_zero(tmp_path: Path, number: signal.Signals) -> None:
    with serving("--db", str(tmp_path / "o.db")) as (process, line):
        assert f"sqlite:{tmp_path / 'o.db'}" in line
        process.send_signal(number)
        assert process.wait(READY_S) == 0


def test_it_is_ready_after_two_seconds_of_one_processor_at_most(tmp_path: Path) -> None:
    """Processor time, since the other tests that run beside this one must not decide whether it passes."""
    with serving("--db", str(tmp_path / "o.db")) as (process, _):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = int(fields[11]), int(fields[12])
        assert (user + system) / os.sysconf("SC_CLK_TCK") < 2.0


def test_health_and_metrics_are_served(tmp_path: Path) -> None:
    with serving("--db", str(tmp_path / "o.db")) as (_, line):
        _, http_port = ports(line)
        assert page(http_port, "/healthz") == "ok"
        assert "outlast_store_written_bytes" in page(http_port, "/metrics")


def test_a_second_server_on_the_database_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "o.db")
    with serving("--db", path) as (process, _):
        ended = dev("--db", path)
        assert ended.returncode == 4 and f"in use by another Outlast (pid {process.pid})" in ended.stderr


def test_a_killed_server_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "o.db")
    with serving("--db", path) as (process, _):
        process.kill()
        process.wait(10)
        with serving("--db", path):
            pass


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option, other in (("--port", "--http-port"), ("--http-port", "--port")):
            ended = run("dev", option, port, other, "0", "--db", str(tmp_path / "o.db"))
            assert ended.returncode == 3 and port in ended.stderr and "Traceback" not in ended.stderr


def test_the_shard_count_of_a_database_is_fixed(tmp_path: Path) -> None:
    path = str(tmp_path / "o.db")
    with serving("--db", path, "--shards", "2") as (_, line):
        assert "shards 2" in line
    ended = dev("--db", path, "--shards", "3")
    assert ended.returncode == 4 and "made with 2 shards" in ended.stderr
    with serving("--db", path) as (_, line):
        assert "shards 2" in line
