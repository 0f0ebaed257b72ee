"""No time of a request can leave the range that the server computes in."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.command.v1 import Command, StartTimerCommandAttributes
from temporalio.api.filter.v1 import StartTimeFilter
from temporalio.api.workflowservice import v1 as w

from cluster.frontend.call import Call
from cluster.frontend.clamps import DURATION_S_MAX, TIMESTAMP_S_MAX, clamp_times
from cluster.frontend.methods import METHODS

INT64_MAX = 2**63 - 1


async def clamp(name: str, request: Message) -> Any:
    async def handler(call: Call, request: Message) -> Message:
        return request

    return await clamp_times(METHODS[name], handler)(Call(METHODS[name].path, {}, None, ""), request)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (DURATION_S_MAX - 1, DURATION_S_MAX - 1),
        (DURATION_S_MAX, DURATION_S_MAX),
        (DURATION_S_MAX + 1, DURATION_S_MAX),
        (INT64_MAX, DURATION_S_MAX),
        (-INT64_MAX, -DURATION_S_MAX),
        (-1, -1),
    ],
)
async def test_a_duration_is_capped_at_a_hundred_years(given: int, expected: int) -> None:
    request = w.StartWorkflowExecutionRequest(workflow_run_timeout=Duration(seconds=given))
    assert (await clamp("StartWorkflowExecution", request)).workflow_run_timeout.seconds == expected


async def test_durations_inside_commands_are_capped_too() -> None:
    timer = StartTimerCommandAttributes(start_to_fire_timeout=Duration(seconds=INT64_MAX, nanos=2**31 - 1))
    request = w.RespondWorkflowTaskCompletedRequest(commands=[Command(start_timer_command_attributes=timer)])
    clamped = (await clamp("RespondWorkflowTaskCompleted", request)).commands[0].start_timer_command_attributes
    assert clamped.start_to_fire_timeout == Duration(seconds=DURATION_S_MAX)


@pytest.mark.parametrize(("seconds", "expected"), [(-1, 0), (5, 5), (TIMESTAMP_S_MAX + 1, TIMESTAMP_S_MAX)])
async def test_a_moment_is_capped_to_what_63_bits_of_nanoseconds_hold(seconds: int, expected: int) -> None:
    request = w.ListOpenWorkflowExecutionsRequest(start_time_filter=StartTimeFilter(earliest_time=Timestamp(seconds=seconds)))
    clamped = (await clamp("ListOpenWorkflowExecutions", request)).start_time_filter.earliest_time
    assert clamped.seconds == expected
    assert (expected + 1) * 10**9 < 2**63
