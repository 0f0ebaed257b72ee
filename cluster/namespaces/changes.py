"""What may be asked of a namespace's settings, as pure functions: request and record in, record out or CallerError.
Where it lives and who owns it: regions.py.

| state      | may become            |
|------------|-----------------------|
| registered | deprecated, deleted   |
| deprecated | deleted               |
| deleted    | nothing               |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import ArchivalState, IndexedValueType
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.config import Limits
from cluster.core.errors import CallerError, Code, invalid_argument
from cluster.namespaces.record import DELETED, DEPRECATED, REGISTERED, NamespaceRecord
from cluster.namespaces.regions import check_deletion, check_state_change, registered_in, updated_in
from cluster.namespaces.write_mode import write_mode_of
from cluster.visibility.search_attributes import PREDEFINED, SYSTEM, TYPE_NAME, AttributeType, is_reserved
from replication.failover import Regions

_TRANSITIONS: dict[int, tuple[int, ...]] = {REGISTERED: (DEPRECATED, DELETED), DEPRECATED: (DELETED,), DELETED: ()}
_NS = 1_000_000_000
# A namespace's data map, description and owner are read with every describe and live in memory.
_SETTINGS_BYTES_MAX = 64 * 1024
# As many as the real server offers per type on SQL; each one in use costs index entries, not columns, so one number will do.
CUSTOM_ATTRIBUTES_MAX = 100


def check_name(name: str, limits: Limits) -> None:
    if not name:
        raise invalid_argument("Namespace not set on request.")
    if len(name.encode()) > limits.id_bytes_max:
        raise invalid_argument("Namespace length exceeds limit.")
    if not name.isprintable() or name != name.strip():
        raise invalid_argument("Namespace name has control characters or surrounding space.")


def retention_ns(retention: Duration | None, limits: Limits) -> int:
    """Checked; a caller that sets none is told so, as on the real server."""
    if retention is None or retention.seconds * retention.nanos < 0:
        raise invalid_argument("A valid retention period is not set on request.")
    value = retention.seconds * _NS + retention.nanos
    if not limits.retention_min_ns <= value <= limits.retention_max_ns:
        raise invalid_argument(
            "A valid retention period is not set on request. It must be between "
            f"{limits.retention_min_ns // (3_600 * _NS)}h and {limits.retention_max_ns // (3_600 * _NS)}h."
        )
    return value


def _check_archival(*states: int) -> None:
    if ArchivalState.ARCHIVAL_STATE_ENABLED in states:
        raise invalid_argument("Cluster is not configured for archival")


def _check_settings(record: NamespaceRecord) -> NamespaceRecord:
    write_mode_of(record.data)
    size = len(record.description) + len(record.owner_email) + sum(len(key) + len(value) for key, value in record.data.items())
    if size > _SETTINGS_BYTES_MAX:
        raise invalid_argument(f"Namespace description, owner and data exceed {_SETTINGS_BYTES_MAX} bytes.")
    return record


def registered(
    request: RegisterNamespaceRequest, new_id: str, now_ns: int, here: str, regions: Regions, limits: Limits
) -> NamespaceRecord:
    """The record of a new namespace. `here` is this cluster's name."""
    check_name(request.namespace, limits)
    _check_archival(request.history_archival_state, request.visibility_archival_state)
    has_retention = request.HasField("workflow_execution_retention_period")
    record = NamespaceRecord(
        id=new_id,
        name=request.namespace,
        description=request.description,
        owner_email=request.owner_email,
        data=dict(request.data),
        retention_ns=retention_ns(request.workflow_execution_retention_period if has_retention else None, limits),
        created_at=now_ns,
    )
    return _check_settings(registered_in(record, request, regions, here))


def with_state(record: NamespaceRecord, state: int) -> NamespaceRecord:
    if state == record.state:
        return record
    if state not in _TRANSITIONS[record.state]:
        raise invalid_argument("Invalid namespace state update.")
    return msgspec.structs.replace(record, state=state)


def updated(
    before: NamespaceRecord, request: UpdateNamespaceRequest, here: str, regions: Regions, limits: Limits, now_ns: int
) -> NamespaceRecord:
    """Empty fields leave what is there; data is merged by key."""
    if request.delete_bad_binary or request.config.bad_binaries.binaries:
        raise invalid_argument("Bad binaries are not supported; use Worker Versioning.")
    if request.config.custom_search_attribute_aliases:
        raise invalid_argument("Search attributes have no aliases here; use AddSearchAttributes and RemoveSearchAttributes.")
    _check_archival(request.config.history_archival_state, request.config.visibility_archival_state)
    info = request.update_info
    record = msgspec.structs.replace(
        before,
        description=info.description or before.description,
        owner_email=info.owner_email or before.owner_email,
        data=before.data | dict(info.data),
    )
    if info.state not in (0, before.state):
        check_state_change(before)
        record = with_state(record, info.state)
    if info.state == DELETED:
        check_deletion(before, here)
    if request.config.HasField("workflow_execution_retention_ttl"):
        kept = retention_ns(request.config.workflow_execution_retention_ttl, limits)
        record = msgspec.structs.replace(record, retention_ns=kept)
    return _check_settings(updated_in(before, record, request, regions, here, now_ns))


# --- search attributes ----------------------------------------------------------------------------------------------------
def with_search_attributes(record: NamespaceRecord, added: Mapping[str, int], limits: Limits) -> NamespaceRecord:
    """Adding one that exists with the same type changes nothing; another type is refused, since old values stay as they are."""
    if not added:
        raise invalid_argument("SearchAttributes are not set on request.")
    for name, kind in added.items():
        if is_reserved(name):
            raise invalid_argument(f"Search attribute {name} is reserved by system.")
        if not name or len(name.encode()) > limits.id_bytes_max or not name.isprintable() or "`" in name:
            raise invalid_argument("Search attribute name is empty, too long, or has control characters or back quotes.")
        if kind not in TYPE_NAME:
            raise invalid_argument(f"Unknown search attribute type: {_type_name(kind)}.")
        known = record.custom_search_attributes.get(name, kind)
        if known != kind:
            raise CallerError(
                Code.ALREADY_EXISTS, f"Search attribute {name} already exists with type {_type_name(known)}."
            )
    merged = record.custom_search_attributes | dict(added)
    if len(merged) > CUSTOM_ATTRIBUTES_MAX:
        raise invalid_argument(
            f"Unable to create search attributes: cannot have more than {CUSTOM_ATTRIBUTES_MAX} search attributes."
        )
    return msgspec.structs.replace(record, custom_search_attributes=merged)


def without_search_attributes(record: NamespaceRecord, removed: Iterable[str]) -> NamespaceRecord:
    """Unknown names change nothing, as on the real server."""
    names = set(removed)
    if not names:
        raise invalid_argument("SearchAttributes are not set on request.")
    for name in sorted(names):
        if name in SYSTEM or name in PREDEFINED:
            raise invalid_argument(f"Unable to remove non-custom search attributes: {name}.")
    kept = {name: kind for name, kind in record.custom_search_attributes.items() if name not in names}
    return msgspec.structs.replace(record, custom_search_attributes=kept)


def _type_name(kind: int) -> str:
    if kind in TYPE_NAME:
        return TYPE_NAME[AttributeType(kind)]
    return "Unspecified" if kind in IndexedValueType.values() else str(kind)

