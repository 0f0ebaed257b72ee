"""`outlast server` with a meter: the same node, which also tells what it has counted to whoever connects to a unix socket.

    python -m ops.bench.metered_node server --config FILE      the socket is FILE.meter; each connection gets one JSON object
    python -m ops.bench.metered_node schema upgrade ...        every other word as `outlast` itself

The counts are those that no page of the node shows: journal appends and the entries in them, and calls between nodes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import msgspec

from cluster.node import Node
from ops.cli.logs import configure_logging
from ops.cli.main import main as outlast
from ops.cli.server import ready_line
from ops.cli.serving import run_in_loop, serve
from ops.region.reading import read_settings
from ops.region.values import node_config_of

METER_TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 65_536


def meter_of(settings_file: Path) -> Path:
    return settings_file.with_suffix(".meter")


def read_meter(path: str) -> dict[str, int]:
    """Raises OSError."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(METER_TIMEOUT_S)
        asking.connect(path)
        answer = b""
        while part := asking.recv(ANSWER_BYTES_MAX):
            answer += part
    return msgspec.json.decode(answer, type=dict[str, int])


def counts_of(node: Node) -> dict[str, int]:
    """Totals since the start. Those of a journal end with its shard, so shards must not move while one measures."""
    journals = [shard.journal for shard in node.history.ownership.open.values()]
    server = node.place._server  # nothing else knows how many calls came from other nodes
    return {
        "journal_appends": sum(journal.appends_count for journal in journals),
        "journal_entries": sum(journal.appended_entries_count for journal in journals),
        "calls_from_nodes": 0 if server is None else server.counts["answered"] + server.counts["failed"],
        "public_calls": sum(figure.requests for figure in node.frontend.figures.figures.values()),
    }


async def _serve(settings_file: Path) -> int:
    settings = read_settings(settings_file)
    configure_logging(settings.log.level, settings.log.format)
    path, listening = meter_of(settings_file), []

    async def announce(node: Node) -> None:
        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(msgspec.json.encode(counts_of(node)))
            await writer.drain()
            writer.close()

        path.unlink(missing_ok=True)
        listening.append(await asyncio.start_unix_server(tell, path))
        print(ready_line(node), flush=True)

    return await serve(Node(node_config_of(settings)), announce)


def main() -> None:
    match sys.argv[1:]:
        case ["server", "--config", settings_file]:
            sys.exit(run_in_loop(_serve(Path(settings_file))))
        case _:
            outlast()


if __name__ == "__main__":
    main()
