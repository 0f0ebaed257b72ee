"""What a call from node to node costs by itself: `python -m ops.bench.wire_cost [CALLS]` prints one JSON array.

Both ends are in this process, over a real TCP connection on loopback: the figure is the CPU of caller and called together.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import msgspec
import uvloop

from cluster.seams import SystemIds
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.network import TcpNetwork
from cluster.wire.server import WireServer

PAYLOAD_BYTES = 300  # a start request is about so long
CALLS = 20_000
IN_FLIGHT = (1, 50)
TRIES = 3  # the best counts: what else the machine does can only add
DEADLINE_S = 10.0


class WireCost(msgspec.Struct):
    in_flight: int
    cpu_us: float  # per call, both ends
    calls_per_s: float


async def _echo(method: str, payload: bytes, deadline_s: float | None, peer: Peer) -> bytes:
    return payload


async def measured(in_flight: int, calls: int) -> WireCost:
    me, network, loop = Identity("a", "cluster", 16), TcpNetwork(), asyncio.get_running_loop()
    server = WireServer(_echo, me._replace(node_id="b"), network)
    address = await server.start("127.0.0.1:0")
    client = WireClient(me, network, SystemIds())
    payload = bytes(PAYLOAD_BYTES)

    async def caller(count: int) -> None:
        for _ in range(count):
            await client.call(address, "history/StartWorkflowExecution", payload, loop.time() + DEADLINE_S)

    await caller(calls // 40)
    gc.collect()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller(calls // in_flight) for _ in range(in_flight)))
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    await client.close()
    await server.stop()
    made = calls // in_flight * in_flight
    return WireCost(in_flight, 1e6 * cpu_s / made, made / wall_s)


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    costs = []
    for in_flight in IN_FLIGHT:
        tries = [uvloop.run(measured(in_flight, calls)) for _ in range(TRIES)]
        costs.append(min(tries, key=lambda cost: cost.cpu_us))
    print(msgspec.json.encode(costs).decode())


if __name__ == "__main__":
    main()
