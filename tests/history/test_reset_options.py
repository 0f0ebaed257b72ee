"""A reset can give the new run other options before its first task; a run's options cannot name a version nobody has."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import Priority, WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.workflow.v1 import PostResetOperation, VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import Code
from tests.history.world import World, play, refused

PINNED = VersioningOverride.PinnedOverride(version=WorkerDeploymentVersion(deployment_name="d", build_id="b"))
URGENT = WorkflowExecutionOptions(priority=Priority(priority_key=2))
PINNED_OPTIONS = WorkflowExecutionOptions(versioning_override=VersioningOverride(pinned=PINNED))
W = WorkflowExecution(workflow_id="w")


def reset(options: WorkflowExecutionOptions, path: str) -> api.ResetWorkflowExecutionRequest:
    operation = PostResetOperation.UpdateWorkflowOptions(
        workflow_execution_options=options, update_mask=FieldMask(paths=[path])
    )
    return api.ResetWorkflowExecutionRequest(
        workflow_execution=W,
        reason="again",
        workflow_task_finish_event_id=4,
        request_id="reset",
        post_reset_operations=[PostResetOperation(update_workflow_options=operation)],
    )


def test_a_reset_changes_the_options_of_the_new_run_before_its_first_task() -> None:
    async def story(world: World) -> None:
        await world.start("w")
        await world.work()
        await world.signal("w", "early")
        run_id = (await world.call("reset_workflow_execution", "w", reset(URGENT, "priority"))).run_id
        names = await world.event_names("w", run_id)
        assert names[3:] == [
            "WorkflowTaskFailed",
            "WorkflowExecutionSignaled",
            "WorkflowExecutionOptionsUpdated",
            "WorkflowTaskScheduled",
        ]
        told = (await world.history_of("w", run_id))[5].workflow_execution_options_updated_event_attributes
        assert (told.priority.priority_key, told.unset_versioning_override, told.identity) == (2, True, "")
        assert (await world.describe("w")).workflow_execution_info.priority.priority_key == 2
        await world.check_replay()

    play(story)


def test_a_pin_to_a_version_that_no_worker_has_changes_nothing() -> None:
    async def story(world: World) -> None:
        first = await world.start("w")
        await world.work()
        words = "Pinned version 'd:b' is not present in task queue 'tq' of type 'Workflow'"
        update = api.UpdateWorkflowExecutionOptionsRequest(
            workflow_execution=W,
            workflow_execution_options=PINNED_OPTIONS,
            update_mask=FieldMask(paths=["versioning_override"]),
        )
        for verb, request in (
            ("update_workflow_execution_options", update),
            ("reset_workflow_execution", reset(PINNED_OPTIONS, "versioning_override")),
        ):
            error = await refused(world.call(verb, "w", request))
            assert (error.code, error.message) == (Code.FAILED_PRECONDITION, words)
        answer = await world.describe("w")
        assert answer.workflow_execution_info.execution.run_id == first
        assert "WorkflowExecutionOptionsUpdated" not in await world.event_names("w")

    play(story)
