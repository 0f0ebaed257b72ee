r"""Where the SQLite store's calls run, and how many of them share one commit.

    file:      event loop --> queue --> one writer thread  (all that waits is one transaction, one fsync)
                         \--> queue --> reader threads     (WAL: readers see the last commit and block nobody)
    :memory:   on the event loop itself, one shared connection (nothing there ever waits for a disk)

Results go back by `call_soon_threadsafe`, once per group and loop. What an error means is decided here:

| failed                                              | the caller is told                                                |
|-----------------------------------------------------|-------------------------------------------------------------------|
| BEGIN, or a statement (busy, full, input/output)    | StoreUnavailable: rolled back, certainly not written              |
| COMMIT, busy                                        | StoreUnavailable: SQLite keeps the transaction, we roll it back   |
| COMMIT, anything else                               | StoreUnknown: the log may hold the commit when it is next opened  |
| a call refused (LeaseLost) in a group that then     | StoreUnavailable: what refused it may have been undone as well    |
| fails                                               |                                                                   |
| the file is malformed                               | StoreDamaged                                                      |
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from cluster.stores.base import LeaseLost, StoreDamaged, StoreUnavailable, StoreUnknown

Operation = Callable[[sqlite3.Connection], Any]
Connect = Callable[[], sqlite3.Connection]

# One commit for at most so many calls: bounds the time that the first one waits for the last.
GROUP_CALLS_MAX = 256

# Errors that pass, or that an operator can remedy without repairing data. Any other is a fault of ours and travels as it is.
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass(slots=True, frozen=True)
class Outcome:
    """How one operation ended: a value, or the exception to raise."""

    value: Any = None
    failure: BaseException | None = None


@dataclass(slots=True, frozen=True)
class Write:
    """An operation for a group. One of several statements is undone by itself (savepoint) when it is refused."""

    operation: Operation
    has_several_statements: bool
    future: asyncio.Future[Any] | None = None


def error_code(error: BaseException) -> int:
    """SQLite's primary result code; -1 for what does not come from SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1


def translate(error: Exception) -> Exception:
    """What the contract calls an error that left nothing written."""
    code = error_code(error)
    if code in _DAMAGED:
        return StoreDamaged(f"the SQLite file is damaged ({error}); restore it from a copy")
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"SQLite: {error}")
    return error


def run_group(connection: sqlite3.Connection, writes: Sequence[Write]) -> list[Outcome]:
    """Runs all writes in one transaction, each with an outcome of its own."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        return [Outcome(failure=translate(error)) for _ in writes]
    outcomes: list[Outcome] = []
    for write in writes:
        outcome = _run_write(connection, write, is_alone=len(writes) == 1)
        outcomes.append(outcome)
        if not connection.in_transaction:  # on a full disk, among others, SQLite itself undoes the whole transaction
            return _undone(outcomes, len(writes), outcome.failure)
    if len(writes) == 1 and outcomes[0].failure is not None:
        return outcomes if _roll_back(connection) is None else _undone(outcomes, 1, outcomes[0].failure)
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        is_rolled_back = error_code(error) == sqlite3.SQLITE_BUSY and _roll_back(connection) is None
        if connection.in_transaction:
            _roll_back(connection)
        return _uncommitted(outcomes, error, is_rolled_back)
    return outcomes


def _run_write(connection: sqlite3.Connection, write: Write, is_alone: bool) -> Outcome:
    needs_savepoint = write.has_several_statements and not is_alone
    try:
        if needs_savepoint:
            connection.execute("SAVEPOINT one")
        value = write.operation(connection)
        if needs_savepoint:
            connection.execute("RELEASE one")
        return Outcome(value)
    except Exception as error:
        if needs_savepoint and connection.in_transaction:
            try:
                connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")
            except sqlite3.Error:
                _roll_back(connection)  # half a write must not be committed with the others: undo them all
        return Outcome(failure=translate(error))


def _roll_back(connection: sqlite3.Connection) -> sqlite3.Error | None:
    try:
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return error
    return None


def _undone(outcomes: list[Outcome], count: int, cause: BaseException | None) -> list[Outcome]:
    """Nothing of the group was written, whatever its members were told before."""
    result = []
    for place in range(count):
        failure = outcomes[place].failure if place < len(outcomes) else None
        if failure is None or isinstance(failure, LeaseLost):
            failure = StoreUnavailable(f"SQLite undid the whole group: {cause}")
        result.append(Outcome(failure=failure))
    return result


def _uncommitted(outcomes: list[Outcome], error: sqlite3.Error, is_rolled_back: bool) -> list[Outcome]:
    result = _undone(outcomes, len(outcomes), error)
    for place, outcome in enumerate(outcomes):
        if outcome.failure is None and not is_rolled_back:
            result[place] = Outcome(failure=StoreUnknown(f"SQLite failed at commit: {error}"))
    return result


def settle(results: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    """Hands outcomes to their waiters; one that was cancelled in the meantime does not want its outcome."""
    for future, outcome in results:
        if future.done():
            continue
        if outcome.failure is None:
            future.set_result(outcome.value)
        else:
            future.set_exception(outcome.failure)


def _post(results: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    """Settles futures from a thread, with one wake-up per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for result in results:
        by_loop.setdefault(result[0].get_loop(), []).append(result)
    for loop, of_loop in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody can be waiting on it
            loop.call_soon_threadsafe(settle, of_loop)


