"""Leases without clocks: whatever the delays, an owner never acknowledges what an observer may have taken.

The oracle sees what nobody in the story sees: the witness's registers at the moment of an acknowledgement.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.sim.loop import running_loop, simulate
from chaos.sim.rand import SimClock, SimIds, Streams
from cluster.stores.memory import MemoryStore
from replication import failover
from replication.failover import Ownership, Regions, State
from replication.witness import (
    WitnessError,
    decode_heartbeat,
    decode_owner,
    owner_key,
    region_key,
)
from replication.witness_lease import DRIFT_SHARE, LeaseObserver, LeaseSettings, Life, OwnLease
from replication.witness_owners import NOBODY, Owners, adopted
from replication.witness_store import StoreWitness
from tests.replication.failover_world import WayToWitness

TTL_S = 10.0
REGIONS = Regions({"one": 1, "two": 2, "three": 3}, 10, frozenset(("one", "two", "three")), are_linked=True)
NAMESPACE = "n"


class Draw(msgspec.Struct, frozen=True):
    seed: int
    delay_s: float = 0.5
    failing: float = 0.1
    drift: float = 0.0
    pauses: float = 0.05  # how often a party stands still for up to 2 ttl


class Lifetime:
    """A strict owning region of two nodes, and two regions that would take its namespace. Each has its own clock and its own way
    to the witness, and may stand still at any await."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.streams = draw, Streams(draw.seed)
        self.truth = StoreWitness(MemoryStore())
        self.settings = LeaseSettings(ttl_s=TTL_S, is_strict=True)
        self.ownership = Ownership(active="one", version=1, state=State.NORMAL)  # as the records of region one say
        self.acknowledged_count = self.taken_count = self.terms_count = 0
        self.wrong: list[str] = []
        self.ways = {name: WayToWitness(self.truth, self.streams(name), self._delay_s(), draw.failing) for name in
                     ("a", "b", "two", "three")}  # fmt: skip

    def _delay_s(self) -> float:
        """Each way has its own: a slow owner and a quick observer are the interesting ones."""
        return self.draw.delay_s * self.streams("delays").choice((0.05, 0.3, 1.0))

    def clock(self, name: str) -> Callable[[], float]:
        loop, stream = running_loop(), self.streams(f"clock of {name}")
        rate, offset = 1 + stream.uniform(-self.draw.drift, self.draw.drift), stream.uniform(0, 1_000)
        return lambda: offset + loop.time() * rate

    def owners(self, name: str) -> Owners:
        return Owners(self.ways[name], "one" if name in ("a", "b") else name, SimClock(running_loop().now_ns),
                      SimIds(self.streams(f"ids {name}")))  # fmt: skip

    async def pause(self, stream: random.Random, pause_s: float) -> None:
        is_long = stream.random() < self.draw.pauses
        await asyncio.sleep(stream.uniform(0, 2 * TTL_S) if is_long else pause_s)

    # --- region one -------------------------------------------------------------------------------------------------------------
    def leads(self, name: str) -> bool:
        """Shard 0 moves between the nodes now and then, and for a moment both believe that they have it."""
        turn, within_s = divmod(running_loop().time(), 17.0)
        return name == ("a", "b")[int(turn) % 2] or within_s < 2.0

    async def live(self, name: str, lease: OwnLease) -> None:
        owners, stream = self.owners(name), self.streams(f"pauses of {name}")
        while True:
            is_leading = self.leads(name)
            try:
                if is_leading and not await lease.renew():
                    owner = await owners.confirm(NAMESPACE, self.ownership) if self.ownership.active == "one" else None
                    if owner is not None:
                        self.ownership = adopted(self.ownership, owner)
                    await self.pause(stream, 0.0)
                    self.terms_count += await lease.confirm()
                if not is_leading:
                    await lease.look()
                if lease.should_refresh and lease.latest is not None:
                    term = lease.latest.term
                    await self.pause(stream, 0.01)  # the records of the region are read
                    lease.trust(term)
            except WitnessError:
                await asyncio.sleep(0.2)
            await self.pause(stream, self.settings.renew_s if is_leading else self.settings.look_s)

    async def acknowledge(self, name: str, lease: OwnLease) -> None:
        """Writes become durable all the time; the predicate is asked in the step of the acknowledgement."""
        stream = self.streams(f"writes of {name}")
        while True:
            await asyncio.sleep(stream.uniform(0, 0.3))
            if self.ownership.active == "one" and lease.is_held:
                self.acknowledged_count += 1
                await self._check(name)

    async def _check(self, name: str) -> None:
        beat = await self.truth.read(region_key("one"))  # nothing is waited for: it is the truth of this step
        owner = await self.truth.read(owner_key(NAMESPACE))
        assert beat is not None and owner is not None
        life, owned = decode_heartbeat(beat.data), decode_owner(owner.data)
        if life.ended_by or not life.is_confirmed or owned.active != "one":
            self.wrong.append(f"{name} acknowledged at {running_loop().time():.3f}: {life} {owned}")

    # --- who would take it ------------------------------------------------------------------------------------------------------
    async def observe(self, name: str, observer: LeaseObserver) -> None:
        owners, stream = self.owners(name), self.streams(f"pauses of {name}")
        while True:
            try:
                await observer.look()
                if observer.sighting("one").life in (Life.EXPIRED, Life.ENDED) and await observer.end("one"):
                    await self.pause(stream, 0.0)
                    owner, version = (await owners.all()).get(NAMESPACE, NOBODY)
                    known = Ownership(active="one", version=1) if owner is None else owner.ownership()
                    if known.active == "one" and await observer.is_ended_still("one"):
                        await self.pause(stream, 0.0)
                        normal = msgspec.structs.replace(known, state=State.NORMAL)
                        decided = failover.fail_over(normal, name, REGIONS, name, 0)
                        self.taken_count += await owners.swap(NAMESPACE, decided, "one", True, version)
            except WitnessError:
                await asyncio.sleep(0.2)
            await self.pause(stream, self.settings.look_s)

    async def run(self, seconds: float, silent: tuple[float, float] | None = None) -> None:
        one = OwnLease(self.ways["a"], "one", "a", self.settings, self.clock("a"))
        other = OwnLease(self.ways["b"], "one", "b", self.settings, self.clock("b"))
        loop = asyncio.get_running_loop()
        observers = {name: LeaseObserver(self.ways[name], name, self.settings, self.clock(name)) for name in ("two", "three")}
        jobs = [loop.create_task(job) for job in (
            self.live("a", one), self.live("b", other), self.acknowledge("a", one), self.acknowledge("b", other),
            *(self.observe(name, observer) for name, observer in observers.items()),
        )]  # fmt: skip
        if silent is not None:
            await asyncio.sleep(silent[0])
            self.ways["a"].is_cut = self.ways["b"].is_cut = True
            await asyncio.sleep(silent[1])
            self.ways["a"].is_cut = self.ways["b"].is_cut = False
            seconds -= sum(silent)
        await asyncio.sleep(seconds)
        for job in jobs:
            job.cancel()
        for ended in await asyncio.gather(*jobs, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
        assert not self.wrong, self.wrong[:3]


def holds(lease: OwnLease) -> bool:
    return lease.is_held


def _live(draw: Draw, seconds: float = 120.0, silent: tuple[float, float] | None = None) -> Lifetime:
    lifetimes: list[Lifetime] = []

    async def story() -> None:
        lifetimes.append(Lifetime(draw))
        await lifetimes[0].run(seconds, silent)

    simulate(story())
    return lifetimes[0]


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Draw,
        seed=st.integers(0, 1 << 30),
        delay_s=st.sampled_from([0.0, 0.1, 1.0, 3.0, 12.0]),
        failing=st.sampled_from([0.0, 0.1, 0.4]),
        pauses=st.sampled_from([0.0, 0.05, 0.3]),
        drift=st.sampled_from([0.0, DRIFT_SHARE / 2]),
    )
)
def test_nothing_is_acknowledged_after_an_observer_has_declared_the_lease_expired(draw: Draw) -> None:
    _live(draw)


