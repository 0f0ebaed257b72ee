"""What may be asked of where a namespace lives and who owns it: the public server's rules and words, as pure functions.

| wished                               | refused with INVALID_ARGUMENT when                                                  |
|--------------------------------------|-------------------------------------------------------------------------------------|
| any cluster's name                   | it is not known here, or its connection is disabled                                 |
| a local namespace in other clusters  | always: it is promoted first                                                        |
| an active cluster off the list       | always                                                                              |
| handover                             | the namespace is local, has one cluster, or is not in its registered state          |
| another state of the namespace       | it is in handover                                                                   |
| a failover and a change of settings  | in one request, for a global namespace                                              |

Making the active cluster active again changes nothing, and ends a handover. Which words belong to what was asked of the real
server, version 1.32.1, two of them linked.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from temporalio.api.enums.v1 import ReplicationState
from temporalio.api.errordetails.v1 import NamespaceNotActiveFailure
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.core.errors import CallerError, failed_precondition, invalid_argument, unavailable
from cluster.namespaces.record import DEPRECATED, HANDOVER, NORMAL, REGISTERED, NamespaceRecord
from replication import failover
from replication.failover import Ownership, Regions, State

_STATE_NAMES: dict[int, str] = {REGISTERED: "Registered", DEPRECATED: "Deprecated"}


def registered_in(record: NamespaceRecord, request: RegisterNamespaceRequest, regions: Regions, here: str) -> NamespaceRecord:
    """The new record with its clusters and its owner."""
    named = _distinct(cluster.cluster_name for cluster in request.clusters)
    if request.is_global_namespace and not regions.are_linked:
        raise invalid_argument("Cannot register global namespace when not enabled")
    active = request.active_cluster_name or here
    placed = msgspec.structs.replace(record, clusters=named or [active], active_cluster=active)
    _check_clusters(active, placed.clusters, regions, here, is_global=request.is_global_namespace)
    if not request.is_global_namespace:
        return placed
    return placed.owned(failover.promote(Ownership(active=active), regions, here))


def updated_in(
    before: NamespaceRecord, record: NamespaceRecord, request: UpdateNamespaceRequest, regions: Regions, here: str, now_ns: int
) -> NamespaceRecord:
    """`record`, which has the request's other changes, with those of its clusters and its owner. `before`: as it is stored."""
    wished = request.replication_config
    is_global = before.is_global or request.promote_namespace
    named = _distinct(cluster.cluster_name for cluster in wished.clusters)
    active = wished.active_cluster_name
    is_new_state = wished.state not in (ReplicationState.REPLICATION_STATE_UNSPECIFIED, before.replication_state)
    if is_new_state:
        _check_replication_state(before, wished.state, named)
    placed = msgspec.structs.replace(record, clusters=named or record.clusters, active_cluster=active or record.active_cluster)
    if request.promote_namespace and not regions.are_linked:
        raise invalid_argument(
            "global namespace is not enabled on this cluster, cannot update global namespace or promote local namespace: "
            f"{before.name}"
        )
    _check_clusters(placed.active_cluster, named or list(before.members), regions, here, is_global)
    if not is_global:
        return placed
    if active and (named or is_new_state or _changes_settings(before, request)):
        raise invalid_argument("Cannot set active cluster to current cluster when other parameters are set.")
    ownership = before.ownership
    if not before.is_global:
        ownership = failover.promote(ownership, regions, here)
    if active:
        ownership = failover.fail_over(ownership, active, regions, here, now_ns)
    elif is_new_state and wished.state == HANDOVER:
        ownership = failover.begin_handover(ownership, here, now_ns)
    elif is_new_state:
        ownership = failover.abort_handover(ownership, here, now_ns)
    if named or active:
        ownership = failover.noted(ownership, now_ns)
    return placed.owned(ownership)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _check_clusters(active: str, clusters: list[str], regions: Regions, here: str, is_global: bool) -> None:
    for name in (active, *clusters):
        if name not in regions.usable:
            raise invalid_argument(f"Invalid cluster name: {name}")
    if is_global:
        if active not in clusters:
            raise invalid_argument("Active cluster is not contained in all clusters.")
    elif active != here:
        raise invalid_argument("Invalid local namespace active cluster")
    elif clusters != [here]:
        raise invalid_argument("Invalid local namespace clusters")


def _check_replication_state(before: NamespaceRecord, wished: int, named: list[str]) -> None:
    if wished not in (NORMAL, HANDOVER):
        raise invalid_argument(f"Unknown replication state: {wished}.")
    if before.state != REGISTERED:
        state = _STATE_NAMES.get(before.state, str(before.state))
        raise invalid_argument(
            f"update ReplicationState is only supported when namespace is in Registered state, current state: {state}"
        )
    if wished == HANDOVER and not before.is_global:
        raise invalid_argument("Handover can only be set for global namespace")
    if wished == HANDOVER and len(named or before.members) < 2:
        raise invalid_argument("Handover require more than one replication clusters")


def _changes_settings(before: NamespaceRecord, request: UpdateNamespaceRequest) -> bool:
    """Whatever is named counts as changed, as on the public server; only a state must differ."""
    info, config = request.update_info, request.config
    is_named = bool(info.description or info.owner_email or info.data or config.HasField("workflow_execution_retention_ttl"))
    return is_named or info.state not in (0, before.state)


# --- what a region may do with a namespace ------------------------------------------------------------------------------------
def is_active_here(record: NamespaceRecord, here: str) -> bool:
    """It runs its workflows here: they get tasks, fire timers, take events. In handover nobody does."""
    return not record.is_global or (record.active_cluster == here and record.replication_state != HANDOVER)


def check_active_here(record: NamespaceRecord, here: str) -> None:
    """Raises what a call that this region may not serve is answered with."""
    if record.is_global and record.active_cluster != here:
        raise namespace_not_active(record, here)
    if record.ownership.state is State.HANDOVER:
        raise unavailable("Namespace replication in Handover state.")


def namespace_not_active(record: NamespaceRecord, here: str) -> CallerError:
    """SDKs and other regions read from its detail where the namespace is active."""
    detail = NamespaceNotActiveFailure(
        namespace=record.name, current_cluster=here, active_cluster=record.active_cluster
    )
    return failed_precondition(
        f"Namespace: {record.name} is active in cluster: {record.active_cluster}, "
        f"while current cluster {here} is a standby cluster.",
        detail,
    )


def check_state_change(record: NamespaceRecord) -> None:
    if record.ownership.state is State.HANDOVER:
        raise invalid_argument("cannot update namespace state while its replication state in REPLICATION_STATE_HANDOVER")


def check_deletion(record: NamespaceRecord, here: str) -> None:
    """A passive region must not begin it: runs would keep coming. One that has been taken off the list may drop its copy."""
    if record.is_global and here in record.members and record.active_cluster != here:
        raise failed_precondition(
            f"namespace {record.name} is passive in current cluster {here}: remove cluster {here} from cluster list "
            "or make namespace active in this cluster and retry"
        )


def detached(record: NamespaceRecord, here: str) -> NamespaceRecord:
    """A copy in a region that is no longer on the list becomes local before it is deleted: its end is nobody else's business."""
    if not record.is_global or here in record.members:
        return record
    local = msgspec.structs.replace(record, is_global=False, clusters=[here], active_cluster=here, stamps={}, config_version=0)
    return msgspec.structs.replace(local, failover_version=0, failover_history=[], replication_state=NORMAL)
