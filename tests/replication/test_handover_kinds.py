"""Failovers of every kind, asked for in any region: forced, hybrid, many at once, refused ones; and the plan before."""

from __future__ import annotations

import msgspec
import pytest

from cluster.core.errors import CallerError, Code
from cluster.namespaces.record import NamespaceRecord
from replication.failover_ports import tell_owner
from replication.failover_report import FAIL_OVER, FailoverRequest, Kind
from tests.replication.failover_world import TTL_S, FailoverWorld
from tests.replication.test_handover import graceful, lag_behind, play, states


@pytest.mark.parametrize("at", ["two", "three"])
def test_any_region_may_be_asked_for_a_graceful_failover(at: str) -> None:
    async def story(world: FailoverWorld) -> None:
        report = await graceful(world, at=at)
        assert report.is_done and report.moved_from == "one" and report.freeze_ns > 0
        assert world.owners()["two"] == "two" and world[at].record().failover_version == 2

    play(FailoverWorld("one", "two", "three"), story)


def test_a_graceful_failover_whose_owner_cannot_be_reached_fails_with_the_reason_and_a_hybrid_one_is_forced() -> None:
    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        report = await graceful(world, at="two")
        assert not report.is_done and "its owner, one, cannot do it: region one cannot be reached" in report.reason
        assert world.owners() == {"two": "one"}
        hybrid = await graceful(world, at="two", kind=Kind.HYBRID)
        assert hybrid.is_done and hybrid.reason.startswith("not graceful: its owner, one")
        assert "not told yet: one" in hybrid.reason
        assert hybrid.kind is Kind.HYBRID and world.owners() == {"two": "two"}
        assert hybrid.record_ns > 0

    play(FailoverWorld("one", "two"), story)


def test_a_hybrid_failover_is_graceful_where_that_goes_and_forced_after_its_time() -> None:
    async def goes(world: FailoverWorld) -> None:
        report = await graceful(world, kind=Kind.HYBRID)
        assert report.is_done and report.reason == "" and report.events_behind == 0

    async def does_not(world: FailoverWorld) -> None:
        lag_behind(world["one"], "two", 90)
        report = await world["one"].control.fail_over("orders", "two", Kind.HYBRID, timeout_s=3.0)
        assert report.is_done and "not graceful: two did not come close enough" in report.reason
        assert 3e9 <= report.total_ns < 5e9
        assert world.owners() == {"one": "two", "two": "two"}

    play(FailoverWorld("one", "two"), goes)
    play(FailoverWorld("one", "two"), does_not)


def test_a_forced_failover_is_done_at_once_and_the_region_that_is_away_hears_of_it_when_it_returns() -> None:
    async def story(world: FailoverWorld) -> None:
        world.cut("one", "two")
        report = await graceful(world, at="two", kind=Kind.FORCED)
        assert report.is_done and report.total_ns < 1e9 and "not told yet: one" in report.reason
        assert report.events_behind == 0, "as the owner's last heartbeat said"
        await world.until(lambda: world.owners() == {"one": "two", "two": "two"}, TTL_S)  # the witness is reachable

    play(FailoverWorld("one", "two"), story)


def test_a_forced_failover_to_a_third_region_is_told_there() -> None:
    async def story(world: FailoverWorld) -> None:
        world.kill("one")
        report = await graceful(world, at="three", to="two", kind=Kind.FORCED)
        assert report.is_done and world.owners() == {"two": "two", "three": "two"}

    play(FailoverWorld("one", "two", "three", has_witness=False), story)


def test_failing_over_to_where_it_is_active_is_done_already() -> None:
    async def story(world: FailoverWorld) -> None:
        seen = states(world["one"])
        for kind in (Kind.GRACEFUL, Kind.FORCED, Kind.HYBRID):
            report = await graceful(world, to="one", kind=kind)
            assert report.is_done and "already" in report.reason
        assert seen == []

    play(FailoverWorld("one", "two"), story)


