"""The simulated registry under the real membership: leases run on virtual time, whatever a node does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chaos.sim.faults import FaultPlan
from chaos.sim.loop import owned_by, running_loop, simulate
from chaos.sim.rand import SimClock, SimIds, Streams
from chaos.sim.registry import RegistryFault, SimEtcd, SimMembership
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.members import NodeInfo, NodeState
from cluster.seams import JobSet

SETTINGS = EtcdSettings(("simulated",))


class Stage:
    def __init__(self, rates: dict[RegistryFault, float]) -> None:
        self.streams = Streams(3)
        self.etcd = SimEtcd(FaultPlan(self.streams("registry"), rates), 0.05)
        self.failed: list[str] = []

    async def join(self, name: str, life: int = 1) -> SimMembership:
        with owned_by(f"{name}#{life}"):
            clock, ids = SimClock(running_loop().now_ns), SimIds(self.streams(f"ids {name}"))
            spawn = JobSet(lambda job, failure: self.failed.append(f"{job}: {failure!r}"))
            member = SimMembership(self.etcd, name, SETTINGS, clock, ids, spawn, self.streams(f"calls {name}"))
            me = NodeInfo(name, f"{name}:1", ("history",), "", "1", 4, "cluster", 0, ids.uuid())
            await asyncio.get_running_loop().create_task(member.join(me))
            await member.set_state(NodeState.READY)
            return member


def staged(story: Callable[[Stage], Awaitable[None]], rates: dict[RegistryFault, float] | None = None) -> None:
    async def main() -> None:
        stage = Stage(rates or {})
        await story(stage)
        assert stage.failed == []

    simulate(main())


def names(member: SimMembership) -> list[str]:
    return [node.node_id for node in member.members().nodes]


def test_nodes_see_each_other_and_a_leave_is_seen_at_once() -> None:
    async def story(stage: Stage) -> None:
        one, two = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(0.2)
        assert names(one) == names(two) == ["a", "b"]
        assert all(node.state == NodeState.READY for node in one.members().nodes)
        await two.leave()
        await asyncio.sleep(0.2)
        assert names(one) == ["a"]

    staged(story)


def test_a_dead_node_is_gone_when_its_lease_is() -> None:
    async def story(stage: Stage) -> None:
        one, _ = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(0.2)
        running_loop().kill("b#1")
        await asyncio.sleep(3.0)
        assert names(one) == ["a", "b"]
        await asyncio.sleep(3.0)
        assert names(one) == ["a"]

    staged(story)


def test_a_paused_node_loses_its_lease_and_registers_again() -> None:
    async def story(stage: Stage) -> None:
        one, two = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(0.2)
        running_loop().pause("b#1")
        await asyncio.sleep(8.0)
        assert names(one) == ["a"] and names(two) == ["a", "b"]
        running_loop().resume("b#1")
        await asyncio.sleep(2.0)
        assert names(one) == names(two) == ["a", "b"]

    staged(story)


def test_an_outage_makes_views_stale_and_removes_nobody() -> None:
    async def story(stage: Stage) -> None:
        one, _ = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(0.2)
        stage.etcd.go_down()
        await asyncio.sleep(30.0)
        assert names(one) == ["a", "b"] and one.members().is_stale
        stage.etcd.come_up()
        await asyncio.sleep(3.0)
        assert names(one) == ["a", "b"] and not one.members().is_stale

    staged(story)


def test_members_of_a_registry_that_lost_its_data_linger_until_they_are_back() -> None:
    async def story(stage: Stage) -> None:
        one, two = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(0.2)
        stage.etcd.go_down()
        await asyncio.sleep(1.0)
        stage.etcd.come_up(has_lost_data=True)
        for _ in range(50):
            await asyncio.sleep(0.1)
            assert names(one) == names(two) == ["a", "b"]
        assert not one.members().lingering

    staged(story)


def test_a_restarted_node_is_not_taken_for_its_former_life_when_the_registry_loses_its_data() -> None:
    async def story(stage: Stage) -> None:
        one, _ = await stage.join("a"), await stage.join("b")
        for _ in range(10):  # revisions go up, so that those after the loss are smaller
            await one.set_state(NodeState.JOINING)
            await one.set_state(NodeState.READY)
        running_loop().kill("b#1")
        second = asyncio.create_task(stage.join("b", life=2))
        await asyncio.sleep(0.025)  # it has read who is there, among them its former life, and has not registered
        stage.etcd.go_down()
        await asyncio.sleep(1.0)
        stage.etcd.come_up(has_lost_data=True)
        await second
        await asyncio.sleep(2.0)
        assert names(one) == ["a", "b"]

    staged(story)


def test_a_node_that_cannot_reach_it_is_dropped_by_the_others_only() -> None:
    async def story(stage: Stage) -> None:
        one, two = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(0.2)
        stage.etcd.reach("b", False)
        await asyncio.sleep(12.0)
        assert names(one) == ["a"]
        assert names(two) == ["a", "b"] and two.members().is_stale
        stage.etcd.reach("b", True)
        await asyncio.sleep(5.0)
        assert names(one) == names(two) == ["a", "b"]

    staged(story)


def test_lost_calls_and_answers_are_survived() -> None:
    async def story(stage: Stage) -> None:
        one, two = await stage.join("a"), await stage.join("b")
        await asyncio.sleep(120.0)
        assert set(stage.etcd.plan.injected) == set(RegistryFault)
        stage.etcd.plan.active = False
        await asyncio.sleep(10.0)
        assert names(one) == names(two) == ["a", "b"]

    staged(story, dict.fromkeys(RegistryFault, 0.1))
