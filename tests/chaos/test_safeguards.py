"""Safeguards of the server removed in turn: the simulator must notice. A slice of those that the first seeds find.

OUTLAST_SAFEGUARDS=full (or `python -m chaos.sim safeguards`) removes all of them.
"""

from __future__ import annotations

import os

import pytest

from chaos.sim.removal import CLUSTER, WANTED
from chaos.sim.safeguards import SAFEGUARDS, find_hole, removed
from cluster.core.machines import lifecycle

QUICK = (
    "signal_request_id_dedup",
    "start_request_id_dedup",
    "update_id_dedup",
    "acks_wait_for_durability",
    "truncation_stops_at_the_cut",
    "lease_fences_appends",
    "lease_fences_appends_of_other_nodes",
    "shards_follow_the_ring",
)
CHOSEN = sorted(SAFEGUARDS) if os.environ.get("OUTLAST_SAFEGUARDS") == "full" else QUICK


@pytest.mark.parametrize("name", CHOSEN)
def test_a_removed_safeguard_is_found(name: str) -> None:
    assert find_hole(name, range(1, 121)) is not None


def test_safeguards_of_one_node_of_a_cluster_and_of_regions_are_known() -> None:
    kinds = [WANTED.get(name) for name in SAFEGUARDS]
    of_regions = [wanted for wanted in kinds if wanted is not None and wanted.regions > 1]
    assert kinds.count(None) >= 20 and kinds.count(CLUSTER) >= 8 and len(of_regions) >= 25
    assert all(patch.__doc__ for patch in SAFEGUARDS.values())


def test_a_removed_safeguard_is_put_back() -> None:
    before = lifecycle.signal
    with removed("signal_request_id_dedup"):
        assert lifecycle.signal is not before
    assert lifecycle.signal is before
