"""The network between regions: streams and calls from node to node, on virtual time; `RemoteRegions` for each node.

    Between       the ways between the hosts of different regions, and what goes wrong on them
    RegionsSeen   all of it as one node sees it: forward, dial
    LinkEnd       one side of a stream: the Link of the session there (link_ends.py)

A region has one address; whoever calls it gets one of its nodes, sticks to it, and takes another one when that fails. A cut way
carries nothing: calls wait until they are given up, messages wait until the cut is healed or either side holds the link for dead.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from chaos.sim.faults import FaultPlan
from chaos.sim.link_ends import LinkEnd
from chaos.sim.loop import owned_by, running_loop
from chaos.sim.network import Way
from chaos.sim.nodes import NodeDied
from chaos.sim.rand import Streams
from cluster.core.errors import CallerError, Code, unavailable
from cluster.failures import passed_on, shown_message, status_bytes
from cluster.namespaces.remote_clusters import AskCluster, Cluster
from replication.link import AddressOf, Link, LinkDown, MakeRegions, UnknownRegion
from replication.port import PATH

if TYPE_CHECKING:
    from chaos.sim.region import Region, SimNode

T = TypeVar("T")
PORT = 7233
SLOW_S_MAX = 3.0
GIVEN_UP_S = (0.5, 8.0)  # when a call or a dial over a cut way is given up
NOTICED_S = (2.0, 20.0)  # when a ping finds out that the other side of a link does not answer


class BetweenFault(StrEnum):
    """Of one call; those of a stream's messages are link_ends.LinkFault."""

    CALL_LOST = "region_call_lost"
    ANSWER_LOST = "region_answer_lost"  # executed, and reported as unavailable
    CALL_SLOW = "region_call_slow"
    DIAL_REFUSED = "region_dial_refused"


def address_of(region: str) -> str:
    return f"{region}:{PORT}"


