"""Members over a real etcd that is killed, hangs, comes back, or comes back without its data."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.membership.members import MembershipUnavailable, NodeState
from tests.membership.world import Cluster, stays, until
from tests.services.etcd import EtcdServer

ALL = ["a", "b", "c"]


async def started_again(etcd: EtcdServer) -> None:
    await asyncio.to_thread(etcd.start)


async def test_while_etcd_is_gone_the_last_view_stays_and_is_called_stale_and_nobody_is_lost_by_its_restart(
    etcd: EtcdServer,
) -> None:
    async with Cluster(etcd) as cluster:
        members = await cluster.join(*ALL)
        await until(lambda: all(member.ids == ALL for member in members))
        before = [member.view.nodes for member in members]
        etcd.kill()
        await until(lambda: all(member.view.is_stale for member in members))
        async with stays(lambda: all(member.ids == ALL for member in members)):
            await asyncio.sleep(cluster.settings.lease_ttl_s + 2.0)  # longer than every lease
            assert all(member.view.is_stale for member in members)
            await started_again(etcd)
            took_s = await until(lambda: not any(member.view.is_stale for member in members))
            await asyncio.sleep(cluster.settings.lease_ttl_s + 1.0)
        assert took_s < 3.0
        assert [member.view.nodes for member in members] == before


async def test_a_node_that_crashed_while_etcd_was_gone_is_gone_one_lease_after_its_return(etcd: EtcdServer) -> None:
    async with Cluster(etcd) as cluster:
        a, b, c = await cluster.join(*ALL)
        await until(lambda: a.ids == b.ids == ALL)
        etcd.kill()
        await c.crash()
        await asyncio.sleep(0.5)
        await started_again(etcd)
        took_s = await until(lambda: a.ids == b.ids == ["a", "b"])
        assert took_s < cluster.settings.lease_ttl_s + 2.5
        assert not a.view.is_stale


async def test_an_etcd_that_hangs_is_noticed_and_a_new_state_is_published_when_it_is_back(etcd: EtcdServer) -> None:
    async with Cluster(etcd) as cluster:
        a, b = await cluster.join("a", "b")
        await until(lambda: a.ids == ["a", "b"])
        etcd.pause()
        with pytest.raises(MembershipUnavailable):
            await a.membership.set_state(NodeState.LEAVING)
        await until(lambda: a.view.is_stale and b.view.is_stale, limit_s=12.0)
        assert a.ids == b.ids == ["a", "b"]
        etcd.resume()
        await until(lambda: not a.view.is_stale and not b.view.is_stale, limit_s=12.0)
        await until(lambda: b.states() == {"a": NodeState.LEAVING, "b": NodeState.READY}, limit_s=12.0)


async def test_an_etcd_that_comes_back_without_its_data_loses_nobody_who_is_still_there(etcd: EtcdServer) -> None:
    async with Cluster(etcd, linger_s=4.0) as cluster:
        a, b, c = await cluster.join(*ALL)
        await until(lambda: a.ids == b.ids == ALL)
        etcd.kill()
        await c.crash()  # and one that is not
        etcd.wipe()
        async with stays(lambda: set(a.ids) >= {"a", "b"} and set(b.ids) >= {"a", "b"}):
            await started_again(etcd)
            await until(lambda: not a.view.is_stale and not b.view.is_stale)
            await until(lambda: a.ids == b.ids == ["a", "b"], limit_s=8.0)
        assert any("c" in view.lingering for view in a.views), "c was kept for a while, since nobody could know"
        assert not a.view.lingering


async def test_leaving_without_etcd_ends_in_time(etcd: EtcdServer) -> None:
    async with Cluster(etcd) as cluster:
        (a,) = await cluster.join("a")
        etcd.kill()
        begun = time.monotonic()
        await a.membership.leave()
        assert time.monotonic() - begun < 2.0


async def test_a_node_that_starts_while_etcd_is_gone_joins_when_it_is_back(etcd: EtcdServer) -> None:
    async with Cluster(etcd) as cluster:
        etcd.kill()
        joining = asyncio.get_running_loop().create_task(cluster.member("a").join())
        await asyncio.sleep(0.5)
        assert not joining.done()
        await started_again(etcd)
        member = await asyncio.wait_for(joining, 5)
        assert member.ids == ["a"]
