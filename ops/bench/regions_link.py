"""The way between two regions, as the bench wants it: so far apart, cut, and with a count of the bytes that pass.

    Away(target)      listens on a free port of 127.0.0.1 in a thread of its own
    delay_s           from the moment a piece of data comes to the moment it goes on; pieces do not wait for each other
    is_cut            connections end, and new ones do as soon as they are made
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType

PIECE_BYTES = 65_536


class Away:
    """Use it with `with`. The fields may be set from any thread."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.bytes_count = 0  # both directions
        self._target_port, self._is_cut = target_port, False
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listening = threading.Event()
        self._end: asyncio.Event
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> Away:
        self._thread.start()
        if not self._listening.wait(10):
            raise OSError("the link between the regions cannot listen")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    @is_cut.setter
    def is_cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        if is_cut:
            self._loop.call_soon_threadsafe(self._abort, set(self._writers))

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._end.wait()
        server.close()
        self._abort(set(self._writers))
        await asyncio.sleep(0.1)  # what is aborted ends in the loop

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        pair = {to_client}
        try:
            if self._is_cut:
                return
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            pair.add(to_server)
            self._writers |= pair
            with contextlib.suppress(OSError):
                await asyncio.gather(self._pass(client, to_server, pair), self._pass(server, to_client, pair))
        except OSError:
            return  # nobody listens there: whoever has dialled shall see that
        finally:
            self._abort(pair)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: set[asyncio.StreamWriter]) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.ensure_future(self._send(late, sink))
        try:
            while data := await source.read(PIECE_BYTES):
                self.bytes_count += len(data)
                late.put_nowait((self._loop.time() + self.delay_s, data))
        finally:
            sending.cancel()
            self._abort(pair)

    async def _send(self, late: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                at, data = await late.get()
                if (wait_s := at - self._loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                sink.write(data)
                await sink.drain()

    def _abort(self, pair: set[asyncio.StreamWriter]) -> None:
        for writer in pair:
            writer.transport.abort()
        self._writers -= pair
