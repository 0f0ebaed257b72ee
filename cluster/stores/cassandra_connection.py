"""A session with Cassandra: where, at which consistency, what may be repeated, and what its errors mean in the contract's words.

| what failed                                                          | a write raises   | a read raises    |
|----------------------------------------------------------------------|------------------|------------------|
| before anything was sent (no host up, no connection)                 | StoreUnavailable | StoreUnavailable |
| the coordinator is starting                                          | StoreUnavailable | StoreUnavailable |
| too few replicas, overload (1)                                       | StoreUnavailable | StoreUnavailable |
| time-out of coordinator or client, connection lost, a replica failed | StoreUnknown     | StoreUnavailable |
| a table, column or keyspace is not there                             | SchemaMismatch   | SchemaMismatch   |
| a value that no column takes                                         | ValueError       | ValueError       |
| a fault of ours (syntax, wrong use of the driver)                    | travels as it is | travels as it is |

(1) A lightweight transaction: StoreUnknown. It may have been decided when its coordinator found too few replicas for the rest.

| profile  | for                          | consistency                       | repeated on another host               |
|----------|------------------------------|-----------------------------------|----------------------------------------|
| `read`   | everything                   | LOCAL_QUORUM                      | once                                   |
| `serial` | what an unknown outcome left | LOCAL_SERIAL                      | once                                   |
| `write`  | writes that carry a stamp    | LOCAL_QUORUM                      | once: they are idempotent              |
| `decide` | lightweight transactions     | LOCAL_SERIAL, commit LOCAL_QUORUM | never: the first try would refuse it   |

With consistency "global" they are QUORUM and SERIAL, over all data centres. One node with replication factor 1 needs no
other setting. The driver works in a thread of its own (libev) and hands results over with `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from cassandra import ConsistencyLevel, InvalidRequest, Unavailable, protocol
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    FallthroughRetryPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.pool import NoConnectionsAvailable
from cassandra.query import BatchStatement, BatchType, dict_factory, tuple_factory

from cluster.stores.base import SchemaMismatch, StoreError, StoreUnavailable, StoreUnknown

DEFAULT_PORT: Final = 9042
PROTOCOL_VERSION: Final = 5  # Cassandra 4.0 or newer
# Rows fetched in one message: bounds the memory of a page of large values.
PAGE_ROWS: Final = 100
PAGE_KEYS: Final = 2_000
_WITH_VALUES: Final = frozenset({"rows", "records", "history", "metadata_list"})
# Beyond so many waiting calls the database does not keep up, and memory is no place for a queue.
WAITING_COUNT_MAX: Final = 16_384

Consistency = Literal["local", "global"]
Profile = Literal["read", "serial", "write", "decide"]
Step = tuple[str, Sequence[Any]]  # a prepared statement's name and its values

_KEYSPACE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
_NO_TABLE: Final = re.compile(r"unconfigured table|does not exist|Undefined column|Unknown identifier|unknown keyspace", re.I)
_NOT_SENT: Final = (NoConnectionsAvailable, ConnectionBusy)
_REFUSED: Final = (Unavailable, protocol.UnavailableErrorMessage, protocol.OverloadedErrorMessage)


class OnceMoreElsewhere(RetryPolicy):  # type: ignore[misc]
    """For reads and idempotent writes: another host, once."""

    def _decide(self, retry_num: int) -> tuple[int, None]:
        return (self.RETRY_NEXT_HOST if retry_num == 0 else self.RETHROW), None

    def on_read_timeout(self, query: Any, *args: Any, retry_num: int, **kwargs: Any) -> tuple[int, None]:
        return self._decide(retry_num)

    def on_write_timeout(self, query: Any, *args: Any, retry_num: int, **kwargs: Any) -> tuple[int, None]:
        return self._decide(retry_num)

    def on_unavailable(self, query: Any, *args: Any, retry_num: int, **kwargs: Any) -> tuple[int, None]:
        return self._decide(retry_num)

    def on_request_error(self, query: Any, *args: Any, retry_num: int, **kwargs: Any) -> tuple[int, None]:
        return self._decide(retry_num)


@dataclass(frozen=True, slots=True)
class CassandraTarget:
    """A keyspace and how to talk to it. `contact_points` are hosts, or host:port where one differs from `port`.

    local_dc: the data centre of this region's nodes; None takes that of the first contact point that answers.
    replication_factor: only for creating the keyspace (`outlast schema upgrade`); with 3, one node may be down.
    """

    contact_points: tuple[str, ...]
    keyspace: str
    port: int = DEFAULT_PORT
    username: str | None = None
    password: str | None = None
    local_dc: str | None = None
    replication_factor: int = 3
    consistency: Consistency = "local"
    ssl_context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if not self.contact_points:
            raise ValueError("a Cassandra target needs at least one contact point")
        if not _KEYSPACE.fullmatch(self.keyspace):
            raise ValueError(f"keyspace {self.keyspace!r} must be lower-case letters, digits and _, at most 48")
        if self.replication_factor < 1:
            raise ValueError("replication_factor must be at least 1")
        if self.consistency not in ("local", "global"):
            raise ValueError(f"consistency is {self.consistency!r}, must be 'local' or 'global'")

    @classmethod
    def from_url(cls, url: str, ssl_context: ssl.SSLContext | None = None) -> CassandraTarget:
        """cassandra://user:password@host:port,host2:port/keyspace?dc=dc1&replication_factor=3&consistency=local"""
        parts = urlsplit(url)
        if parts.scheme != "cassandra":
            raise ValueError("a Cassandra URL begins with cassandra://")
        login, _, hosts = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        unknown = set(options) - {"dc", "replication_factor", "consistency"}
        if unknown:
            raise ValueError(f"a Cassandra URL has no option {', '.join(sorted(unknown))}")
        consistency = options.get("consistency", "local")
        if consistency not in ("local", "global"):
            raise ValueError(f"consistency is {consistency!r}, must be 'local' or 'global'")
        return cls(
            contact_points=tuple(host for host in hosts.split(",") if host),
            keyspace=parts.path.strip("/"),
            username=unquote(username) or None,
            password=unquote(password) if username else None,
            local_dc=options.get("dc"),
            replication_factor=int(options.get("replication_factor", "3")),
            consistency="local" if consistency == "local" else "global",
            ssl_context=ssl_context,
        )

    @property
    def name(self) -> str:
        """For messages: never the password."""
        return f"Cassandra at {','.join(self.contact_points)}/{self.keyspace}"

    def cluster(self, request_timeout_s: float, connect_timeout_s: float) -> Cluster:
        is_local = self.consistency == "local"
        quorum = ConsistencyLevel.LOCAL_QUORUM if is_local else ConsistencyLevel.QUORUM
        serial = ConsistencyLevel.LOCAL_SERIAL if is_local else ConsistencyLevel.SERIAL
        # Replicas in a fixed order: the nodes of a region then propose a shard's writes through the same coordinator.
        balancing = TokenAwarePolicy(DCAwareRoundRobinPolicy(self.local_dc or ""), shuffle_replicas=False)

        def profile(consistency: int, retry: RetryPolicy, row_factory: Callable[..., Any] = tuple_factory) -> ExecutionProfile:
            return ExecutionProfile(balancing, retry, consistency, serial, request_timeout_s, row_factory)

        points = [(host, int(port or self.port)) for host, _, port in (point.partition(":") for point in self.contact_points)]
        return Cluster(
            contact_points=points,
            port=points[0][1],
            auth_provider=PlainTextAuthProvider(self.username, self.password) if self.username is not None else None,
            ssl_context=self.ssl_context,
            protocol_version=PROTOCOL_VERSION,
            connect_timeout=connect_timeout_s,
            control_connection_timeout=connect_timeout_s,
            reconnection_policy=ConstantReconnectionPolicy(0.5, max_attempts=None),
            # Without it a request of more than one packet waits 40 ms for the server's delayed acknowledgement.
            sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            idle_heartbeat_interval=5,
            idle_heartbeat_timeout=5,
            executor_threads=2,
            execution_profiles={
                "read": profile(quorum, OnceMoreElsewhere()),
                "serial": profile(serial, OnceMoreElsewhere()),
                "write": profile(quorum, OnceMoreElsewhere()),
                "decide": profile(quorum, FallthroughRetryPolicy(), dict_factory),
            },
        )


