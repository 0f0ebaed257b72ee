"""Which builds of the workers have worked on a run: points it can be reset to, and two search attributes.
And which build a caller may ask for."""

from __future__ import annotations

import json

from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent, WorkflowTaskCompletedEventAttributes
from temporalio.api.workflow.v1 import VersioningOverride

from cluster.core.errors import failed_precondition, invalid_argument
from cluster.core.events import timestamp_ns
from cluster.core.state import ResetPoint, RunState

RESET_POINTS_MAX = 20  # history.historyMaxAutoResetPoints
BUILD_IDS = "BuildIds"
BINARY_CHECKSUMS = "BinaryChecksums"
_UNVERSIONED = "unversioned"


def note_build(state: RunState, event: HistoryEvent, attributes: WorkflowTaskCompletedEventAttributes) -> None:
    """A worker has completed a workflow task."""
    if attributes.worker_version.build_id:
        state.build_id = attributes.worker_version.build_id
    if attributes.HasField("deployment_version"):
        state.deployment_version = attributes.deployment_version.SerializeToString()
    state.versioning_behavior = attributes.versioning_behavior
    _note_reset_point(state, event, attributes)
    _note_build_id(state, attributes)
    if attributes.binary_checksum:
        _add(state, BINARY_CHECKSUMS, attributes.binary_checksum)


def _note_reset_point(state: RunState, event: HistoryEvent, attributes: WorkflowTaskCompletedEventAttributes) -> None:
    """Where a build was first seen: what it broke can be undone by a reset to before it."""
    build_id = attributes.deployment_version.build_id or attributes.worker_version.build_id
    if any((one.build_id, one.binary_checksum) == (build_id, attributes.binary_checksum) for one in state.reset_points):
        return
    state.reset_points.append(
        ResetPoint(
            build_id,
            attributes.binary_checksum,
            event.event_id,
            timestamp_ns(event.event_time),
            resettable=not (state.children or state.signals_out or state.cancels_out),
            run_id=state.run_id,
        )
    )
    del state.reset_points[:-RESET_POINTS_MAX]


def _note_build_id(state: RunState, attributes: WorkflowTaskCompletedEventAttributes) -> None:
    """A worker without versioning counts as unversioned, and once more with its build id, if it has one."""
    if attributes.HasField("deployment_version"):
        return
    build_id = attributes.worker_version.build_id
    _add(state, BUILD_IDS, _UNVERSIONED, *([f"{_UNVERSIONED}:{build_id}"] if build_id else []))


def _add(state: RunState, name: str, *wanted: str) -> None:
    """Callers may have set the attribute too: what they set stays, unless it is no list."""
    encoded = state.search_attributes.get(name)
    try:
        known = json.loads(Payload.FromString(encoded).data) if encoded is not None else []
    except ValueError:  # an empty payload: the attribute was unset
        known = []
    if not isinstance(known, list):
        known = []
    missing = [one for one in wanted if one not in known]
    if not missing:
        return
    data = json.dumps([*known, *missing], separators=(",", ":")).encode()
    payload = Payload(metadata={"encoding": b"json/plain", "type": b"KeywordList"}, data=data)
    state.search_attributes[name] = payload.SerializeToString(deterministic=True)


def check_override(override: VersioningOverride, task_queue: str) -> None:
    """Raises INVALID_ARGUMENT for a malformed one, FAILED_PRECONDITION for a pin.

    While worker versioning is not built, no worker is of a deployment version: a pin taken silently would send the run to any
    worker although its caller was told otherwise.
    """
    variant = override.WhichOneof("override")
    if variant == "auto_upgrade" and not override.auto_upgrade:
        raise invalid_argument("auto-upgrade override must be true")
    if variant == "pinned" and not override.pinned.HasField("version"):
        raise invalid_argument("must provide version if override is pinned.")
    if variant is None and not override.behavior:
        raise invalid_argument("override behavior is required")
    if variant == "pinned":
        version = f"{override.pinned.version.deployment_name}:{override.pinned.version.build_id}"
    elif override.pinned_version:
        version = override.pinned_version.replace(".", ":", 1)
    else:
        return
    raise failed_precondition(f"Pinned version '{version}' is not present in task queue '{task_queue}' of type 'Workflow'")
