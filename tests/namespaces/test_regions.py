"""What may be asked of where a namespace lives and who owns it.

Words and answers are those of the real server 1.32.1: two of them were linked and asked the same. Where ours differ, a line says
what the real one does.
"""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.errordetails.v1 import NamespaceNotActiveFailure
from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest

from cluster.core.errors import CallerError, Code
from cluster.namespaces.record import HANDOVER, NORMAL, Capabilities, NamespaceRecord, describe_response, update_response
from cluster.namespaces.regions import check_active_here, is_active_here, namespace_not_active
from tests.namespaces.registering import LIMITS, loaded, refusal, request
from tests.namespaces.two_regions import global_request, region, shop, wished

BOTH = ("c1", "c2")
COMBINED = "Cannot set active cluster to current cluster when other parameters are set."
NOT_CONTAINED = "Active cluster is not contained in all clusters."


def told(record: NamespaceRecord) -> tuple[Any, ...]:
    """Version, whether it is global, active cluster, clusters, state, versions of the history."""
    described = describe_response(record, Capabilities(), LIMITS)
    config = described.replication_config
    assert config == update_response(record, Capabilities(), LIMITS).replication_config
    return (
        described.failover_version,
        described.is_global_namespace,
        config.active_cluster_name,
        [one.cluster_name for one in config.clusters],
        config.state,
        [one.failover_version for one in described.failover_history],
    )


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (request(clusters=global_request(*BOTH).clusters), "Invalid local namespace clusters"),
        (request(active_cluster_name="c2"), "Invalid local namespace active cluster"),
        (request(clusters=global_request("c2").clusters), "Invalid local namespace clusters"),
        (request(active_cluster_name="nope"), "Invalid cluster name: nope"),
        (global_request("c1", active="c2"), NOT_CONTAINED),
        (global_request("c1", "nope"), "Invalid cluster name: nope"),
    ],
)
async def test_a_registration_that_cannot_be_is_refused_in_the_public_words(wish: Any, words: str) -> None:
    registry = await region("c1")
    refused = await refusal(registry.register(wish))
    assert (refused.code, refused.message) == (Code.INVALID_ARGUMENT, words)
    assert registry.cached("shop") is None


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        (request(), (0, False, "c1", ["c1"], NORMAL, [])),
        (global_request(), (1, True, "c1", ["c1"], NORMAL, [])),
        (global_request(*BOTH), (1, True, "c1", ["c1", "c2"], NORMAL, [])),
        (global_request(*BOTH, active="c2"), (2, True, "c2", ["c1", "c2"], NORMAL, [])),
        (global_request(active="c2"), (2, True, "c2", ["c2"], NORMAL, [])),
    ],
)
async def test_a_registered_namespace_has_the_first_version_of_its_active_cluster(wish: Any, answer: tuple[Any, ...]) -> None:
    registry = await region("c1")
    await registry.register(wish)
    assert told(await shop(registry)) == answer


def described(text: str, **fields: Any) -> UpdateNamespaceRequest:
    made = wished(**fields)
    made.update_info.description = text
    return made


def to_state(state: int, **fields: Any) -> UpdateNamespaceRequest:
    made = wished(**fields)
    made.update_info.state = state  # type: ignore[assignment]
    return made


IN_C1 = (1, True, "c1", ["c1", "c2"])
IN_C2 = (2, True, "c2", ["c1", "c2"])
# One after the other: what is asked, and the answer or the words of the refusal.
STORY: list[tuple[UpdateNamespaceRequest, str | tuple[Any, ...]]] = [
    (wished(active="c2"), "Invalid local namespace active cluster"),
    (wished(active="c1"), (0, False, "c1", ["c1"], NORMAL, [])),
    (wished(*BOTH), "Invalid local namespace clusters"),
    (wished("c1"), (0, False, "c1", ["c1"], NORMAL, [])),
    (wished(active="nope"), "Invalid cluster name: nope"),
    (wished(state=HANDOVER), "Handover can only be set for global namespace"),
    (wished(state=HANDOVER, promote=True), "Handover can only be set for global namespace"),
    (wished(active="c2", promote=True), NOT_CONTAINED),
    (wished(promote=True), (1, True, "c1", ["c1"], NORMAL, [])),
    (wished(promote=True), (1, True, "c1", ["c1"], NORMAL, [])),
    (wished(state=HANDOVER), "Handover require more than one replication clusters"),
    (wished(active="c2"), NOT_CONTAINED),
    (wished("c2"), NOT_CONTAINED),
    (wished("c1", "nope"), "Invalid cluster name: nope"),
    (wished("c1", "c1"), (1, True, "c1", ["c1"], NORMAL, [1])),  # there it is on the list twice
    (wished(*BOTH, active="c2"), COMBINED),
    (wished(*BOTH), (*IN_C1, NORMAL, [1])),
    (described("d", active="c2"), COMBINED),
    (described("d", active="c1"), COMBINED),
    (wished(active="c2", state=HANDOVER), COMBINED),
    (wished(active="c1", state=NORMAL), (*IN_C1, NORMAL, [1])),
    (wished(state=HANDOVER), (*IN_C1, HANDOVER, [1])),
    (wished(state=HANDOVER), (*IN_C1, HANDOVER, [1])),
    (to_state(2), "cannot update namespace state while its replication state in REPLICATION_STATE_HANDOVER"),
    (described("d2"), (*IN_C1, HANDOVER, [1])),
    (wished(state=NORMAL), (*IN_C1, NORMAL, [1])),
    (wished(active="c1"), (*IN_C1, NORMAL, [1])),
    (wished(state=HANDOVER), (*IN_C1, HANDOVER, [1])),
    (wished(active="c1"), (*IN_C1, NORMAL, [1])),
    (wished(state=HANDOVER), (*IN_C1, HANDOVER, [1])),
    (wished(active="c2"), (*IN_C2, NORMAL, [1, 2])),
    (described("d3"), (*IN_C2, NORMAL, [1, 2])),
    (wished(state=HANDOVER), (*IN_C2, HANDOVER, [1, 2])),
    (wished(active="c1"), (11, True, "c1", ["c1", "c2"], NORMAL, [1, 2, 11])),
    (to_state(2), (11, True, "c1", ["c1", "c2"], NORMAL, [1, 2, 11])),
    (
        wished(state=HANDOVER),
        "update ReplicationState is only supported when namespace is in Registered state, current state: Deprecated",
    ),
    (wished(active="c2"), (12, True, "c2", ["c1", "c2"], NORMAL, [1, 2, 11, 12])),
]


