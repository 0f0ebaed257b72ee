"""Servers as child processes: ready means ready, and a server that fails says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ops.servers import LoggedProcess, OutlastServer, ServerFailed, free_port, process_alive, tail


def python(source: str) -> list[str]:
    return [sys.executable, "-u", "-c", source]


def test_a_process_is_ready_when_it_says_so_and_its_output_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = LoggedProcess(python("print('noise'); print('It is ready now'); import time; time.sleep(60)"), log, "It is ready")
    child.wait_ready(10)
    assert log.read_text() == "noise\nIt is ready now\n"
    child.end(signal.SIGKILL)
    assert not process_alive(child.process.pid)


def test_a_process_that_ends_before_it_is_ready_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    child = LoggedProcess(python("raise SystemExit('no disk')"), tmp_path / "log", "ready")
    with pytest.raises(ServerFailed, match="no disk"):
        child.wait_ready(10)


def test_a_process_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    child = LoggedProcess(python("import time; time.sleep(60)"), tmp_path / "log", "ready")
    with pytest.raises(ServerFailed, match="not ready"):
        child.wait_ready(0.3)
    assert child.process.wait(10) == -signal.SIGKILL


def test_a_process_that_ignores_sigterm_is_killed_and_told_of(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    child = LoggedProcess(python(stubborn), tmp_path / "log", "ready")
    child.wait_ready(10)
    with pytest.raises(ServerFailed, match="did not stop"):
        child.end(signal.SIGTERM, timeout_s=0.3)
    assert child.process.returncode == -signal.SIGKILL


def test_a_zombie_counts_as_gone() -> None:
    child = subprocess.Popen(python("pass"))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    assert not process_alive(child.pid)
    assert process_alive(os.getpid())
    assert child.wait() == 0


def test_the_command_line_is_the_agreed_one_and_a_profiler_goes_before_it(tmp_path: Path) -> None:
    server = OutlastServer(tmp_path, shards=2, log_level="error", prefix=["profiler", "--"])
    words = server.command()
    assert words[:2] == ["profiler", "--"]
    assert Path(words[2]).name == "outlast" and words[3] == "dev"
    assert words[words.index("--shards") + 1] == "2" and words[words.index("--db") + 1] == str(tmp_path / "outlast.db")
    with pytest.raises(ServerFailed):
        _ = server.pid


def test_a_free_port_is_free_and_a_missing_log_is_no_error(tmp_path: Path) -> None:
    assert free_port() > 1_023
    assert tail(tmp_path / "none") == "(no log)"