class Between:
    """See the module's text. Ways are named by hosts."""

    def __init__(
        self, streams: Streams, regions: Iterable[Region], calls: FaultPlan, messages: FaultPlan, delay_s_max: float
    ) -> None:
        self.calls, self.messages = calls, messages
        self.regions = {region.name: region for region in regions}
        self._streams, self._delay_s_max = streams, delay_s_max
        self._draw = streams("between regions")
        self._ways: dict[tuple[str, str], Way] = {}
        self._ends: list[LinkEnd] = []
        self._chosen: dict[tuple[str, str], str] = {}  # (a node, a region) -> that one's node it talks to
        self._down: set[str] = set()  # machines without power
        self._opened: list[asyncio.Future[None]] = []
        self.world = contextvars.copy_context()  # made by the world: arrivals are nobody's own

    def seen_by(self, host: str) -> MakeRegions:
        return lambda addresses: RegionsSeen(self, host, addresses)

    def asked_by(self, host: str) -> AskCluster:
        """Who is at an address, as GetClusterInfo says it."""

        async def ask(address: str) -> Cluster:
            name = address.rpartition(":")[0]
            if name not in self.regions:
                raise unavailable(f"nobody is at {address}")

            async def say(node: SimNode) -> Cluster:
                me = node.assembly.identity
                return Cluster(
                    name=me.cluster_name,
                    id=me.cluster_id,
                    address=address,
                    shard_count=me.shard_count,
                    initial_failover_version=me.initial_failover_version,
                )

            return await self._far(host, name, "who are you", say, 10.0)

        return ask

    # --- trouble ----------------------------------------------------------------------------------------------------------
    def way(self, source: str, target: str) -> Way:
        way = self._ways.get((source, target))
        if way is None:
            way = self._ways[source, target] = Way(self._streams(f"way between {source} {target}"), self._delay_s_max)
        return way

    def pairs(self, one: str, other: str) -> list[tuple[str, str]]:
        """All ways from a node of the one region to a node of the other."""
        return [(source, target) for source in self.regions[one].slots for target in self.regions[other].slots]

    def is_open(self, source: str, target: str) -> bool:
        """There and back."""
        return not (self.way(source, target).is_cut or self.way(target, source).is_cut or {source, target} & self._down)

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        for source, target in pairs:
            running_loop().trace("region cut", source=source, target=target)
            self.way(source, target).is_cut = True
        for end in self._live_ends():
            if not self.is_open(end.host, end.peer.host):
                self.ping_later(end)

    def heal(self, pairs: Iterable[tuple[str, str]]) -> None:
        for source, target in pairs:
            running_loop().trace("region way healed", source=source, target=target)
            way = self.way(source, target)
            way.is_cut, way.bytes_per_s = False, None
        for end in self._live_ends():
            end.way_opened()
        self._tell_opened()

    def slow(self, pairs: Iterable[tuple[str, str]], bytes_per_s: int | None) -> None:
        for source, target in pairs:
            running_loop().trace("slow region way", source=source, target=target, bytes_per_s=bytes_per_s)
            self.way(source, target).bytes_per_s = bytes_per_s

    def break_links(self, one: str, other: str) -> None:
        """Every stream between the two ends in the middle: the one side is told now, the other finds out."""
        for end in self._live_ends():
            if end.host in self.regions[one].slots and end.peer.host in self.regions[other].slots:
                end.breaks("the link was reset")
                self.ping_later(end.peer)

    def heal_all(self) -> None:
        self.heal(sorted(self._ways))

    def calm(self, delay_s_max: float) -> None:
        self._delay_s_max = min(self._delay_s_max, delay_s_max)
        for way in self._ways.values():
            way.delay_s_max = min(way.delay_s_max, delay_s_max)

    def died(self, host: str, is_machine: bool) -> None:
        """The process there is gone, and its peers are told; or the machine, and nobody is."""
        if is_machine:
            self._down.add(host)
        for end in self._live_ends():
            if end.host == host:
                end.is_gone = True
                if is_machine:
                    self.ping_later(end.peer)
                else:
                    end.peer.breaks("the connection was reset by the peer")

    def began(self, host: str) -> None:
        self._down.discard(host)
        for end in self._live_ends():
            end.way_opened()
        self._tell_opened()

    def _live_ends(self) -> list[LinkEnd]:
        self._ends = [end for end in self._ends if not end.is_over]
        return list(self._ends)

    def ping_later(self, end: LinkEnd) -> None:
        """Whether the other side is still there is found out after a while."""
        at_ns = running_loop().now_ns() + round(self._draw.uniform(*NOTICED_S) * 1e9)
        running_loop().call_at_ns(at_ns, self._ping, end, context=self.world)

    def _ping(self, end: LinkEnd) -> None:
        if end.peer.is_gone or end.peer.is_over or end.is_half_open or not self.is_open(end.host, end.peer.host):
            end.breaks("the other side does not answer")

    def _tell_opened(self) -> None:
        waiting, self._opened = self._opened, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    # --- calls ------------------------------------------------------------------------------------------------------------
    async def call(
        self, host: str, region: str, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float
    ) -> bytes:
        """As the transport on either side does it. Raises CallerError."""

        async def serve(node: SimNode) -> bytes:
            if path.startswith(PATH):
                return await node.serve_region(path.removeprefix(PATH), data, metadata)
            return await node.serve(path.rsplit("/", 1)[-1], data, timeout_s, metadata)

        try:
            return await self._far(host, region, path, serve, timeout_s)
        except CallerError as error:
            raise passed_on(error.code, shown_message(error), status_bytes(error)) from None

    async def dial(self, host: str, region: str) -> Link:
        """Raises LinkDown."""

        async def connect(node: SimNode) -> LinkEnd:
            near, far = LinkEnd(self, host), LinkEnd(self, node.host)
            near.peer, far.peer = far, near
            self._ends += [near, far]
            self._accept(node, far)
            return near

        if self.calls.draw(frozenset({BetweenFault.DIAL_REFUSED})) is not None:
            raise LinkDown("injected: the connection was refused")
        try:
            return await self._far(host, region, "Stream", connect, 10.0)
        except CallerError as error:
            raise LinkDown(error.message) from None

    def _accept(self, node: SimNode, far: LinkEnd) -> None:
        """The stream's handler runs there until it ends, however it ends."""
        slot = self.regions[node.region.name].slots[node.host]

        async def served() -> None:
            with suppress(NodeDied, LinkDown):
                await slot.run_inside(lambda: node.accept_region(far), "accept a link")
            far.close()

        with owned_by(""):
            far.handler = running_loop().create_task(served(), name=f"link accepted by {node.host}")

    async def _far(
        self, host: str, region: str, what: str, serve: Callable[[SimNode], Awaitable[T]], timeout_s: float
    ) -> T:
        """Runs `serve` on a node of the region; the caller who stops waiting stops it there, one that dies does not."""
        loop = running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        async def execute() -> None:
            try:
                result = await self._there_and_back(host, region, what, serve, timeout_s)
            except CallerError as error:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # marks it as seen: whoever waited may be dead
            else:
                if not answer.done():
                    answer.set_result(result)

        with owned_by(""):
            job = loop.create_task(execute(), name=f"between regions {what}")
        try:
            return await answer
        except asyncio.CancelledError:
            job.cancel()
            raise

    async def _there_and_back(
        self, host: str, region: str, what: str, serve: Callable[[SimNode], Awaitable[T]], timeout_s: float
    ) -> T:
        fault = self.calls.draw(frozenset({*BetweenFault}) - {BetweenFault.DIAL_REFUSED})
        if fault is not None:
            running_loop().trace("region call fault", source=host, target=region, call=what, fault=fault)
        if fault == BetweenFault.CALL_SLOW:
            await asyncio.sleep(self._draw.uniform(0, SLOW_S_MAX))
        target = await self._target(host, region, timeout_s)
        await asyncio.sleep(self.way(host, target).delay_s())
        slot = self.regions[region].slots[target]
        node = slot.node
        if fault == BetweenFault.CALL_LOST or node is None:
            raise unavailable(f"{what} was lost on its way to {target}")
        try:
            async with asyncio.timeout(timeout_s):
                answer = await slot.run_inside(lambda: _coroutine(serve(node)), what)
                await self._way_back(target, host)
        except NodeDied as died:
            self._chosen.pop((host, region), None)
            raise unavailable(f"{died} died during {what}") from None
        except TimeoutError:
            raise CallerError(Code.DEADLINE_EXCEEDED, f"{what} took longer than {timeout_s} s") from None
        await asyncio.sleep(self.way(target, host).delay_s())
        if fault == BetweenFault.ANSWER_LOST:
            raise unavailable(f"injected: {what} was executed, its answer lost")
        return answer

    async def _target(self, host: str, region: str, timeout_s: float) -> str:
        """A node of the region that can be reached: the one used before, or another. Raises CallerError UNAVAILABLE."""
        known = self._chosen.get((host, region))
        hosts = list(self.regions[region].slots)
        self._draw.shuffle(hosts)
        if known is not None:
            hosts = [known, *(one for one in hosts if one != known)]
        for target in hosts:
            patience_s = min(timeout_s, self._draw.uniform(*GIVEN_UP_S))
            if not self.is_open(host, target) and not await self._opens(host, target, patience_s):
                continue
            if self.regions[region].slots[target].node is not None:
                self._chosen[host, region] = target
                return target
        self._chosen.pop((host, region), None)
        raise unavailable(f"no node of region {region} can be reached")

    async def _opens(self, source: str, target: str, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                while not self.is_open(source, target):
                    opened: asyncio.Future[None] = running_loop().create_future()
                    self._opened.append(opened)
                    await opened
        except TimeoutError:
            return False
        return True

    async def _way_back(self, target: str, host: str) -> None:
        if not self.is_open(target, host) and not await self._opens(target, host, self._draw.uniform(*GIVEN_UP_S)):
            raise unavailable("executed, and the answer did not come back")


async def _coroutine(work: Awaitable[T]) -> T:
    return await work


class RegionsSeen:
    """One life's; nothing of it is left when that ends."""

    def __init__(self, between: Between, host: str, addresses: AddressOf) -> None:
        self._between, self._host, self._addresses = between, host, addresses

    def _named(self, region: str) -> str:
        address = self._addresses(region)
        if not address:
            raise UnknownRegion(region)
        return address.rpartition(":")[0]

    async def forward(self, region: str, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float) -> bytes:
        return await self._between.call(self._host, self._named(region), path, data, metadata, timeout_s)

    async def dial(self, region: str) -> Link:
        return await self._between.dial(self._host, self._named(region))

    async def close(self) -> None:
        """Its streams have ended with their sessions."""
