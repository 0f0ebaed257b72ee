"""A TCP proxy between a store and its server that loses requests or answers on command. It knows no protocol.

| mode              | a request                                   | what the client sees                          |
|-------------------|---------------------------------------------|-----------------------------------------------|
| `pass`            | is forwarded, and answered                  | the answer                                    |
| `lose_requests`   | never reaches the server                    | the connection is cut                         |
| `lose_answers`    | is carried out by the server                | the connection is cut when the answer is there |
| `silent`          | is carried out by the server                | nothing, for ever                             |
| `deaf`            | never reaches the server                    | nothing, for ever                             |
| `slow`            | is forwarded after `delay_s`                | the answer, another `delay_s` later           |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

Mode = Literal["pass", "lose_requests", "lose_answers", "silent", "deaf", "slow"]


class TcpProxy:
    """Listens on a free port of 127.0.0.1; the mode applies at once, also to connections already made."""

    def __init__(self, target_port: int) -> None:
        self.mode: Mode = "pass"
        self.port = 0
        self.delay_s = 0.1  # of each piece of data and direction while the mode is `slow`
        self.requests_count = 0  # pieces of requests that came in while the mode was not `pass`
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> None:
        """Ends every connection, as a restart of the network between would."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            to_client.transport.abort()  # the server is down: its client shall see that, and not wait
            return
        pair = {to_client, to_server}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(client, to_server, pair))
                group.create_task(self._answers(server, to_client, pair))
        except* OSError:
            pass  # one side is gone, and so is the other then
        finally:
            for writer in pair:
                writer.transport.abort()
            self._writers -= pair

    async def _requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        while data := await client.read(65_536):
            if self.mode != "pass":
                self.requests_count += 1
            if self.mode == "lose_requests":
                break
            if self.mode == "slow":
                await asyncio.sleep(self.delay_s)
            if self.mode != "deaf":
                to_server.write(data)
                await to_server.drain()
        self._abort(pair)

    async def _answers(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]
    ) -> None:
        while data := await server.read(65_536):
            if self.mode == "lose_answers":
                break
            if self.mode == "slow":
                await asyncio.sleep(self.delay_s)
            if self.mode != "silent":
                to_client.write(data)
                await to_client.drain()
        self._abort(pair)

    @staticmethod
    def _abort(pair: set[asyncio.StreamWriter]) -> None:
        for writer in pair:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(target_port)
    server = await proxy.serve()
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await server.wait_closed()