def test_what_cannot_be_asked_for_is_refused() -> None:
    async def story(world: FailoverWorld) -> None:
        control = world["one"].control
        for name, to, code in (("orders", "nine", Code.INVALID_ARGUMENT), ("nothing", "two", Code.NOT_FOUND),
                               ("local", "two", Code.FAILED_PRECONDITION)):  # fmt: skip
            with pytest.raises(CallerError) as refused:
                await control.fail_over(name, to, Kind.FORCED)
            assert refused.value.code is code

    world = FailoverWorld("one", "two")

    async def with_local(world: FailoverWorld) -> None:
        local = NamespaceRecord(id="l", name="local", retention_ns=1, created_at=1, clusters=["one"], active_cluster="one")
        assert await world["one"].registry._rows.put(local, 0)
        await story(world)

    play(world, with_local)


def test_a_region_that_does_not_share_the_namespace_may_neither_move_nor_see_it() -> None:
    async def story(world: FailoverWorld) -> None:
        await world.add_namespace("private", ("one", "two"))
        one = world["one"]
        stolen = failing = 0
        record = one.record("private")
        forged = msgspec.structs.replace(record.ownership, active="three", version=3)
        state = await tell_owner(world["three"].calls, "one", record.id, forged, 1.0)
        stolen += state.is_known
        with pytest.raises(CallerError):
            await world["three"].calls.ask("one", FAIL_OVER, msgspec.msgpack.encode(FailoverRequest(record.id, "two", 1.0)))
        failing += one.record("private").failover_version != 1
        assert (stolen, failing) == (0, 0)

    play(FailoverWorld("one", "two", "three"), story)


def test_a_version_that_belongs_to_another_region_is_not_taken_from_a_peer() -> None:
    async def story(world: FailoverWorld) -> None:
        record = world["one"].record()
        forged = msgspec.structs.replace(record.ownership, active="two", version=13)
        with pytest.raises(CallerError) as refused:
            await tell_owner(world["two"].calls, "one", record.id, forged, 1.0)
        assert refused.value.code is Code.FAILED_PRECONDITION and "belongs to three" in refused.value.message
        assert world["one"].record().failover_version == 1

    play(FailoverWorld("one", "two", "three"), story)


def test_many_namespaces_fail_over_so_many_at_once_and_one_that_cannot_does_not_stop_the_others() -> None:
    names = [f"n{number}" for number in range(60)]

    async def story(world: FailoverWorld) -> None:
        progress: list[str] = []
        reports = await world["one"].control.fail_over_all(
            [*names, "nothing"], "two", Kind.GRACEFUL, on_progress=lambda report: progress.append(report.namespace)
        )
        assert [report.namespace for report in reports] == [*names, "nothing"] and sorted(progress) == sorted([*names, "nothing"])
        assert [report.is_done for report in reports] == [True] * 60 + [False]
        assert "not found" in reports[-1].reason
        assert all(world["two"].record(name).active_cluster == "two" for name in names)

    play(FailoverWorld("one", "two"), story, *names)


# --- the plan ------------------------------------------------------------------------------------------------------------------
def test_a_plan_names_what_is_wrong_and_changes_nothing() -> None:
    async def good(world: FailoverWorld) -> None:
        seen = states(world["one"])
        checks = await world["one"].control.plan("orders", "two")
        assert all(check.ok for check in checks), checks
        assert {check.name for check in checks} == {
            "destination known", "member", "moves", "no handover", "version", "witness", "link", "quarantine", "lag",
        }  # fmt: skip
        assert seen == []
        assert {check.namespace for check in await world["two"].control.plan(None, "two")} == {"orders"}

    async def bad(world: FailoverWorld) -> None:
        one = world["one"]
        lag_behind(one, "two", 90)
        world["two"].quarantined_count = 3
        one.way.is_cut = True
        wrong = {check.name: check.reason for check in await one.control.plan("orders", "two") if not check.ok}
        assert wrong.keys() == {"witness", "quarantine", "lag"} and "180 events" in wrong["lag"]
        world.cut("one", "two")
        wrong = {check.name: check.reason for check in await one.control.plan("orders", "two") if not check.ok}
        assert "two does not answer" in wrong["link"]
        wrong = {check.name: check.reason for check in await one.control.plan("orders", "one") if not check.ok}
        assert "moves" in wrong
        wrong = {check.name: check.reason for check in await one.control.plan("orders", "nine") if not check.ok}
        assert {"destination known", "member", "link"} <= wrong.keys()

    play(FailoverWorld("one", "two"), good)
    play(FailoverWorld("one", "two"), bad)
