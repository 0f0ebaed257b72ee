"""What the regions of `outlast dev --regions` are to be: names, ports, shard counts, stores. Pure, but for the look at ports.

| region | initial failover version | shards | ports                       | store                 |
|--------|--------------------------|--------|-----------------------------|-----------------------|
| one    | 1                        | 4      | --port, --http-port         | DIR/one.db            |
| two    | 2                        | 7      | 1000 more, or the next free | DIR/two.db            |
| three  | 3                        | 3      | 2000 more, or the next free | DIR/three.db          |

Shard counts differ on purpose: regions may, so they do where people develop. All regions share the witness DIR/witness.db, so
each notices by itself when another one is gone. The plan is kept in
DIR/regions.json: `--region NAME` runs one of them again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from cluster.node_config import NodeConfig, RegionsConfig, StoreConfig, VisibilityConfig
from ops.cli.dev_options import DevOptions, WrongOption, attributes_of, namespaces_of
from replication.automatic import AutomaticSettings
from replication.witness_lease import LeaseSettings

NAMES = ("one", "two", "three")
SHARDS = (4, 7, 3)
KINDS = ("sqlite", "postgres", "mariadb", "cassandra")
PORTS_APART = 1_000
PORTS_TRIED = 100
QUIET_PORTS = range(20_000, 30_000)  # below those of outgoing connections (net.ipv4.ip_local_port_range)
FILE = "regions.json"
WITNESS = "witness.db"

# A laptop's regions are a millisecond apart and nobody is paged: they decide sooner than real ones.
LEASE = LeaseSettings(ttl_s=4.0)
AUTOMATIC = AutomaticSettings(failing_s=2.0, probe_timeout_s=1.0, cool_down_s=20.0, stagger_s=3.0)


class RegionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """kind: of its store. pid 0: it does not run."""

    name: str
    kind: str
    config: NodeConfig
    pid: int = 0

    @property
    def address(self) -> str:
        return f"{self.config.ip}:{self.config.port}"

    @property
    def http_address(self) -> str:
        return f"{self.config.ip}:{self.config.http_port}"

    def serving(self, port: int, http_port: int, pid: int) -> RegionPlan:
        """With the ports that it has, so that it comes back on the same."""
        config = msgspec.structs.replace(self.config, port=port, http_port=http_port)
        return msgspec.structs.replace(self, config=config, pid=pid)


def plan_regions(options: DevOptions, directory: Path) -> list[RegionPlan]:
    """Raises WrongOption. Stores of servers have no url yet: `with_store`."""
    if not 2 <= options.regions <= len(NAMES):
        raise WrongOption(f"--regions is 2 or {len(NAMES)}, not {options.regions}")
    kinds = kinds_of(options.stores, options.regions)
    before = load(directory) if (directory / FILE).exists() else {}
    if before and {*kinds, *(plan.kind for plan in before.values())} != {"sqlite"}:
        # Half of what the regions had is gone with a server; the other half would meet strangers of the same names.
        raise WrongOption(f"{directory} was used before, and database servers of --stores keep nothing: use another --db")
    taken: set[int] = set()
    planned = []
    for number, (name, kind) in enumerate(zip(NAMES, kinds, strict=False)):
        is_first = number == 0
        port = _port(options.ip, options.port, number, taken)
        http_port = _port(options.ip, options.http_port, number, taken | {port})
        taken |= {port, http_port}
        config = NodeConfig(
            ip=options.ip,
            port=port,
            http_port=http_port,
            store=StoreConfig(kind="sqlite", url=str(directory / f"{name}.db"), sync=options.sync_kind),
            namespaces=namespaces_of(options) if is_first else (),
            search_attributes=attributes_of(options) if is_first else {},
            shards=options.shards or (before[name].config.shards if name in before else SHARDS[number]),
            cluster_name=name,
            initial_failover_version=number + 1,
            regions=RegionsConfig(
                witness_store=StoreConfig(kind="sqlite", url=str(directory / WITNESS), is_shared=True),
                lease=LEASE,
                automatic=AUTOMATIC,
            ),
        )
        planned.append(RegionPlan(name=name, kind=kind, config=config))
    return planned


def kinds_of(stores: str, count: int) -> list[str]:
    """One kind for each region; one word is for all. Raises WrongOption."""
    kinds = [kind.strip().lower() for kind in stores.split(",") if kind.strip()] or ["sqlite"]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise WrongOption(f"--stores names {', '.join(KINDS)}, not {', '.join(unknown)}")
    if len(kinds) == 1:
        kinds *= count
    if len(kinds) != count:
        raise WrongOption(f"--stores names one kind for all regions, or {count} of them: {stores!r}")
    return kinds


def with_store(plan: RegionPlan, url: str, directory: Path) -> RegionPlan:
    """On a server's database. Cassandra lists no runs: a file beside it does."""
    kind = {"mariadb": "mysql"}.get(plan.kind, plan.kind)
    store = msgspec.convert({"kind": kind, "url": url, "sync": plan.config.store_config.sync}, StoreConfig)
    visibility = None
    if kind == "cassandra":
        visibility = VisibilityConfig(kind="sqlite", url=str(directory / f"{plan.name}.visibility.db"))
    return msgspec.structs.replace(plan, config=msgspec.structs.replace(plan.config, store=store, visibility=visibility))


def _port(ip: str, base: int, number: int, taken: set[int]) -> int:
    """Of region `number`. base 0: not one that the system would choose, which somebody's outgoing connection may have when a
    region that was killed comes back and needs it again."""
    if base == 0:
        return next_free(ip, QUIET_PORTS[0] + os.getpid() * PORTS_TRIED % len(QUIET_PORTS), taken)
    return base if number == 0 else next_free(ip, base + number * PORTS_APART, taken)


def next_free(ip: str, wanted: int, taken: set[int]) -> int:
    """Raises WrongOption."""
    for port in range(wanted, min(wanted + PORTS_TRIED, 65_536)):
        if port not in taken and _is_free(ip, port):
            return port
    raise WrongOption(f"no port from {wanted} on is free at {ip}: choose other --port and --http-port, or 0")


def _is_free(ip: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True


# --- what is kept of it ---
def save(directory: Path, plans: Mapping[str, RegionPlan]) -> None:
    """Whole or not at all: `--region` and other programs read it meanwhile."""
    new = directory / f"{FILE}.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(list(plans.values()))))
    new.replace(directory / FILE)


def load(directory: Path) -> dict[str, RegionPlan]:
    """Raises WrongOption."""
    try:
        found = msgspec.json.decode((directory / FILE).read_bytes(), type=list[RegionPlan])
    except (OSError, msgspec.MsgspecError) as error:
        raise WrongOption(f"{directory} is no directory of `outlast dev --regions`: {error}") from None
    return {plan.name: plan for plan in found}


def lines_of(plans: Sequence[RegionPlan]) -> Iterator[str]:
    """One per region, for people and scripts."""
    for plan in plans:
        store = f"sqlite:{plan.config.store_config.url}" if plan.kind == "sqlite" else f"{plan.kind} (lost at exit)"
        yield (
            f"region {plan.name:<5} grpc {plan.address} http {plan.http_address} "
            f"store {store} shards {plan.config.shards} pid {plan.pid}"
        )
