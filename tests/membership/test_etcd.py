"""Members over a real etcd that is well: join, leave, crash, rejoin, refusals, flapping."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from aetcd import rpc  # type: ignore[import-untyped]

from cluster.membership.etcd_client import Compacted, Etcd, EtcdUnavailable, LeaseGone
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.flapping import FlapLimits
from cluster.membership.members import MembershipRefused, MembershipUnavailable, NodeState
from tests.membership.world import Cluster, node, until
from tests.services.etcd import EtcdServer, free_port


async def test_three_members_see_each_other_and_the_view_is_the_same_for_all(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        members = await cluster.join("a", "b", "c")
        await until(lambda: all(member.ids == ["a", "b", "c"] for member in members))
        assert len({member.view.nodes for member in members}) == 1
        assert not any(member.view.is_stale for member in members)


async def test_join_returns_when_the_node_is_in_its_own_view(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        (member,) = await cluster.join("a")
        assert member.view.nodes == (member.info,)


async def test_a_state_is_seen_by_all_and_who_leaves_is_gone_at_once(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        a, b = await cluster.join("a", "b")
        await a.membership.set_state(NodeState.LEAVING)
        await until(lambda: b.states() == {"a": NodeState.LEAVING, "b": NodeState.READY})
        await a.membership.leave()
        assert await until(lambda: b.ids == ["b"]) < 1.0, "the lease was revoked, not waited for"


async def test_a_crashed_node_is_gone_when_its_lease_runs_out_and_not_before(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        a, b = await cluster.join("a", "b")
        await until(lambda: b.ids == ["a", "b"])
        await a.crash()
        took_s = await until(lambda: b.ids == ["b"])
        assert 1.0 < took_s < cluster.settings.lease_ttl_s + 1.6


async def test_a_crashed_node_that_is_started_again_takes_its_id_over_at_once(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        a, b = await cluster.join("a", "b")
        await a.crash()
        again = await cluster.member("a").join()
        await until(lambda: b.view.node("a") == again.info)
        # The former life's lease runs out now, and takes nothing with it.
        await asyncio.sleep(cluster.settings.lease_ttl_s + 1.0)
        assert b.view.node("a") == again.info
        assert all("a" in [each.node_id for each in view.nodes] for view in b.views[-2:])


async def test_a_second_process_with_the_same_id_expels_the_first_which_does_not_fight_back(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        first = (await cluster.join("a"))[0]
        second = await cluster.member("a", address="elsewhere:7000").join()
        reason = await asyncio.wait_for(first.membership.expelled(), 5)
        assert "node id a was taken" in reason
        assert first.view.is_stale
        await asyncio.sleep(cluster.settings.lease_ttl_s)
        assert second.view.node("a") == second.info


@pytest.mark.parametrize(
    ("changes", "words"), [({"shard_count": 128}, "64 shards.*128"), ({"cluster_id": "other"}, "'cluster-1'.*'other'")]
)
async def test_a_node_of_another_cluster_is_refused_and_told_why(
    shared_etcd: EtcdServer, changes: dict[str, object], words: str
) -> None:
    async with Cluster(shared_etcd) as cluster:
        (a,) = await cluster.join("a")
        with pytest.raises(MembershipRefused, match=words):
            await cluster.member("b", **changes).join()
        assert a.ids == ["a"]


async def test_two_nodes_that_start_an_empty_prefix_at_once_agree_on_one_cluster(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        ways = [cluster.member("a"), cluster.member("b", shard_count=128)]
        results = await asyncio.gather(*(member.join() for member in ways), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Member", "MembershipRefused"]


async def test_without_etcd_a_join_ends_in_time_and_says_what_is_wrong() -> None:
    settings = EtcdSettings((f"127.0.0.1:{free_port()}",), join_timeout_s=1.5)
    cluster = Cluster.__new__(Cluster)
    cluster.settings, cluster.members = settings, []
    async with cluster:
        with pytest.raises(MembershipUnavailable, match=f"{settings.endpoints[0]}.*UNAVAILABLE"):
            await cluster.member("a").join()


async def test_a_dead_endpoint_among_several_is_passed_over(shared_etcd: EtcdServer) -> None:
    endpoints = (f"127.0.0.1:{free_port()}", shared_etcd.endpoint)
    async with Cluster(shared_etcd, endpoints=endpoints) as cluster:
        (member,) = await cluster.join("a")
        assert member.ids == ["a"]


async def test_a_lost_lease_is_taken_anew_and_the_node_is_back(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        a, b = await cluster.join("a", "b")
        await until(lambda: b.ids == ["a", "b"])
        lease = a.membership._lease
        assert lease is not None
        await a.membership._etcd.revoke(lease)  # as an operator may, or a pause longer than the lease
        await until(lambda: any("a" not in [each.node_id for each in view.nodes] for view in b.views[-3:]))
        await until(lambda: b.ids == ["a", "b"])
        assert b.view.node("a") == a.info
        await until(lambda: a.membership._lease not in (None, lease))  # b may see the entry before a hears of its own write


async def test_a_node_that_lost_its_lease_and_its_id_meanwhile_stops(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        (a,) = await cluster.join("a")
        await a.jobs.close()  # it hangs; its two loops stand still
        await cluster.member("a").join()
        a.membership._jobs = []
        a.membership._lease = None
        with pytest.raises(MembershipRefused, match="taken by another process"):
            await a.membership._register()


async def test_a_flapping_node_holds_itself_back_visibly_and_is_ready_later(shared_etcd: EtcdServer) -> None:
    flapping = FlapLimits(free_joins=2, hold_min_s=1.0)
    async with Cluster(shared_etcd, flapping=flapping) as cluster:
        (b,) = await cluster.join("b")
        for _ in range(2):
            (a,) = await cluster.join("a")
            assert a.states()["a"] is NodeState.READY
            await a.membership.leave()
        (a,) = await cluster.join("a")
        await until(lambda: b.states().get("a") is NodeState.JOINING)
        took_s = await until(lambda: b.states().get("a") is NodeState.READY)
        assert 0.5 < took_s < 2.0
        assert b.states() == {"a": NodeState.READY, "b": NodeState.READY}


async def test_a_state_wished_while_held_back_is_not_hidden(shared_etcd: EtcdServer) -> None:
    flapping = FlapLimits(free_joins=0, hold_min_s=30.0)
    async with Cluster(shared_etcd, flapping=flapping) as cluster:
        (b,) = await cluster.join("b")
        await until(lambda: b.states() == {"b": NodeState.READY})
        (a,) = await cluster.join("a")
        assert a.states() == {"a": NodeState.JOINING, "b": NodeState.READY}
        await a.membership.set_state(NodeState.LEAVING)
        await until(lambda: a.states() == {"a": NodeState.LEAVING, "b": NodeState.READY})


async def test_a_flapping_node_holds_back_for_nobody_where_it_is_the_only_one(shared_etcd: EtcdServer) -> None:
    flapping = FlapLimits(free_joins=0, hold_min_s=30.0)
    async with Cluster(shared_etcd, flapping=flapping) as cluster:
        (b,) = await cluster.join("b")
        await until(lambda: b.states() == {"b": NodeState.READY})
        (a,) = await cluster.join("a")
        assert a.states() == {"a": NodeState.JOINING, "b": NodeState.READY}
        await b.membership.leave()
        await until(lambda: a.states() == {"a": NodeState.READY})


async def test_an_entry_that_cannot_be_read_blinds_nobody(shared_etcd: EtcdServer) -> None:
    async with Cluster(shared_etcd) as cluster:
        (a,) = await cluster.join("a")
        etcd, prefix = a.membership._etcd, cluster.settings.nodes_prefix
        await etcd.put_if(prefix + "x", b"not json \xff", 0, 0)
        await etcd.put_if(prefix + "y", msgspec.json.encode(node("y", cluster_id="other")), 0, 0)
        await etcd.put_if(prefix + "z", msgspec.json.encode(node("not-z")), 0, 0)
        newer = msgspec.json.decode(msgspec.json.encode(node("w"))) | {"what a newer version adds": 1}
        await etcd.put_if(prefix + "w", msgspec.json.encode(newer), 0, 0)
        (b,) = await cluster.join("b")
        await until(lambda: a.ids == b.ids == ["a", "b", "w"])


async def test_a_watch_behind_a_compaction_says_so_and_the_members_are_read_again(
    shared_etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(shared_etcd) as cluster:
        a, _ = await cluster.join("a", "b")
        await until(lambda: a.ids == ["a", "b"])
        watch, behind = Etcd.watch, [1]

        def late_watch(self: Etcd, prefix: str, revision: int) -> object:
            """The first watch begins in the past, as after a long pause between reading and watching."""
            return watch(self, prefix, behind.pop() if behind else revision)

        now = (await a.membership._etcd.read(cluster.settings.prefix)).revision
        await a.membership._etcd._kv.Compact(rpc.CompactionRequest(revision=now))
        with pytest.raises(Compacted):
            async for _ in watch(a.membership._etcd, cluster.settings.prefix, 1):
                pass
        monkeypatch.setattr(Etcd, "watch", late_watch)
        c = await cluster.member("c").join()
        d = await cluster.member("d").join()
        assert not behind, "the first watch was behind"
        await until(lambda: c.ids == d.ids == a.ids == ["a", "b", "c", "d"])


async def test_a_lease_that_is_gone_is_told_apart_from_an_etcd_that_is_gone(shared_etcd: EtcdServer) -> None:
    etcd = Etcd((shared_etcd.endpoint,), 1.0)
    lease = await etcd.grant(5)
    await etcd.keep_alive(lease)
    await etcd.revoke(lease)
    for call in (etcd.keep_alive(lease), etcd.revoke(lease), etcd.put_if("/test/gone", b"", lease, 0)):
        with pytest.raises(LeaseGone):
            await call
    await etcd.close()
    nowhere = Etcd((f"127.0.0.1:{free_port()}",), 0.5)
    with pytest.raises(EtcdUnavailable):
        await nowhere.keep_alive(lease)
    await nowhere.close()


async def test_a_listener_that_fails_or_ends_disturbs_nobody(shared_etcd: EtcdServer) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    async with Cluster(shared_etcd) as cluster:
        (a,) = await cluster.join("a")
        heard: list[object] = []

        def fails(_: object) -> None:
            raise KeyError("a listener's own fault")

        a.membership.on_change(fails)
        end = a.membership.on_change(heard.append)
        await cluster.join("b")
        await until(lambda: a.ids == ["a", "b"] and len(heard) == 1)
        end()
        await cluster.join("c")
        await until(lambda: a.ids == ["a", "b", "c"] and a.views[-1] == a.view)
        assert len(heard) == 1
        assert reported and all(isinstance(failure, KeyError) for failure in reported)
        assert [view.number for view in a.views] == sorted({view.number for view in a.views})
