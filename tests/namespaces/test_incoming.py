"""What another region says of a namespace, taken into the registry: each row of incoming.py's table, and deletions."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from cluster.core.errors import CallerError, Code
from cluster.namespaces.incoming import Outcome
from cluster.namespaces.record import DELETED, NamespaceRecord
from cluster.namespaces.registry import NamespaceRegistry
from cluster.seams import SystemIds
from cluster.stores.faulty import Fault, FaultKind, FaultyStore
from cluster.stores.memory import MemoryStore
from replication import failover
from replication.failover import State
from tests.namespaces.registering import FixedClock, refusal, request
from tests.namespaces.two_regions import agree, global_request, region, shop, tell, wished


async def two(*names: str) -> tuple[NamespaceRegistry, NamespaceRegistry]:
    """c1 and c2; the namespace shop, made in c1, is in the regions named and known wherever it is."""
    one, other = await region("c1"), await region("c2")
    await one.register(global_request(*(names or ("c1", "c2"))))
    await tell(one, other)
    return one, other


async def test_a_namespace_that_is_registered_in_one_region_is_known_in_those_on_its_list() -> None:
    one, other = await two()
    assert await shop(other) == await shop(one)
    third = await region("c3")
    assert [taken.outcome for taken in await tell(one, third)] == [Outcome.NOT_FOR_US]
    assert [taken.outcome for taken in await tell(one, other)] == [Outcome.KNOWN]
    assert third.cached("shop") is None


async def test_a_failover_in_one_region_is_known_in_the_other_with_its_version() -> None:
    one, other = await two()
    await other.update(wished(active="c2"))
    (taken,) = await tell(other, one)
    assert taken.outcome is Outcome.CHANGED and not taken.has_news
    record = await shop(one)
    assert (record.active_cluster, record.failover_version, [each.version for each in record.failover_history]) == ("c2", 2, [2])
    assert (await tell(one, other))[0].outcome is Outcome.KNOWN


async def test_an_older_record_changes_nothing_and_is_answered_with_news() -> None:
    one, _ = await two()
    old = await shop(one)
    await one.update(wished(active="c2"))
    taken = await one.merge(old, "c2")
    assert (taken.outcome, taken.has_news) == (Outcome.KNOWN, True)
    assert taken.record is not None and taken.record.failover_version == 2


async def test_failovers_at_the_same_time_end_with_one_owner_everywhere() -> None:
    one, other, third = await region("c1"), await region("c2"), await region("c3")
    await one.register(global_request("c1", "c2", "c3"))
    await agree(one, other, third)
    await one.update(wished(active="c2"))
    await other.update(wished(active="c3"))
    await third.add_search_attributes("shop", {"Amount": 3})
    await agree(one, other, third)
    records = [await shop(each) for each in (one, other, third)]
    assert {(each.active_cluster, each.failover_version) for each in records} == {("c3", 3)}
    assert [each.version for each in records[0].failover_history] == [2, 3]
    assert all("Amount" in each.custom_search_attributes for each in records)
    schema = other.cached_schema(records[0].id)
    assert schema is not None and schema.type_of("Amount")


async def test_two_regions_with_one_initial_version_raise_an_alarm_and_nothing_is_written_over() -> None:
    one, _ = await two()
    before = await shop(one)
    forged = before.owned(msgspec.structs.replace(before.ownership, active="c2"))
    for named, told in ((forged, "belongs to c1"), (msgspec.structs.replace(forged, failover_version=4), "")):
        taken = await one.merge(named, "c2")
        assert taken.outcome is (Outcome.ALARM if told else Outcome.CHANGED) and told in taken.reason
        if told:
            assert await shop(one) == before
    fresh = await region("c3")
    assert (await fresh.merge(msgspec.structs.replace(forged, clusters=["c2", "c3"]), "c2")).outcome is Outcome.ALARM
    assert fresh.cached("shop") is None


async def test_a_region_that_is_not_on_the_list_cannot_write() -> None:
    one, _ = await two()
    before = await shop(one)
    moved = before.owned(msgspec.structs.replace(before.ownership, active="c2", version=2))
    taken = await one.merge(moved, "c3")
    assert taken.outcome is Outcome.NOT_MEMBER and await shop(one) == before
    fresh = await region("c2")
    assert (await fresh.merge(before, "c3")).outcome is Outcome.NOT_MEMBER


async def test_a_region_that_was_just_put_on_the_list_may_tell_the_others_itself() -> None:
    one, other, third = await region("c1"), await region("c2"), await region("c3")
    await one.register(global_request("c1", "c2"))
    await tell(one, other)
    await one.update(wished("c1", "c2", "c3"))
    await tell(one, third)
    await third.update(wished(active="c3"))
    assert [taken.outcome for taken in await tell(third, other)] == [Outcome.CHANGED]
    assert (await shop(other)).active_cluster == "c3"


async def test_a_name_that_belongs_to_another_namespace_here_is_not_taken_from_it() -> None:
    one, other = await region("c1"), await region("c2")
    mine = await other.register(request("shop"))
    await one.register(global_request("c1", "c2"))
    (taken,) = await tell(one, other)
    assert taken.outcome is Outcome.NAME_TAKEN and mine.id in taken.reason
    assert await shop(other) == mine
    await other.delete("shop")
    assert [each.outcome for each in await tell(one, other)] == [Outcome.CREATED]


async def test_local_namespaces_are_not_told_and_not_taken() -> None:
    one, other = await region("c1"), await region("c2")
    record = await one.register(request("shop"))
    assert await one.shared() == []
    assert (await other.merge(record, "c1")).outcome is Outcome.LOCAL
    await one.update(wished(promote=True))
    await one.update(wished("c1", "c2"))
    await tell(one, other)
    assert (await shop(other)).id == record.id


# --- deletion -----------------------------------------------------------------------------------------------------------------
async def test_a_deletion_is_carried_out_in_every_region_and_nothing_brings_the_namespace_back() -> None:
    told: list[str] = []

    async def on_delete(record: NamespaceRecord) -> None:
        told.append(record.name)

    one, other, third = await region("c1"), await region("c2", on_delete=on_delete), await region("c3")
    record = await one.register(global_request("c1", "c2", "c3"))
    await tell(one, other)
    assert (await refusal(other.delete("shop"))).code is Code.FAILED_PRECONDITION
    await one.delete("shop")
    await tell(one, other)
    assert (await refusal(other.by_name("shop"))).code is Code.NOT_FOUND
    assert told == [f"shop-deleted-{record.id[:5]}"]
    for registry in (one, other):
        await registry.forget(record.id)
    # c3 has heard nothing so far; an old message reaches it first, and its own one the others.
    assert (await third.merge(record, "c1")).outcome is Outcome.CREATED
    assert [taken.outcome for taken in await tell(third, one)] == [Outcome.GONE]
    assert [taken.outcome for taken in await tell(one, third)] == [Outcome.CHANGED]
    assert (await third.by_id(record.id)).state == DELETED
    await third.forget(record.id)
    assert (await third.merge(record, "c2")).outcome is Outcome.GONE
    assert (await third.register(request("shop"))).id != record.id


async def test_a_region_that_hears_only_of_the_end_remembers_it() -> None:
    one, third = await region("c1"), await region("c3")
    record = await one.register(global_request("c1", "c3"))
    await one.delete("shop")
    assert [taken.outcome for taken in await tell(one, third)] == [Outcome.KNOWN]
    assert (await third.merge(record, "c1")).outcome is Outcome.GONE


async def test_a_region_taken_off_the_list_may_drop_its_copy_and_the_others_keep_theirs() -> None:
    one, other = await two()
    await one.update(wished("c1"))
    await tell(one, other)
    assert (await shop(other)).members == ("c1",)
    dropped = await other.delete("shop")
    assert not dropped.is_global and await other.shared() == []
    await one.update(wished("c1", "c2"))
    assert [taken.outcome for taken in await tell(one, other)] == [Outcome.LOCAL_HERE]
    await other.forget(dropped.id)
    assert [taken.outcome for taken in await tell(one, other)] == [Outcome.CREATED]
    assert (await shop(one)).state == (await shop(other)).state


# --- the machine, through the registry ----------------------------------------------------------------------------------------
async def test_a_handover_is_begun_told_and_finished_by_compare_and_swap() -> None:
    one, other = await two()
    known = one.clusters.regions()
    frozen = await one.decide("shop", lambda owned: failover.begin_handover(owned, "c1", 5, "c2", until_ns=50))
    await tell(one, other)
    assert (await shop(other)).ownership.state is State.HANDOVER
    assert frozen.handover_to == "c2"
    await one.decide("shop", lambda owned: failover.finish_handover(owned, known, "c1", 6))
    await tell(one, other)
    record = await shop(other)
    assert (record.active_cluster, record.failover_version, record.ownership.state) == ("c2", 2, State.NORMAL)
    with pytest.raises(failover.NotAllowed):
        await one.decide("shop", lambda owned: failover.abort_handover(owned, "c1", 7))


@pytest.mark.parametrize("kind", [FaultKind.ERROR_BEFORE, FaultKind.ERROR_AFTER, FaultKind.UNKNOWN_NOT_EXECUTED])
async def test_a_store_fault_at_any_call_of_a_merge_is_met_by_sending_again(kind: FaultKind) -> None:
    injected_count = 0
    source = await region("c1")
    first = await source.register(global_request("c1", "c2"))
    moved = await source.update(wished(active="c2"))
    await source.update(wished(active="c1"))
    deleted = await source.delete("shop")
    for at in range(30):
        inner = MemoryStore()
        await region("c2", inner)
        faulty = FaultyStore(inner, _fault_at(at, kind))
        clusters = (await region("c2", inner)).clusters
        registry = NamespaceRegistry(faulty, FixedClock(), SystemIds(), here="c2", clusters=clusters)
        for record in (first, moved, deleted):
            try:
                await registry.merge(record, "c1")
            except CallerError as failure:
                assert failure.code is Code.UNAVAILABLE
                await registry.merge(record, "c1")
        injected_count += len(faulty.injected)
        again = await region("c2", inner)
        record = await again.by_id(first.id)
        assert (record.state, record.failover_version, record.renamed_to) == (DELETED, 11, "")
    assert injected_count > 3


def _fault_at(at: int, kind: FaultKind) -> Callable[[int, str], Fault | None]:
    def plan(index: int, method: str) -> Fault | None:
        is_write = method in ("metadata_put", "metadata_delete")
        return Fault(kind) if index == at and (is_write or kind is FaultKind.ERROR_BEFORE) else None

    return plan
