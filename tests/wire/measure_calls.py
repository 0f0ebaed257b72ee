"""CPU per call of 300 bytes, both sides in one process: `python -m tests.wire.measure_calls` (not a test; prints a table)."""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import trustme
import uvloop

from cluster.seams import SystemIds
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.network import TcpNetwork, Tls
from cluster.wire.server import WireServer

PAYLOAD = bytes(300)
CALLS = 20_000


async def echo(method: str, payload: bytes, deadline_s: float | None, peer: Peer) -> bytes:
    return payload


async def measured(in_flight: int, tls: Tls | None) -> tuple[float, float]:
    """(CPU us per call, calls a second)"""
    me = Identity("a", "cluster", 16)
    network = TcpNetwork(tls)
    server = WireServer(echo, me._replace(node_id="b"), network)
    address = await server.start("127.0.0.1:0")
    client = WireClient(me, network, SystemIds())
    loop = asyncio.get_running_loop()

    async def caller(count: int) -> None:
        for _ in range(count):
            await client.call(address, "history/StartWorkflowExecution", PAYLOAD, loop.time() + 10)

    await caller(500)
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller(CALLS // in_flight) for _ in range(in_flight)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await client.close()
    await server.stop()
    return cpu / CALLS * 1e6, CALLS / wall


def tls_of(folder: Path) -> Tls:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, trusted = folder / "crt.pem", folder / "key.pem", folder / "ca.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(trusted)
    return Tls(chain, key, trusted)


def main() -> None:
    runners: dict[str, Callable[[Coroutine[Any, Any, tuple[float, float]]], tuple[float, float]]] = {
        "uvloop": uvloop.run,
        "asyncio": asyncio.run,
    }
    print(f"{'loop':8} {'tls':4} {'in flight':>9} {'us CPU/call':>12} {'calls/s':>9}   python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        secure = tls_of(Path(folder))
        for loop_name, run in runners.items():
            for tls in (None, secure):
                for in_flight in (1, 50):
                    cpu_us, rate = min(run(measured(in_flight, tls)) for _ in range(3))
                    print(f"{loop_name:8} {'yes' if tls else 'no':4} {in_flight:>9} {cpu_us:>12.1f} {rate:>9.0f}")


if __name__ == "__main__":
    main()
