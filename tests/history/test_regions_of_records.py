"""Whether this region acts for a namespace, as its record says."""

from __future__ import annotations

import msgspec
import pytest

from cluster.core.branches import NOT_REPLICATED
from cluster.core.errors import not_found
from cluster.history.regions import RegionsOfRecords
from cluster.namespaces.record import HANDOVER, NamespaceRecord

LOCAL = NamespaceRecord(id="local", name="local", retention_ns=1, created_at=1, clusters=["c1"], active_cluster="c1")
HERE = NamespaceRecord(
    id="here",
    name="here",
    retention_ns=1,
    created_at=1,
    is_global=True,
    clusters=["c1", "c2"],
    active_cluster="c1",
    failover_version=11,
)
THERE = msgspec.structs.replace(HERE, id="there", name="there", active_cluster="c2", failover_version=12)


class Records:
    def __init__(self, *records: NamespaceRecord) -> None:
        self._records = {record.id: record for record in records}

    def by_id(self, id: str) -> NamespaceRecord:
        if id not in self._records:
            raise not_found(id)
        return self._records[id]


REGIONS = RegionsOfRecords(Records(LOCAL, HERE, THERE), "c1", 1)


@pytest.mark.parametrize(
    ("namespace_id", "is_active", "is_replicated", "version"),
    [
        ("local", True, False, NOT_REPLICATED),
        ("here", True, True, 11),
        ("there", False, True, 12),
        ("gone", True, False, NOT_REPLICATED),
    ],
)
def test_a_region_acts_for_what_is_active_in_it(namespace_id: str, is_active: bool, is_replicated: bool, version: int) -> None:
    assert REGIONS.is_active(namespace_id) is is_active
    assert REGIONS.is_replicated(namespace_id) is is_replicated
    assert REGIONS.version(namespace_id) == version


def test_nobody_acts_for_a_namespace_that_is_being_handed_over() -> None:
    handed_over = RegionsOfRecords(Records(msgspec.structs.replace(HERE, replication_state=HANDOVER)), "c1", 1)
    assert not handed_over.is_active("here")


@pytest.mark.parametrize(("version", "is_ours"), [(NOT_REPLICATED, True), (1, True), (21, True), (2, False), (12, False)])
def test_a_version_belongs_to_the_region_it_names(version: int, is_ours: bool) -> None:
    assert REGIONS.is_ours(version) is is_ours


def test_a_namespace_adopts_activities_if_its_data_say_so() -> None:
    willing = msgspec.structs.replace(HERE, id="willing", data={"outlast.adopt-activities": "true"})
    regions = RegionsOfRecords(Records(LOCAL, HERE, willing), "c1", 1)
    assert [regions.adopts_activities(id) for id in ("local", "here", "willing", "gone")] == [False, False, True, False]
