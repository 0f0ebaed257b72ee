"""One server process under test: started, killed without warning, started again on the same file."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

OUTLAST_READY = "Outlast ready"
PEER_READY = "Server:"  # of `temporal server start-dev`


class ServerFailed(RuntimeError):
    """The server ended by itself or did not become ready: that is a finding, not an accident of the harness."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """`outlast dev` with the command line of issue 3. Its output goes to `log`."""

    database: Path
    log: Path
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    ready_s_max: float = 30.0
    peer_cli: str = ""  # the official CLI: its development server on a file, to try this harness on another server
    process: asyncio.subprocess.Process | None = None
    starts_count: int = 0
    ready_s: list[float] = field(default_factory=list)
    _reader: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        ports = ["--port", str(self.port), "--http-port", str(self.http_port)]
        if self.peer_cli:
            durable = ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=2"]
            return [self.peer_cli, "server", "start-dev", *ports, "--headless", "--db-filename", str(self.database), *durable]
        return [str(Path(sys.executable).with_name("outlast")), "dev", *ports, "--db", str(self.database)]

    async def launch(self) -> asyncio.Event:
        """Starts the process and returns at once; the event is set at its ready line."""
        assert self.process is None, "the former process is still there"
        self.starts_count += 1
        begun = time.monotonic()
        # A session of its own, so that SIGKILL to the group reaches whatever the server may have forked.
        self.process = await asyncio.create_subprocess_exec(
            *self.command(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
        )
        ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read_output(self.process, ready, begun), name="server-output")
        return ready

    async def start(self) -> None:
        """Starts the process and waits until it is ready."""
        await self.wait_ready(await self.launch())

    async def wait_ready(self, ready: asyncio.Event) -> None:
        assert self.process is not None
        waits = {asyncio.ensure_future(ready.wait()), asyncio.ensure_future(self.process.wait())}
        _, pending = await asyncio.wait(waits, timeout=self.ready_s_max, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        if not ready.is_set():
            state = f"ended with {self.process.returncode}" if self.process.returncode is not None else "still starting"
            raise ServerFailed(f"not ready within {self.ready_s_max} s ({state}); see {self.log}\n{self.log_tail()}")

    async def _read_output(self, process: asyncio.subprocess.Process, ready: asyncio.Event, begun: float) -> None:
        assert process.stdout is not None
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts_count}, pid {process.pid}\n".encode())
            async for line in process.stdout:
                log.write(line)
                log.flush()
                if not ready.is_set() and line.decode("utf-8", "replace").startswith(
                    PEER_READY if self.peer_cli else OUTLAST_READY
                ):
                    self.ready_s.append(time.monotonic() - begun)
                    ready.set()

    def check_alive(self) -> None:
        """Between kills the server must live: an exit of its own fails the campaign."""
        if self.process is not None and self.process.returncode is not None:
            raise ServerFailed(f"the server ended by itself with {self.process.returncode}; see {self.log}\n{self.log_tail()}")

    async def kill(self) -> None:
        """SIGKILL to the process group, and waits for its end."""
        self.check_alive()
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; the exit code. SIGKILL if it does not drain within 20 s."""
        if self.process is None:
            return 0
        self.check_alive()
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        os.killpg(process.pid, number)
        try:
            code = await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            code = await process.wait()
        if self._reader is not None:
            await self._reader
        return code

    def log_tail(self, lines_count: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines_count:]) if self.log.exists() else ""
