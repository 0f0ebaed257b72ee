"""A real etcd for the tests: Debian's package, one node, on loopback, in a directory of its own, stopped by its process id.

`EtcdServer(folder)`: start, kill (SIGKILL), pause and resume (SIGSTOP), start again on the same data and ports, wipe. Where the
program is missing it is installed by apt-get as root; where that is not possible the test fails: what needs etcd is not proven
without it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

START_S = 20.0


class EtcdMissing(RuntimeError):
    """No etcd here, and no way to install it."""


def etcd_program() -> str:
    """The path of etcd; ETCD_BIN names another one than Debian's."""
    if found := os.environ.get("ETCD_BIN") or shutil.which("etcd"):
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise EtcdMissing("these tests need etcd: apt-get install etcd-server, or ETCD_BIN=/path/to/etcd")
    # RUNLEVEL=1: the package shall not start a service of its own.
    environment = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "etcd-server"]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise EtcdMissing(f"{' '.join(command)}: {done.stderr[-500:]}")
    found = shutil.which("etcd")
    if found is None:
        raise EtcdMissing("apt-get installed etcd-server, but there is no etcd")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EtcdServer:
    """One node. `endpoint` stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._data = folder, folder / "data"
        self._program = etcd_program()
        self._port, self._peer_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> EtcdServer:
        """Returns when it answers."""
        assert self._process is None, "it runs already"
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self._peer_port}"
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "name": "n0",
            "data-dir": str(self._data),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"n0={peer}",
            "heartbeat-interval": "100",
            "election-timeout": "1000",
            "logger": "zap",
            "log-level": "warn",
        }
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *(part for name, value in arguments.items() for part in (f"--{name}", value))],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                told = (self._folder / "etcd.log").read_text()[-1_000:]
                self.kill()
                raise RuntimeError(f"etcd did not start: {told}")
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """As a crash of the machine that runs it; the data stay."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)

    def pause(self) -> None:
        """Its connections stay open and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """It comes back as another etcd, which knows nothing."""
        assert self._process is None, "stop it first"
        shutil.rmtree(self._data)
