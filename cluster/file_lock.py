"""One process, or one supervisor and its processes, per database file. The kernel lets go of the lock however its holder ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class DatabaseInUse(Exception):
    """Another process runs on this file, or this one may not."""


class FileLock:
    """Held from construction to `close`. Raises DatabaseInUse."""

    def __init__(self, database: str) -> None:
        path = Path(database + ".lock").absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DatabaseInUse(f"{database} cannot be used: {error.strerror}: {path}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._file, 32).decode("ascii", "replace").strip()
            os.close(self._file)
            raise DatabaseInUse(f"{database} is in use by another Outlast (pid {owner or 'unknown'})") from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    async def close(self) -> None:
        os.close(self._file)
