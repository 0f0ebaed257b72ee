"""The other regions that this one is connected to, as it was told by AddOrUpdateRemoteCluster.

All of them are one row of the metadata store, so that two nodes which add different clusters at the same time cannot give one
initial failover version to both. How another cluster is asked who it is, is a port (`AskCluster`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import msgspec

from cluster.core.branches import VERSION_INCREMENT
from cluster.core.errors import CallerError, Code, failed_precondition, invalid_argument, not_found, unavailable
from cluster.namespaces.record import DELETED, NamespaceRecord
from cluster.stores.base import Store, StoreUnavailable, StoreUnknown
from replication.failover import Regions

KIND = "remote clusters"
ROW_ID = "all"
_CONFLICTS_MAX = 100
# Each has an initial failover version of its own, below the increment.
CLUSTERS_COUNT_MAX = VERSION_INCREMENT - 1
# What GetClusterInfo says of itself (version_info.current.notes): only such servers can be linked.
PRODUCT = "Outlast"


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A region. address: its frontend's, host:port. is_connection_enabled: namespaces may be put there, calls be forwarded there;
    is_replication_enabled: what changes here is sent there."""

    name: str
    initial_failover_version: int
    id: str = ""
    address: str = ""
    http_address: str = ""
    failover_version_increment: int = VERSION_INCREMENT
    shard_count: int = 0
    is_connection_enabled: bool = True
    is_replication_enabled: bool = False


# Who is at that address. Raises CallerError UNAVAILABLE when nobody answers, INVALID_ARGUMENT when it is not one of ours.
AskCluster = Callable[[str], Awaitable[Cluster]]


async def nobody_to_ask(address: str) -> Cluster:
    raise unavailable(f"Unable connect to remote cluster {address} with error: this server has no way to connect to others.")


