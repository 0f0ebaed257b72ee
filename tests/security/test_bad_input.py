"""Each line of "Bad input": a clear refusal with the public server's status, and nothing is harmed by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Memo, Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.operatorservice import v1 as operator_api
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, UpdateRef
from temporalio.api.update.v1 import Request as UpdateRequest
from temporalio.api.workflowservice import v1 as api

from cluster.config import MIB, Limits
from cluster.frontend.methods import METHODS
from cluster.frontend.not_built import NOT_BUILT
from tests.e2e import commands
from tests.fuzz.pools import FUZZ
from tests.security.standing import RUN_ID, Standing, execution, start, unique

LIMITS = Limits()
SERVED = sorted(METHODS.keys() - NOT_BUILT.keys())

ACTIVITY_BY_ID = ("RespondActivityTaskCompletedById", "RespondActivityTaskFailedById", "RespondActivityTaskCanceledById",
                  "RecordActivityTaskHeartbeatById")  # fmt: skip


def base(name: str) -> Any:
    """A correct request of this call, for a run that does not exist where it needs one."""
    request = METHODS[name].request()
    fields = request.DESCRIPTOR.fields_by_name
    for field in ("execution", "workflow_execution"):
        if field in fields:
            getattr(request, field).workflow_id = "nobody"
    if "namespace" in fields:
        request.namespace = FUZZ
    if "workflow_id" in fields:
        request.workflow_id = "nobody"
    if name.endswith("ById"):
        request.activity_id = "a"
    if "request_id" in fields:
        request.request_id = unique("r")
    if (fill := _FILLED.get(name)) is not None:
        fill(request)
    return request


def _fill_start(request: Any) -> None:
    request.workflow_type.name, request.task_queue.name, request.workflow_id = "Raw", "security", unique("w")


def _fill_signal_with_start(request: Any) -> None:
    _fill_start(request)
    request.signal_name = "s"


def _fill_update(request: Any) -> None:
    request.request.CopyFrom(UpdateRequest(meta=Meta(update_id="u"), input=Input(name="n")))
    request.wait_policy.lifecycle_stage = 2


def _fill_multi(request: Any) -> None:
    started, updated = request.operations.add().start_workflow, request.operations.add().update_workflow
    started.CopyFrom(start(unique("w")))
    updated.namespace, updated.workflow_execution.workflow_id = FUZZ, started.workflow_id
    _fill_update(updated)


def _fill_activity_options(request: Any) -> None:
    request.id = "a"
    request.activity_options.SetInParent()
    request.update_mask.paths.append("task_queue")


def _fill_workflow_options(request: Any) -> None:
    request.workflow_execution_options.SetInParent()
    request.update_mask.paths.append("priority")


_FILLED: dict[str, Callable[[Any], Any]] = {
    "StartWorkflowExecution": _fill_start,
    "SignalWithStartWorkflowExecution": _fill_signal_with_start,
    "SignalWorkflowExecution": lambda r: setattr(r, "signal_name", "s"),
    "QueryWorkflow": lambda r: r.query.CopyFrom(WorkflowQuery(query_type="q")),
    "UpdateWorkflowExecution": _fill_update,
    "ExecuteMultiOperation": _fill_multi,
    "PollWorkflowExecutionUpdate": lambda r: r.update_ref.CopyFrom(
        UpdateRef(workflow_execution=execution("nobody"), update_id="u")
    ),
    "ResetWorkflowExecution": lambda r: setattr(r, "workflow_task_finish_event_id", 4),
    "RespondActivityTaskFailedById": lambda r: r.failure.application_failure_info.SetInParent(),
    "PauseActivity": lambda r: setattr(r, "id", "a"),
    "UnpauseActivity": lambda r: setattr(r, "id", "a"),
    "ResetActivity": lambda r: setattr(r, "id", "a"),
    "UpdateActivityOptions": _fill_activity_options,
    "UpdateWorkflowExecutionOptions": _fill_workflow_options,
}

# --- ids ------------------------------------------------------------------------------------------------------------------
# (call, path of the field)
LONG_IDS = (
    *((name, path) for name in ("StartWorkflowExecution", "SignalWithStartWorkflowExecution")
      for path in ("workflow_id", "workflow_type.name", "task_queue.name", "request_id", "identity")),
    *((name, f"{field}.workflow_id") for name, field in (
        ("DescribeWorkflowExecution", "execution"), ("GetWorkflowExecutionHistory", "execution"), ("QueryWorkflow", "execution"),
        ("GetWorkflowExecutionHistoryReverse", "execution"), ("SignalWorkflowExecution", "workflow_execution"),
        ("TerminateWorkflowExecution", "workflow_execution"), ("RequestCancelWorkflowExecution", "workflow_execution"),
        ("ResetWorkflowExecution", "workflow_execution"), ("UpdateWorkflowExecution", "workflow_execution"),
        ("DeleteWorkflowExecution", "workflow_execution"), ("PauseActivity", "execution"),
        ("ResetStickyTaskQueue", "execution"))),
    ("SignalWithStartWorkflowExecution", "signal_name"), ("SignalWorkflowExecution", "signal_name"),
    ("SignalWorkflowExecution", "request_id"), ("SignalWorkflowExecution", "identity"),
    ("RequestCancelWorkflowExecution", "request_id"), ("RequestCancelWorkflowExecution", "identity"),
    ("TerminateWorkflowExecution", "identity"), ("ResetWorkflowExecution", "request_id"),
    ("UpdateWorkflowExecution", "request.meta.update_id"),
    *((name, field) for name in ACTIVITY_BY_ID for field in ("workflow_id", "activity_id", "identity")),
    ("PauseWorkflowExecution", "workflow_id"), ("PauseWorkflowExecution", "request_id"),
)  # fmt: skip


def with_field(name: str, path: str, value: Any) -> Any:
    request = holder = base(name)
    *outer, last = path.split(".")
    for step in outer:
        holder = getattr(holder, step)
    setattr(holder, last, value)
    return request


async def test_an_id_is_refused_from_one_byte_above_the_limit_on(standing: Standing) -> None:
    wrong = {}
    for name, path in LONG_IDS:
        longest = unique("x").ljust(LIMITS.id_bytes_max, "x")
        for text, is_refused in (
            (longest[:-1], False), (longest, False), (longest + "x", True),
            ("é" * (LIMITS.id_bytes_max // 2), False), ("é" * (LIMITS.id_bytes_max // 2) + "x", True), ("x" * 1_000_000, True),
        ):  # fmt: skip
            answer = await standing.send(name, with_field(name, path, text), 0.5)
            says_too_long = answer.code == "INVALID_ARGUMENT" and any(
                words in answer.message for words in ("exceeds", "too long")
            )
            if says_too_long != is_refused:
                wrong[name, path, len(text.encode())] = (answer.code, answer.message[:100])
    assert wrong == {}


async def test_a_namespace_name_that_is_too_long_is_refused(standing: Standing) -> None:
    for name in ("RegisterNamespace", "DescribeNamespace", "StartWorkflowExecution", "AddSearchAttributes"):
        request = METHODS[name].request(namespace="x" * 1_001)
        answer = await standing.send(name, request)
        assert (answer.code, answer.message) == ("INVALID_ARGUMENT", "Namespace length exceeds limit."), name


# --- payloads -------------------------------------------------------------------------------------------------------------
def sized(form: Callable[[bytes], Message], size: int) -> Any:
    """A message of exactly `size` bytes, its weight in one payload's data."""
    data = size
    while (over := form(b"x" * data).ByteSize() - size) > 0:
        data -= over
    assert form(b"x" * data).ByteSize() == size
    return form(b"x" * data)