async def test_the_life_of_a_namespace_goes_as_on_the_public_server() -> None:
    registry = await region("c1")
    await registry.register(request())
    for number, (wish, answer) in enumerate(STORY):
        before = await shop(registry)
        if isinstance(answer, str):
            refused = await refusal(registry.update(wish))
            assert (refused.code, refused.message) == (Code.INVALID_ARGUMENT, answer), number
            assert await shop(registry) == before
        else:
            assert told(await registry.update(wish)) == answer, number
            assert told(await shop(registry)) == answer


async def test_a_passive_region_does_not_delete_and_one_off_the_list_may() -> None:
    registry = await region("c1")
    await registry.register(global_request(*BOTH, active="c2"))
    await registry.register(global_request("c2", active="c2", name="elsewhere"))
    words = (
        "namespace shop is passive in current cluster c1: remove cluster c1 from cluster list or make namespace active in "
        "this cluster and retry"
    )
    for call in (registry.delete("shop"), registry.update(to_state(3))):
        refused = await refusal(call)
        assert (refused.code, refused.message) == (Code.FAILED_PRECONDITION, words)
    assert (await registry.delete("elsewhere")).name.startswith("elsewhere-deleted-")


async def test_a_cluster_whose_connection_is_disabled_takes_no_namespace() -> None:
    registry = await region("c1")
    await registry.add_or_update_cluster("address of c2", "", is_connected=False, is_replicated=False)
    assert (await refusal(registry.register(global_request(*BOTH)))).message == "Invalid cluster name: c2"


async def test_only_the_active_region_may_serve_and_in_a_handover_nobody() -> None:
    registry = await region("c1")
    active = await registry.register(global_request(*BOTH))
    frozen = await registry.update(wished(state=HANDOVER))
    assert is_active_here(active, "c1") and not is_active_here(active, "c2") and not is_active_here(frozen, "c1")
    check_active_here(active, "c1")
    for record, here, code in ((active, "c2", Code.FAILED_PRECONDITION), (frozen, "c1", Code.UNAVAILABLE)):
        with pytest.raises(CallerError) as refused:
            check_active_here(record, here)
        assert refused.value.code is code
    assert refused.value.message == "Namespace replication in Handover state."
    passive = namespace_not_active(active, "c2")
    assert passive.message == "Namespace: shop is active in cluster: c1, while current cluster c2 is a standby cluster."
    assert passive.details == (NamespaceNotActiveFailure(namespace="shop", current_cluster="c2", active_cluster="c1"),)


async def test_a_local_namespace_is_always_active() -> None:
    record = await (await loaded()).register(request())
    assert is_active_here(record, "active")
    check_active_here(record, "active")


# --- alone ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        (wished(promote=True), Code.INVALID_ARGUMENT, "global namespace is not enabled on this cluster"),
        (wished("active", "c2"), Code.INVALID_ARGUMENT, "Invalid cluster name: c2"),
    ],
)
async def test_in_a_server_that_knows_no_other_region_a_namespace_stays_local(wish: Any, code: Code, words: str) -> None:
    registry = await loaded()
    await registry.register(request())
    refused = await refusal(registry.update(wish))
    assert refused.code is code and words in refused.message
    assert not (await shop(registry)).is_global


async def test_a_server_that_knows_no_other_region_has_no_global_namespaces() -> None:
    alone = await loaded()
    for clusters in (BOTH, ("c1",)):
        refused = await refusal(alone.register(global_request(*clusters)))
        assert refused.code is Code.INVALID_ARGUMENT and refused.message == "Cannot register global namespace when not enabled"
