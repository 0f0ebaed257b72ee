"""Two regions of one node each, on stores in memory and virtual time, with different shard counts and a link that may fail.

    async def story(pair: Pair) -> None:
        await pair.one.start("w")
        await pair.agree()

    play(story)

Each is a tests.history World: calls, workers played by hand, crash and restart. The namespace is active in one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from chaos.sim.loop import running_loop, simulate
from chaos.sim.nodes import NodeDied, NodeSlot
from chaos.sim.rand import SimIds, Streams
from cluster.config import ShardConfig
from cluster.core.branches import history_hash, owner_of
from cluster.core.state import RunState, checksum, decode_state
from cluster.history.activation import Activation
from cluster.history.events import read_events
from cluster.history.regions import RunName
from cluster.history.run import Run
from cluster.history.service import HistoryService
from cluster.history.shard import Shard
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.stores.base import RunKey, ShardId
from cluster.tokens import Tokens, load_keys
from replication.limits import StreamLimits
from replication.link import Link, LinkDown
from replication.messages import FORMAT, Hello
from replication.region import Peer, Region
from replication.session import keep_linked, talk
from tests.history.world import NAMESPACE, Life, TickingClock, World
from tests.replication.lossy_link import End, Faults, link_pair

LIMITS = StreamLimits(resend_s=0.5, resend_s_max=2.0, cursor_save_s=0.2, backoff_s_max=0.5, catch_up_page_runs=3)
INITIAL = {"one": 1, "two": 2, "three": 3}


class View:
    """What a region believes of the namespace."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.active, self.failover_version = "one", 1
        self.hidden: set[RunName] = set()
        self.is_adopting = False

    def is_active(self, namespace_id: str) -> bool:
        return self.active == self.cluster

    def is_replicated(self, namespace_id: str) -> bool:
        return True

    def version(self, namespace_id: str) -> int:
        return self.failover_version

    def adopts_activities(self, namespace_id: str) -> bool:
        return self.is_adopting

    def is_ours(self, version: int) -> bool:
        return owner_of(version) in (0, INITIAL[self.cluster])


class RegionLife(Life):
    world: RegionWorld
    region: Region

    async def start(self) -> None:
        world = self.world
        ids = SimIds(Streams(self.number + 1_000 * INITIAL[world.name])("ids"))
        self.ids = ids
        self.tokens = Tokens(await load_keys(world.store, ids))
        self.matching = Matching(MatchingLimits(), world.clock, ids, self.spawn, host="test")
        self.history = HistoryService(
            store=world.store,
            clock=world.clock,
            ids=ids,
            spawn=self.spawn,
            namespaces=world.namespaces,
            matching=self.matching,
            visibility=world.visibility,
            tokens=self.tokens,
            shards_count=world.shards_count,
            owner=f"{world.name} {self.number}",
            config=world.config,
            limits=world.limits,
            regions=world.view,
        )
        self.region = Region(
            self.history, world.store, world.clock, self.spawn, lambda peer, namespace: True, world.stream_limits
        )
        for peer in world.peers:
            self.region.add_peer(Peer(peer, INITIAL[peer]))
        self.spawn(Activation(self.history, lambda: []).run(), "shards that open")
        await self.history.start()
        self.spawn(self.region.look_after_shards(), "shards")


class RegionWorld(World):
    def __init__(self, name: str, shards_count: int, peers: tuple[str, ...], config: ShardConfig | None = None) -> None:
        super().__init__(config=config, shards_count=shards_count)
        self.name = name
        self.peers = peers
        self.view = View(name)
        self.stream_limits = LIMITS
        self.ends: list[End] = []
        self.acknowledged: list[str] = []  # names of signals

    async def begin(self) -> None:
        if not hasattr(self, "_slot"):
            self.clock = TickingClock(running_loop().now_ns)
            self._slot = NodeSlot(self.name, self._build)
        await self._slot.start()

    async def _build(self, number: int) -> Life:
        life = RegionLife(self, number)
        await life.start()
        return life

    @property
    def region_life(self) -> RegionLife:
        life = self.life
        assert isinstance(life, RegionLife)
        return life

    @property
    def region(self) -> Region:
        return self.region_life.region

    @property
    def is_alive(self) -> bool:
        return self._slot.node is not None

    def hello(self) -> Hello:
        limits = self.stream_limits
        return Hello(
            self.name, f"id of {self.name}", INITIAL[self.name], 10, FORMAT, FORMAT, limits.credit_offers, limits.credit_bytes
        )

    def crash(self) -> None:
        super().crash()
        self.cut()

    def cut(self) -> None:
        for end in self.ends:
            end.close()
        self.ends.clear()

    def shard_for(self, workflow_id: str) -> Shard:
        return self.history._shards[self.history.shard_number(NAMESPACE.id, workflow_id)]

    async def current(self, workflow_id: str) -> Run:
        shard = self.shard_for(workflow_id)
        run = await self._slot.run_inside(lambda: shard.current(NAMESPACE.id, workflow_id), "look")
        assert run is not None, f"{workflow_id} has no current run in {self.name}"
        return run

    async def checkpoint(self) -> None:
        for shard in list(self.history._shards.values()):
            await self.inside(shard.checkpointer.write)

    async def all_runs(self) -> dict[str, tuple[str, bytes, bool, int]]:
        """Run id -> checksum, hash of the history as it can be read, whether it is current, events; deleted ones left out."""
        found: dict[str, tuple[str, bytes, bool, int]] = {}
        for number, shard in self.history._shards.items():
            rows = {row.key: row for row in await self.store.runs(ShardId(number), None, 10_000)}
            keys: set[RunKey] = set(rows) | set(shard.runs)
            for key in keys:
                run = shard.runs.get(key)
                state: RunState = run.state if run is not None else decode_state(rows[key].data)
                if state.is_deleted:
                    continue
                at_hand = run or await self.inside(partial(shard.run, key))
                assert at_hand is not None
                events = await read_events(self.store, shard.id, at_hand, 1, state.next_event_id - 1)
                digest = history_hash(events)
                assert digest == state.history_hash, f"the stored events of {key} in {self.name} are not those of its state"
                current = await self.inside(partial(shard.current, key.namespace_id, key.workflow_id))
                found[key.run_id] = checksum(state), digest, current is at_hand, len(events)
        return found


