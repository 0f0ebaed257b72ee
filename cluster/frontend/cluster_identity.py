"""Who this cluster is: made once, kept in the store's registry, the same for every node and after every restart."""

from __future__ import annotations

import msgspec

from cluster.seams import Ids
from cluster.stores.base import Store

REGISTRY_KIND = "cluster"
REGISTRY_ID = "self"
NAME_DEFAULT = "active"
SHARDS_DEFAULT = 4


class ClusterIdentity(msgspec.Struct, frozen=True):
    """Fixed for ever: shard_count decides which shard keeps which workflow id; the name and the initial failover version say in
    every event which region wrote it."""

    cluster_id: str
    cluster_name: str
    shard_count: int
    initial_failover_version: int = 1
    failover_version_increment: int = 10


class IdentityDiffers(Exception):
    """The database belongs to a cluster of another name, or was made with another failover version."""


class ShardCountDiffers(IdentityDiffers):
    """The database was made with another number of shards."""


class WantedIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says; "", 0 and None take what is stored, or the default in a new database."""

    cluster_name: str = ""
    shard_count: int | None = None
    initial_failover_version: int = 0


async def load_identity(store: Store, ids: Ids, wanted: WantedIdentity) -> ClusterIdentity:
    """The stored identity; the first node makes it. Raises IdentityDiffers, ShardCountDiffers."""
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is not None:
            identity = msgspec.msgpack.decode(row.data, type=ClusterIdentity)
            _compare(identity, wanted)
            return identity
        fresh = ClusterIdentity(
            ids.uuid(),
            wanted.cluster_name or NAME_DEFAULT,
            wanted.shard_count or SHARDS_DEFAULT,
            wanted.initial_failover_version or 1,
        )
        if await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(fresh), 0) is not None:
            return fresh


def _compare(stored: ClusterIdentity, wanted: WantedIdentity) -> None:
    if wanted.shard_count is not None and wanted.shard_count != stored.shard_count:
        raise ShardCountDiffers(
            f"this database was made with {stored.shard_count} shards and cannot run with {wanted.shard_count}"
        )
    if wanted.cluster_name and wanted.cluster_name != stored.cluster_name:
        raise IdentityDiffers(
            f"this database belongs to cluster {stored.cluster_name!r}, the configuration says {wanted.cluster_name!r}:"
            " a cluster keeps its name"
        )
    if wanted.initial_failover_version not in (0, stored.initial_failover_version):
        raise IdentityDiffers(
            f"this database was made with initial failover version {stored.initial_failover_version}"
            f" and cannot run with {wanted.initial_failover_version}"
        )