def one_payload(data: bytes) -> Payloads:
    return Payloads(payloads=[Payload(data=data)])


def halves(data: bytes) -> Payloads:
    """Two payloads: with one, the length prefix of its length jumps right at 2 MiB."""
    half = len(data) // 2
    return Payloads(payloads=[Payload(data=data[:half]), Payload(data=data[half:])])


def memo_of(data: bytes) -> Memo:
    half = len(data) // 2
    return Memo(fields={"m": Payload(data=data[:half]), "n": Payload(data=data[half:])})


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_input_and_memo_are_refused_from_one_byte_above_the_limit_on(standing: Standing, over: int) -> None:
    size = LIMITS.payload_bytes_max + over
    blob = sized(halves, size)
    signal = api.SignalWorkflowExecutionRequest(
        namespace=FUZZ, workflow_execution=execution(standing.workflow_id()), signal_name="s"
    )
    signal.input.CopyFrom(blob)
    requests: list[tuple[str, Message, str]] = [
        ("StartWorkflowExecution", start(input=blob), "Blob data size exceeds limit."),
        ("StartWorkflowExecution", start(memo=sized(memo_of, LIMITS.memo_bytes_max + over)), "Memo size exceeds limit."),
        ("SignalWorkflowExecution", signal, "Blob data size exceeds limit."),
    ]
    for name, request, words in requests:
        answer = await standing.send(name, request)
        assert (answer.code, answer.message) == (("INVALID_ARGUMENT", words) if over > 0 else ("OK", "")), name


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_a_result_above_the_limit_fails_the_activity_and_not_the_call(standing: Standing, over: int) -> None:
    result = sized(halves, LIMITS.payload_bytes_max + over)
    request = api.RespondActivityTaskCompletedRequest(namespace=FUZZ, task_token=standing.token("activity"), result=result)
    assert (await standing.send("RespondActivityTaskCompleted", request)).code == "OK"
    last = {event.event_type: event for event in await standing.events(standing.workflow_id("activity"))}
    assert (EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED in last) is (over <= 0)
    if over > 0:
        failure = last[EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED].activity_task_failed_event_attributes.failure
        assert failure.message == "Complete result exceeds size limit."


