"""What a region answers another one that compares: each node for its shards, and the node that is asked for all of them.

question     answer
-----------  ------------------------------------------------------------------------------------------------------------
VerifyRoots  the root of the namespace's hash tree, how many runs there are; or that it is being built
VerifyNodes  the sums below some prefixes of that tree
VerifyFacts  the truth about some workflow ids, read anew
Resend       these runs are told to the asker again, as they are; nothing that it has is written over (merge.py)

Trees are built in the background and kept until the next verification: one of a shard that has not changed is used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import structlog

from cluster.core.errors import CallerError, unavailable
from cluster.history.service import HistoryService
from cluster.history.shard import Shard
from cluster.seams import Spawn
from cluster.stores.base import RunKey, StoreError
from replication.region import Region
from replication.verification import Sums, WorkflowFacts, add_up
from replication.verify_facts import Copy, Look, read_copy, read_workflows
from replication.verify_limits import VerifyLimits

log = structlog.get_logger("replication")

ROOTS, NODES, FACTS, RESEND = "VerifyRoots", "VerifyNodes", "VerifyFacts", "Resend"
WORKFLOWS_AT_ONCE = 10  # read between two looks at the size of an answer


class RootsAsk(msgspec.Struct, frozen=True):
    """round: names this verification, so that asking again does not begin anew. is_fresh: trust nothing that was read before."""

    namespace_id: str
    round: str
    is_deep: bool = False
    is_fresh: bool = False


class RootsTold(msgspec.Struct, frozen=True):
    """root: 16 bytes. shards: those that it is of."""

    is_ready: bool
    shards: list[int] = []
    root: bytes = b""
    runs_count: int = 0


class NodesAsk(msgspec.Struct, frozen=True):
    namespace_id: str
    prefixes: list[str]


class NodesTold(msgspec.Struct, frozen=True):
    shards: list[int]
    children: dict[str, dict[str, bytes]]


class FactsAsk(msgspec.Struct, frozen=True):
    """asker: the region that asks, "" = this one. peer: the other one of the two, whose acknowledgements are meant."""

    namespace_id: str
    workflow_ids: list[str]
    peer: str
    is_deep: bool = False


class FactsTold(msgspec.Struct, frozen=True):
    """left: workflow ids for which there was no room. Those of no shard of this node are in neither list."""

    facts: list[WorkflowFacts]
    left: list[str] = []


class ResendAsk(msgspec.Struct, frozen=True):
    """peer: to whom. are_contended: it is looked at again which run of their workflow id is current."""

    keys: list[RunKey]
    peer: str
    are_contended: bool = False


class ResendTold(msgspec.Struct, frozen=True):
    count: int


class Side(Protocol):
    """One of the two regions that are compared. All raise CallerError."""

    async def roots(self, ask: RootsAsk) -> RootsTold: ...

    async def nodes(self, ask: NodesAsk) -> NodesTold: ...

    async def facts(self, ask: FactsAsk) -> FactsTold: ...

    async def resend(self, ask: ResendAsk) -> ResendTold: ...


class _Build:
    def __init__(self, ask: RootsAsk) -> None:
        self.ask = ask
        self.is_ended = asyncio.Event()
        self.failure: CallerError | None = None


class ThisNode:
    """The shards that this node has. is_told(peer, namespace_id): whether cursors say anything about the namespace."""

    def __init__(
        self,
        region_name: str,
        history: HistoryService,
        region: Region,
        spawn: Spawn,
        is_told: Callable[[str, str], bool],
        limits: VerifyLimits,
    ) -> None:
        self._name, self._history, self._region = region_name, history, region
        self._spawn, self._is_told, self._limits = spawn, is_told, limits
        self._copies: dict[str, dict[int, Copy]] = {}  # by namespace, by shard
        self._builds: dict[str, _Build] = {}  # by namespace: the last one
        self._turn = asyncio.Lock()  # one namespace at a time

    def _shards(self) -> list[Shard]:
        return [shard for shard in self._history.ownership.open.values() if shard.is_open]

    def _look(self, shard: Shard, namespace_id: str, is_deep: bool) -> Look:
        return Look(shard, namespace_id, self._name, is_deep, self._limits)

    # --- trees ------------------------------------------------------------------------------------------------------------

    async def roots(self, ask: RootsAsk) -> RootsTold:
        build = self._builds.get(ask.namespace_id)
        if build is None or (build.is_ended.is_set() and build.ask.round != ask.round):
            build = self._builds[ask.namespace_id] = _Build(ask)
            self._spawn(self._build(build), f"verify {ask.namespace_id}")
        try:
            async with asyncio.timeout(self._limits.build_wait_s):
                await build.is_ended.wait()
        except TimeoutError:
            return RootsTold(False)
        if build.ask.round != ask.round:
            return RootsTold(False)  # another's has ended just now: one of its own comes next
        if build.failure is not None:
            del self._builds[ask.namespace_id]
            raise build.failure
        copies = self._copies.get(ask.namespace_id, {})
        root = add_up({"": copy.tree.root} for copy in copies.values()).get("", 0)
        return RootsTold(True, sorted(copies), _told(root), sum(copy.runs_count for copy in copies.values()))

    async def _build(self, build: _Build) -> None:
        ask = build.ask
        try:
            async with self._turn:
                before = {} if ask.is_fresh else self._copies.get(ask.namespace_id, {})
                copies: dict[int, Copy] = {}
                for shard in self._shards():
                    look = self._look(shard, ask.namespace_id, ask.is_deep)
                    copies[shard.id] = await read_copy(look, before.get(shard.id))
                self._copies[ask.namespace_id] = copies
        except StoreError as error:
            build.failure = unavailable(f"region {self._name} cannot read what it has now: {error}")
        except CallerError as error:
            build.failure = error
        finally:
            build.is_ended.set()

    async def nodes(self, ask: NodesAsk) -> NodesTold:
        copies = self._copies.get(ask.namespace_id, {})
        children: dict[str, dict[str, bytes]] = {}
        for prefix in ask.prefixes:
            sums = add_up(copy.tree.children(prefix) for copy in copies.values())
            children[prefix] = {name: _told(item) for name, item in sums.items()}
            await asyncio.sleep(0)
        return NodesTold(sorted(copies), children)

    # --- workflow ids -----------------------------------------------------------------------------------------------------

    async def facts(self, ask: FactsAsk) -> FactsTold:
        by_shard: dict[int, list[str]] = {}
        for workflow_id in ask.workflow_ids:
            number = self._history.shard_number(ask.namespace_id, workflow_id)
            by_shard.setdefault(number, []).append(workflow_id)
        found: list[WorkflowFacts] = []
        left: list[str] = []
        size = 0
        for shard in self._shards():
            wanted = by_shard.get(shard.id, [])
            copy = self._copies.get(ask.namespace_id, {}).get(shard.id)
            if wanted and copy is not None:
                copy.mark = None  # it was not equal: whatever the reason was, the next tree shall have it right
            look = self._look(shard, ask.namespace_id, ask.is_deep)
            for start in range(0, len(wanted), WORKFLOWS_AT_ONCE):
                some = wanted[start : start + WORKFLOWS_AT_ONCE]
                if size > self._limits.answer_bytes_max:
                    left += some
                    continue
                try:
                    facts = await read_workflows(look, some, self._told_to(ask.peer, ask.namespace_id, shard))
                except StoreError as error:
                    raise unavailable(f"region {self._name} cannot read what it has now: {error}") from error
                size += len(msgspec.msgpack.encode(facts))
                found += facts
        return FactsTold(found, left)

    def _told_to(self, peer: str, namespace_id: str, shard: Shard) -> int:
        """The position up to which the peer has acknowledged what this shard told it."""
        sender = self._region.senders.get(peer)
        feed = None if sender is None else sender.feeds.get(shard.id)
        if feed is None or feed.shard is not shard or feed.outbox is None or not self._is_told(peer, namespace_id):
            return 0
        return feed.outbox.cursor

    async def resend(self, ask: ResendAsk) -> ResendTold:
        sender = self._region.senders.get(ask.peer)
        if sender is None:
            raise unavailable(f"region {self._name} is not linked with region {ask.peer}")
        count = 0
        for shard in self._shards():
            keys = [key for key in ask.keys if self._history.shard_number(key.namespace_id, key.workflow_id) == shard.id]
            feed = sender.feeds.get(shard.id)
            if not keys or feed is None or feed.shard is not shard:
                continue
            for key in keys if ask.are_contended else ():
                run = await shard.run(key)
                if run is not None and shard.replicas is not None:
                    shard.replicas.claim_later(run)
            feed.tell_again(keys)
            count += len(keys)
        sender.has_news()
        return ResendTold(count)

    async def serve(self, method: str, data: bytes) -> bytes:
        """For the other nodes of this region. Raises CallerError."""
        return await serve(self, method, data)


async def serve(side: Side, method: str, data: bytes) -> bytes:
    """A question as it comes over the wire. Raises CallerError."""
    answer: RootsTold | NodesTold | FactsTold | ResendTold
    if method == ROOTS:
        answer = await side.roots(msgspec.msgpack.decode(data, type=RootsAsk))
    elif method == NODES:
        answer = await side.nodes(msgspec.msgpack.decode(data, type=NodesAsk))
    elif method == FACTS:
        answer = await side.facts(msgspec.msgpack.decode(data, type=FactsAsk))
    else:
        assert method == RESEND, method
        answer = await side.resend(msgspec.msgpack.decode(data, type=ResendAsk))
    return msgspec.msgpack.encode(answer)


class There:
    """Somebody who answers over a wire. ask(method, data) raises CallerError."""

    def __init__(self, ask: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._ask = ask

    async def roots(self, ask: RootsAsk) -> RootsTold:
        return msgspec.msgpack.decode(await self._ask(ROOTS, msgspec.msgpack.encode(ask)), type=RootsTold)

    async def nodes(self, ask: NodesAsk) -> NodesTold:
        return msgspec.msgpack.decode(await self._ask(NODES, msgspec.msgpack.encode(ask)), type=NodesTold)

    async def facts(self, ask: FactsAsk) -> FactsTold:
        return msgspec.msgpack.decode(await self._ask(FACTS, msgspec.msgpack.encode(ask)), type=FactsTold)

    async def resend(self, ask: ResendAsk) -> ResendTold:
        return msgspec.msgpack.decode(await self._ask(RESEND, msgspec.msgpack.encode(ask)), type=ResendTold)


class ThisRegion:
    """All nodes of this region: `others` gives the ones beside this one. A shard that is on no node now makes the answer
    UNAVAILABLE: its runs would seem to be missing."""

    def __init__(self, node: ThisNode, shards_count: int, others: Callable[[], Iterable[Side]]) -> None:
        self._node, self._shards_count, self._others = node, shards_count, others

    def _all(self) -> list[Side]:
        return [self._node, *self._others()]

    async def roots(self, ask: RootsAsk) -> RootsTold:
        parts = await asyncio.gather(*(side.roots(ask) for side in self._all()))
        if not all(part.is_ready for part in parts):
            return RootsTold(False)
        shards = self._require_all(part.shards for part in parts)
        root = add_up({"": int.from_bytes(part.root, "big")} for part in parts)
        return RootsTold(True, shards, _told(root.get("", 0)), sum(part.runs_count for part in parts))

    async def nodes(self, ask: NodesAsk) -> NodesTold:
        parts = await asyncio.gather(*(side.nodes(ask) for side in self._all()))
        shards = self._require_all(part.shards for part in parts)
        if len(parts) == 1:
            return parts[0]
        children = {prefix: add_up(sums_of(part.children.get(prefix, {})) for part in parts) for prefix in ask.prefixes}
        told = {prefix: {name: _told(item) for name, item in sums.items()} for prefix, sums in children.items()}
        return NodesTold(shards, told)

    async def facts(self, ask: FactsAsk) -> FactsTold:
        parts = await asyncio.gather(*(side.facts(ask) for side in self._all()))
        found = {facts.workflow_id: facts for part in parts for facts in part.facts}
        left = [workflow_id for part in parts for workflow_id in part.left if workflow_id not in found]
        if missing := set(ask.workflow_ids) - set(found) - set(left):
            raise unavailable(f"the shards of {len(missing)} workflow ids are moving")
        return FactsTold(list(found.values()), left)

    async def resend(self, ask: ResendAsk) -> ResendTold:
        parts = await asyncio.gather(*(side.resend(ask) for side in self._all()))
        return ResendTold(sum(part.count for part in parts))

    def _require_all(self, parts: Iterable[Sequence[int]]) -> list[int]:
        counted = sorted(shard for part in parts for shard in part)
        if counted != list(range(self._shards_count)):
            raise unavailable("shards of this region are moving: what they have cannot be compared now")
        return counted


def sums_of(told: dict[str, bytes]) -> Sums:
    return {name: int.from_bytes(item, "big") for name, item in told.items()}


def _told(item: int) -> bytes:
    return item.to_bytes(16, "big")
