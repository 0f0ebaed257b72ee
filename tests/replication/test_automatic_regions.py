"""Automatic failover of whole regions that die, are cut off, return, and come too often (I1, I28)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from chaos.sim.loop import simulate
from replication.failover_report import Kind
from replication.witness import LagNote, WitnessUnavailable, decode_owner
from tests.replication.failover_world import SETTINGS, TTL_S, FailoverWorld

Story = Callable[[FailoverWorld], Coroutine[Any, Any, None]]


def play(world: FailoverWorld, story: Story, *namespaces: str, clusters: tuple[str, ...] = ()) -> None:
    async def whole() -> None:
        await world.begin(*namespaces, clusters=clusters)
        await asyncio.sleep(TTL_S)  # heartbeats, lag and registers are there
        await story(world)
        assert not world.failed, world.failed

    simulate(whole())


# Sight of the last heartbeat is up to ttl/8 old, the probe fails within its time, each look comes after ttl/8.
DETECTED_S_MAX = TTL_S + SETTINGS.automatic.failing_s + 3 * TTL_S / 8 + 3 * SETTINGS.automatic.probe_timeout_s


def test_a_region_that_dies_is_taken_over_by_the_other_within_the_bound() -> None:
    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        took_s = await world.until(lambda: world.owners() == {"two": "two"}, 60.0)
        assert TTL_S < took_s < DETECTED_S_MAX
        record = world["two"].record()
        assert (record.failover_version, record.replication_state, len(record.failover_history)) == (2, 1, 1)
        (move,) = world["two"].control.status().moves
        (report,) = move.reports
        assert (report.kind, report.moved_from, report.to, report.version) == (Kind.AUTOMATIC, "one", "two", 2)
        assert report.is_done
        assert report.events_behind == 0
        for phase in (report.detect_ns, report.decide_ns):
            assert 0 < phase < TTL_S * 1.5e9
        # The last sign of life that was seen is up to a heartbeat and a look older than the death.
        assert abs(move.first_record_ns / 1e9 - took_s) < TTL_S / 4 + TTL_S / 8 + 0.2
        assert world["two"].control.status().regions == {"one": "claiming"} or await _moved(world)

    play(FailoverWorld("one", "two"), story)


async def _moved(world: FailoverWorld) -> bool:
    await world.until(lambda: world["two"].control.status().regions == {"one": "moved"}, 5.0)
    return True


def test_the_region_that_returns_follows_and_nothing_fails_back_by_itself() -> None:
    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        await world.until(lambda: world.owners() == {"two": "two"}, 60.0)
        await world["one"].start()
        await world.until(lambda: world.owners() == {"one": "two", "two": "two"}, 2 * TTL_S)
        await asyncio.sleep(3_600)
        assert world.owners() == {"one": "two", "two": "two"}
        assert world["two"].control.status().regions == {"one": "watching"}
        assert world["one"].record().failover_version == world["two"].record().failover_version == 2

    play(FailoverWorld("one", "two"), story)


def test_where_it_is_switched_on_the_namespace_goes_back_gracefully_once_the_region_has_been_well() -> None:
    world = FailoverWorld("one", "two")
    automatic = msgspec.structs.replace(SETTINGS.automatic, fail_back_s=120.0)
    world["two"].settings = msgspec.structs.replace(SETTINGS, automatic=automatic)

    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        await world.until(lambda: world.owners() == {"two": "two"}, 60.0)
        await world["one"].start()
        took_s = await world.until(lambda: world.owners() == {"one": "one", "two": "one"}, 300.0)
        assert took_s > 120.0
        assert world["one"].record().failover_version == 11
        owner = decode_owner((await world.truth.list("owner/"))["owner/id of orders"].data)
        assert not owner.is_automatic and owner.moved_from == "two"

    play(world, story)


def test_a_region_that_cannot_reach_the_witness_never_takes_anything() -> None:
    """The minority: it sees neither the other region nor the witness, and both are well."""

    async def story(world: FailoverWorld) -> None:
        world.cut("one", "two")
        world["two"].way.is_cut = True
        await asyncio.sleep(600)
        assert world.owners() == {"one": "one", "two": "one"}
        assert world["two"].control.status().regions == {"one": "partitioned"}
        world.kill("one")
        await asyncio.sleep(600)
        assert world.owners() == {"two": "one"}, "also not when it would be right: it cannot know"
        world["two"].way.is_cut = False
        await world.until(lambda: world.owners() == {"two": "two"}, 2 * DETECTED_S_MAX)

    play(FailoverWorld("one", "two"), story)


def test_an_owner_that_is_cut_off_from_everybody_is_taken_over_and_stops_acknowledging_before() -> None:
    world = FailoverWorld("one", "two")
    world["one"].is_strict = True

    async def story(world: FailoverWorld) -> None:
        one = world["one"].control
        namespace_id = world["one"].record().id
        assert one.may_acknowledge(namespace_id)
        world.cut("one", "two")
        world["one"].way.is_cut = True
        silent_s = await world.until(lambda: not one.may_acknowledge(namespace_id), 60.0)
        assert silent_s < TTL_S
        took_s = await world.until(lambda: world["two"].record().active_cluster == "two", 60.0)
        assert took_s > 0, "a strict region is silent before it is taken over"
        assert world.owners() == {"one": "one", "two": "two"}, "it has not heard of it"
        world.heal()
        await world.until(lambda: world.owners() == {"one": "two", "two": "two"}, 2 * TTL_S)
        assert not one.may_acknowledge(namespace_id)
        local = "id of nothing"
        assert one.may_acknowledge(local), "a namespace of this region alone is its own business"

    play(world, story)


def test_a_witness_that_is_away_moves_nothing_and_stops_only_those_who_are_strict() -> None:
    world = FailoverWorld("one", "two")
    world["one"].is_strict = True

    async def story(world: FailoverWorld) -> None:
        ids = world["one"].record().id
        for region in world.regions.values():
            region.way.is_cut = True
        await asyncio.sleep(100)
        assert not world["one"].control.may_acknowledge(ids)
        assert world["two"].control.may_acknowledge(ids), "available mode goes on"
        world.heal()
        await world.until(lambda: world["one"].control.may_acknowledge(ids), TTL_S)
        await asyncio.sleep(100)
        assert world.owners() == {"one": "one", "two": "one"}
        assert world["one"].control.watch is not None and world["one"].control.watch.lease.latest is not None
        assert world["one"].control.watch.lease.latest.term == 1, "nobody ended its lease"

    play(world, story)


def test_a_region_that_serves_but_cannot_reach_the_witness_keeps_its_namespaces() -> None:
    async def story(world: FailoverWorld) -> None:
        world["one"].way.is_cut = True
        await asyncio.sleep(300)
        assert world.owners() == {"one": "one", "two": "one"}
        assert world["two"].control.status().regions == {"one": "suspect"}
        world["one"].is_healthy = False
        await world.until(lambda: world["two"].record().active_cluster == "two", 30.0)

    play(FailoverWorld("one", "two"), story)


def test_a_candidate_that_lacks_too_much_does_not_take_over() -> None:
    async def story(world: FailoverWorld) -> None:
        world["one"].lag = {"two": LagNote(events=9_000, by_namespace={"id of orders": 9_000, "id of bills": 3})}
        await asyncio.sleep(2 * TTL_S)
        world.kill("one")
        await world.until(lambda: world["two"].record("bills").active_cluster == "two", 60.0)
        await asyncio.sleep(120)
        assert world["two"].record("orders").active_cluster == "one"
        assert "9000 events" in world["two"].control.status().waiting["id of orders"]
        report = await world["two"].control.fail_over("orders", "two", Kind.FORCED)
        assert report.is_done and report.events_behind == 9_000, "an operator may decide to lose them"

    play(FailoverWorld("one", "two"), story, "orders", "bills")


@pytest.mark.parametrize(("unknown_s", "is_taken"), [(10.0, True), (90.0, False)])
def test_a_lag_that_its_owner_could_not_gather_grows_older_until_it_is_beyond_the_bound(unknown_s: float, is_taken: bool) -> None:
    async def story(world: FailoverWorld) -> None:
        world["one"].knows_lag = False  # one of its nodes is gone before the rest of the region goes
        await asyncio.sleep(unknown_s)
        world.kill("one")
        await asyncio.sleep(DETECTED_S_MAX)
        assert (world["two"].record().active_cluster == "two") is is_taken
        assert is_taken or "the lag was" in world["two"].control.status().waiting["id of orders"]

    play(FailoverWorld("one", "two"), story)


def test_a_namespace_is_moved_at_most_once_per_cool_down() -> None:
    async def story(world: FailoverWorld) -> None:
        moves: list[float] = []
        owner, loop = "one", asyncio.get_running_loop()
        began_s = loop.time()
        while loop.time() < began_s + 1_500:
            other = "two" if owner == "one" else "one"
            world.kill(owner)
            await asyncio.sleep(DETECTED_S_MAX + 5)
            if world.owners()[other] == other:
                moves.append(loop.time())
            await world[owner].start()
            await world.until(lambda: len(set(world.owners().values())) == 1, 3 * TTL_S)
            await asyncio.sleep(2 * TTL_S)
            owner = world["one"].record().active_cluster
        assert len(moves) >= 4
        apart_s = SETTINGS.automatic.cool_down_s - DETECTED_S_MAX
        assert all(later - earlier > apart_s for earlier, later in itertools.pairwise(moves)), moves
        versions = [one.record().failover_version for one in world.regions.values()]
        assert versions[0] == versions[1]

    play(FailoverWorld("one", "two"), story)


def test_of_two_candidates_the_first_of_the_list_takes_it_and_the_other_follows() -> None:
    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        await world.until(lambda: world.owners() == {"two": "three", "three": "three"}, 60.0)
        await asyncio.sleep(120)
        assert world.owners() == {"two": "three", "three": "three"}
        assert world["two"].record().failover_version == 3
        assert world["two"].control.status().moves == []

    play(FailoverWorld("one", "two", "three"), story, "orders", clusters=("one", "three", "two"))


def test_the_next_of_the_list_takes_it_when_the_first_lacks_too_much_or_is_away() -> None:
    async def story(world: FailoverWorld) -> None:
        world["one"].lag = {"two": LagNote(events=9_000), "three": LagNote(events=5)}
        await asyncio.sleep(2 * TTL_S)
        world.kill("one")
        took_s = await world.until(lambda: world.owners() == {"two": "three", "three": "three"}, 90.0)
        assert took_s > SETTINGS.automatic.stagger_s + TTL_S

    async def both_away(world: FailoverWorld) -> None:
        world.kill("one")
        world.kill("two")
        await world.until(lambda: world.owners() == {"three": "three"}, 90.0)

    play(FailoverWorld("one", "two", "three"), story)
    play(FailoverWorld("one", "two", "three"), both_away)


def test_two_regions_that_reach_the_witness_but_not_each_other_never_both_take_it() -> None:
    """I1 at the witness: whatever happens, one owner per version, and in the end all agree."""

    async def story(world: FailoverWorld) -> None:
        for one, other in (("one", "two"), ("one", "three"), ("two", "three")):
            world.cut(one, other)
        world["one"].way.is_cut = True
        await world.until(lambda: {world[name].record().active_cluster for name in ("two", "three")} == {"two"}, 120.0)
        assert world.owners() == {"one": "one", "two": "two", "three": "two"}, "three heard it from the witness"
        world.heal()
        await world.until(lambda: set(world.owners().values()) == {"two"}, 2 * TTL_S)
        assert {region.record().failover_version for region in world.regions.values()} == {2}

    world = FailoverWorld("one", "two", "three")
    for region in world.regions.values():  # at the same moment, without the order of the list
        automatic = msgspec.structs.replace(SETTINGS.automatic, stagger_s=0.0)
        region.settings = msgspec.structs.replace(SETTINGS, automatic=automatic)

    async def at_once(world: FailoverWorld) -> None:
        world.cut("two", "three")
        world.kill("one")
        await world.until(lambda: set(world.owners().values()) in ({"two"}, {"three"}), 120.0)
        (owner,) = set(world.owners().values())
        assert sum(len(move.reports) for region in world.regions.values() if region.is_alive
                   for move in region.control.status().moves) == 1  # fmt: skip
        assert world[owner].record().failover_version == {"two": 2, "three": 3}[owner]

    play(FailoverWorld("one", "two", "three"), story)
    play(world, at_once)


def test_five_hundred_namespaces_move_in_one_step_and_each_has_its_times() -> None:
    names = [f"n{number}" for number in range(500)]

    async def story(world: FailoverWorld) -> None:
        world["two"].way.delay_s = 0.02
        world.kill("one")
        took_s = await world.until(
            lambda: all(world["two"].record(name).active_cluster == "two" for name in names), DETECTED_S_MAX + 5.0
        )
        assert took_s < 30.0
        (move,) = world["two"].control.status().moves
        assert {report.namespace for report in move.reports} == set(names)
        assert all(report.record_ns > 0 and report.version == 2 for report in move.reports)
        registers = await world.truth.list("owner/")
        assert {decode_owner(register.data).active for register in registers.values()} == {"two"}

    play(FailoverWorld("one", "two"), story, *names)


def test_a_candidate_that_dies_between_the_witness_and_its_record_finds_the_namespace_its_own_when_it_returns() -> None:
    async def story(world: FailoverWorld) -> None:
        two = world["two"]
        put = two.registry._rows.put
        written: list[int] = []

        async def never(record: Any, expected_version: int) -> bool:
            if record.active_cluster == "two":
                written.append(record.failover_version)
                world["two"].is_alive = False
                await asyncio.sleep(3_600)
            return await put(record, expected_version)

        two.registry._rows.put = never  # type: ignore[method-assign]
        world.kill("one")
        await world.until(lambda: bool(written), 60.0)
        world.kill("two")
        await world["one"].start()
        await world["two"].start()
        await world.until(lambda: world.owners() == {"one": "two", "two": "two"}, 3 * TTL_S)
        assert world["one"].record().failover_version == 2

    play(FailoverWorld("one", "two"), story)


def test_a_namespace_that_opted_out_and_one_that_is_not_here_stay_where_they_are() -> None:
    async def story(world: FailoverWorld) -> None:
        rows = world["two"].registry._rows
        entry = await rows.read("still")
        assert await rows.put(msgspec.structs.replace(entry.record, data={"outlast.automatic-failover": "false"}), entry.version)
        world.kill("one")
        await world.until(lambda: world["two"].record("orders").active_cluster == "two", 60.0)
        await asyncio.sleep(100)
        assert world["two"].record("still").active_cluster == "one"

    play(FailoverWorld("one", "two"), story, "orders", "still")


def test_without_a_witness_nothing_moves_by_itself() -> None:
    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        await asyncio.sleep(600)
        assert world.owners() == {"two": "one"}
        status = world["two"].control.status()
        assert status.lease_held_s is None and status.regions == {}
        assert (await world["two"].control.fail_over("orders", "two", Kind.FORCED)).is_done

    play(FailoverWorld("one", "two", has_witness=False), story)


def test_wrong_wall_clocks_change_nothing() -> None:
    world = FailoverWorld("one", "two")
    world["one"].skew_ns, world["two"].skew_ns = 300 * 10**9, -300 * 10**9

    async def story(world: FailoverWorld) -> None:
        await asyncio.sleep(120)
        assert world.owners() == {"one": "one", "two": "one"}
        world.kill("one")
        assert await world.until(lambda: world.owners() == {"two": "two"}, 60.0) < DETECTED_S_MAX

    play(world, story)


def test_a_witness_that_breaks_in_the_middle_of_a_claim_leaves_the_rest_for_later() -> None:
    names = [f"n{number}" for number in range(40)]

    async def story(world: FailoverWorld) -> None:
        two = world["two"]
        swap, count = two.way.swap, 0

        async def breaks(key: str, data: bytes, expected_version: int) -> int | None:
            nonlocal count
            count += key.startswith("owner/")
            if key.startswith("owner/") and 10 < count < 60:
                raise WitnessUnavailable("away")
            return await swap(key, data, expected_version)

        two.way.swap = breaks  # type: ignore[method-assign]
        world.kill("one")
        await world.until(lambda: all(two.record(name).active_cluster == "two" for name in names), 120.0)
        moves = two.control.status().moves
        assert len(moves) >= 2 and sum(len(move.reports) for move in moves) == 40

    play(FailoverWorld("one", "two"), story, *names)
