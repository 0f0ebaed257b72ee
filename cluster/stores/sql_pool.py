"""A bounded pool of database connections, for every engine with a server.

Ours, since asyncpg's own asks the server for a reset at each return, and so that both engines break and recover in one way.

| event                         | what happens                                                                              |
|-------------------------------|-------------------------------------------------------------------------------------------|
| a connection is idle          | the one used last is taken again, so that unneeded ones stay cold                         |
| none is idle, there is room   | a new one is made; if that fails the caller is told StoreUnavailable                      |
| none is idle, no room         | the caller waits its turn, first come first served, for at most `wait_timeout_s`          |
| a connection breaks           | it is dropped, and with it all idle ones: after a restart of the database none of them works |
| close                         | new callers are refused, those at work finish, then all connections are closed            |

Nothing is retried here: whoever holds a connection knows whether its statement may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from cluster.stores.base import StoreUnavailable

# How many callers may wait for a connection: beyond that the database is overloaded and waiting makes it worse.
WAITERS_COUNT_MAX = 4_096


class PooledConnection(Protocol):
    """What the pool needs of a driver's connection."""

    def is_closed(self) -> bool: ...

    def terminate(self) -> None:
        """Drops the connection at once, without a word to the server."""
        ...

    async def close(self) -> None: ...


Connection = TypeVar("Connection", bound=PooledConnection)


class Pool(Generic[Connection]):
    """At most `size_max` connections. `connect` raises what the contract calls the error."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], size_max: int, wait_timeout_s: float, connect_timeout_s: float
    ) -> None:
        if size_max < 1:
            raise ValueError("a pool needs at least one connection")
        self._connect = connect
        self._size_max = size_max
        self._wait_timeout_s = wait_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._size = 0  # idle, lent, and being made
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_open = False
        self._all_returned: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        return self._size

    def open(self) -> None:
        self._is_open = True

    async def close(self, timeout_s: float) -> None:
        """Waits for what is at work for at most `timeout_s`, then ends it."""
        self._is_open = False
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)  # wakes up, finds the pool closed
        if self._size > len(self._idle):
            self._all_returned = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_returned], timeout=timeout_s)
            self._all_returned = None
        for connection in list(self._lent):
            connection.terminate()
        idle, self._idle = self._idle, []
        self._size -= len(idle)
        for connection in idle:
            await self._close_one(connection)

    async def acquire(self) -> Connection:
        """A connection that was working when it was last used. Raises StoreUnavailable; nothing was sent then."""
        while True:
            if not self._is_open:
                raise StoreUnavailable("the store is not open")
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    self._lent.add(connection)
                    return connection
                self._size -= 1
            if self._size < self._size_max:
                return await self._make()
            await self._wait_turn()

    def release(self, connection: Connection, is_usable: bool = True) -> None:
        """Gives a connection back. One that is not usable is dropped, and the idle ones as well."""
        self._lent.discard(connection)
        if is_usable and not connection.is_closed():
            self._idle.append(connection)
        else:
            self._size -= 1
            connection.terminate()
            if not is_usable:
                self.drop_idle()
        self._wake_next()

    def drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        self._size -= len(idle)
        for connection in idle:
            connection.terminate()

    async def _make(self) -> Connection:
        self._size += 1
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._connect()
        except TimeoutError as error:
            raise StoreUnavailable(f"no connection to the database within {self._connect_timeout_s:g} s") from error
        finally:
            if connection is None:
                self._size -= 1
                self._wake_next()
        self._lent.add(connection)
        return connection

    async def _wait_turn(self) -> None:
        if len(self._waiters) >= WAITERS_COUNT_MAX:
            raise StoreUnavailable(f"{WAITERS_COUNT_MAX} calls wait for a database connection already")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._wait_timeout_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._wake_next()  # woken and given up in the same moment: the turn goes to the next one
            else:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                message = f"all {self._size_max} database connections were busy for {self._wait_timeout_s:g} s"
                raise StoreUnavailable(message) from error
            raise

    def _wake_next(self) -> None:
        if self._all_returned is not None and self._size == len(self._idle) and not self._all_returned.done():
            self._all_returned.set_result(None)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _close_one(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(1.0):
                await connection.close()
        except Exception:  # the farewell did not reach the server: the connection is dropped, and that is all we want
            connection.terminate()
