"""`outlast cluster`: what the nodes of a cluster see, and taking one out.

status, ring and shards ask one node by HTTP (GET /cluster; its shape is in cluster/routing/overview.py); drain asks the node
itself over the node-to-node port, by the configuration of the region (draining.py). Exit codes: exit_codes.py; status ends with
1 when something is not as it should be, and says what.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, complain, refusal_of
from ops.cli.logs import only_errors

app = typer.Typer(help="Nodes, ring and shards of a cluster; taking a node out.", no_args_is_help=True)

PAGE_TIMEOUT_S = 10.0
LOOK_S = 0.2
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment does not know these nodes


class Output(StrEnum):
    table = "table"
    json = "json"


Address = Annotated[str, typer.Option(help="HTTP port of any node, as HOST:PORT.")]
Form = Annotated[Output, typer.Option(help="For people, or for programs.")]
Config = Annotated[Path | None, typer.Option(envvar="OUTLAST_CONFIG", help="region.yaml of the cluster.", show_default=False)]
NODE_COLUMNS = ("NODE", "STATE", "ZONE", "ADDRESS", "SHARDS", "OPEN", "VERSION", "SINCE", "ROLES")
DEFAULT_ADDRESS = "127.0.0.1:7243"


@app.command()
def status(
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
    only_node: Annotated[bool, typer.Option(help="Judge only the node that answers: for health checks.")] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="Look again for so long until all is well: shards may be moving.")] = 0.0,
) -> None:
    """Nodes, and whether all is well: exit code 1 if not."""
    give_up_at = time.monotonic() + wait_s
    while True:
        page = _page(address)
        wrong = own_problems(page) if only_node else problems(page)
        if not wrong or time.monotonic() >= give_up_at:
            break
        time.sleep(LOOK_S)
    if output is Output.json:
        typer.echo(json.dumps({**{key: page[key] for key in ("node", "is_stale", "nodes", "unreachable")}, "problems": wrong}))
    else:
        typer.echo(_columns(NODE_COLUMNS, _node_rows(page)))
        typer.echo(f"{page['shard_count']} shards, seen by {page['node']}: {'all is well' if not wrong else ''}".rstrip(" :"))
        for line in wrong:
            typer.echo(f"  {line}")
    if wrong:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def ring(address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """Which node should own which shard, as the answering node sees it."""
    page = _page(address)
    if output is Output.json:
        typer.echo(json.dumps({"node": page["node"], "is_stale": page["is_stale"], "ring": page["ring"]}))
        return
    owned: dict[str, list[int]] = {}
    for shard, owner in enumerate(page["ring"]):
        owned.setdefault(owner or "(nobody)", []).append(shard)
    rows = [(node, str(len(shards)), _ranges(shards)) for node, shards in sorted(owned.items())]
    typer.echo(_columns(("NODE", "SHARDS", "WHICH"), rows))


@app.command()
def shards(address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """Which node has which shard open now."""
    page = _page(address)
    if output is Output.json:
        typer.echo(json.dumps({key: page[key] for key in ("node", "ring", "shards", "unreachable")}))
        return
    more = sorted({key for row in page["shards"] for key in row} - {"shard", "node"})
    rows = []
    for row in page["shards"]:
        place = (str(row["shard"]), row["node"], page["ring"][row["shard"]] or "(nobody)")
        rows.append((*place, *(_shown(key, row.get(key, "")) for key in more)))
    typer.echo(_columns(("SHARD", "OPEN AT", "RING", *(key.upper() for key in more)), rows))
    for node in page["unreachable"]:
        typer.echo(f"{node} did not answer: what it has open is not known")


@app.command()
def drain(
    node: Annotated[str, typer.Argument(help="Node id.")],
    config: Config = None,
    timeout_s: Annotated[float, typer.Option(min=1, help="How long to wait for its end.")] = 120.0,
) -> None:
    """Move a node's shards to the others; it then leaves, and its process ends with 0."""
    from ops.cli.draining import drain as drain_node
    from ops.region.reading import read_settings

    async def leave() -> None:
        await drain_node(node, read_settings(config), timeout_s, typer.echo)

    _run(leave)


