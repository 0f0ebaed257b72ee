"""`outlast dev`: one node in this process, until SIGTERM or SIGINT. How it ends: exit_codes.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from ops.cli.exit_codes import EXIT_DATABASE, EXIT_USAGE, complain
from ops.cli.logs import LOG_LEVELS, configure_logging
from ops.cli.serving import listening, run_in_loop, serve

if TYPE_CHECKING:
    from cluster.node import Node
    from cluster.node_config import NodeConfig

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
        return complain(str(error), EXIT_USAGE)
    configure_logging(options.log_level.lower())
    return run_in_loop(_serve(config))


def config_of(options: DevOptions) -> NodeConfig:
    """Raises WrongOption."""
    from cluster.node_config import MEMORY, NodeConfig

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


async def _serve(config: NodeConfig) -> int:
    from cluster.node import Node

    def say(text: str, code: int) -> int:
        return complain(f"{config.db}: {text}" if code == EXIT_DATABASE and config.db not in text else text, code)

    return await serve(Node(config), _announce, say=say)


async def _announce(node: Node) -> None:
    print(ready_line(node), flush=True)


def ready_line(node: Node) -> str:
    """One line, beginning with `Outlast ready`: scripts wait for it."""
    config = node.config
    store = "memory (lost at exit)" if config.db == ":memory:" else f"sqlite:{config.db}"
    return (
        f"Outlast ready: {listening(config.ip, node.port, node.http_port)} store {store} "
        f"sync {config.sync} shards {node.identity.shard_count} ({node.started_in_ms:.0f} ms)"
    )
