"""What membership keeps in etcd, and how its entries are read: keys, codecs, and what is wrong with those that cannot be used.

    <prefix>cluster          which cluster this is: id and shard count; written by the first node, compared by all others
    <prefix>nodes/<node id>  one NodeInfo as JSON, on the node's lease: it goes when the node goes
    <prefix>joins/<node id>  when the node joined lately (flapping.py), on a lease of that window
"""

from __future__ import annotations

import msgspec
import structlog

from cluster.membership.etcd_client import Entry, EtcdTls
from cluster.membership.flapping import FlapLimits
from cluster.membership.members import MembershipRefused, NodeInfo

log = structlog.get_logger("outlast.membership")


class EtcdSettings(msgspec.Struct, frozen=True):
    """prefix: one per region; two clusters on one prefix refuse each other."""

    endpoints: tuple[str, ...]
    prefix: str = "/outlast/"
    tls: EtcdTls | None = None
    lease_ttl_s: int = 5  # a crash is seen after 5 to 6 s; etcd's own least with its default timing is 2
    call_timeout_s: float = 1.5  # below a third of the lease, so that two refreshes may fail
    join_timeout_s: float = 15.0
    retry_min_s: float = 0.05
    retry_max_s: float = 1.0  # well below the lease: back in time after etcd's restart
    linger_s: float = 10.0  # how long members are kept that an etcd without its data does not know
    flapping: FlapLimits = FlapLimits()

    def __post_init__(self) -> None:
        if not self.prefix.endswith("/"):
            raise ValueError(f"etcd prefix {self.prefix!r} must end in /")
        if not 0 < self.call_timeout_s < self.lease_ttl_s:
            raise ValueError(f"call_timeout_s {self.call_timeout_s:g} must be less than lease_ttl_s {self.lease_ttl_s}")

    @property
    def cluster_key(self) -> str:
        return f"{self.prefix}cluster"

    @property
    def nodes_prefix(self) -> str:
        return f"{self.prefix}nodes/"

    def joins_key(self, node_id: str) -> str:
        return f"{self.prefix}joins/{node_id}"


class ClusterEntry(msgspec.Struct, frozen=True):
    cluster_id: str
    shard_count: int


def compare_cluster(entry: Entry, me: NodeInfo) -> None:
    """Raises MembershipRefused if the prefix belongs to another cluster."""
    try:
        theirs = msgspec.json.decode(entry.value, type=ClusterEntry)
    except msgspec.DecodeError as broken:
        raise MembershipRefused(f"etcd key {entry.key} cannot be read: {broken}") from None
    if (theirs.cluster_id, theirs.shard_count) != (me.cluster_id, me.shard_count):
        raise MembershipRefused(
            f"etcd key {entry.key} belongs to cluster {theirs.cluster_id!r} with {theirs.shard_count} shards;"
            f" this node is configured for {me.cluster_id!r} with {me.shard_count}"
        )


def node_of(entry: Entry, settings: EtcdSettings, cluster_id: str) -> NodeInfo | None:
    """None, and a line in the log, for what is no member of this cluster: one bad key must not blind every node."""
    try:
        node = msgspec.json.decode(entry.value, type=NodeInfo)
    except msgspec.DecodeError as broken:
        log.error("unreadable member", key=entry.key, reason=str(broken))
        return None
    if entry.key != settings.nodes_prefix + node.node_id or node.cluster_id != cluster_id:
        log.error("an entry that is no member of this cluster", key=entry.key, node_id=node.node_id)
        return None
    return node


def incarnation_of(entry: Entry) -> str:
    """"" if it cannot be read: surely not ours."""
    try:
        return msgspec.json.decode(entry.value, type=NodeInfo).incarnation
    except msgspec.DecodeError:
        return ""


def joins_of(entry: Entry | None) -> tuple[int, ...]:
    if entry is None:
        return ()
    try:
        return msgspec.json.decode(entry.value, type=tuple[int, ...])
    except msgspec.DecodeError as broken:
        log.error("unreadable record of joins, starting a new one", key=entry.key, reason=str(broken))
        return ()
