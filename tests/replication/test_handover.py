"""Graceful failovers: all or nothing, back to normal in time (I29), through the witness; and what the stream says of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from chaos.sim.loop import simulate
from cluster.namespaces.record import HANDOVER, NORMAL, NamespaceRecord
from replication.backlog import backlog_here, lag_notes_here, united_notes
from replication.failover_report import Backlog, FailoverReport, Kind, ShardBacklog, united
from replication.witness import LagNote, decode_owner
from tests.history.world import NAMESPACE
from tests.replication.failover_world import SETTINGS, TTL_S, FailoverRegion, FailoverWorld
from tests.replication.two_regions import Pair
from tests.replication.two_regions import play as play_pair

FREEZE_S = SETTINGS.handover.freeze_s
Story = Callable[[FailoverWorld], Coroutine[Any, Any, None]]


def play(world: FailoverWorld, story: Story, *namespaces: str) -> None:
    async def whole() -> None:
        await world.begin(*namespaces)
        await asyncio.sleep(TTL_S)
        await story(world)
        assert not world.failed, world.failed

    simulate(whole())


def lag_behind(region: FailoverRegion, peer: str, positions: int) -> None:
    """The peer lacks the last groups of each shard."""
    region.cursors[peer] = {number: last - positions for number, last in region.last_position.items()}


async def ship(region: FailoverRegion, peer: str, per_second: int) -> None:
    """The stream goes on, for ever."""
    while True:
        await asyncio.sleep(0.1)
        cursors = region.cursors[peer]
        for number, last in region.last_position.items():
            cursors[number] = min(last, cursors[number] + per_second // 10)


def states(region: FailoverRegion, name: str = "orders") -> list[tuple[str, int, int]]:
    """What the registry is told from now on: owner, version, state."""
    seen: list[tuple[str, int, int]] = []
    put = region.registry._rows.put

    async def noted(record: NamespaceRecord, expected_version: int) -> bool:
        done = await put(record, expected_version)
        if done and record.name == name:
            seen.append((record.active_cluster, record.failover_version, record.replication_state))
        return done

    region.registry._rows.put = noted  # type: ignore[method-assign]
    return seen


async def graceful(world: FailoverWorld, at: str = "one", to: str = "two", kind: Kind = Kind.GRACEFUL) -> FailoverReport:
    return await world[at].control.fail_over("orders", to, kind)


# --- graceful -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("has_witness", [True, False])
def test_a_graceful_failover_freezes_drains_and_switches(has_witness: bool) -> None:
    async def story(world: FailoverWorld) -> None:
        seen = states(world["one"])
        report = await graceful(world)
        assert report.is_done and report.reason == "" and report.events_behind == 0
        assert seen == [("one", 1, HANDOVER), ("two", 2, NORMAL)]
        assert world.owners() == {"one": "two", "two": "two"}, "the destination knows when it returns"
        assert 0 < report.freeze_ns < 0.5e9 and report.version == 2
        if has_witness:
            owner = decode_owner((await world.truth.list("owner/"))["owner/id of orders"].data)
            assert (owner.active, owner.version, owner.is_automatic) == ("two", 2, False)

    play(FailoverWorld("one", "two", has_witness=has_witness), story)


def test_it_is_not_frozen_before_the_destination_is_close() -> None:
    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        lag_behind(one, "two", 90)
        one.is_catching_up = True
        shipping = asyncio.get_running_loop().create_task(ship(one, "two", 20))
        seen = states(one)
        job = asyncio.get_running_loop().create_task(graceful(world))
        await world.until(lambda: all(one.last_position[n] == at for n, at in one.cursors["two"].items()), 10.0)
        await asyncio.sleep(1.0)
        assert seen == [], "a catch-up is under way still"
        one.is_catching_up = False
        report = await job
        shipping.cancel()
        assert report.is_done
        assert report.drain_ns > 5e9 and report.freeze_ns < 0.5e9

    play(FailoverWorld("one", "two"), story)


def test_the_switch_waits_for_what_was_written_up_to_the_freeze() -> None:
    """New groups come in all the time, also of other namespaces: those behind the freeze are not waited for."""

    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        lag_behind(one, "two", 5)
        job = asyncio.get_running_loop().create_task(graceful(world))
        await world.until(lambda: one.record().replication_state == HANDOVER, 2.0)
        await asyncio.sleep(0.3)
        assert not job.done()
        frozen_at = dict(one.last_position)
        one.last_position = {number: last + 1_000 for number, last in frozen_at.items()}
        one.cursors["two"] = {**frozen_at, 0: frozen_at[0] - 1}
        await asyncio.sleep(0.5)
        assert not job.done(), "one shard is a group behind"
        one.cursors["two"] = frozen_at
        assert (await job).is_done

    play(FailoverWorld("one", "two"), story)


def test_a_node_that_does_not_know_of_the_freeze_yet_holds_the_switch_back() -> None:
    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        one.unaware_until_s = asyncio.get_running_loop().time() + 2.0
        job = asyncio.get_running_loop().create_task(graceful(world))
        await asyncio.sleep(1.0)
        one.last_position = {number: last + 3 for number, last in one.last_position.items()}  # that node goes on writing
        lag_behind(one, "two", 3)
        await asyncio.sleep(2.0)
        assert not job.done(), "what it wrote must be there, too"
        lag_behind(one, "two", 0)
        assert (await job).is_done

    play(FailoverWorld("one", "two"), story)


def test_a_handover_that_cannot_be_drained_ends_in_time_and_nothing_has_changed() -> None:
    async def never_close(world: FailoverWorld) -> None:
        lag_behind(world["one"], "two", 90)
        seen = states(world["one"])
        report = await graceful(world)
        assert not report.is_done and "did not come close enough" in report.reason and "180 events" in report.reason
        assert seen == [] and report.freeze_ns == 0
        assert report.total_ns <= (SETTINGS.handover.timeout_s + 1) * 1e9

    async def stuck_in_freeze(world: FailoverWorld) -> None:
        lag_behind(world["one"], "two", 2)
        seen = states(world["one"])
        report = await graceful(world)
        assert not report.is_done and "did not have everything in time" in report.reason
        assert seen == [("one", 1, HANDOVER), ("one", 1, NORMAL)]
        assert FREEZE_S * 1e9 <= report.freeze_ns < (FREEZE_S + 1) * 1e9
        assert world.owners() == {"one": "one", "two": "one"}

    play(FailoverWorld("one", "two"), never_close)
    play(FailoverWorld("one", "two"), stuck_in_freeze)


def test_a_run_that_the_destination_could_not_take_in_stops_a_graceful_failover() -> None:
    async def story(world: FailoverWorld) -> None:
        world["two"].quarantined_count = 2
        report = await graceful(world)
        assert not report.is_done and "could not take in 2" in report.reason
        assert world["one"].record().replication_state == NORMAL

    play(FailoverWorld("one", "two"), story)


def test_a_destination_that_cannot_be_asked_stops_a_graceful_failover() -> None:
    async def story(world: FailoverWorld) -> None:
        world.cut("one", "two")
        report = await graceful(world)
        assert not report.is_done and "cannot be asked" in report.reason
        assert world["one"].record().replication_state == NORMAL

    play(FailoverWorld("one", "two"), story)


def test_a_handover_whose_node_dies_is_given_up_when_its_time_is_over() -> None:
    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        lag_behind(one, "two", 2)
        await_freeze = asyncio.get_running_loop().create_task(one.inside(lambda: graceful(world)))
        await world.until(lambda: one.record().replication_state == HANDOVER, 2.0)
        began_s = asyncio.get_running_loop().time()
        world.kill("one")
        await one.start()
        await_freeze.cancel()
        assert one.record().replication_state == HANDOVER
        await world.until(lambda: one.record().replication_state == NORMAL, 30.0)
        took_s = asyncio.get_running_loop().time() - began_s
        assert FREEZE_S < took_s < FREEZE_S + SETTINGS.handover.confirm_s + 2.0
        assert one.record().active_cluster == "one"
        lag_behind(one, "two", 0)
        assert (await graceful(world)).is_done

    play(FailoverWorld("one", "two"), story)


def test_a_handover_that_is_ended_from_outside_does_not_switch() -> None:
    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        lag_behind(one, "two", 2)
        job = asyncio.get_running_loop().create_task(graceful(world))
        await world.until(lambda: one.record().replication_state == HANDOVER, 2.0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert one.record().replication_state == NORMAL

    play(FailoverWorld("one", "two"), story)


def test_two_handovers_of_one_namespace_do_not_get_in_each_others_way() -> None:
    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        lag_behind(one, "two", 2)
        first = asyncio.get_running_loop().create_task(graceful(world))
        await world.until(lambda: one.record().replication_state == HANDOVER, 2.0)
        second = await graceful(world, to="three")
        assert not second.is_done and "a handover is under way" in second.reason
        assert one.record().replication_state == HANDOVER and one.record().handover_to == "two"
        lag_behind(one, "two", 0)
        assert (await first).is_done

    play(FailoverWorld("one", "two", "three"), story)


def test_the_destination_that_does_not_confirm_hears_of_it_later() -> None:
    async def story(world: FailoverWorld) -> None:
        one, two = world["one"], world["two"]
        put = one.registry._rows.put

        async def cuts_after(record: NamespaceRecord, expected_version: int) -> bool:
            done = await put(record, expected_version)
            if record.active_cluster == "two":
                world.cut("one", "two")
            return done

        one.registry._rows.put = cuts_after  # type: ignore[method-assign]
        report = await graceful(world)
        assert report.is_done and "two has not confirmed it yet" in report.reason
        await world.until(lambda: two.record().active_cluster == "two", TTL_S)  # the witness says so

    play(FailoverWorld("one", "two"), story)


# --- the witness ----------------------------------------------------------------------------------------------------------------
def test_without_its_witness_a_region_hands_nothing_over_and_forces_only_on_the_operators_responsibility() -> None:
    async def story(world: FailoverWorld) -> None:
        for region in world.regions.values():
            region.way.is_cut = True
        report = await graceful(world)
        assert not report.is_done and "the witness cannot be asked" in report.reason
        assert world["one"].record().replication_state == NORMAL
        forced = await graceful(world, at="two", kind=Kind.FORCED)
        assert not forced.is_done and "it could not be forced" in forced.reason
        own = await world["two"].control.fail_over("orders", "two", Kind.FORCED, without_witness=True)
        assert own.is_done and world.owners() == {"one": "two", "two": "two"}

    play(FailoverWorld("one", "two"), story)


def test_a_witness_that_answers_late_in_the_freeze_still_lets_the_handover_succeed() -> None:
    async def story(world: FailoverWorld) -> None:
        one = world["one"]
        seen = states(one)
        lag_behind(one, "two", 2)
        job = asyncio.get_running_loop().create_task(graceful(world))
        await world.until(lambda: one.record().replication_state == HANDOVER, 2.0)
        one.way.is_cut = True
        lag_behind(one, "two", 0)
        await asyncio.sleep(2.5)
        one.way.is_cut = False
        assert (await job).is_done
        assert seen == [("one", 1, HANDOVER), ("two", 2, NORMAL)]

    play(FailoverWorld("one", "two"), story)


def test_two_operators_who_force_at_the_same_moment_make_one_owner_per_version() -> None:
    async def story(world: FailoverWorld) -> None:
        world.cut("one", "two")
        world.cut("one", "three")
        world.cut("two", "three")
        reports = await asyncio.gather(graceful(world, "two", "two", Kind.FORCED), graceful(world, "three", "three", Kind.FORCED))
        versions = {report.version: report.to for report in reports if report.is_done}
        assert versions and len(versions) == sum(report.is_done for report in reports)
        await world.until(lambda: len(set(world.owners().values())) == 1, TTL_S)
        owner = versions[max(versions)]
        assert set(world.owners().values()) == {owner}

    play(FailoverWorld("one", "two", "three"), story)


def test_a_region_that_missed_failovers_looks_at_the_witness_before_it_forces_one() -> None:
    async def story(world: FailoverWorld) -> None:
        world.cut("one", "two")
        world.cut("one", "three")
        world["one"].way.is_cut = True
        for to, version in (("two", 2), ("three", 3), ("two", 12)):
            assert (await graceful(world, "two", to, Kind.FORCED)).version == version
        world["one"].way.is_cut = False
        assert world["one"].record().failover_version == 1
        report = await graceful(world, "one", "three", Kind.FORCED)
        assert report.is_done and report.version == 13, "3 was issued already"

    play(FailoverWorld("one", "two", "three"), story)


# --- what the stream says ------------------------------------------------------------------------------------------------------
def test_a_region_with_a_shard_that_is_open_nowhere_is_not_known_to_be_drained() -> None:
    shard = ShardBacklog(last_position=5, cursor=5, events=0, is_catching_up=False, is_frozen=True)
    half, other = Backlog(2, {0: shard}), Backlog(2, {1: shard}, oldest_at=7)
    assert (half.missing, half.is_frozen, half.has_passed({0: 5, 1: 5})) == ([1], False, False)
    both = united([half, other])
    assert (both.missing, both.is_frozen, both.has_passed({0: 5, 1: 5}), both.oldest_at) == ([], True, True, 7)
    assert not both.has_passed({0: 6})
    assert not united([half, Backlog(2, {1: msgspec.structs.replace(shard, is_frozen=False)})]).is_frozen


def test_the_lag_of_a_region_is_that_of_its_nodes_together_and_unknown_when_one_does_not_know() -> None:
    one = {"two": LagNote(3, 5, False, {"a": 3}), "three": LagNote()}
    other = {"two": LagNote(4, 9, True, {"a": 1, "b": 3})}
    assert united_notes([one, other]) == {"two": LagNote(7, 9, True, {"a": 4, "b": 3})}
    assert united_notes([]) == {}


def test_the_senders_of_a_node_say_what_the_peer_lacks_and_when_it_has_everything() -> None:
    record = NamespaceRecord(
        id=NAMESPACE.id, name="n", retention_ns=1, created_at=1, is_global=True, clusters=["one", "two"], active_cluster="one",
        failover_version=1,
    )  # fmt: skip

    async def story(pair: Pair) -> None:
        def left(frozen: bool = False) -> Backlog:
            seen = msgspec.structs.replace(record, replication_state=HANDOVER if frozen else NORMAL)
            return backlog_here(pair.one.region, seen, "one", "two", pair.one.shards_count)

        await pair.one.start("before")
        await pair.agree()
        assert left().missing == [] and left().events == 0 and not left().is_catching_up
        targets = {number: shard.last_position for number, shard in left().shards.items()}
        assert left().has_passed(targets) and not left().is_frozen and left(frozen=True).is_frozen
        pair.is_linked = False
        pair.cut()
        for number in range(5):
            await pair.one.start(f"w{number}")
        await asyncio.sleep(1.0)
        behind = left()
        assert behind.events >= 5 and behind.positions > 0 and behind.oldest_at > 0
        targets = {number: shard.last_position for number, shard in behind.shards.items()}
        assert not behind.has_passed(targets)
        (note,) = lag_notes_here(pair.one.region, pair.one.clock.now_ns()).values()
        assert note.events == behind.events == note.events_of(NAMESPACE.id) and note.oldest_ns >= 10**9
        pair.is_linked = True
        await pair.agree()
        assert left().has_passed(targets) and left().events == 0
        assert backlog_here(pair.one.region, record, "one", "nine", 3).missing == [0, 1, 2], "a region that is told nothing"

    play_pair(story)
