"""What a request asks for and Outlast cannot do is refused in the public server's words, never taken and forgotten."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.workflow.v1 import PostResetOperation, VersioningOverride
from temporalio.api.workflowservice import v1 as w

from tests.frontend.test_limits import ARRIVED, answer_to, start
from tests.frontend.world import world

Pin = VersioningOverride.PinnedOverride
OTHER_PATHS = PostResetOperation.UpdateWorkflowOptions(update_mask=FieldMask(paths=["priority", "nope"]))
KNOWN_PATHS = PostResetOperation.UpdateWorkflowOptions(update_mask=FieldMask(paths=["priority", "priority.priority_key"]))


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        (
            VersioningOverride(pinned=Pin(version=WorkerDeploymentVersion(deployment_name="d", build_id="b"))),
            grpc.StatusCode.FAILED_PRECONDITION,
            "Pinned version 'd:b' is not present in task queue 'q' of type 'Workflow'",
        ),
        (
            VersioningOverride(behavior=1, pinned_version="d.b.c"),  # type: ignore[arg-type]
            grpc.StatusCode.FAILED_PRECONDITION,
            "Pinned version 'd:b.c' is not present in task queue 'q' of type 'Workflow'",
        ),
        (VersioningOverride(pinned=Pin()), grpc.StatusCode.INVALID_ARGUMENT, "must provide version if override is pinned."),
        (VersioningOverride(), grpc.StatusCode.INVALID_ARGUMENT, "override behavior is required"),
        (VersioningOverride(auto_upgrade=False), grpc.StatusCode.INVALID_ARGUMENT, "auto-upgrade override must be true"),
        (VersioningOverride(auto_upgrade=True), *ARRIVED),
        (VersioningOverride(behavior=2), *ARRIVED),  # type: ignore[arg-type]
    ],
)
async def test_a_run_cannot_be_pinned_to_a_version_that_no_worker_has(
    override: VersioningOverride, code: grpc.StatusCode, words: str
) -> None:
    signalled = w.SignalWithStartWorkflowExecutionRequest(
        namespace="default", workflow_id="w", signal_name="s", versioning_override=override
    )
    signalled.workflow_type.name, signalled.task_queue.name = "W", "q"
    async with world() as served:
        assert await answer_to(served, "StartWorkflowExecution", start(versioning_override=override)) == (code, words)
        assert await answer_to(served, "SignalWithStartWorkflowExecution", signalled) == (code, words)


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        (
            PostResetOperation(signal_workflow=PostResetOperation.SignalWorkflow(signal_name="s")),
            grpc.StatusCode.INVALID_ARGUMENT,
            "unsupported post reset operation: *workflow.PostResetOperation_SignalWorkflow_",
        ),
        (PostResetOperation(), grpc.StatusCode.INVALID_ARGUMENT, "unsupported post reset operation: <nil>"),
        (
            PostResetOperation(update_workflow_options=OTHER_PATHS),
            grpc.StatusCode.INVALID_ARGUMENT,
            'error applying update_options: proto: invalid path "nope" for message '
            '"temporal.api.workflow.v1.WorkflowExecutionOptions"',
        ),
        (PostResetOperation(update_workflow_options=KNOWN_PATHS), *ARRIVED),
    ],
)
async def test_a_reset_refuses_the_operations_it_does_not_carry_out(operation: Any, code: grpc.StatusCode, words: str) -> None:
    request = w.ResetWorkflowExecutionRequest(namespace="default", request_id="1", post_reset_operations=[operation])
    request.workflow_execution.workflow_id = "w"
    async with world() as served:
        assert await answer_to(served, "ResetWorkflowExecution", request) == (code, words)
