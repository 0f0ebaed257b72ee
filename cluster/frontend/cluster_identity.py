"""Who this cluster is: made once, kept in the store's registry, the same for every node and after every restart."""

from __future__ import annotations

import msgspec

from cluster.seams import Ids
from cluster.stores.base import Store

REGISTRY_KIND = "cluster"
REGISTRY_ID = "self"


class ClusterIdentity(msgspec.Struct, frozen=True):
    """shard_count is fixed for ever: it decides which shard keeps which workflow id."""

    cluster_id: str
    cluster_name: str
    shard_count: int
    initial_failover_version: int = 1
    failover_version_increment: int = 10


class ShardCountDiffers(Exception):
    """The database was made with another number of shards."""


async def load_identity(store: Store, ids: Ids, cluster_name: str, shard_count: int | None) -> ClusterIdentity:
    """The stored identity; the first node makes it. shard_count None takes what is stored. Raises ShardCountDiffers."""
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is not None:
            identity = msgspec.msgpack.decode(row.data, type=ClusterIdentity)
            if shard_count is not None and shard_count != identity.shard_count:
                raise ShardCountDiffers(
                    f"this database was made with {identity.shard_count} shards and cannot run with {shard_count}"
                )
            return identity
        fresh = ClusterIdentity(ids.uuid(), cluster_name, shard_count or SHARDS_DEFAULT)
        if await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(fresh), 0) is not None:
            return fresh


SHARDS_DEFAULT = 4
