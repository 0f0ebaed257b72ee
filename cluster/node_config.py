"""What a node is told when it is made. Files, environment and command lines are read elsewhere (ops/cli); here are only values.

A node alone (`outlast dev`) has neither `wire` nor `etcd`. A cluster's node has `wire`, and either `etcd` or a list of members
that whoever starts the processes keeps (`Node(config, find_members)`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from cluster.config import Limits, ShardConfig
from cluster.frontend.front_tls import FrontTls
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.members import ROLES
from cluster.wire.limits import WireLimits
from replication.automatic import AutomaticSettings
from replication.witness_etcd import WitnessEtcdSettings
from replication.witness_lease import LeaseSettings

MEMORY = ":memory:"
StoreKind = Literal["memory", "sqlite", "postgres", "mysql", "cassandra"]
VisibilityKind = Literal["memory", "sqlite", "postgres", "mysql"]


class StoreTls(msgspec.Struct, frozen=True):
    """Files in PEM form. authority "" = the system's authorities; certificate and key only where the server asks for them."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """kind memory: everything is lost at exit. url: a file for sqlite, else
    postgresql://user:password@host:port/database, mysql://..., cassandra://user:password@host:port,host2:port/keyspace?dc=...

    is_shared: several processes of one machine use one SQLite file (whoever starts them holds its lock).
    """

    kind: StoreKind = "memory"
    url: str = MEMORY
    sync: Literal["full", "normal"] = "full"
    connections_count_max: int = 10
    statement_timeout_s: float = 5.0
    tls: StoreTls | None = None
    is_shared: bool = False


class VisibilityConfig(msgspec.Struct, frozen=True, kw_only=True):
    kind: VisibilityKind
    url: str = MEMORY
    connections_count_max: int = 5
    statement_timeout_s: float = 5.0
    tls: StoreTls | None = None


class WireTls(msgspec.Struct, frozen=True):
    """Files in PEM form; both sides show a certificate. peer_name: a DNS name that every node's certificate carries."""

    certificate: str
    key: str
    authority: str
    peer_name: str = ""


class WireConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The node-to-node port. port 0 = one that the system chooses. advertise: host or host:port the others reach it by ("" = as
    bound). Without TLS only loopback addresses may be listened on."""

    ip: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""
    tls: WireTls | None = None
    limits: WireLimits = WireLimits()


class RegionsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How this region fails over. witness_store, witness_etcd: the register in a third place where regions say that they live and
    who owns what; one of them, or neither: then nobody takes over by itself, and operators say who owns what.

    The same lease and the same witness for all regions; a witness file is one that regions of one machine share.
    """

    witness_store: StoreConfig | None = None
    witness_etcd: WitnessEtcdSettings | None = None
    lease: LeaseSettings = LeaseSettings()
    automatic: AutomaticSettings = AutomaticSettings()


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """port 0 = one that the system chooses.

    node_id: "" = host name and process id; in a cluster a stable name is better (the ring gives it the same shards again).
    store, visibility: None means: `db`, an SQLite file or ":memory:"; visibility None: beside the store, in the same engine.
    search_attributes: name -> type (an AttributeType), added to every namespace of `namespaces`.
    cluster_name, initial_failover_version: "" and 0 = as stored, or "active" and 1 in a new database.
    shards: None = as many as the database has, 4 for a new one.
    is_port_shared: other processes of this machine listen on the same ports (SO_REUSEPORT).
    tls: of the public gRPC port and of this region's calls of other ones; None = plain.
    allow_insecure: listen on any address although nobody is asked who they are, for networks closed by other means.
    drain_s: what calls under way get before the node closes. hand_over_s: what its shards get to move to other nodes.
    """

    ip: str = "127.0.0.1"
    port: int = 7233
    http_port: int = 7243
    is_port_shared: bool = False
    tls: FrontTls | None = None
    allow_insecure: bool = False
    db: str = MEMORY
    sync: Literal["full", "normal"] = "full"
    store: StoreConfig | None = None
    visibility: VisibilityConfig | None = None
    namespaces: tuple[str, ...] = ("default",)
    search_attributes: Mapping[str, int] = {}
    shards: int | None = None
    cluster_name: str = ""
    initial_failover_version: int = 0
    node_id: str = ""
    zone: str = ""
    roles: tuple[str, ...] = ROLES
    wire: WireConfig | None = None
    etcd: EtcdSettings | None = None
    regions: RegionsConfig = RegionsConfig()
    limits: Limits = Limits()
    shard: ShardConfig = ShardConfig()
    drain_s: float = 5.0
    hand_over_s: float = 30.0

    @property
    def store_config(self) -> StoreConfig:
        if self.store is not None:
            return self.store
        return StoreConfig(kind="sqlite", url=self.db, sync=self.sync)

    @property
    def visibility_config(self) -> VisibilityConfig:
        """Raises ValueError where the store cannot list runs itself."""
        if self.visibility is not None:
            return self.visibility
        store = self.store_config
        if store.kind == "cassandra":
            raise ValueError("a Cassandra store needs a visibility store of its own: sqlite, postgres or mysql")
        url = store.url
        if store.kind == "sqlite" and url != MEMORY:
            url += ".visibility"
        kind = store.kind
        return VisibilityConfig(kind=kind, url=url, tls=store.tls, statement_timeout_s=store.statement_timeout_s)
