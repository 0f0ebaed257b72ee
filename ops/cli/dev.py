"""`outlast dev`: one node in this process, until SIGTERM or SIGINT.

| exit code | meaning                                                                             |
|-----------|-------------------------------------------------------------------------------------|
| 0         | asked to stop, and everything acknowledged is durable                               |
| 1         | the node failed while it ran                                                        |
| 2         | an option is wrong                                                                  |
| 3         | the address is in use, or may not be listened on                                    |
| 4         | the database cannot be used: in use, of another version, damaged, other shard count |
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec
import structlog

if TYPE_CHECKING:
    from cluster.node import Node, NodeConfig

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ADDRESS = 3
EXIT_DATABASE = 4

LOG_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
ATTRIBUTE_TYPES = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")
DEFAULT_NAMESPACE = "default"


class DevOptions(msgspec.Struct, frozen=True, kw_only=True):
    """As they come from the command line, unchecked."""

    ip: str
    port: int
    http_port: int
    db: Path | None
    sync: str
    namespaces: tuple[str, ...]
    search_attributes: tuple[str, ...]
    shards: int | None
    log_level: str


class WrongOption(Exception):
    """Its text names the option and what it may be."""


def run(options: DevOptions) -> int:
    """The exit code."""
    try:
        config = config_of(options)
    except WrongOption as error:
        return _complain(str(error), EXIT_USAGE)
    configure_logging(LOG_LEVELS[options.log_level.lower()])
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(config))


def config_of(options: DevOptions) -> NodeConfig:
    """Raises WrongOption."""
    from cluster.node import MEMORY, NodeConfig

    if options.sync not in ("full", "normal"):
        raise WrongOption(f"--sync is full or normal, not {options.sync!r}")
    if options.log_level.lower() not in LOG_LEVELS:
        raise WrongOption(f"--log-level is one of {', '.join(LOG_LEVELS)}, not {options.log_level!r}")
    return NodeConfig(
        ip=options.ip,
        port=options.port,
        http_port=options.http_port,
        db=MEMORY if options.db is None or str(options.db) == MEMORY else str(options.db),
        sync=cast(Literal["full", "normal"], options.sync),
        namespaces=tuple(dict.fromkeys((DEFAULT_NAMESPACE, *options.namespaces))),
        search_attributes=dict(map(_attribute, options.search_attributes)),
        shards=options.shards,
    )


def _attribute(text: str) -> tuple[str, int]:
    name, _, kind = text.partition("=")
    numbers = {known.lower(): number for number, known in enumerate(ATTRIBUTE_TYPES, 1)}
    if not name or kind.lower() not in numbers:
        raise WrongOption(f"--search-attribute is NAME=TYPE with one of {', '.join(ATTRIBUTE_TYPES)}, not {text!r}")
    return name, numbers[kind.lower()]


def _tune_interpreter() -> None:
    """What was imported and loaded is never garbage; messages die young and without cycles, so collections may be rare; the
    store's threads want the interpreter for a moment only, so it is handed over ten times sooner than by default."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.0005)


async def serve(config: NodeConfig) -> int:
    """Runs a node until a signal comes."""
    from cluster.frontend.cluster_identity import ShardCountDiffers
    from cluster.frontend.transport_grpc import PortInUse
    from cluster.node import DatabaseInUse, Node, NotLoopback
    from cluster.stores.base import StoreError

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    node = Node(config)
    try:
        await node.start()
    except (PortInUse, NotLoopback) as error:
        return _complain(str(error), EXIT_ADDRESS)
    except (DatabaseInUse, ShardCountDiffers, StoreError) as error:
        return _complain(f"{config.db}: {error}" if config.db not in str(error) else str(error), EXIT_DATABASE)
    _tune_interpreter()
    print(ready_line(node), flush=True)
    code = await _until_stopped(node, stop)
    await node.drain()
    await node.close()
    return code


async def _until_stopped(node: Node, stop: asyncio.Event) -> int:
    waits = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(node.failed.wait())}
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    return EXIT_FAILED if node.failed.is_set() and not stop.is_set() else EXIT_OK


def ready_line(node: Node) -> str:
    """One line, beginning with `Outlast ready`: scripts wait for it."""
    config = node.config
    host = f"[{config.ip}]" if ":" in config.ip else config.ip
    store = "memory (lost at exit)" if config.db == ":memory:" else f"sqlite:{config.db}"
    return (
        f"Outlast ready: grpc {host}:{node.port} http {host}:{node.http_port} store {store} "
        f"sync {config.sync} shards {node.identity.shard_count} ({node.started_in_ms:.0f} ms)"
    )


def configure_logging(level: int) -> None:
    """To stderr: stdout carries the ready line alone."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _complain(text: str, code: int) -> int:
    print(f"outlast: {text}", file=sys.stderr)
    return code