OVERSIZED: dict[str, Callable[[Payloads], Any]] = {
    "BadScheduleActivityAttributes": lambda blob: commands.schedule_activity("a", "q", input=blob),
    "BadSignalWorkflowExecutionAttributes": lambda blob: commands.signal_external("w", input=blob),
    "BadStartChildExecutionAttributes": lambda blob: commands.start_child("c", input=blob),
    "BadRecordMarkerAttributes": lambda blob: commands.marker("m", details={"d": blob}),
    "BadContinueAsNewAttributes": lambda blob: commands.continue_as_new(input=blob),
}


@pytest.mark.parametrize("cause", sorted(OVERSIZED))
async def test_a_command_with_too_large_an_input_ends_the_run_and_says_why(standing: Standing, cause: str) -> None:
    """As the public server does: its worker would send it again for ever."""
    queue = unique("q")
    request = start(queue=queue)
    await standing.stage.ask("StartWorkflowExecution", request)
    task = await standing.poll(queue)
    command = OVERSIZED[cause](sized(halves, LIMITS.payload_bytes_max + 1))
    await standing.send("RespondWorkflowTaskCompleted", completed(task.task_token, command))
    last = (await standing.events(request.workflow_id))[-1]
    assert last.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
    assert last.workflow_execution_terminated_event_attributes.reason.startswith(f"{cause}: ")


@pytest.mark.parametrize("size", [4 * MIB + 1, 30 * MIB])
async def test_a_message_above_the_grpc_limit_is_refused_and_the_connection_goes_on(standing: Standing, size: int) -> None:
    answer = await standing.send("StartWorkflowExecution", sized(lambda data: start("big", input=one_payload(data)), size))
    assert answer.code == "RESOURCE_EXHAUSTED"
    assert (await standing.send("GetSystemInfo", api.GetSystemInfoRequest())).code == "OK"