class RemoteClusters:
    """Call `load` before anything else. own: this cluster."""

    def __init__(self, store: Store, own: Cluster, ask: AskCluster = nobody_to_ask) -> None:
        self._store = store
        self.own, self.ask = own, ask
        self.on_change: Callable[[], Awaitable[None]] | None = None
        self._remotes: dict[str, Cluster] = {}

    async def load(self) -> None:
        await self._read()

    # --- lookups --------------------------------------------------------------------------------------------------------
    def named(self, name: str) -> Cluster | None:
        return self.own if name == self.own.name else self._remotes.get(name)

    def remotes(self) -> list[Cluster]:
        return list(self._remotes.values())

    def regions(self) -> Regions:
        known = [self.own, *self._remotes.values()]
        return Regions(
            {one.name: one.initial_failover_version for one in known},
            self.own.failover_version_increment,
            frozenset(one.name for one in known if one.is_connection_enabled),
            bool(self._remotes),
        )

    async def list(self, page_size: int, after: str) -> tuple[list[Cluster], str]:
        """By name, those after `after`, this cluster among them; the last name of the page if there are more, else ""."""
        await self._read()
        names = sorted(name for name in (self.own.name, *self._remotes) if name > after)
        page = names[: page_size if 0 < page_size < CLUSTERS_COUNT_MAX else CLUSTERS_COUNT_MAX]
        clusters = [cluster for name in page if (cluster := self.named(name)) is not None]
        return clusters, page[-1] if len(page) < len(names) else ""

    # --- changes --------------------------------------------------------------------------------------------------------
    async def add_or_update(
        self, address: str, http_address: str, is_connected: bool, is_replicated: bool, namespaces: Iterable[NamespaceRecord]
    ) -> Cluster:
        """Asks who is at the address. namespaces: all of this region; while one is in a cluster, its versions must not change."""
        if not address:
            raise invalid_argument("Remote cluster's frontend address is not set.")
        cluster = msgspec.structs.replace(
            await self.ask(address),
            address=address,
            http_address=http_address,
            is_connection_enabled=is_connected,
            is_replication_enabled=is_replicated,
        )
        using = _first_using(cluster.name, namespaces)

        def added(remotes: dict[str, Cluster]) -> dict[str, Cluster]:
            self._check(cluster, remotes, using)
            return remotes | {cluster.name: cluster}

        await self._change(added)
        return cluster

    async def remove(self, name: str, namespaces: Iterable[NamespaceRecord]) -> None:
        """Raises FAILED_PRECONDITION while a namespace is both here and there. One that another node puts there at this moment is
        not seen; it then names a cluster that is not known, and cannot fail over to it."""
        if name == self.own.name:
            raise invalid_argument("Cannot delete current cluster metadata.")
        here = [record for record in namespaces if self.own.name in record.members]
        using = _first_using(name, here)

        def removed(remotes: dict[str, Cluster]) -> dict[str, Cluster]:
            if name not in remotes:
                raise not_found("The cluster to be deleted cannot be found in clusters cache.")
            if using:
                raise failed_precondition(f'cannot remove cluster "{name}": still referenced by namespace "{using}"')
            return {known: cluster for known, cluster in remotes.items() if known != name}

        await self._change(removed)

    def _check(self, cluster: Cluster, remotes: dict[str, Cluster], using: str) -> None:
        """The public server's rules, without the one that shard counts be multiples: ours may be anything."""
        increment, initial = cluster.failover_version_increment, cluster.initial_failover_version
        known = remotes.get(cluster.name)
        others = [self.own, *(one for one in remotes.values() if one.name != cluster.name)]
        if cluster.name == self.own.name:
            raise _bad_config("Cannot update current cluster metadata from rpc calls")
        if not cluster.name:
            raise _bad_config("cluster name must not be empty")
        if increment != self.own.failover_version_increment:
            raise _bad_config("Cannot add remote cluster due to failover version increment mismatch")
        if cluster.shard_count <= 0:
            raise _bad_config("Remote cluster HistoryShardCount must be positive")
        if any(one.initial_failover_version == initial for one in others):
            raise _bad_config("Cannot add remote cluster due to initial failover version conflict")
        if initial <= 0:
            raise _bad_config(f'cluster "{cluster.name}": InitialFailoverVersion must be > 0, got {initial}')
        if initial >= increment:
            raise _bad_config(
                f'cluster "{cluster.name}": InitialFailoverVersion ({initial}) must be < FailoverVersionIncrement ({increment})'
            )
        if known is not None and known.initial_failover_version != initial and using:
            raise failed_precondition(
                f'cluster "{cluster.name}" had the initial failover version {known.initial_failover_version}, now {initial}, '
                f'and namespace "{using}" is in it: its versions would change their owner'
            )

    # --- the store ------------------------------------------------------------------------------------------------------
    async def _read(self) -> int:
        """The row's version, 0 if there is none. Raises UNAVAILABLE."""
        try:
            row = await self._store.metadata_get(KIND, ROW_ID)
        except StoreUnavailable as outage:
            raise unavailable("remote clusters cannot be read now; retry") from outage
        clusters = msgspec.msgpack.decode(row.data, type=list[Cluster]) if row is not None else []
        self._remotes = {cluster.name: cluster for cluster in clusters}
        return row.version if row is not None else 0

    async def _change(self, change: Callable[[dict[str, Cluster]], dict[str, Cluster]]) -> None:
        """Read, change, compare and swap; again when another change came first. Each change may be repeated."""
        for _ in range(_CONFLICTS_MAX):
            version = await self._read()
            changed = change(self._remotes)
            if changed == self._remotes:
                return
            data = msgspec.msgpack.encode(list(changed.values()))
            try:
                written = await self._store.metadata_put(KIND, ROW_ID, data, version)
            except (StoreUnavailable, StoreUnknown) as outage:
                raise unavailable("remote clusters cannot be written now; retry") from outage
            if written is not None:
                self._remotes = changed
                if self.on_change is not None:
                    await self.on_change()
                return
        raise unavailable("remote clusters are being changed by many callers; retry")


def _first_using(name: str, namespaces: Iterable[NamespaceRecord]) -> str:
    """"" if none."""
    return next((one.name for one in namespaces if one.is_replicated and one.state != DELETED and name in one.members), "")


def _bad_config(reason: str) -> CallerError:
    return CallerError(Code.INVALID_ARGUMENT, f"Unable connect to remote cluster with invalid config: {reason}.")