class Pair:
    """Regions "one" (active) and "two"; the first one dials."""

    def __init__(self, faults: Faults | None = None, counts: tuple[int, int] = (3, 7), config: ShardConfig | None = None) -> None:
        self.faults = faults or Faults()
        self.one = RegionWorld("one", counts[0], ("two",), config)
        self.two = RegionWorld("two", counts[1], ("one",), config)
        self.is_linked = True

    async def begin(self) -> None:
        await self.one.begin()
        await self.two.begin()
        self.dial()

    def dial(self) -> None:
        """One's life begins to dial; to be called again for each of its lives."""
        life = self.one.region_life
        slot = self.one._slot
        hello = self.one.hello()

        async def keep() -> None:
            await keep_linked(self._connect, hello, life.region, self.one.stream_limits, life.ids)

        asyncio.get_running_loop().create_task(_until_link_ends(slot.run_inside(keep, "link")))

    async def _connect(self) -> Link:
        if not self.is_linked or not self.two.is_alive:
            raise LinkDown("nobody is there")
        ours, theirs = link_pair(self.faults)
        self.one.ends.append(ours)
        self.two.ends.append(theirs)
        two, region = self.two, self.two.region
        work = two._slot.run_inside(lambda: talk(theirs, two.hello(), region, two.stream_limits), "accept")
        asyncio.get_running_loop().create_task(_until_link_ends(work))
        return ours

    def cut(self) -> None:
        self.one.cut()
        self.two.cut()

    async def restart(self, world: RegionWorld) -> None:
        await world.restart()
        if world is self.one:
            self.dial()

    def fail_over(self, to: RegionWorld, version: int) -> None:
        """Both know at once; see `views` for one that does not."""
        for world in (self.one, self.two):
            world.view.active, world.view.failover_version = to.name, version

    async def activate(self) -> None:
        for world in (self.one, self.two):
            await world.inside(partial(world.history.region_changed, NAMESPACE.id))

    async def agree(self, within_s: float = 120.0) -> None:
        """Waits until both have the same runs, states, histories and current runs, and the cursors say so."""
        until = asyncio.get_running_loop().time() + within_s
        while True:
            found = await self.one.all_runs(), await self.two.all_runs()
            if found[0] == found[1] and self.has_told_all():
                return
            assert asyncio.get_running_loop().time() < until, f"they do not agree:\n{difference(*found)}\n{self.lags()}"
            await asyncio.sleep(0.5)

    def has_told_all(self) -> bool:
        return all(
            lag.positions == 0 and not lag.is_catching_up and not lag.entries
            for world in (self.one, self.two)
            for by_shard in world.region.lag().values()
            for lag in by_shard.values()
        )

    def lags(self) -> str:
        return "\n".join(f"{world.name}: {world.region.lag()}" for world in (self.one, self.two))


def difference(one: dict[str, Any], two: dict[str, Any]) -> str:
    return "\n".join(
        f"{run_id}: {one.get(run_id)} | {two.get(run_id)}" for run_id in {**one, **two} if one.get(run_id) != two.get(run_id)
    )


async def _until_link_ends(job: Coroutine[Any, Any, Any]) -> None:
    """The link's jobs end with the link or with their life."""
    with suppress(LinkDown, NodeDied):
        await job


def play(story: Callable[[Pair], Coroutine[Any, Any, None]], pair: Pair | None = None) -> None:
    simulate(_play(story, pair or Pair()))


async def _play(story: Callable[[Pair], Coroutine[Any, Any, None]], pair: Pair) -> None:
    await pair.begin()
    await story(pair)
    for world in (pair.one, pair.two):
        assert not world.failed_jobs, world.failed_jobs
        if world.is_alive:
            world.crash()