# --- unknown things -------------------------------------------------------------------------------------------------------
async def test_every_call_in_an_unknown_namespace_is_not_found(standing: Standing) -> None:
    wrong = {}
    for name in SERVED:
        fields = METHODS[name].request.DESCRIPTOR.fields_by_name
        if "namespace" not in fields or "task_token" in fields or name == "RegisterNamespace":
            continue
        request = base(name)
        request.namespace = "nowhere"
        answer = await standing.send(name, request, 3.0)
        if answer.code != "NOT_FOUND" or "nowhere" not in answer.message:
            wrong[name] = answer
    assert wrong == {}


WITHOUT_A_RUN = frozenset({"StartWorkflowExecution", "SignalWithStartWorkflowExecution", "ExecuteMultiOperation"})


@pytest.mark.parametrize("run_id", ["", RUN_ID])
async def test_every_call_about_an_unknown_run_is_not_found(standing: Standing, run_id: str) -> None:
    wrong = {}
    asked = 0
    for name in SERVED:
        fields = METHODS[name].request.DESCRIPTOR.fields_by_name
        holders = [field for field in ("execution", "workflow_execution") if field in fields]
        if name in WITHOUT_A_RUN or not (holders or "workflow_id" in fields or name == "PollWorkflowExecutionUpdate"):
            continue
        request = base(name)
        holder = getattr(request, holders[0]) if holders else request
        if name == "PollWorkflowExecutionUpdate":
            holder = request.update_ref.workflow_execution
        holder.run_id = run_id
        asked += 1
        answer = await standing.send(name, request, 3.0)
        if answer.code != "NOT_FOUND" or not (
            "nobody" in answer.message or RUN_ID in answer.message or "not found" in answer.message
        ):
            wrong[name] = answer
    assert wrong == {} and asked > 20


async def test_a_run_id_that_is_no_uuid_is_refused(standing: Standing) -> None:
    for name in (
        "DescribeWorkflowExecution",
        "SignalWorkflowExecution",
        "TerminateWorkflowExecution",
        "GetWorkflowExecutionHistory",
    ):
        request = base(name)
        holder = request.execution if "execution" in request.DESCRIPTOR.fields_by_name else request.workflow_execution
        holder.run_id = "not-a-run-id"
        answer = await standing.send(name, request)
        assert (answer.code, answer.message) == ("INVALID_ARGUMENT", "Invalid RunId."), name


# --- times ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "field", ["workflow_execution_timeout", "workflow_run_timeout", "workflow_task_timeout", "workflow_start_delay"]
)
async def test_a_negative_duration_is_refused(standing: Standing, field: str) -> None:
    for seconds, nanos in ((-1, 0), (0, -1), (-(2**63), 0), (-(2**63), -(2**31))):
        request = start()
        getattr(request, field).seconds, getattr(request, field).nanos = seconds, nanos
        answer = await standing.send("StartWorkflowExecution", request)
        assert answer.code == "INVALID_ARGUMENT" and answer.message, (seconds, nanos, answer)


@pytest.mark.parametrize(
    "field", ["workflow_execution_timeout", "workflow_run_timeout", "workflow_task_timeout", "workflow_start_delay"]
)
async def test_a_huge_duration_is_brought_down_to_what_a_clock_can_hold(standing: Standing, field: str) -> None:
    for seconds, nanos in ((315_576_000_000, 0), (2**63 - 1, 999_999_999), (9_223_372_036, 854_775_808)):
        request = start()
        getattr(request, field).seconds, getattr(request, field).nanos = seconds, nanos
        assert (await standing.send("StartWorkflowExecution", request)).code == "OK"
        await standing.stage.check_run(FUZZ, request.workflow_id, "")


async def test_a_retention_out_of_range_is_refused(standing: Standing) -> None:
    for seconds in (0, 1, 3_599, -3_600, 2**62, -(2**62), 90 * 86_400 + 1):
        request = api.RegisterNamespaceRequest(namespace=unique("doomed"))
        request.workflow_execution_retention_period.seconds = seconds
        assert (await standing.send("RegisterNamespace", request)).code == "INVALID_ARGUMENT", seconds


# --- answers to tasks -------------------------------------------------------------------------------------------------------
def completed(token: bytes, *wanted: Any) -> api.RespondWorkflowTaskCompletedRequest:
    return api.RespondWorkflowTaskCompletedRequest(namespace=FUZZ, task_token=token, commands=wanted)


