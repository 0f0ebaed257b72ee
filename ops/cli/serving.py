"""A node from its start to its end in this process: for `outlast dev`, `outlast server` and each process of `--processes`."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from ops.cli.exit_codes import EXIT_FAILED, EXIT_OK, complain, refusal_of

if TYPE_CHECKING:
    from cluster.node import Node

log = structlog.get_logger("outlast.node")

Announce = Callable[["Node"], Awaitable[None]]


# grpc's new event engine costs its asyncio server and client more threads and hand-overs than it saves: 8 % of a node's CPU where
# grpcio serves the port (ops/bench); with our own front it carries only health, reflection and what regions say to each other.
# Read when grpc is imported, so it is said before that, when this file is; an operator's own setting goes before ours.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")


def run_in_loop(main: Coroutine[Any, Any, int]) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def serve(
    node: Node, announce: Announce, stop: asyncio.Event | None = None, say: Callable[[str, int], int] = complain
) -> int:
    """Runs a node until SIGTERM, SIGINT, `stop`, `outlast cluster drain`, or its failure. The exit code.

    announce: told once when it serves. stop: ends it without handing its shards over. say: what cannot start says why.
    """
    asked, stop = asyncio.Event(), stop or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    starting = asyncio.ensure_future(node.start())
    await _first_of(starting, asked.wait(), stop.wait())
    if not starting.done():  # asked to stop before it was ready
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return EXIT_OK
    try:
        starting.result()
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return say(refusal.text, refusal.code)
    tune_interpreter()
    await announce(node)
    await _first_of(asked.wait(), stop.wait(), node.failed.wait(), node.drain_asked.wait())
    has_failed = node.failed.is_set() and not (asked.is_set() or stop.is_set() or node.drain_asked.is_set())
    await node.drain(hands_over=not stop.is_set())
    await node.close()
    return EXIT_FAILED if has_failed else EXIT_OK


async def _first_of(*waits: Awaitable[Any]) -> None:
    """Until one is done. What was passed as a future goes on; the rest is cancelled."""
    futures = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future, given in zip(futures, waits, strict=True):
        if future is not given:
            future.cancel()


def tune_interpreter() -> None:
    """What was imported and loaded is never garbage; messages die young and without cycles, so collections may be rare; the
    store's threads want the interpreter for a moment only, so it is handed over ten times sooner than by default."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.0005)


def listening(ip: str, port: int, http_port: int) -> str:
    """The part of the ready line that scripts read. port 0: a node without the role frontend, where nobody can connect."""
    host = f"[{ip}]" if ":" in ip else ip
    return f"grpc {host}:{port} http {host}:{http_port}" if port else f"http {host}:{http_port}"
