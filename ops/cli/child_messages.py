"""What a supervisor (processes.py) and its node processes (child.py) say to each other: one JSON object per line, over a socket
that the process inherits. `kind` names the message.

| from       | kind      | when                                                                              |
|------------|-----------|-----------------------------------------------------------------------------------|
| supervisor | start     | first of all: what the node is to be                                               |
| node       | joining   | its stores are open and its wire port is bound: here is its entry                  |
| supervisor | members   | the node processes there are: the first answers `joining`, one more at each change |
| node       | changed   | its own state is another one (ready, leaving)                                      |
| node       | serving   | clients can connect                                                                |
| node       | refused   | it cannot start; it ends with this code                                            |
| both       | ping pong | whether the node's event loop still runs                                           |
| supervisor | stop      | all end together: no shard has to move                                             |

A node whose socket is closed stops as if told so; on Linux it is killed with its supervisor, so that none is left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from cluster.membership.members import NodeInfo, NodeState
from cluster.node_config import NodeConfig

LINE_BYTES_MAX = 1 << 20  # a list of 256 nodes is 100 kB


class Message(msgspec.Struct, frozen=True, tag_field="kind", tag=lambda name: name.lower()):
    pass


class Start(Message, frozen=True):
    """supervisor: its process id."""

    config: NodeConfig
    log_level: str
    log_format: str
    supervisor: int


class Members(Message, frozen=True):
    nodes: tuple[NodeInfo, ...]


class Stop(Message, frozen=True):
    pass


class Ping(Message, frozen=True):
    pass


class Pong(Message, frozen=True):
    pass


class Joining(Message, frozen=True):
    node: NodeInfo


class Changed(Message, frozen=True):
    state: NodeState


class Serving(Message, frozen=True):
    port: int
    http_port: int
    shard_count: int
    started_in_ms: float


class Refused(Message, frozen=True):
    text: str
    code: int


ToNode = Start | Members | Stop | Ping
ToSupervisor = Joining | Changed | Serving | Refused | Pong

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: Message) -> bytes:
    return msgspec.json.encode(message) + b"\n"


async def decoded(reader: asyncio.StreamReader, kinds: Any) -> AsyncIterator[Any]:
    """The messages until the other side is gone. kinds: ToNode or ToSupervisor."""
    decoder = _decoders.setdefault(kinds, msgspec.json.Decoder(kinds))
    while True:
        try:
            line = await reader.readline()
        except ConnectionError:
            return
        if not line.endswith(b"\n"):
            return  # cut off in the middle of a line: the process was killed
        yield decoder.decode(line)
