"""Holes that comparable servers had, each by its number (reliability.md). What concerns the web UI or replication is tested where
that is built; here it is only shown that nothing of it is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.protocol.v1 import Message as ProtocolMessage
from temporalio.api.workflowservice import v1 as api

import cluster.frontend.authorisation
from cluster.failures import permission_denied
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call
from cluster.frontend.methods import METHODS
from cluster.frontend.permissions import Permission
from tests.e2e import commands
from tests.fuzz.pools import FUZZ, OTHER
from tests.fuzz.stage import Stage
from tests.fuzz.targets import InProcess, in_process
from tests.security.standing import Standing, start, unique

BY_TOKEN = [name for name, method in METHODS.items() if "task_token" in method.request.DESCRIPTOR.fields_by_name]


# --- CVE-2023-3485: a task token made in one namespace, used in another -----------------------------------------------------
@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if "task_token" in method.request.DESCRIPTOR.fields_by_name]
)
async def test_cve_2023_3485_a_task_token_of_another_namespace_is_refused(standing: Standing, name: str) -> None:
    before = [
        await standing.events(str(standing.stage.pools.names[f"id:{OTHER}:{run}"]), OTHER) for run in ("started", "activity")
    ]
    for purpose in ("workflow", "activity"):
        request = METHODS[name].request(namespace=FUZZ, task_token=standing.token(purpose, OTHER))
        answer = await standing.send(name, request)
        assert answer.code == "INVALID_ARGUMENT", (purpose, answer)
    after = [
        await standing.events(str(standing.stage.pools.names[f"id:{OTHER}:{run}"]), OTHER) for run in ("started", "activity")
    ]
    assert after == before


async def test_cve_2023_3485_a_token_put_together_by_hand_is_refused(standing: Standing) -> None:
    """The public server's own form: a plain protobuf message with namespace id, workflow id, run id, event ids."""
    run = WorkflowExecution(workflow_id="started", run_id=str(standing.stage.pools.names[f"run:{OTHER}:started"]))
    for token in (run.SerializeToString(), b"\x0a\x05other" + run.SerializeToString()):
        answer = await standing.send("RespondWorkflowTaskCompleted", api.RespondWorkflowTaskCompletedRequest(task_token=token))
        assert (answer.code, answer.message) == ("INVALID_ARGUMENT", "Error deserializing task token.")


# --- CVE-2024-2689: text that is no UTF-8 wedges a queue --------------------------------------------------------------------
async def test_cve_2024_2689_a_queue_goes_on_after_invalid_utf8(standing: Standing) -> None:
    """All texts of all calls: test_tokens_and_text.py. Here: inside an update's message, which the frontend does not read."""
    queue = unique("q")
    await standing.stage.ask("StartWorkflowExecution", start(queue=queue))
    task = await standing.poll(queue)
    message = ProtocolMessage(id="m", protocol_instance_id="u")
    for kind in ("Acceptance", "Rejection", "Response", "Request", "Nothing"):
        message.body.type_url = f"type.googleapis.com/temporal.api.update.v1.{kind}"
        message.body.value = b"\x0a\x02\xff\xfe\x12\x04\x0a\x02\xff\xfe"
        request = api.RespondWorkflowTaskCompletedRequest(namespace=FUZZ, task_token=task.task_token, messages=[message])
        answer = await standing.send("RespondWorkflowTaskCompleted", request)
        assert answer.code in ("INVALID_ARGUMENT", "NOT_FOUND"), (kind, answer)  # the first one has failed the task
    blob = b'{"x": "\xff\xfe"}'  # a payload is bytes: it may hold anything
    begun = start(queue=unique("q"))
    begun.input.payloads.add(data=blob, metadata={"encoding": b"\xff"})
    begun.memo.fields["m"].data = blob
    await standing.stage.ask("StartWorkflowExecution", begun)
    task = await standing.poll(begun.task_queue.name)
    assert task.history.events[0].workflow_execution_started_event_attributes.input == begun.input


# --- CVE-2025-1243, CVE-2025-8396: what is parsed before it is allowed -------------------------------------------------------
async def test_cve_2025_8396_large_headers_are_refused_and_the_connection_goes_on(standing: Standing) -> None:
    path, data = METHODS["GetSystemInfo"].path, b""
    many = tuple((f"x-{number}", "x" * 100) for number in range(2_000))
    for metadata in ((("x-large", "x" * 100_000),), many, (("x-bin", b"\xff" * 60_000),)):
        answer = await standing.target.send_path(path, data, metadata)
        assert answer.code in ("RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE"), answer  # said by gRPC itself, before our code
        assert (await standing.target.send_path(path, data)).code == "OK"
    for metadata in (
        (("authorization", "Bearer " + "x" * 3_000),),
        (("temporal-namespace", "other"), ("x-forwarded-for", "1.2.3.4")),
    ):
        assert (await standing.target.send_path(path, data, metadata)).code == "OK"


async def test_a_header_does_not_choose_the_namespace(standing: Standing) -> None:
    metadata = (("temporal-namespace", OTHER),)
    request = api.DescribeWorkflowExecutionRequest(namespace=FUZZ)
    request.execution.workflow_id = str(standing.stage.pools.names[f"id:{OTHER}:started"])
    request.execution.run_id = str(standing.stage.pools.names[f"run:{OTHER}:started"])
    answer = await standing.target.send_path(METHODS["DescribeWorkflowExecution"].path, request.SerializeToString(), metadata)
    assert answer.code == "NOT_FOUND"


