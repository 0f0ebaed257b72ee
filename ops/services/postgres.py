"""A real PostgreSQL for tests (Debian package), with fsync on: a kill is a crash, and what was committed is there afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ops.services.processes import Daemon, ServiceUnavailable, ensure_installed, free_port, private_folder, run

PACKAGES = ["postgresql-15"]
USER = "postgres"


def _programs() -> Path | None:
    """Where the newest installed server's programs are."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists()]
    return max(found, key=lambda path: float(path.parent.name), default=None)


class PostgresServer:
    """User `test`, no password, loopback only."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._programs = programs
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
            "fsync": "on",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "max_wal_size": "256MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(self.port), *options]
        self._daemon = Daemon(command, USER, folder / "log")

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def dsn(self, database: str = "postgres", port: int | None = None) -> str:
        return f"postgresql://test@127.0.0.1:{port or self.port}/{database}"

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        return self.dsn(database, port)

    def create_database(self, name: str) -> None:
        run([str(self._programs / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", name], USER)

    def initialise(self) -> None:
        initdb = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), "-U", "test", "-A", "trust", "-E", "UTF8"]
        run([*initdb, "--locale=C.UTF-8", "--no-sync"], USER)

    def start(self) -> None:
        self._daemon.start(self._answers)

    def stop(self) -> None:
        self._daemon.end(signal.SIGINT)  # "fast": ends sessions, writes a checkpoint

    def kill(self) -> None:
        """As a power cut of the server, but for the machine: SIGKILL to the first process and to all it started."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        self._daemon.send(signal.SIGSTOP)  # else it would tidy up after the children
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self._daemon.end(signal.SIGKILL)

    def _answers(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run([*ready, "-U", "test", "-d", "postgres"], capture_output=True).returncode == 0


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    ensure_installed(lambda: _programs() is not None, PACKAGES)
    programs = _programs()
    if programs is None:
        raise ServiceUnavailable("no PostgreSQL server below /usr/lib/postgresql")
    with private_folder(USER) as folder:
        server = PostgresServer(folder, programs)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
