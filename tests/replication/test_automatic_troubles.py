"""Automatic failover under seeded troubles: deaths, cuts and a bad way to the witness, and one owner per version (I1)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from cluster.namespaces.record import NamespaceRecord
from replication.witness import Register, decode_heartbeat, decode_owner
from tests.replication.failover_world import SETTINGS, TTL_S, FailoverWorld
from tests.replication.test_automatic_regions import DETECTED_S_MAX, play


@pytest.mark.parametrize("seed", range(6))
def test_seeded_troubles_leave_one_owner_per_version_and_all_agree_at_the_end(seed: int) -> None:
    """Deaths, cuts and a bad way to the witness in random order; after that, quiet. Every register that was ever written is
    looked at: a version has one owner, and versions only rise (I1)."""
    world = FailoverWorld("one", "two", "three", seed=seed)
    automatic = msgspec.structs.replace(SETTINGS.automatic, cool_down_s=20.0)
    for region in world.regions.values():
        region.settings = msgspec.structs.replace(SETTINGS, automatic=automatic)
        region.way.delay_s, region.way.failing = 0.3, 0.1
        region.is_strict = seed % 2 == 0
    history: list[tuple[int, str]] = []
    swap = world.truth.swap

    async def noted(key: str, data: bytes, expected_version: int) -> int | None:
        version = await swap(key, data, expected_version)
        if version is not None and key.startswith("owner/"):
            owner = decode_owner(data)
            history.append((owner.version, owner.active))
        return version

    world.truth.swap = noted  # type: ignore[method-assign]

    async def story(world: FailoverWorld) -> None:
        draw = world.streams("troubles")
        for _ in range(12):
            name = draw.choice(world.names)
            what = draw.choice(("kill", "cut", "witness", "heal", "start"))
            if what == "kill" and sum(region.is_alive for region in world.regions.values()) > 1 and world[name].is_alive:
                world.kill(name)
            elif what == "cut":
                world.cut(name, draw.choice([other for other in world.names if other != name]))
            elif what == "witness":
                world[name].way.is_cut = True
            elif what == "heal":
                world.heal()
            elif not world[name].is_alive:
                await world[name].start()
            await asyncio.sleep(draw.uniform(1, 40))
        world.heal()
        for region in world.regions.values():
            region.way.failing = 0.0
            if not region.is_alive:
                await region.start()
        await asyncio.sleep(DETECTED_S_MAX + 3 * TTL_S)
        await world.until(lambda: len(set(world.owners().values())) == 1, 3 * TTL_S)
        assert len({region.record().failover_version for region in world.regions.values()}) == 1

    play(world, story)
    assert [version for version, _ in history] == sorted(version for version, _ in history)
    assert len({version for version, _ in history}) == len(set(history)), history


@pytest.mark.parametrize("moment", ["before the registers are read", "after they are read", "before a register is swapped"])
def test_a_strict_region_that_returns_in_the_middle_of_a_claim_keeps_what_it_acknowledges(moment: str) -> None:
    """Its lease was ended, it begins a new term, looks at its namespace, acknowledges: the claim must find itself refused."""
    world = FailoverWorld("one", "two")
    world["one"].is_strict = True

    async def story(world: FailoverWorld) -> None:
        one, two = world["one"], world["two"]
        read, swap = two.way.list, two.way.swap
        returned: list[float] = []

        async def comes_back() -> None:
            beat = decode_heartbeat((await world.truth.list("region/"))["region/one"].data)
            if returned or not beat.ended_by:
                return
            world.heal()
            returned.append(await world.until(lambda: one.control.may_acknowledge(one.record().id), 30.0))

        async def reads(prefix: str) -> Mapping[str, Register]:
            if prefix != "owner/":
                return await read(prefix)
            if moment == "before the registers are read":
                await comes_back()
            found = await read(prefix)
            if moment == "after they are read":
                await comes_back()
            return found

        async def swaps(key: str, data: bytes, expected_version: int) -> int | None:
            if key.startswith("owner/") and moment == "before a register is swapped":
                await comes_back()
            return await swap(key, data, expected_version)

        two.way.list, two.way.swap = reads, swaps  # type: ignore[method-assign]
        world.cut("one", "two")
        one.way.is_cut = True
        await world.until(lambda: bool(returned), 90.0)
        await asyncio.sleep(3 * TTL_S)
        assert world.owners() == {"one": "one", "two": "one"}
        assert one.record().failover_version == two.record().failover_version == 1
        assert one.control.may_acknowledge(one.record().id)

    play(world, story)


def test_a_fault_of_ours_in_one_look_is_reported_and_the_next_look_comes_all_the_same() -> None:
    world = FailoverWorld("one", "two")

    async def story(world: FailoverWorld) -> None:
        look, left = world["two"].control.automatic, [1]
        assert look is not None
        done = look._left

        def breaks_once(peer: str) -> list[NamespaceRecord]:
            if left.pop() if left else False:
                raise ZeroDivisionError("a fault of ours")
            return done(peer)

        look._left = breaks_once  # type: ignore[method-assign]
        await asyncio.sleep(TTL_S)
        assert world.failed == ["automatic failover: ZeroDivisionError('a fault of ours')"]
        world.failed.clear()
        world.kill("one")
        await world.until(lambda: world.owners() == {"two": "two"}, 60.0)

    play(world, story)