# --- CVE-2025-14986: a multi-operation whose operations name another namespace -----------------------------------------------
@pytest.mark.parametrize("which", ["start", "update", "both"])
async def test_cve_2025_14986_an_operation_in_another_namespace_is_refused(standing: Standing, which: str) -> None:
    request = api.ExecuteMultiOperationRequest(namespace=FUZZ)
    started, updated = request.operations.add().start_workflow, request.operations.add().update_workflow
    started.CopyFrom(start(unique("multi")))
    updated.namespace, updated.workflow_execution.workflow_id = FUZZ, started.workflow_id
    updated.request.meta.update_id, updated.request.input.name = "u", "n"
    updated.wait_policy.lifecycle_stage = 2  # type: ignore[assignment]
    if which != "update":
        started.namespace = OTHER
    if which != "start":
        updated.namespace = OTHER
    answer = await standing.send("ExecuteMultiOperation", request)
    assert answer.code == "INVALID_ARGUMENT"
    for namespace in (FUZZ, OTHER):
        describe = api.DescribeWorkflowExecutionRequest(namespace=namespace)
        describe.execution.workflow_id = started.workflow_id
        assert (await standing.send("DescribeWorkflowExecution", describe)).code == "NOT_FOUND", "nothing was started"


# --- CVE-2025-14987: commands aimed at other namespaces ----------------------------------------------------------------------
class MayNotWriteToOther(LoopbackOnly):
    """Whoever answers a task of `fuzz` has no rights in `other`."""

    def check(self, call: Call, namespace: str, permission: Permission) -> None:
        super().check(call, namespace, permission)
        if namespace == OTHER and call.namespace == FUZZ:
            raise permission_denied("Request unauthorized.")


@pytest_asyncio.fixture
async def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[InProcess, Stage]]:
    monkeypatch.setattr(cluster.frontend.authorisation, "LoopbackOnly", MayNotWriteToOther)
    async with in_process(tmp_path) as target:
        stage = Stage(target)
        await stage.set_up()
        yield target, stage


AIMED: dict[str, Any] = {
    "child": lambda: commands.start_child("child-in-other", namespace=OTHER),
    "signal": lambda: commands.signal_external("started-1", namespace=OTHER),
    "cancel": lambda: commands.cancel_external("started-1", namespace=OTHER),
}


@pytest.mark.parametrize("kind", sorted(AIMED))
async def test_cve_2025_14987_a_command_needs_rights_where_it_aims(guarded: tuple[InProcess, Stage], kind: str) -> None:
    target, stage = guarded
    token = stage.pools.names[f"token:{FUZZ}:workflow"]
    assert isinstance(token, bytes)
    before = await stage.history(OTHER, "started-1", "")
    request = api.RespondWorkflowTaskCompletedRequest(
        namespace=FUZZ, task_token=token, commands=[commands.marker("m"), AIMED[kind]()]
    )
    answer = await target.send("RespondWorkflowTaskCompleted", request.SerializeToString())
    assert answer.code == "PERMISSION_DENIED"
    assert await stage.history(OTHER, "started-1", "") == before
    mine = await stage.history(FUZZ, "started-1", "")
    assert not [event for event in mine if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED], (
        "nothing of the answer counts"
    )
    request = api.RespondWorkflowTaskCompletedRequest(namespace=FUZZ, task_token=token, commands=[commands.complete()])
    assert (await target.send("RespondWorkflowTaskCompleted", request.SerializeToString())).code == "OK", "the task is still open"


# --- CVE-2026-5199, CVE-2026-5724: batch and replication ---------------------------------------------------------------------
async def test_cve_2026_5199_there_is_no_batch_to_run_in_another_namespace(standing: Standing) -> None:
    before = await standing.events(str(standing.stage.pools.names[f"id:{OTHER}:started"]), OTHER)
    request = api.StartBatchOperationRequest(namespace=FUZZ, visibility_query="WorkflowType = 'Raw'", job_id="j", reason="r")
    request.executions.add(workflow_id="started-1")
    request.termination_operation.SetInParent()
    assert (await standing.send("StartBatchOperation", request)).code == "UNIMPLEMENTED"
    assert await standing.events(str(standing.stage.pools.names[f"id:{OTHER}:started"]), OTHER) == before


async def test_cve_2026_5724_no_inner_service_is_served_to_clients(standing: Standing) -> None:
    for path in (
        "/temporal.server.api.adminservice.v1.AdminService/StreamWorkflowReplicationMessages",
        "/temporal.server.api.adminservice.v1.AdminService/DescribeMutableState",
        "/temporal.server.api.historyservice.v1.HistoryService/StartWorkflowExecution",
        "/temporal.server.api.matchingservice.v1.MatchingService/PollWorkflowTaskQueue",
        "/temporal.api.workflowservice.v1.WorkflowService/Nothing",
        "/temporal.api.workflowservice.v1.WorkflowService/../OperatorService/DeleteNamespace",
        "/", "", "//", "/x" * 1_000,
    ):  # fmt: skip
        answer = await standing.target.send_path(path, b"")
        assert answer.code == "UNIMPLEMENTED", (path[:80], answer)
