"""`outlast dev`: one node in this process until SIGTERM or SIGINT; with --regions several (dev_regions.py). Ends as exit_codes.py
says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.cli.dev_options import DevOptions, WrongOption, attributes_of, check, namespaces_of
from ops.cli.exit_codes import EXIT_DATABASE, EXIT_USAGE, complain
from ops.cli.logs import configure_logging
from ops.cli.serving import listening, run_in_loop, serve

if TYPE_CHECKING:
    from cluster.node import Node
    from cluster.node_config import NodeConfig


def run(options: DevOptions) -> int:
    """The exit code."""
    try:
        check(options)
        config = _one_of_many(options) if options.region else config_of(options)
        configure_logging(options.log_level.lower())
        if options.regions > 1 and not options.region:
            from ops.cli.dev_regions import run_regions

            return run_regions(options)
    except WrongOption as error:
        return complain(str(error), EXIT_USAGE)
    return run_in_loop(_serve(config))


def config_of(options: DevOptions) -> NodeConfig:
    """Raises WrongOption."""
    from cluster.node_config import MEMORY, NodeConfig

    check(options)
    return NodeConfig(
        ip=options.ip,
        port=options.port,
        http_port=options.http_port,
        db=MEMORY if options.db is None or str(options.db) == MEMORY else str(options.db),
        sync=options.sync_kind,
        namespaces=namespaces_of(options),
        search_attributes=attributes_of(options),
        shards=options.shards,
    )


def _one_of_many(options: DevOptions) -> NodeConfig:
    """As it was planned by `--regions`, ports and all. Raises WrongOption."""
    from ops.cli.dev_plan import load

    assert options.db is not None
    plans = load(options.db)
    if options.region not in plans:
        raise WrongOption(f"--region is one of {', '.join(plans)}, not {options.region!r}")
    return plans[options.region].config


async def _serve(config: NodeConfig) -> int:
    from cluster.node import Node

    file = config.store_config.url if config.store_config.kind == "sqlite" else ""

    def say(text: str, code: int) -> int:
        return complain(f"{file}: {text}" if code == EXIT_DATABASE and file not in text else text, code)

    return await serve(Node(config), _announce, say=say)


async def _announce(node: Node) -> None:
    print(ready_line(node), flush=True)


def ready_line(node: Node) -> str:
    """One line, beginning with `Outlast ready`: scripts wait for it."""
    config, store = node.config, node.config.store_config
    is_memory = store.kind == "memory" or store.url == ":memory:"
    where = "memory (lost at exit)" if is_memory else f"sqlite:{store.url}" if store.kind == "sqlite" else store.kind
    region = f" region {config.cluster_name}" if config.cluster_name else ""
    return (
        f"Outlast ready: {listening(config.ip, node.port, node.http_port)}{region} store {where} "
        f"sync {store.sync} shards {node.identity.shard_count} ({node.started_in_ms:.0f} ms)"
    )
