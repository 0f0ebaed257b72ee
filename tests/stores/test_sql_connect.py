"""A connection that is accepted and cut at once, as a proxy before a dead server does, is an outage like any other.

On uvloop, as nodes run: its transport may be closed before the driver has looked at its socket for the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import uvloop

from cluster.stores.base import StoreUnavailable
from cluster.stores.mysql_connection import MysqlTarget
from cluster.stores.postgres_connection import PostgresTarget

TRIES = 300
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@contextlib.contextmanager
def port_that_cuts() -> Iterator[int]:
    """Accepts, and resets the connection at once; in a thread, so that it does so while the client is busy."""
    listener = socket.create_server(("127.0.0.1", 0))

    def cut() -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                connection.close()

    thread = threading.Thread(target=cut, name="cut")
    thread.start()
    try:
        port: int = listener.getsockname()[1]
        yield port
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_connection_that_is_cut_while_it_is_made_is_an_outage(scheme: str) -> None:
    with port_that_cuts() as port:
        url = f"{scheme}://u@127.0.0.1:{port}/d"
        target = MysqlTarget(url) if scheme == "mysql" else PostgresTarget(url)

        async def connect_again_and_again() -> None:
            for _ in range(TRIES // 10):
                outcomes = await asyncio.gather(*(target.connect() for _ in range(10)), return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(connect_again_and_again())
