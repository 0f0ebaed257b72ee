"""The composition root: the only place (beside the simulator's world) where concrete clocks, ids, stores and servers are made.

    start   open the store -> who is this cluster -> keys -> visibility -> namespaces -> matching -> history -> listen
    drain   refuse new calls, end parked polls, let the rest finish
    close   stop listening, history (checkpoint), visibility, store; the order of start, backwards

Heavy modules are imported where they are used, so that `outlast --help` stays quick and a wrong option fails at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog

from cluster.config import Limits, ShardConfig
from cluster.seams import JobSet, SystemClock, SystemIds

if TYPE_CHECKING:
    from cluster.frontend.cluster_identity import ClusterIdentity
    from cluster.frontend.http_pages import HttpPages
    from cluster.frontend.service import Frontend
    from cluster.frontend.tokens import Tokens
    from cluster.frontend.transport_grpc import GrpcTransport
    from cluster.history.service import HistoryService
    from cluster.matching.service import Matching
    from cluster.namespaces.registry import NamespaceRegistry
    from cluster.stores.base import Store
    from cluster.visibility.base import VisibilityStore

log = structlog.get_logger("outlast.node")

MEMORY = ":memory:"
DRAIN_S = 5.0  # what a call under way gets before the node closes


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """port 0 = one that the system chooses. db: a file, or ":memory:" (everything is lost at exit).

    search_attributes: name -> type (an AttributeType), added to every namespace of `namespaces`.
    shards: None = as many as the database has, 4 for a new one.
    """

    ip: str = "127.0.0.1"
    port: int = 7233
    http_port: int = 7243
    db: str = MEMORY
    sync: Literal["full", "normal"] = "full"
    namespaces: tuple[str, ...] = ("default",)
    search_attributes: Mapping[str, int] = {}
    shards: int | None = None
    cluster_name: str = "active"
    limits: Limits = Limits()
    shard: ShardConfig = ShardConfig()


class NotLoopback(Exception):
    """No security is configured, so only loopback addresses may be listened on."""


class DatabaseInUse(Exception):
    """Another process runs on this file."""


class FileLock:
    """One process per database file. The kernel lets go of it however the process ends."""

    def __init__(self, database: str) -> None:
        path = Path(database + ".lock")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DatabaseInUse(f"{path} cannot be opened: {error.strerror}") from error
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


class Node:
    """One process with every role. Make it, start it, and close it once, in one event loop."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.clock = SystemClock()
        self.ids = SystemIds()
        self.spawn = JobSet(self._job_failed)
        self.port = 0
        self.http_port = 0
        self.started_in_ms = 0.0
        self.failed: asyncio.Event = asyncio.Event()
        self.store: Store
        self.visibility: VisibilityStore
        self.identity: ClusterIdentity
        self.tokens: Tokens
        self.namespaces: NamespaceRegistry
        self.matching: Matching
        self.history: HistoryService
        self.frontend: Frontend
        self._transport: GrpcTransport | None = None
        self._http: HttpPages | None = None
        self._opened: list[tuple[str, Any]] = []  # what to close, in the order of opening

    # --- start ------------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Raises NotLoopback, DatabaseInUse, PortInUse, OSError, StoreError, ShardCountDiffers; then nothing is left open."""
        began = time.monotonic()
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        self.started_in_ms = (time.monotonic() - began) * 1000

    async def _start(self) -> None:
        from cluster.frontend.authorisation import LoopbackOnly, is_loopback

        if not is_loopback(self.config.ip):
            raise NotLoopback(f"no security is configured: Outlast listens on loopback addresses only, not on {self.config.ip}")
        await self._open_stores()
        await self._open_namespaces()
        await self._open_history()
        await self._listen(LoopbackOnly())

    async def _open_stores(self) -> None:
        from cluster.frontend.cluster_identity import load_identity
        from cluster.frontend.tokens import Tokens, load_keys
        from cluster.stores.sqlite import SqliteStore
        from cluster.visibility.sqlite import SqliteVisibility

        config = self.config
        if config.db != MEMORY:
            Path(config.db).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._opened.append(("lock", FileLock(config.db)))
        self.store = SqliteStore(config.db, config.sync)
        await self.store.open()
        self._opened.append(("store", self.store))
        self.identity = await load_identity(self.store, self.ids, config.cluster_name, config.shards)
        self.tokens = Tokens(await load_keys(self.store, self.ids))
        self.visibility = SqliteVisibility(config.db if config.db == MEMORY else config.db + ".visibility")
        await self.visibility.open()
        self._opened.append(("visibility", self.visibility))

    def _job_failed(self, name: str, failure: BaseException) -> None:
        """A background job must not end by an exception: the node is no longer whole, and says so."""
        log.error("job failed", job=name, exc_info=failure)
        self.failed.set()

    # --- stop -------------------------------------------------------------------------------------------------------------
    async def drain(self) -> None:
        """Refuses new calls, ends parked polls, waits up to DRAIN_S for the rest."""
        if self._transport is None:
            return
        await self._transport.say_not_serving()
        self.frontend.drain.begin()
        self.matching.drain()
        if not await self.frontend.drain.wait_until_idle(DRAIN_S):
            log.warning("calls still in flight after the drain", seconds=DRAIN_S)

    async def close(self) -> None:
        """Backwards through what was opened; goes on after a failure, and raises the first one."""
        first: Exception | None = None
        while self._opened:
            name, part = self._opened.pop()
            try:
                await part.close()
            except Exception as failure:
                log.error("could not be closed", part=name, exc_info=failure)
                first = first or failure
        await self.spawn.close()
        if first is not None:
            raise first