def translate(error: BaseException, database: str, profile: Profile) -> BaseException:
    """What the contract calls this error (see the table)."""
    if isinstance(error, StoreError) or not isinstance(error, Exception):
        return error
    text = f"{database}: {_said(error)}"
    if isinstance(error, NoHostAvailable):
        return _translate_no_host(error, text, database, profile)
    if isinstance(error, InvalidRequest | protocol.InvalidRequestException):
        if _NO_TABLE.search(str(error)):
            return SchemaMismatch(f"{text}: run `outlast schema upgrade`")
        return ValueError(text) if "too large" in str(error) or "too long" in str(error) else error
    if isinstance(error, (protocol.IsBootstrappingErrorMessage, *_NOT_SENT)):
        return StoreUnavailable(text)
    if isinstance(error, _REFUSED):
        return StoreUnknown(text) if profile == "decide" else StoreUnavailable(text)
    if isinstance(error, protocol.SyntaxException | TypeError | AttributeError | KeyError):
        return error
    return StoreUnknown(text) if profile in ("write", "decide") else StoreUnavailable(text)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _translate_no_host(error: Any, text: str, database: str, profile: Profile) -> BaseException:
    """Every host of the plan failed: the worst of what they said counts."""
    causes = [cause for cause in dict(error.errors).values() if isinstance(cause, Exception)]
    meanings = [translate(cause, database, profile) for cause in causes if not _was_not_sent(cause)]
    if any(isinstance(meaning, StoreUnknown) for meaning in meanings):
        return StoreUnknown(text)
    if meanings and not isinstance(meanings[0], StoreError):
        return meanings[0]
    return StoreUnavailable(text)


