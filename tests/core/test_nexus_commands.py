"""Wishes for Nexus operations: what is taken, and what is refused in the public server's words."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import CommandType, WorkflowTaskFailedCause

from cluster.config import Limits
from cluster.core.effects import effects
from cluster.core.errors import CallerError, Code
from cluster.core.machines import commands, nexus_commands
from tests.core.build import Run
from tests.core.nexus_stories import attach, request_cancel, schedule, scheduled, seconds

OF = "ScheduleNexusOperationCommandAttributes"
BAD = "BadScheduleNexusOperationAttributes"


def refused(*wishes: Command, run: Run | None = None) -> str:
    run = run or Run()
    with pytest.raises(CallerError) as error:
        run.task(*wishes)
    assert error.value.code == Code.INVALID_ARGUMENT
    failed = run.last("WorkflowTaskFailed")
    assert failed.failure.message == error.value.message, "the history says what the worker hears"
    return error.value.message


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"endpoint": "nobody"}, 'endpoint "nobody" not found'),
        ({"endpoint": ""}, 'endpoint "" not found'),
        ({"endpoint": "private"}, 'caller namespace "ns" unauthorized for "private"'),
        ({"endpoint": "nobody", "service": "s" * 1001}, 'endpoint "nobody" not found'),
        ({"service": "s" * 1001}, f"{OF}.Service exceeds length limit of 1000"),
        ({"operation": "é" * 501}, f"{OF}.Operation exceeds length limit of 1000"),
        ({"schedule_to_close_timeout": Duration(seconds=-1)}, f"{OF}.ScheduleToCloseTimeout is invalid: negative duration"),
        ({"schedule_to_start_timeout": Duration(nanos=-1)}, f"{OF}.ScheduleToStartTimeout is invalid: negative duration"),
        (
            {"start_to_close_timeout": Duration(seconds=1, nanos=-1)},
            f"{OF}.StartToCloseTimeout is invalid: duration has seconds and nanos with different signs",
        ),
        ({"nexus_header": {"Request-Timeout": "1s"}}, f'{OF}.NexusHeader contains a disallowed header key: "Request-Timeout"'),
        ({"nexus_header": {"a": "b" * 8192}}, f"{OF}.NexusHeader exceeds size limit"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_the_public_servers_words(fields: dict[str, Any], text: str) -> None:
    assert refused(schedule(**fields)) == f"{BAD}: {text}"


@pytest.mark.parametrize("key", sorted(nexus_commands.DISALLOWED_HEADERS))
def test_what_the_server_says_itself_no_worker_says(key: str) -> None:
    assert refused(schedule(nexus_header={key: "x"})).endswith(f'disallowed header key: "{key}"')


@pytest.mark.parametrize("name", ["", "s" * 999, "s" * 1000, "é" * 500, "a/b ü"])
def test_names_are_the_handlers_affair(name: str) -> None:
    run = scheduled(service=name)
    assert run.state.operations[5].service == name
    assert scheduled(operation=name).state.operations[5].operation == name


@pytest.mark.parametrize("size", [8190, 8191])
def test_headers_up_to_the_limit_are_taken_in_lower_case(size: int) -> None:
    event = scheduled(nexus_header={"A": "b" * size}).last("NexusOperationScheduled")
    assert event.nexus_header == {"a": "b" * size}


def test_wishes_without_attributes_are_refused() -> None:
    kinds = CommandType
    assert refused(Command(command_type=kinds.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION)) == f"{BAD}: empty {OF}"
    assert refused(Command(command_type=kinds.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION)) == (
        "BadRequestCancelNexusOperationAttributes: empty CancelNexusOperationCommandAttributes"
    )


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ([77], "requested cancelation for a non-existing or already completed operation with scheduled event ID of 77"),
        ([0], "requested cancelation for a non-existing or already completed operation with scheduled event ID of 0"),
        ([-1], "requested cancelation for a non-existing or already completed operation with scheduled event ID of -1"),
        ([5, 5], "cancelation was already requested for an operation with scheduled event ID 5"),
    ],
)
def test_a_cancel_that_cannot_be_is_refused(wishes: list[int], text: str) -> None:
    run = Run()
    message = refused(schedule(), *map(request_cancel, wishes), run=run)
    assert message == f"BadRequestCancelNexusOperationAttributes: {text}"
    assert not run.state.operations, "nothing of the same answer counts"
    causes = WorkflowTaskFailedCause
    assert run.last("WorkflowTaskFailed").cause == causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES


def test_an_input_that_is_too_large_ends_the_run() -> None:
    for size, is_taken in ((997, True), (998, True), (999, False)):  # and two bytes that say so
        run = Run(limits=Limits(payload_bytes_max=1001))
        wish = schedule(input=Payload(data=b"x" * size))
        if is_taken:
            run.task(wish)
            assert run.state.is_open
        else:
            assert refused(wish, run=run) == f"{BAD}: {OF}.Input exceeds size limit"
            assert run.last("WorkflowExecutionTerminated").identity == "history-service"


def test_only_so_many_are_pending() -> None:
    run = Run()
    run.task(*[schedule() for _ in range(1999)])
    run.task(schedule())
    text = "workflow has reached the pending nexus operation limit of 2000 for this namespace"
    assert refused(schedule(), run=run) == f"PendingNexusOperationsLimitExceeded: {text}"
    assert len(run.state.operations) == 2000


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((None, None, None), (50, None, None)),
        ((100, 90, 80), (50, 50, 50)),
        ((20, 30, 10), (20, 20, 10)),
        ((0, 5, 0), (50, 5, 0)),
    ],
)
def test_no_operation_outlasts_its_run_and_no_part_the_whole(
    asked: tuple[int | None, ...], told: tuple[int | None, ...]
) -> None:
    names = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")
    run = Run(run_timeout_s=50)
    spans: dict[str, Any] = {name: seconds(span) for name, span in zip(names, asked, strict=True) if span is not None}
    run.task(schedule(**spans))
    event = run.last("NexusOperationScheduled")
    assert tuple(getattr(event, name).seconds if event.HasField(name) else None for name in names) == told


def test_a_span_no_clock_can_hold_is_brought_down() -> None:
    run = scheduled(schedule_to_close_timeout=Duration(seconds=2**62))
    assert run.last("NexusOperationScheduled").schedule_to_close_timeout.seconds == 100 * 365 * 86_400


def test_each_operation_has_a_request_id_of_its_own() -> None:
    run = Run()
    run.task(schedule(), schedule())
    assert len({one.request_id for one in run.state.operations.values()}) == 2


def test_a_server_that_does_not_serve_nexus_says_so_and_owes_no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "NEXUS_IS_SERVED", False)
    run = Run()
    attach(run, "a")
    run.start_task()
    for wish, name in ((schedule(), "ScheduleNexusOperation"), (request_cancel(), "RequestCancelNexusOperation")):
        with pytest.raises(CallerError, match=f"unknown command type: {name}"):
            run.answer(wish)
    run.terminate()
    assert effects(run.state) == []
    monkeypatch.setattr(commands, "NEXUS_IS_SERVED", True)
    assert len(effects(run.state)) == 1, "it was kept for a server that does"
