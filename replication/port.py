"""This node's side of all links: it dials the regions it was told of, takes their streams and calls, and calls them.

    dial      for each region that is linked and replicated to, `keep_linked` (session.py) runs for ever
    accept    a stream that another region's node has dialled
    ask       one call with one answer; `serve` is the other end, `answer` says who answers what

Everything goes over the other region's public port (`RemoteRegions`), so a region needs no further one, and one that nobody can
reach takes part all the same: it dials. A caller names itself in a header; it is served if it is linked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from cluster.core.errors import CallerError, Code, unavailable, unimplemented
from cluster.namespaces.remote_clusters import Cluster, RemoteClusters
from cluster.seams import Ids, Spawn
from replication.link import Link, LinkDown, RemoteRegions, UnknownRegion
from replication.messages import FORMATS, Hello, UnknownMessage
from replication.receiver import TooMuch
from replication.region import Peer, Region
from replication.session import Refused, keep_linked, talk

log = structlog.get_logger("replication")

CALLER = "outlast-region"
PATH = "/outlast.region.v1.Region/"
ASK_S = 10.0

Answerer = Callable[[str, bytes], Awaitable[bytes]]  # (who asks, data) -> data


class RegionPort:
    """Make it, name the answerers, `start` it; `look` after each change of the remote clusters."""

    def __init__(self, clusters: RemoteClusters, remote: RemoteRegions, region: Region, spawn: Spawn, ids: Ids) -> None:
        self.clusters, self.remote, self.region = clusters, remote, region
        self.here = clusters.own.name
        self._spawn, self._ids = spawn, ids
        self._answerers: dict[str, Answerer] = {}
        self._dialling: dict[str, tuple[Cluster, asyncio.Task[None]]] = {}
        self._accepted: set[asyncio.Task[None]] = set()
        self._has_started = self._is_closed = False

    # --- who is linked ----------------------------------------------------------------------------------------------------
    def peers(self) -> list[str]:
        """The names of the linked regions."""
        return [cluster.name for cluster in self.clusters.remotes() if cluster.is_connection_enabled]

    def start(self) -> None:
        self._has_started = True
        self._spawn(self.region.look_after_shards(), "feeds of shards")
        self.look()

    def look(self) -> None:
        """Dials who is new, lets go of who is gone."""
        if not self._has_started or self._is_closed:
            return
        wanted = {one.name: one for one in self.clusters.remotes() if one.is_connection_enabled and one.is_replication_enabled}
        for name, (cluster, task) in list(self._dialling.items()):
            if wanted.get(name) != cluster:
                task.cancel()
                del self._dialling[name]
        for name in [name for name in self.region.senders if name not in wanted]:
            self.region.remove_peer(name)
        for name, cluster in wanted.items():
            self.region.add_peer(Peer(name, cluster.initial_failover_version))
            if name not in self._dialling:
                self._dialling[name] = cluster, self._spawn(self._dial(name), f"link-{name}")

    async def _dial(self, name: str) -> None:
        async def dial() -> Link:
            try:
                return await self.remote.dial(name)
            except UnknownRegion:
                raise LinkDown(f"no connection to region {name} is configured") from None

        await keep_linked(dial, self.hello(), self.region, self.region.limits, self._ids)

    def hello(self) -> Hello:
        own, limits = self.clusters.own, self.region.limits
        return Hello(
            cluster=own.name,
            cluster_id=own.id,
            initial_version=own.initial_failover_version,
            increment=own.failover_version_increment,
            format_min=FORMATS[0],
            format_max=FORMATS[1],
            credit_offers=limits.credit_offers,
            credit_bytes=limits.credit_bytes,
            shards_count=own.shard_count,
        )

    async def accept(self, link: Link) -> None:
        """A stream that another region's node has dialled; returns when it has ended."""
        if self._is_closed or not self._has_started:
            link.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._accepted.add(task)
        try:
            await talk(link, self.hello(), self.region, self.region.limits)
        except (LinkDown, Refused) as error:
            log.info("a link that another region dialled has ended", reason=str(error))
        except (UnknownMessage, TooMuch) as error:
            log.error("a peer breaks the protocol", error=str(error))
        finally:
            self._accepted.discard(task)

    async def close(self) -> None:
        self._is_closed = True
        tasks = [task for _, task in self._dialling.values()] + list(self._accepted)
        self._dialling.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.remote.close()

    # --- calls ------------------------------------------------------------------------------------------------------------
    def answer(self, method: str, answerer: Answerer) -> None:
        assert method not in self._answerers, f"{method} is answered twice"
        self._answerers[method] = answerer

    async def ask(self, peer: str, method: str, data: bytes, timeout_s: float = ASK_S) -> bytes:
        """Raises CallerError: what the other region says, UNAVAILABLE when it cannot be reached or is not known."""
        try:
            return await self.remote.forward(peer, PATH + method, data, {CALLER: self.here}, timeout_s)
        except UnknownRegion:
            raise unavailable(f"no connection to region {peer} is configured") from None

    async def serve(self, method: str, metadata: Mapping[str, str], data: bytes) -> bytes:
        """Raises CallerError."""
        caller = metadata.get(CALLER, "")
        if caller not in self.peers():
            raise CallerError(Code.PERMISSION_DENIED, f"region {caller!r} is not linked with region {self.here!r}")
        answerer = self._answerers.get(method)
        if answerer is None:
            raise unimplemented(f"region {self.here} does not know the call {method}: is it of an older version?")
        return await answerer(caller, data)