def _was_not_sent(error: Exception) -> bool:
    """The driver's words for a host that it did not even try."""
    if isinstance(error, _NOT_SENT):
        return True
    return type(error) is ConnectionException and re.search(r"marked down|[Pp]ool is shutdown|removed", str(error)) is not None


class CassandraSession:
    """Runs prepared statements by name. At most `in_flight_max` requests are under way, the lanes of the shards apart."""

    def __init__(
        self,
        target: CassandraTarget,
        request_timeout_s: float,
        connect_timeout_s: float,
        in_flight_max: int,
    ) -> None:
        self.target = target
        self._request_timeout_s = request_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._free = asyncio.Semaphore(in_flight_max)
        self._waiting_count = 0
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._prepared: dict[str, Any] = {}
        self._under_way: set[asyncio.Future[list[Any]]] = set()

    # --- its life -------------------------------------------------------------------------------------------------------
    async def open(self, check: Callable[[Session], None], statements: Mapping[str, str]) -> None:
        """Connects, lets `check` refuse what it finds, and prepares. Raises StoreUnavailable, SchemaMismatch."""
        await asyncio.to_thread(self._open, check, statements)

    def _open(self, check: Callable[[Session], None], statements: Mapping[str, str]) -> None:
        cluster = self.target.cluster(self._request_timeout_s, self._connect_timeout_s)
        try:
            session = cluster.connect()
            check(session)
            tables = f"{self.target.keyspace}.outlast_"
            self._prepared = {name: session.prepare(text.replace("outlast_", tables)) for name, text in statements.items()}
        except BaseException as error:
            cluster.shutdown()
            raise translate(error, self.target.name, "read") from error
        self._cluster, self._session = cluster, session

    async def close(self) -> None:
        """Requests under way end first; none of them takes longer than its time-out."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        cluster, self._cluster, self._session = self._cluster, None, None
        if cluster is not None:
            await asyncio.to_thread(cluster.shutdown)

    # --- statements -----------------------------------------------------------------------------------------------------
    async def read(self, name: str, *values: Any, is_serial: bool = False) -> list[tuple[Any, ...]]:
        """All rows, page by page."""
        return await self._in_turn(self._bound(name, values), "serial" if is_serial else "read")

    async def write(self, *steps: Step) -> None:
        """Stamped writes to one partition: all of them or none, and nobody sees a part."""
        await self._in_turn(self._batch(steps), "write")

    async def decide(self, *steps: Step) -> dict[str, Any]:
        """A lightweight transaction on one partition: `[applied]`, and what was found if it was not."""
        rows = await asyncio.shield(self._submit(self._batch(steps), "decide"))
        found: dict[str, Any] = rows[0]
        return found

    def _batch(self, steps: Sequence[Step]) -> Any:
        if len(steps) == 1:
            return self._bound(*steps[0])
        batch = BatchStatement(BatchType.UNLOGGED)
        for name, values in steps:
            batch.add(self._bound(name, values))
        return batch

    def _bound(self, name: str, values: Sequence[Any]) -> Any:
        if self._session is None:
            raise StoreUnavailable("the store is not open")
        try:
            statement = self._prepared[name].bind(values)
        except TypeError as error:  # what the driver makes of a number out of range
            raise ValueError(str(error)) from error
        statement.fetch_size = PAGE_ROWS if name in _WITH_VALUES else PAGE_KEYS
        return statement

    async def _in_turn(self, statement: Any, profile: Profile) -> list[Any]:
        if self._waiting_count >= WAITING_COUNT_MAX:
            raise StoreUnavailable(f"{WAITING_COUNT_MAX} requests wait for the database already")
        self._waiting_count += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting_count -= 1
        try:
            answer = self._submit(statement, profile)
        except BaseException:
            self._free.release()
            raise
        answer.add_done_callback(lambda _: self._free.release())
        # Shielded: a caller that goes away does not make room before the request has ended.
        return await asyncio.shield(answer)

    def _submit(self, statement: Any, profile: Profile) -> asyncio.Future[list[Any]]:
        """Hands a request to the driver's thread."""
        if self._session is None:
            raise StoreUnavailable("the store is not open")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[list[Any]] = loop.create_future()
        waiter.add_done_callback(self._ended)
        name = self.target.name
        rows: list[Any] = []

        def arrived(page: list[Any] | None) -> None:
            rows.extend(page or ())
            if response.has_more_pages:
                response.start_fetching_next_page()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_settle, waiter, rows)

        def failed(error: BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_fail, waiter, translate(error, name, profile))

        response = self._session.execute_async(statement, execution_profile=profile)
        self._under_way.add(waiter)
        response.add_callbacks(arrived, failed)
        return waiter

    def _ended(self, waiter: asyncio.Future[list[Any]]) -> None:
        self._under_way.discard(waiter)
        if not waiter.cancelled():
            waiter.exception()  # seen: a caller that went away will not ask for it, and nobody is to be warned about that


def _settle(waiter: asyncio.Future[list[Any]], rows: list[Any]) -> None:
    if not waiter.done():
        waiter.set_result(rows)


def _fail(waiter: asyncio.Future[list[Any]], error: BaseException) -> None:
    if not waiter.done():
        waiter.set_exception(error)
