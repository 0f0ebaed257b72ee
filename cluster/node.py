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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog

from cluster.config import Limits, ShardConfig
from cluster.seams import JobSet, SystemClock, SystemIds

if TYPE_CHECKING:
    from cluster.frontend.authorisation import Policy
    from cluster.frontend.cluster_identity import ClusterIdentity
    from cluster.frontend.http_pages import HttpPages
    from cluster.frontend.namespace_removal import NamespaceRemoval
    from cluster.frontend.service import Frontend
    from cluster.frontend.transport_grpc import GrpcTransport
    from cluster.history.service import HistoryService
    from cluster.matching.service import Matching
    from cluster.namespaces.record import NamespaceRecord
    from cluster.namespaces.registry import NamespaceRegistry
    from cluster.stores.base import Store
    from cluster.tokens import Tokens
    from cluster.visibility.base import VisibilityStore
    from cluster.visibility.search_attributes import Schema

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
    """Another process runs on this file, or this one may not."""


class FileLock:
    """One process per database file. The kernel lets go of it however the process ends."""

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


class KnownNamespaces:
    """The registry as history sees it: what this node knows, without waiting. A call reaches history only after the frontend
    found its namespace, so what is not known here does not exist."""

    def __init__(self, registry: NamespaceRegistry) -> None:
        self._registry = registry

    def by_name(self, name: str) -> NamespaceRecord:
        return self._known(self._registry.cached(name), name)

    def by_id(self, id: str) -> NamespaceRecord:
        return self._known(self._registry.cached_by_id(id), id)

    def _known(self, record: NamespaceRecord | None, named: str) -> NamespaceRecord:
        if record is None:
            from cluster.namespaces.registry import namespace_not_found

            raise namespace_not_found(named)
        return record


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
        self._removal: NamespaceRemoval
        self._transport: GrpcTransport | None = None
        self._http: HttpPages | None = None
        self._opened: list[tuple[str, Any]] = []  # what to close, in the order of opening

    # --- start ------------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Raises NotLoopback, DatabaseInUse, PortInUse, StoreError, ShardCountDiffers; then nothing is left open."""
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
        from cluster.stores.sqlite import SqliteStore
        from cluster.tokens import Tokens, load_keys
        from cluster.visibility.sqlite import SqliteVisibility

        config = self.config
        if config.db != MEMORY:
            self._opened.append(("lock", FileLock(config.db)))
        self.store = SqliteStore(config.db, config.sync)
        await self.store.open()
        self._opened.append(("store", self.store))
        self.identity = await load_identity(self.store, self.ids, config.cluster_name, config.shards)
        self.tokens = Tokens(await load_keys(self.store, self.ids))
        self.visibility = SqliteVisibility(config.db if config.db == MEMORY else config.db + ".visibility")
        await self.visibility.open()
        self._opened.append(("visibility", self.visibility))

    async def _open_namespaces(self) -> None:
        from cluster.frontend.namespace_removal import NamespaceRemoval
        from cluster.namespaces.registry import NamespaceRegistry

        config = self.config
        self._removal = NamespaceRemoval(self.spawn)
        self.namespaces = NamespaceRegistry(
            self.store, self.clock, self.ids, config.limits, self.identity.cluster_name, self._removal.on_delete
        )
        await self.namespaces.load()
        for name in config.namespaces:
            await self._ensure_namespace(name)

    async def _ensure_namespace(self, name: str) -> None:
        from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

        if self.namespaces.cached(name) is None:
            request = RegisterNamespaceRequest(namespace=name)
            request.workflow_execution_retention_period.FromNanoseconds(self.config.limits.retention_default_ns)
            await self.namespaces.register(request)
        if self.config.search_attributes:
            await self.namespaces.add_search_attributes(name, self.config.search_attributes)

    async def _open_history(self) -> None:
        from cluster.frontend.handlers.task_queues import load_task_queue_configs
        from cluster.history.service import HistoryService
        from cluster.matching.limits import MatchingLimits
        from cluster.matching.service import Matching
        from cluster.visibility.search_attributes import validate

        config = self.config
        self.matching = Matching(MatchingLimits(), self.clock, self.ids, self.spawn, host=f"{config.ip}:{config.port}")
        self.history = HistoryService(
            store=self.store,
            clock=self.clock,
            ids=self.ids,
            spawn=self.spawn,
            namespaces=KnownNamespaces(self.namespaces),
            matching=self.matching,
            visibility=self.visibility,
            tokens=self.tokens,
            shards_count=self.identity.shard_count,
            owner=f"{os.uname().nodename}/{os.getpid()}",
            config=config.shard,
            limits=config.limits,
            check_search_attributes=lambda record, given: validate(given, self.schema_of(record), config.limits, record.name),
        )
        self._opened.append(("history", self.history))
        await self.history.start()
        self._removal.start(self.history, self.visibility, self.namespaces.forget)
        await load_task_queue_configs(self.store, self.matching)

    async def _listen(self, policy: Policy) -> None:
        from cluster.frontend.handlers.services import Services
        from cluster.frontend.http_pages import HttpPages
        from cluster.frontend.service import Frontend
        from cluster.frontend.transport_grpc import GrpcTransport, PortInUse
        from cluster.metrics.exposition import CONTENT_TYPE, Exposition

        config = self.config
        services = Services(
            history=self.history,
            matching=self.matching,
            visibility=self.visibility,
            namespaces=self.namespaces,
            store=self.store,
            tokens=self.tokens,
            limits=config.limits,
            identity=self.identity,
            schema_of=self.schema_of,
            address=f"{config.ip}:{config.port}",
            http_address=f"{config.ip}:{config.http_port}",
        )
        self.frontend = Frontend(services, policy, self.clock, self.ids, asyncio.get_running_loop().time, time.perf_counter)
        exposition = Exposition(self.frontend.figures, self._gauges(), {"matching_events": lambda: self.matching.counts})
        self._http = HttpPages(self._fault, exposition.page, CONTENT_TYPE)
        try:
            self.http_port = await self._http.start(config.ip, config.http_port)
        except OSError as error:
            raise PortInUse(f"{config.ip}:{config.http_port} (http) cannot be bound: {error.strerror or error}") from error
        self._opened.append(("http", self._http))
        transport = GrpcTransport(self.frontend.handlers, config.limits, self.ids)
        self.port = await transport.start(config.ip, config.port)
        self._transport = transport
        self._opened.append(("grpc", transport))

    def schema_of(self, record: NamespaceRecord) -> Schema:
        """The search attributes of a namespace."""
        from cluster.visibility.search_attributes import Schema

        return self.namespaces.cached_schema(record.id) or Schema(record.custom_search_attributes)

    def _gauges(self) -> list[tuple[str, str, Callable[[], float]]]:
        return [
            ("outlast_store_written_bytes", "Payload bytes handed to the store since the start", self.store.bytes_written),
            ("outlast_task_queues", "Task queues in memory", lambda: self.matching.queue_count),
            ("outlast_started_in_seconds", "How long the start took", lambda: self.started_in_ms / 1000),
        ]

    def _fault(self) -> str:
        """ "" while the node is well."""
        if self.failed.is_set():
            return "a background job failed"
        return "draining" if self.frontend.drain.has_begun else ""

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
