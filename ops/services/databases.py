"""A database engine by its name: a real server, and as many fresh databases on it as are wanted.

| engine    | server                | fresh database                          | beside it, for visibility     |
|-----------|-----------------------|-----------------------------------------|-------------------------------|
| memory    | none                  | lives in the node                       | the same                      |
| sqlite    | none                  | a file in the given folder              | the same                      |
| postgres  | postgres.py           | CREATE DATABASE                         | the same                      |
| mariadb   | mariadb.py            | CREATE DATABASE                         | the same                      |
| cassandra | cassandra.py          | a keyspace, made by the schema upgrade  | an SQLite file or PostgreSQL  |
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ops.services.cassandra import cassandra_server
from ops.services.mariadb import MariadbServer, mariadb_server
from ops.services.postgres import PostgresServer, postgres_server

ENGINES = ("memory", "sqlite", "postgres", "mariadb", "cassandra")
_numbers = itertools.count(1)


class DatabaseServer(Protocol):
    """One server process; the same port and data over restarts."""

    port: int

    @property
    def pid(self) -> int: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None:
        """SIGKILL to it and its children."""
        ...

    def url(self, database: str, port: int | None = None) -> str:
        """Of a database, by this port or by a proxy's."""
        ...


@dataclass
class Database:
    """Where nodes keep their data. `server` is None where the data are files or memory."""

    engine: str
    server: DatabaseServer | None
    name: str
    file: Path
    visibility: Database | None = None

    def url(self, port: int | None = None) -> str:
        if self.server is None:
            return ":memory:" if self.engine == "memory" else str(self.file)
        return self.server.url(self.name, port)


SERVERS: dict[str, Callable[[], AbstractContextManager[DatabaseServer]]] = {
    "postgres": postgres_server,
    "mariadb": mariadb_server,
    "cassandra": cassandra_server,
}


@contextlib.contextmanager
def engine_server(engine: str) -> Iterator[DatabaseServer | None]:
    """Running; None for engines without a server. Raises ServiceUnavailable."""
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}; known are {', '.join(ENGINES)}")
    if engine in ("memory", "sqlite"):
        yield None
        return
    with SERVERS[engine]() as server:
        yield server


def fresh_database(engine: str, server: DatabaseServer | None, folder: Path) -> Database:
    """Empty, under a name that nobody else uses. A Cassandra needs its `visibility` set by the caller."""
    name = f"outlast_{os.getpid()}_{next(_numbers)}"
    if isinstance(server, PostgresServer | MariadbServer):
        server.create_database(name)
    return Database(engine, server, name, folder / f"{name}.db")
