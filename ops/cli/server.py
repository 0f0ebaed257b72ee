"""`outlast server`: one node of a region by its configuration, or with `processes` several of this machine.

How it ends: exit_codes.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from ops.cli.exit_codes import EXIT_DATABASE, EXIT_OK, EXIT_USAGE, complain, refusal_of
from ops.cli.logs import configure_logging
from ops.cli.serving import listening, run_in_loop, serve

if TYPE_CHECKING:
    from cluster.node import Node
    from cluster.node_config import NodeConfig, StoreConfig

log = structlog.get_logger("outlast.server")


def run(config: Path | None, processes: int | None, prints_config: bool) -> int:
    """The exit code."""
    from ops.region.checks import check_engines, check_files
    from ops.region.reading import WrongSettings, read_settings
    from ops.region.values import files_of, node_config_of, shown

    try:
        settings = read_settings(config, {"processes": processes} if processes is not None else None)
        if prints_config:
            print(shown(settings), end="")
            return EXIT_OK
        check_files(files_of(settings))
        check_engines(node_config_of(settings))
    except WrongSettings as error:
        return complain(str(error), EXIT_USAGE)
    configure_logging(settings.log.level, settings.log.format)
    if settings.allow_insecure:
        log.warning("allow_insecure: whoever reaches the ports of this node may do everything", ip=settings.grpc.ip)

    node_config = node_config_of(settings)
    file = node_config.store_config.url if node_config.store_config.kind == "sqlite" else ""

    def say(text: str, code: int) -> int:
        """With the file that is meant, and the command as it can be run."""
        if code == EXIT_DATABASE and file not in text:
            text = f"{file}: {text}"
        upgrade = "outlast schema upgrade"
        return complain(text.replace(f"`{upgrade}`", f"`{upgrade} --config {config}`") if config else text, code)

    if settings.processes > 1:
        from ops.cli.processes import Supervisor

        return run_in_loop(Supervisor(node_config, settings.processes, settings.log, say).run())
    return run_in_loop(_serve(node_config, say))


async def _serve(config: NodeConfig, say: Callable[[str, int], int]) -> int:
    from cluster.node import Node

    try:
        await check_database(config)
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return say(refusal.text, refusal.code)
    return await serve(Node(config), _announce, say=say)


async def check_database(config: NodeConfig) -> None:
    """That a shared database belongs to this node's cluster. Raises what `check_registry` does."""
    from ops.region.checks import check_registry

    if config.store_config.kind not in ("memory", "sqlite"):
        await check_registry(config.store_config, config.etcd)


async def _announce(node: Node) -> None:
    print(ready_line(node), flush=True)


def ready_line(node: Node) -> str:
    """One line, beginning with `Outlast ready`, without secrets: scripts wait for it."""
    config, store = node.config, node.config.store_config
    wire = f" wire {node.place.me.address}" if config.wire is not None else ""
    return (
        f"Outlast ready: {listening(config.ip, node.port, node.http_port)} node {node.node_id}{wire} "
        f"store {store_name(store)} shards {node.identity.shard_count} ({node.started_in_ms:.0f} ms)"
    )


def store_name(store: StoreConfig) -> str:
    """The kind, with the file where it is one: no secrets."""
    if store.kind == "memory":
        return "memory (lost at exit)"
    return f"sqlite:{store.url} sync {store.sync}" if store.kind == "sqlite" else store.kind


def json_schema() -> str:
    """Of the configuration file, as in ops/docs/region.schema.json."""
    from ops.region.settings import RegionSettings

    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RegionSettings.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"
