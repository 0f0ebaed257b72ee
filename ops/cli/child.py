"""One node process of `outlast server --processes N`: python -m ops.cli.child FD. Started by processes.py, told what to be
and who the others are by the messages of child_messages.py; ends with the codes of exit_codes.py.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from cluster.membership.members import NodeInfo, NodeState
from cluster.membership.static import StaticMembership
from ops.cli.child_messages import (
    LINE_BYTES_MAX,
    Changed,
    Joining,
    Members,
    Message,
    Ping,
    Pong,
    Refused,
    Serving,
    Start,
    Stop,
    ToNode,
    decoded,
    encode,
)
from ops.cli.exit_codes import EXIT_FAILED
from ops.cli.logs import configure_logging
from ops.cli.serving import run_in_loop, serve

if TYPE_CHECKING:
    from cluster.node import Node

PR_SET_PDEATHSIG = 1  # prctl(2)


class ToldMembers(StaticMembership):
    """The list as the supervisor tells it; it is told this node's own state."""

    def __init__(self, nodes: tuple[NodeInfo, ...], supervisor: SupervisorLine) -> None:
        super().__init__(nodes)
        self._supervisor = supervisor

    async def set_state(self, state: NodeState) -> None:
        await super().set_state(state)
        self._supervisor.say(Changed(state))


class SupervisorLine:
    """This end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._messages = decoded(reader, ToNode)
        self._writer = writer
        self._first: asyncio.Future[tuple[NodeInfo, ...]] = asyncio.get_running_loop().create_future()
        self._members: ToldMembers | None = None
        self.stop = asyncio.Event()

    def say(self, message: Message) -> None:
        self._writer.write(encode(message))

    async def start(self) -> Start | None:
        """None: the supervisor has gone before it said what to do."""
        async for message in self._messages:
            assert isinstance(message, Start), "`start` comes first"
            return message
        return None

    async def listen(self) -> None:
        """Until the supervisor is gone."""
        async for message in self._messages:
            match message:
                case Members(nodes):
                    self._take(nodes)
                case Ping():
                    self.say(Pong())
                case Stop():
                    self.stop.set()
        self.stop.set()

    def _take(self, nodes: tuple[NodeInfo, ...]) -> None:
        if self._members is not None:
            self._members.replace(nodes)
        elif not self._first.done():
            self._first.set_result(nodes)

    async def find_members(self, me: NodeInfo) -> ToldMembers:
        """As Node wants it: waits until the supervisor has heard of all processes that it starts together."""
        self.say(Joining(me))
        self._members = ToldMembers(await self._first, self)
        return self._members

    def refuse(self, text: str, code: int) -> int:
        self.say(Refused(text, code))
        return code

    async def announce(self, node: Node) -> None:
        self.say(Serving(node.port, node.http_port, node.identity.shard_count, node.started_in_ms))

    async def close(self) -> None:
        """What was said has left."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # the supervisor does not listen any more


async def main(descriptor: int) -> int:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    line = SupervisorLine(*await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES_MAX))
    start = await line.start()
    if start is None or not _dies_with(start.supervisor):
        return EXIT_FAILED
    configure_logging(start.log_level, start.log_format, start.config.node_id)
    from cluster.node import Node

    listening = asyncio.get_running_loop().create_task(line.listen(), name="supervisor")
    try:
        return await serve(Node(start.config, line.find_members), line.announce, line.stop, line.refuse)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await line.close()


def _dies_with(supervisor: int) -> bool:
    """The kernel shall kill this process when its parent ends however. False: it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == supervisor


if __name__ == "__main__":
    sys.exit(run_in_loop(main(int(sys.argv[1]))))
