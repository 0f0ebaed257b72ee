"""Which builds worked on a run: what its search attributes and its reset points say of them."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Payload, WorkerVersionStamp
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowTaskCompletedEventAttributes

from cluster.core.machines.builds import BINARY_CHECKSUMS, BUILD_IDS, note_build
from cluster.core.state import RunState


def completed(state: RunState, event_id: int, **fields: object) -> None:
    event = HistoryEvent(event_id=event_id, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    note_build(state, event, WorkflowTaskCompletedEventAttributes(**fields))  # type: ignore[arg-type]


def told(state: RunState, name: str) -> bytes:
    encoded = state.search_attributes.get(name)
    return Payload.FromString(encoded).data if encoded is not None else b""


def test_a_build_that_a_worker_names_is_searchable_and_a_reset_point_once() -> None:
    state = RunState("n", "w", "r")
    completed(state, 4, worker_version=WorkerVersionStamp(build_id="one"))
    completed(state, 9, worker_version=WorkerVersionStamp(build_id="one"))
    completed(state, 14, binary_checksum="old")
    assert told(state, BUILD_IDS) == b'["unversioned","unversioned:one"]'
    assert told(state, BINARY_CHECKSUMS) == b'["old"]'
    points = [(point.build_id, point.binary_checksum, point.first_workflow_task_completed_id) for point in state.reset_points]
    assert points == [("one", "", 4), ("", "old", 14)]


@pytest.mark.parametrize("data", [b"", b"null", b'"x"', b"{", b"\xff"])
def test_what_callers_have_set_does_not_stop_a_run(data: bytes) -> None:
    state = RunState("n", "w", "r")
    state.search_attributes[BUILD_IDS] = Payload(data=data).SerializeToString()
    completed(state, 4)
    assert told(state, BUILD_IDS) == b'["unversioned"]'


def test_values_that_callers_have_set_stay() -> None:
    state = RunState("n", "w", "r")
    state.search_attributes[BUILD_IDS] = Payload(data=b'["mine"]').SerializeToString()
    completed(state, 4)
    assert told(state, BUILD_IDS) == b'["mine","unversioned"]'
