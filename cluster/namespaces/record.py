"""A namespace as it is stored, and as the messages that describe it."""

from __future__ import annotations

import msgspec
from temporalio.api.enums.v1 import ArchivalState, NamespaceState, ReplicationState
from temporalio.api.namespace.v1 import NamespaceConfig, NamespaceInfo
from temporalio.api.replication.v1 import FailoverStatus, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse, UpdateNamespaceResponse

from cluster.config import Limits
from replication.failover import Failover, Ownership, State

REGISTERED = NamespaceState.NAMESPACE_STATE_REGISTERED
DEPRECATED = NamespaceState.NAMESPACE_STATE_DEPRECATED
DELETED = NamespaceState.NAMESPACE_STATE_DELETED

NORMAL = ReplicationState.REPLICATION_STATE_NORMAL
HANDOVER = ReplicationState.REPLICATION_STATE_HANDOVER

# A global namespace has fields that a server of version 1 would lose when it writes the row back.
_LOCAL_RECORD_VERSION = 1
GLOBAL_RECORD_VERSION = 2
_NS = 1_000_000_000


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """Who changed a setting of a global namespace last: the record's config_version after it, and the region's name."""

    version: int = 0
    cluster: str = ""


class NamespaceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The stored form. Data of workflows carries the id, which never changes and is never used again; the name is for people
    and changes once, at deletion. renamed_to is set while a deleted namespace's row moves to its new name.

    is_global: it has a failover version, and may be in several regions. clusters: as they were last set; which regions have the
    namespace is `members`. From active_cluster to failover_writer: its `ownership` (replication/failover.py). config_version
    counts changes of settings, stamps says of each setting when it changed and where (merging.py); both stay empty while the
    namespace is local.
    """

    id: str
    name: str
    retention_ns: int
    created_at: int
    record_version: int = _LOCAL_RECORD_VERSION
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
    replication_state: int = NORMAL
    handover_to: str = ""
    handover_until: int = 0
    failover_revision: int = 0
    failover_writer: str = ""
    config_version: int = 0
    stamps: dict[str, Stamp] = {}
    renamed_to: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """The regions that have the namespace. The active one always does: one region may have taken another off the list
        while it became active elsewhere."""
        named = dict.fromkeys(self.clusters)
        return tuple(named if self.active_cluster in named or not self.is_global else [*named, self.active_cluster])

    @property
    def is_replicated(self) -> bool:
        return self.is_global and len(self.members) > 1

    @property
    def ownership(self) -> Ownership:
        is_in_handover = self.replication_state == HANDOVER
        normal = State.NORMAL if self.is_global else State.LOCAL
        return Ownership(
            active=self.active_cluster,
            version=self.failover_version,
            state=State.HANDOVER if is_in_handover else normal,
            handover_to=self.handover_to,
            handover_until=self.handover_until,
            revision=self.failover_revision,
            writer=self.failover_writer,
            history=tuple(self.failover_history),
        )

    def owned(self, ownership: Ownership) -> NamespaceRecord:
        """With that ownership."""
        is_global = ownership.state is not State.LOCAL
        return msgspec.structs.replace(
            self,
            record_version=GLOBAL_RECORD_VERSION if is_global else self.record_version,
            is_global=is_global,
            active_cluster=ownership.active,
            failover_version=ownership.version,
            replication_state=HANDOVER if ownership.state is State.HANDOVER else NORMAL,
            handover_to=ownership.handover_to,
            handover_until=ownership.handover_until,
            failover_revision=ownership.revision,
            failover_writer=ownership.writer,
            failover_history=list(ownership.history),
        )


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
    if record.record_version > GLOBAL_RECORD_VERSION:
        raise UnknownRecordVersion(
            f"namespace {record.name!r} is stored in version {record.record_version}, this server knows {GLOBAL_RECORD_VERSION}"
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
        active_cluster_name=record.active_cluster, state=ReplicationState.ValueType(record.replication_state)
    )
    for name in record.members:
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
