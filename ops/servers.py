"""Servers as child processes: ours (`outlast dev`) and, where it is built, the real Temporal server beside it.

The demo, the bench and the comparison drive both through the same five words: start, kill (SIGKILL, as a power cut would),
restart on the same data, stop (SIGTERM), close. Every server listens on 127.0.0.1 and is ended by its pid. A whole cluster of
ours (`ClusterServers`) is in cluster_servers.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
PEER_SCRIPT = ROOT.parent / "shared" / "peer" / "peer.sh"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class ServerFailed(Exception):
    """A server did not start, or ended by itself; the message carries the last lines of its log."""


class Server(Protocol):
    """One server process on one data directory."""

    name: str
    address: str
    log: Path

    @property
    def pid(self) -> int:
        """Raises ServerFailed when the server does not run."""
        ...

    def start(self) -> None:
        """On empty data. Returns when the server answers. Raises ServerFailed."""
        ...

    def restart(self) -> None:
        """On the data it left. Returns when the server answers. Raises ServerFailed."""
        ...

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        ...

    def stop(self) -> None:
        """SIGTERM, and waits until the process is gone; nothing when it does not run."""
        ...

    def alive(self) -> bool: ...

    def data_bytes(self) -> int:
        """Size of its database files, write-ahead logs included."""
        ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def process_alive(pid: int) -> bool:
    """A zombie counts as gone: it does nothing any more and holds no port."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def wait_gone(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while process_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class LoggedProcess:
    """A child whose output goes to a log file; `ready` is set when a line starts with the given words."""

    def __init__(self, command: Sequence[str], log: Path, ready_line: str, environment: dict[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self._ready_line, self.ready = log, ready_line, threading.Event()
        # A session of its own: Ctrl-C reaches only the parent, which then ends its children in order.
        self.process = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            errors="replace", cwd=ROOT, start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        threading.Thread(target=self._copy, name=f"log {log.name}", daemon=True).start()

    def _copy(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("a", buffering=1) as out:
            for line in self.process.stdout:
                out.write(line)
                if line.startswith(self._ready_line):
                    self.ready.set()

    def wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.ready.wait(0.02):
            if self.process.poll() is not None:
                raise ServerFailed(f"{self.process.args!r} ended with {self.process.returncode}:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.process.kill()
                raise ServerFailed(f"{self.process.args!r} was not ready within {timeout_s:.0f} s:\n{tail(self.log)}")

    def end(self, signal_number: int, timeout_s: float = STOP_TIMEOUT_S) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as late:
            self.process.kill()
            self.process.wait()
            raise ServerFailed(f"did not stop within {timeout_s:.0f} s, so it was killed:\n{tail(self.log)}") from late


class OutlastServer:
    """`outlast dev` on one SQLite file. `prefix` puts a profiler before it."""

    name = "Outlast"

    def __init__(self, directory: Path, *, shards: int = 4, log_level: str = "warning", prefix: Sequence[str] = ()) -> None:
        self.directory, self.log, self.database = directory, directory / "server.log", directory / "outlast.db"
        self.port, self.http_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._shards, self._log_level, self._prefix = shards, log_level, list(prefix)
        self._child: LoggedProcess | None = None

    @property
    def pid(self) -> int:
        if self._child is None:
            raise ServerFailed("Outlast does not run")
        return self._child.process.pid

    def command(self) -> list[str]:
        outlast = str(Path(sys.executable).with_name("outlast"))
        return [
            *self._prefix, outlast, "dev", "--ip", "127.0.0.1", "--port", str(self.port), "--http-port", str(self.http_port),
            "--db", str(self.database), "--namespace", "default", "--shards", str(self._shards), "--log-level", self._log_level,
        ]  # fmt: skip

    def start(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.restart()

    def restart(self) -> None:
        self._child = LoggedProcess(self.command(), self.log, "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        self._child.wait_ready(START_TIMEOUT_S)

    def kill(self) -> None:
        assert self._child is not None
        self._child.end(signal.SIGKILL)

    def stop(self) -> None:
        if self._child is not None:
            self._child.end(signal.SIGTERM)
            self._child = None

    def alive(self) -> bool:
        return self._child is not None and self._child.process.poll() is None

    def data_bytes(self) -> int:
        return sum(part.stat().st_size for part in self.directory.glob("outlast.db*"))


class PeerServer:
    """The real Temporal server by `../shared/peer/peer.sh` (SQLite): for comparison only, never part of the product."""

    name = "Temporal"

    def __init__(self) -> None:
        self.directory = Path(os.environ.get("PEER_DIR", Path.home() / ".cache" / "outlast-peer"))
        self.port = int(os.environ.get("PEER_PORT", "7733"))
        self.address, self.log = f"127.0.0.1:{self.port}", self.directory / "run" / "peer.log"
        self._pid: int | None = None

    @staticmethod
    def available() -> bool:
        directory = Path(os.environ.get("PEER_DIR", Path.home() / ".cache" / "outlast-peer"))
        return PEER_SCRIPT.exists() and all((directory / "bin" / tool).exists() for tool in ("temporal-server", "temporal"))

    @property
    def pid(self) -> int:
        if self._pid is None:
            raise ServerFailed("the peer does not run")
        return self._pid

    def start(self) -> None:
        done = subprocess.run(
            ["bash", str(PEER_SCRIPT), "start", "sqlite"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "PEER_DIR": str(self.directory), "PEER_PORT": str(self.port)}, timeout=180, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerFailed(f"peer.sh start: {done.stderr}")
        self._pid = int(done.stdout.split()[-1])

    def restart(self) -> None:
        """Without peer.sh, whose start empties the database."""
        run, temporal = self.directory / "run", str(self.directory / "bin" / "temporal")
        with self.log.open("a") as log:
            command = [str(self.directory / "bin" / "temporal-server"), "--config-file", str(run / "config.yaml")]
            command += ["--allow-no-auth", "start"]
            self._pid = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True).pid
        (run / "peer.pid").write_text(f"{self._pid}\n")
        deadline = time.monotonic() + START_TIMEOUT_S
        probe = [temporal, "workflow", "count", "--address", self.address, "-n", "default"]
        while subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline or not self.alive():
                raise ServerFailed(f"the peer did not come back:\n{tail(self.log)}")
            time.sleep(0.1)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        if self._pid is not None and process_alive(self._pid):
            self._end(signal.SIGTERM)

    def _end(self, signal_number: int) -> None:
        os.kill(self.pid, signal_number)
        if not wait_gone(self.pid, STOP_TIMEOUT_S):
            os.kill(self.pid, signal.SIGKILL)
            wait_gone(self.pid, STOP_TIMEOUT_S)
        (self.directory / "run" / "peer.pid").unlink(missing_ok=True)
        self._pid = None

    def alive(self) -> bool:
        return self._pid is not None and process_alive(self._pid)

    def data_bytes(self) -> int:
        return sum(part.stat().st_size for part in (self.directory / "run").glob("peer.db*"))


def peer_version() -> str:
    """As the CLI of the peer's directory says it; "" where it is not built."""
    directory = Path(os.environ.get("PEER_DIR", Path.home() / ".cache" / "outlast-peer"))
    server = directory / "bin" / "temporal-server"
    if not server.exists():
        return ""
    return subprocess.run([str(server), "--version"], capture_output=True, text=True, check=False).stdout.strip()