@app.command()
def rebind(config: Config = None) -> None:
    """Let the database forget which etcd its nodes find each other by. Stop every node first."""
    from ops.region.checks import rebind as rebind_database
    from ops.region.reading import read_settings
    from ops.region.values import store_config_of

    async def forget() -> None:
        was_bound = await rebind_database(store_config_of(read_settings(config).store))
        typer.echo("forgotten: the next node with etcd binds the database to its own" if was_bound else "it was bound to none")

    _run(forget)


def _run(command: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """An asynchronous command with the refusals that it may end by."""
    from ops.cli.draining import CannotDrain

    try:
        with only_errors():
            asyncio.run(command())
    except CannotDrain as error:
        raise typer.Exit(complain(str(error), error.code)) from None
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise typer.Exit(complain(refusal.text, refusal.code)) from None


# --- what is wrong ---
def problems(page: dict[str, Any]) -> list[str]:
    """What is not as it should be, one line each; nothing when all is well."""
    wrong = [f"node {node} does not answer" for node in page["unreachable"]]
    if page["is_stale"]:
        wrong.append("the registry (etcd) does not answer: this is the last that was known, and no shard moves")
    wrong += [f"node {node['node_id']} is {node['state']}" for node in page["nodes"] if node["state"] != "ready"]
    if nobody := [shard for shard, owner in enumerate(page["ring"]) if owner is None]:
        wrong.append(f"shards without an owner, since no node with the role history is ready: {_ranges(nobody)}")
    open_at: dict[int, list[str]] = {}
    for row in _open(page):
        open_at.setdefault(row["shard"], []).append(row["node"])
    silent = set(page["unreachable"])
    for shard, owner in enumerate(page["ring"]):
        where = open_at.get(shard, [])
        if owner is not None and where != [owner] and owner not in silent:
            wrong.append(f"shard {shard} belongs to {owner} and is open at {', '.join(where) or 'no node'}")
    return wrong


def _open(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of shards that are being served, not of those that are just coming or going."""
    return [row for row in page["shards"] if row.get("state", "open") == "open"]


def own_problems(page: dict[str, Any]) -> list[str]:
    """Of the answering node alone: another one that is down must not make this one unhealthy."""
    states = [node["state"] for node in page["nodes"] if node["node_id"] == page["node"]]
    if states == ["ready"]:
        return []
    return [f"node {page['node']} is {states[0] if states else 'no member'}"]


# --- asking and showing ---
def _page(address: str) -> dict[str, Any]:
    """Ends the command when nobody answers."""
    try:
        with DIRECT.open(f"http://{address}/cluster", timeout=PAGE_TIMEOUT_S) as answer:
            page: dict[str, Any] = json.load(answer)
            return page
    except urllib.error.HTTPError as error:
        reason = f"answers {error.code} {error.reason}"
    except (urllib.error.URLError, OSError) as error:
        reason = f"does not answer ({getattr(error, 'reason', error)})"
    except ValueError:
        reason = "is not an Outlast node's HTTP port"
    raise typer.Exit(complain(f"{address} {reason}: --address names the HTTP port of a running node", EXIT_CLUSTER))


def _node_rows(page: dict[str, Any]) -> list[tuple[str, ...]]:
    open_counts = Counter(row["node"] for row in _open(page))
    return [
        (
            node["node_id"] + (" *" if node["node_id"] == page["node"] else ""),
            node["state"] + (", forgotten by etcd" if node["is_lingering"] else ""),
            node["zone"] or "-",
            node["address"] or "-",
            str(node["shards"]),
            "?" if node["node_id"] in page["unreachable"] else str(open_counts[node["node_id"]]),
            node["version"],
            _shown("since", node["started_at"]),
            ",".join(node["roles"]),
        )
        for node in page["nodes"]
    ]


def _shown(key: str, value: Any) -> str:
    """Times are nanoseconds since the epoch."""
    is_time = isinstance(value, int) and (key == "since" or key.endswith("_at"))
    return datetime.fromtimestamp(value / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if is_time else str(value)


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _ranges(numbers: Sequence[int]) -> str:
    """0-2, 5, 7-8"""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