def test_the_property_is_about_something() -> None:
    """In these stories leases end, namespaces are taken, owners return in time, and mostly something is acknowledged."""
    lives = [_live(Draw(seed=seed, failing=0.2, pauses=0.2), 200.0) for seed in range(12)]
    assert sum(life.acknowledged_count for life in lives) > 1_000
    assert sum(life.taken_count for life in lives) > 5
    assert sum(life.terms_count for life in lives) > 15


def test_a_region_whose_way_to_the_witness_is_good_is_never_held_for_silent() -> None:
    life = _live(Draw(seed=5, delay_s=0.2, failing=0.0, pauses=0.0), 300.0)
    assert (life.terms_count, life.taken_count) == (1, 0)
    assert life.acknowledged_count > 2_500, "both nodes acknowledge nearly always"


def test_a_strict_region_that_cannot_reach_the_witness_is_silent_before_it_is_taken_and_hears_of_it_when_it_returns() -> None:
    life = _live(Draw(seed=6, delay_s=0.1, failing=0.0, pauses=0.0), 120.0, silent=(30.0, 40.0))
    assert life.taken_count == 1
    assert life.ownership.active in ("two", "three") and life.ownership.version > 1


def test_an_observer_that_was_blind_gives_everybody_a_whole_ttl() -> None:
    async def story() -> None:
        truth = StoreWitness(MemoryStore())
        way = WayToWitness(truth, random.Random(0))
        now_s = running_loop().time
        lease = OwnLease(truth, "one", "a", LeaseSettings(ttl_s=TTL_S), now_s)
        observer = LeaseObserver(way, "two", LeaseSettings(ttl_s=TTL_S), now_s)
        assert observer.sighting("one").life is Life.UNKNOWN
        await lease.renew()
        await observer.look()
        assert (observer.sighting("one").life, observer.sighting("other").life) == (Life.ALIVE, Life.NONE)
        await asyncio.sleep(3 * TTL_S)
        assert observer.sighting("one").life is Life.UNKNOWN
        await observer.look()
        assert observer.sighting("one").life is Life.ALIVE, "perhaps nobody could write while the witness was away"
        for _ in range(8):
            assert not await observer.end("one")
            await asyncio.sleep(TTL_S / 8)
            await observer.look()
        assert observer.sighting("one").life is Life.EXPIRED
        assert await observer.end("one") and await observer.is_ended_still("one")

    simulate(story())


