"""Histories that the real server (1.32.1) wrote fold here, and leave pending what it says is pending.

nexus_histories.json: encoded histories, and what DescribeWorkflowExecution showed of operations and callbacks right after.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from temporalio.api.enums.v1 import CallbackState, EventType
from temporalio.api.history.v1 import History

from cluster.core.apply import fold_events
from cluster.core.machines.nexus_pending import callback_infos, pending_operations
from cluster.core.state import RunState

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "nexus_histories.json").read_text())
STANDBY = CallbackState.CALLBACK_STATE_STANDBY


def folded(recorded: dict[str, Any]) -> tuple[RunState, History]:
    history = History.FromString(base64.b64decode(recorded["events"]))
    return fold_events("ns-id", "w", "r", [one.SerializeToString() for one in history.events]), history


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_what_the_real_server_left_pending_is_pending_here(number: int) -> None:
    recorded = RECORDED[number]
    state, _ = folded(recorded)
    shown = [MessageToDict(one, preserving_proto_field_name=True) for one in pending_operations(state)]
    assert len(shown) == len(recorded["pending"])
    for ours, theirs in zip(shown, recorded["pending"], strict=True):
        is_started = "PENDING_NEXUS_OPERATION_STATE_STARTED"
        assert (ours["state"] == is_started) is (theirs["state"] == is_started)  # what is between two attempts is no history
        assert ("cancellation_info" in ours) is theirs["cancel"]
        for name in theirs.keys() - {"state", "cancel"}:
            assert ours[name] == theirs[name], name


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_callbacks_are_owed_where_the_real_server_owed_them(number: int) -> None:
    state, _ = folded(RECORDED[number])
    ours = sorted((one.callback.nexus.url, one.state == STANDBY) for one in callback_infos(state))
    assert ours == sorted((url, shown == STANDBY) for url, shown in RECORDED[number]["callbacks"])


def test_the_recorded_histories_tell_every_kind_of_news() -> None:
    kinds = {EventType.Name(one.event_type) for recorded in RECORDED for one in folded(recorded)[1].events}
    nexus = {name for name in EventType.keys() if "NEXUS_OPERATION" in name}  # noqa: SIM118 an enum wrapper is no dict
    assert kinds >= nexus | {"EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED"}
