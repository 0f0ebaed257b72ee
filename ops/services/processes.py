"""What every server for tests needs: its packages, a private folder, a free port, an unprivileged user, an end by pid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

INSTALL_LOCK = Path(tempfile.gettempdir()) / "outlast-install.lock"


class ServiceUnavailable(Exception):
    """The server cannot be had here; the message says what to do."""


def ensure_installed(is_installed: Callable[[], bool], packages: Sequence[str]) -> None:
    """Installs Debian packages when root and missing. Two test processes do not install at once."""
    if is_installed():
        return
    wanted = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceUnavailable(f"this test needs {wanted}: install it (apt-get install {wanted}), or run as root on Debian")
    with INSTALL_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed():
            return
        # RUNLEVEL=1 keeps the packages' scripts from starting a system-wide server.
        environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                raise ServiceUnavailable(f"{' '.join(command)} failed:\n{done.stderr[-2_000:]}")
    if not is_installed():
        raise ServiceUnavailable(f"{wanted} is installed, but its program is not where it is expected")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def private_folder(user: str) -> Iterator[Path]:
    """A folder that the server's user can write, also when the tests run as root; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="outlast-service-"))
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam(user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_user(user: str) -> dict[str, object]:
    """Arguments for subprocess: database servers refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def run(command: Sequence[str], user: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **as_user(user))  # type: ignore[call-overload]
    if done.returncode != 0:
        raise ServiceUnavailable(f"{command[0]} failed:\n{done.stdout[-1_000:]}{done.stderr[-2_000:]}")


class Daemon:
    """A process of ours with a log file: started, watched until it answers, ended by its pid."""

    def __init__(self, command: Sequence[str], user: str, log: Path) -> None:
        self._command = list(command)
        self._user = user
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, answers: Callable[[], bool], timeout_s: float = 60.0) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **as_user(self._user),
            )
        give_up_at = time.monotonic() + timeout_s
        while not answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.end(signal.SIGKILL)
                raise ServiceUnavailable(f"{self._command[0]} did not start:\n{self._log.read_text(errors='replace')[-3_000:]}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self, number: signal.Signals, timeout_s: float = 30.0) -> None:
        """Signals the process and waits for its end; kills what does not end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def accepts_connections(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