class Lanes(Protocol):
    """Runs operations: writes in groups, reads beside them."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def write(self, operation: Operation, has_several_statements: bool = False) -> Any: ...

    async def read(self, operation: Operation) -> Any: ...


class InlineLanes:
    """For `:memory:`: one connection, used on the event loop."""

    def __init__(self, connect: Connect, prepare: Operation) -> None:
        self._connect = connect
        self._prepare = prepare
        self._connection: sqlite3.Connection | None = None

    async def start(self) -> None:
        self._connection = self._connect()
        self._prepare(self._connection)

    async def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def write(self, operation: Operation, has_several_statements: bool = False) -> Any:
        outcome = run_group(self._open(), (Write(operation, has_several_statements),))[0]
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.value

    async def read(self, operation: Operation) -> Any:
        try:
            return operation(self._open())
        except sqlite3.Error as error:
            raise translate(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable("the store is not open")
        return self._connection


class ThreadLanes:
    """For a file: one writer thread and a few reader threads."""

    def __init__(self, connect_writer: Connect, connect_reader: Connect, prepare: Operation, readers_count: int) -> None:
        self._connect_writer = connect_writer
        self._connect_reader = connect_reader
        self._prepare = prepare
        self._readers_count = readers_count
        self._writes: SimpleQueue[Write | None] = SimpleQueue()
        self._reads: SimpleQueue[Write | None] = SimpleQueue()
        self._is_open = False
        self._ended: list[asyncio.Future[Any]] = []

    async def start(self) -> None:
        """Connects in each thread; raises the first error. Tables exist before the first reader looks."""
        try:
            await self._spawn("outlast-sqlite-write", self._connect_writer, self._writes, self._serve_writes, self._prepare)
            for number in range(self._readers_count):
                await self._spawn(f"outlast-sqlite-read-{number}", self._connect_reader, self._reads, self._serve_reads, None)
        except BaseException:
            await self.stop()
            raise
        self._is_open = True

    async def stop(self) -> None:
        """Lets the threads finish what is queued, and end; the writer last, so that it can fold the log into the file."""
        self._is_open = False
        ended, self._ended = self._ended, []
        for _ in range(self._readers_count):
            self._reads.put(None)
        await asyncio.gather(*ended[1:])
        self._writes.put(None)
        await asyncio.gather(*ended[:1])
        self._writes, self._reads = SimpleQueue(), SimpleQueue()

    async def write(self, operation: Operation, has_several_statements: bool = False) -> Any:
        return await self._submit(self._writes, operation, has_several_statements)

    async def read(self, operation: Operation) -> Any:
        return await self._submit(self._reads, operation, False)

    def _submit(
        self, queue: SimpleQueue[Write | None], operation: Operation, has_several_statements: bool
    ) -> asyncio.Future[Any]:
        if not self._is_open:
            raise StoreUnavailable("the store is not open")
        future = asyncio.get_running_loop().create_future()
        queue.put(Write(operation, has_several_statements, future))
        return future

    async def _spawn(
        self,
        name: str,
        connect: Connect,
        queue: SimpleQueue[Write | None],
        serve: Callable[[sqlite3.Connection, SimpleQueue[Write | None]], None],
        prepare: Operation | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        started: asyncio.Future[Any] = loop.create_future()
        ended: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            try:
                connection = connect()
            except Exception as error:
                _post([(started, Outcome(failure=translate(error))), (ended, Outcome())])
                return
            try:
                if prepare is not None:
                    prepare(connection)
                _post([(started, Outcome())])
                serve(connection, queue)
            except Exception as error:
                _post([(started, Outcome(failure=translate(error)))])
            finally:
                connection.close()
                _post([(ended, Outcome())])

        # A daemon: a process that ends without close() must not hang; what was acknowledged is on disk already.
        threading.Thread(target=run, name=name, daemon=True).start()
        self._ended.append(ended)
        await started

    @staticmethod
    def _serve_writes(connection: sqlite3.Connection, queue: SimpleQueue[Write | None]) -> None:
        is_open = True
        while is_open:
            first = queue.get()
            if first is None:
                return
            group = [first]
            try:
                while len(group) < GROUP_CALLS_MAX:
                    following = queue.get_nowait()
                    if following is None:
                        is_open = False
                        break
                    group.append(following)
            except Empty:
                pass  # all that waited is in the group
            try:
                outcomes = run_group(connection, group)
            except Exception as error:  # not foreseen (out of memory): the thread must live on and its waiters must hear
                _roll_back(connection)
                outcomes = [Outcome(failure=StoreUnknown(f"the group ended with {error!r}")) for _ in group]
            _post([(write.future, outcome) for write, outcome in zip(group, outcomes, strict=True) if write.future is not None])

    @staticmethod
    def _serve_reads(connection: sqlite3.Connection, queue: SimpleQueue[Write | None]) -> None:
        while (call := queue.get()) is not None:
            try:
                outcome = Outcome(call.operation(connection))
            except Exception as error:
                if connection.in_transaction:
                    _roll_back(connection)
                outcome = Outcome(failure=translate(error))
            if call.future is not None:
                _post([(call.future, outcome)])
            del call, outcome  # else the last answer stays in memory until the next call
