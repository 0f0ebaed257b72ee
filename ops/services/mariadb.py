"""A real MariaDB for tests (Debian has no MySQL server), flushed at each commit: a kill is a crash, and commits survive it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ops.services.processes import Daemon, ensure_installed, free_port, private_folder, run

PACKAGES = ["mariadb-server"]
USER = "mysql"


class MariadbServer:
    """User `test`, no password, loopback only, database `test`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        command = [
            _program("mariadbd"),
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--tmpdir={folder}",
            f"--socket={folder / 'socket'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=64M",
            "--innodb-flush-log-at-trx-commit=1",
            "--max-connections=100",
            f"--init-file={folder / 'init.sql'}",
        ]
        self._daemon = Daemon(command, USER, folder / "log")

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def url(self, database: str = "test", port: int | None = None) -> str:
        return f"mysql://test@127.0.0.1:{port or self.port}/{database}"

    def create_database(self, name: str) -> None:
        run([*self._client(), "-e", f"CREATE DATABASE {name}"], USER)

    def initialise(self) -> None:
        # One statement a line: --init-file wants it so.
        (self._folder / "init.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS test;\n"
            "CREATE USER IF NOT EXISTS test@'%' IDENTIFIED BY '';\n"
            "GRANT ALL ON *.* TO test@'%' WITH GRANT OPTION;\n"
        )
        install = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={self._folder / 'data'}", "--skip-test-db"]
        install += [f"--tmpdir={self._folder}"]  # a server that starts removes what others have in a common /tmp
        run([*install, "--auth-root-authentication-method=normal"], USER)

    def start(self) -> None:
        self._daemon.start(self._answers)

    def stop(self) -> None:
        self._daemon.end(signal.SIGTERM)

    def kill(self) -> None:
        self._daemon.end(signal.SIGKILL)

    def _answers(self) -> bool:
        return subprocess.run([*self._client(), "-e", "SELECT 1", "test"], capture_output=True).returncode == 0

    def _client(self) -> list[str]:
        return [_program("mariadb"), "--no-defaults", "--protocol=tcp", "-h", "127.0.0.1", "-P", str(self.port), "-u", "test"]


def _program(name: str) -> str:
    return shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or name


@contextlib.contextmanager
def mariadb_server() -> Iterator[MariadbServer]:
    ensure_installed(lambda: Path(_program("mariadbd")).is_absolute(), PACKAGES)
    with private_folder(USER) as folder:
        server = MariadbServer(folder)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