class SlowAnswers:
    """A way on which a write takes effect at once, and its answer takes its time."""

    kind = "slow"

    def __init__(self, truth: StoreWitness) -> None:
        self._truth, self.answer_s = truth, 0.0
        self.read, self.list, self.close = truth.read, truth.list, truth.close

    async def swap(self, key: str, data: bytes, expected_version: int) -> int | None:
        version = await self._truth.swap(key, data, expected_version)
        await asyncio.sleep(self.answer_s)
        return version


def test_the_owner_counts_from_before_it_began_to_write() -> None:
    async def story() -> None:
        way, now_s = SlowAnswers(StoreWitness(MemoryStore())), running_loop().time
        lease = OwnLease(way, "one", "a", LeaseSettings(ttl_s=TTL_S), now_s)
        assert not await lease.renew() and await lease.confirm()
        way.answer_s = 5.0
        assert await lease.renew()
        assert lease.held_s <= TTL_S - 5.0

    simulate(story())


def test_a_node_that_led_counts_anothers_heartbeat_from_before_its_own() -> None:
    """The other node's may have come right after its own took effect, and that is known only to have been after it began."""

    async def story() -> None:
        truth, now_s = StoreWitness(MemoryStore()), running_loop().time
        way = SlowAnswers(truth)
        lease, other = (OwnLease(witness, "one", name, LeaseSettings(ttl_s=TTL_S), now_s) for witness, name in
                        ((way, "a"), (truth, "b")))  # fmt: skip
        assert not await lease.renew() and await lease.confirm()
        way.answer_s = 5.0
        renewing = asyncio.get_running_loop().create_task(lease.renew())
        await asyncio.sleep(1.0)
        other.trust(1)
        assert await other.renew()
        await renewing
        await lease.look()
        assert now_s() == 5.0
        assert lease.held_s <= TTL_S - 5.0 < other.held_s

    simulate(story())


def test_clocks_whose_rates_differ_within_the_bound_do_no_harm() -> None:
    """The owner's is slow, the observer's quick, and nothing else takes any time."""

    async def story(rate: float) -> float:
        truth, now_s = StoreWitness(MemoryStore()), running_loop().time
        lease = OwnLease(truth, "one", "a", LeaseSettings(ttl_s=TTL_S), lambda: now_s() * (1 - rate))
        observer = LeaseObserver(truth, "two", LeaseSettings(ttl_s=TTL_S), lambda: now_s() * (1 + rate))
        assert not await lease.renew() and await lease.confirm()
        while True:
            await observer.look()
            if observer.sighting("one").life is Life.EXPIRED:
                return lease.held_s
            await asyncio.sleep(0.001)

    assert simulate(story(0.0)) <= 0
    assert simulate(story(DRIFT_SHARE / 2)) <= 0
    assert simulate(story(DRIFT_SHARE)) > 0, "beyond the bound nothing is promised"


def test_a_heartbeat_that_comes_before_the_end_of_the_lease_wins() -> None:
    async def story() -> None:
        truth, now_s = StoreWitness(MemoryStore()), running_loop().time
        lease = OwnLease(truth, "one", "a", LeaseSettings(ttl_s=TTL_S), now_s)
        observer = LeaseObserver(truth, "two", LeaseSettings(ttl_s=TTL_S), now_s)
        assert not await lease.renew() and await lease.confirm()
        await observer.look()
        for _ in range(4):
            await asyncio.sleep(TTL_S / 4)
            await observer.look()
        assert observer.sighting("one").life is Life.EXPIRED and not holds(lease)
        assert await lease.renew() and holds(lease)
        assert not await observer.end("one")

    simulate(story())


def test_an_ended_lease_begins_a_new_term_that_must_be_confirmed() -> None:
    async def story() -> None:
        truth, now_s = StoreWitness(MemoryStore()), running_loop().time
        lease = OwnLease(truth, "one", "a", LeaseSettings(ttl_s=TTL_S), now_s)
        other_node = OwnLease(truth, "one", "b", LeaseSettings(ttl_s=TTL_S), now_s)
        observer = LeaseObserver(truth, "two", LeaseSettings(ttl_s=TTL_S), now_s)
        assert not await lease.renew() and not holds(lease)
        assert await lease.confirm() and holds(lease)
        for _ in range(6):
            await observer.look()
            await asyncio.sleep(TTL_S / 4)
        assert await observer.end("one")
        assert not await lease.renew() and not holds(lease)
        assert lease.latest is not None and lease.latest.term == 2
        await other_node.look()
        assert (other_node.should_refresh, holds(other_node)) == (False, False)
        assert await lease.confirm() and holds(lease)
        await other_node.look()
        assert (other_node.should_refresh, holds(other_node)) == (True, False)
        other_node.trust(2)
        assert holds(other_node)

    simulate(story())