async def test_every_completion_of_a_closed_run_is_not_found(standing: Standing) -> None:
    for name in ("started", "activity"):
        terminate = api.TerminateWorkflowExecutionRequest(
            namespace=FUZZ, workflow_execution=execution(standing.workflow_id(name))
        )
        await standing.stage.ask("TerminateWorkflowExecution", terminate)
    before = await standing.events(standing.workflow_id("activity"))
    wrong = {}
    for name in SERVED:
        if "task_token" not in METHODS[name].request.DESCRIPTOR.fields_by_name or "Query" in name or "Nexus" in name:
            continue
        request = METHODS[name].request(
            namespace=FUZZ, task_token=standing.token("workflow" if "Workflow" in name else "activity")
        )
        if name == "RespondActivityTaskFailed":
            request.failure.application_failure_info.SetInParent()
        answer = await standing.send(name, request)
        words = "Workflow task not found." if name == "RespondWorkflowTaskCompleted" else "workflow execution already completed"
        if answer.code != "NOT_FOUND" or answer.message != words:
            wrong[name] = answer
    for name in ACTIVITY_BY_ID:
        request = base(name)
        request.workflow_id, request.activity_id = standing.workflow_id("activity"), "a1"
        answer = await standing.send(name, request)
        if answer.code != "NOT_FOUND":
            wrong[name] = answer
    assert wrong == {}
    assert await standing.events(standing.workflow_id("activity")) == before


async def test_a_second_answer_to_a_task_is_not_found_and_changes_nothing(standing: Standing) -> None:
    token = standing.token("workflow")
    await standing.stage.ask("RespondWorkflowTaskCompleted", completed(token, commands.start_timer("t")))
    before = await standing.events(standing.workflow_id("started"))
    for request in (completed(token, commands.complete()), completed(token)):
        answer = await standing.send("RespondWorkflowTaskCompleted", request)
        assert (answer.code, answer.message) == ("NOT_FOUND", "Workflow task not found.")
    assert await standing.events(standing.workflow_id("started")) == before


async def test_search_attributes_of_unknown_types_are_refused(standing: Standing) -> None:
    for kind in (0, 8, 99, -1, 2**31 - 1):
        added = operator_api.AddSearchAttributesRequest(namespace=FUZZ, search_attributes={unique("Attribute"): kind})  # type: ignore[dict-item]
        assert (await standing.send("AddSearchAttributes", added)).code == "INVALID_ARGUMENT", kind


async def test_no_error_message_is_too_long_for_a_trailer(standing: Standing) -> None:
    """A client that gets a status it cannot read does not know what happened."""
    for text in ("x", "é", "\U0001f480", "%", "\n", "\x00"):
        for length in (500, 3_000, 100_000):
            for name, field in (("ListWorkflowExecutions", "query"), ("CountWorkflowExecutions", "query")):
                answer = await standing.send(name, METHODS[name].request(namespace=FUZZ, **{field: "Nobody = '" + text * length}))
                assert answer.code == "INVALID_ARGUMENT" and "metadata" not in answer.message, (name, text, length, answer)
        for name, path in (("DescribeWorkflowExecution", "execution.workflow_id"), ("DescribeWorker", "worker_instance_key")):
            answer = await standing.send(name, with_field(name, path, text * 250))
            assert answer.code in ("NOT_FOUND", "INVALID_ARGUMENT") and "metadata" not in answer.message, (name, text, answer)


async def test_a_namespace_is_in_the_request_or_the_call_is_refused(standing: Standing) -> None:
    for name in ("StartWorkflowExecution", "PollWorkflowTaskQueue", "ListWorkflowExecutions"):
        request = METHODS[name].request(task_queue=TaskQueue(name="q")) if "Poll" in name else METHODS[name].request()
        answer = await standing.send(name, request, 3.0)
        assert (answer.code, answer.message) == ("INVALID_ARGUMENT", "Namespace is empty."), name
