"""A namespace as it is stored, and as the messages that describe it."""

from __future__ import annotations

import msgspec
from temporalio.api.enums.v1 import ArchivalState, NamespaceState, ReplicationState
from temporalio.api.namespace.v1 import NamespaceConfig, NamespaceInfo
from temporalio.api.replication.v1 import FailoverStatus, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse, UpdateNamespaceResponse

from cluster.config import Limits

REGISTERED = NamespaceState.NAMESPACE_STATE_REGISTERED
DEPRECATED = NamespaceState.NAMESPACE_STATE_DEPRECATED
DELETED = NamespaceState.NAMESPACE_STATE_DELETED

_RECORD_VERSION = 1
_NS = 1_000_000_000


class Failover(msgspec.Struct, frozen=True):
    """When the active cluster of a namespace changed, and the version that events carry since."""

    at: int
    version: int


class NamespaceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The stored form. Data of workflows carries the id, which never changes and is never used again; the name is for people
    and changes once, at deletion. renamed_to is set while a deleted namespace's row moves to its new name."""

    id: str
    name: str
    retention_ns: int
    created_at: int
    record_version: int = _RECORD_VERSION
    state: int = REGISTERED
    description: str = ""
    owner_email: str = ""
    data: dict[str, str] = {}
    custom_search_attributes: dict[str, int] = {}
    is_global: bool = False
    clusters: list[str] = []
    active_cluster: str = ""
    failover_version: int = 0
    failover_history: list[Failover] = []
    renamed_to: str = ""


class UnknownRecordVersion(Exception):
    """The row was written by a newer server."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(NamespaceRecord)


def encode_record(record: NamespaceRecord) -> bytes:
    return _encoder.encode(record)


def decode_record(data: bytes) -> NamespaceRecord:
    """A record of an older version gets the defaults of the fields it lacks; one of a newer version is refused, since
    writing it back would lose what this server does not know."""
    record = _decoder.decode(data)
    if record.record_version > _RECORD_VERSION:
        raise UnknownRecordVersion(
            f"namespace {record.name!r} is stored in version {record.record_version}, this server knows {_RECORD_VERSION}"
        )
    return record


class Capabilities(msgspec.Struct, frozen=True):
    """What SDKs may rely on in a namespace. Announce only what is built: SDKs switch behaviour on it."""

    eager_workflow_start: bool = True
    sync_update: bool = True
    async_update: bool = True
    worker_heartbeats: bool = False
    reported_problems_search_attribute: bool = False
    workflow_pause: bool = False
    standalone_activities: bool = False
    worker_poll_complete_on_shutdown: bool = False
    poller_autoscaling: bool = False
    supports_schedules: bool = False


def namespace_info(record: NamespaceRecord, capabilities: Capabilities, limits: Limits) -> NamespaceInfo:
    announced = msgspec.structs.asdict(capabilities)
    return NamespaceInfo(
        name=record.name,
        id=record.id,
        state=NamespaceState.ValueType(record.state),
        description=record.description,
        owner_email=record.owner_email,
        data=record.data,
        supports_schedules=announced.pop("supports_schedules"),
        capabilities=NamespaceInfo.Capabilities(**announced),
        limits=NamespaceInfo.Limits(
            blob_size_limit_error=limits.payload_bytes_max, memo_size_limit_error=limits.memo_bytes_max
        ),
    )


def namespace_config(record: NamespaceRecord) -> NamespaceConfig:
    config = NamespaceConfig(
        history_archival_state=ArchivalState.ARCHIVAL_STATE_DISABLED,
        visibility_archival_state=ArchivalState.ARCHIVAL_STATE_DISABLED,
    )
    config.workflow_execution_retention_ttl.seconds = record.retention_ns // _NS
    config.workflow_execution_retention_ttl.nanos = record.retention_ns % _NS
    config.bad_binaries.SetInParent()
    return config


def replication_config(record: NamespaceRecord) -> NamespaceReplicationConfig:
    config = NamespaceReplicationConfig(
        active_cluster_name=record.active_cluster, state=ReplicationState.REPLICATION_STATE_NORMAL
    )
    for name in record.clusters:
        config.clusters.add(cluster_name=name)
    return config


def describe_response(record: NamespaceRecord, capabilities: Capabilities, limits: Limits) -> DescribeNamespaceResponse:
    response = DescribeNamespaceResponse(
        namespace_info=namespace_info(record, capabilities, limits),
        config=namespace_config(record),
        replication_config=replication_config(record),
        failover_version=record.failover_version,
        is_global_namespace=record.is_global,
    )
    for failover in record.failover_history:
        status = FailoverStatus(failover_version=failover.version)
        status.failover_time.seconds, status.failover_time.nanos = divmod(failover.at, _NS)
        response.failover_history.append(status)
    return response


def update_response(record: NamespaceRecord, capabilities: Capabilities, limits: Limits) -> UpdateNamespaceResponse:
    return UpdateNamespaceResponse(
        namespace_info=namespace_info(record, capabilities, limits),
        config=namespace_config(record),
        replication_config=replication_config(record),
        failover_version=record.failover_version,
        is_global_namespace=record.is_global,
    )
