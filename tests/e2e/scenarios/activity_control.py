"""Activities from outside: by token, by id, cancelled before they start, paused, reset, with changed options."""

from __future__ import annotations

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    RecordActivityTaskHeartbeatByIdRequest,
    ResetActivityRequest,
    RespondActivityTaskCanceledByIdRequest,
    RespondActivityTaskCompletedByIdRequest,
    RespondActivityTaskFailedByIdRequest,
    UnpauseActivityRequest,
    UpdateActivityOptionsRequest,
)

from tests.e2e import commands
from tests.e2e.environment import IDENTITY, Env, payloads
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario

NO_RETRY = RetryPolicy(maximum_attempts=1)


def policy(initial_s: float, **fields: Any) -> RetryPolicy:
    return RetryPolicy(initial_interval=commands.duration(initial_s), backoff_coefficient=1.0, **fields)


def target(env: Env, run: Run) -> dict[str, Any]:
    return {"namespace": env.namespace, "identity": IDENTITY, "workflow_id": run.workflow_id, "activity_id": "a"}


def execution(env: Env, run: Run) -> dict[str, Any]:
    return {
        "namespace": env.namespace,
        "identity": IDENTITY,
        "execution": WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
        "id": "a",
    }


async def with_activity(env: Env, **fields: Any) -> Run:
    """A run that has activity "a" scheduled."""
    run = await env.start_raw()
    await env.raw.step(commands.schedule_activity("a", env.task_queue, **fields))
    return run


async def pending(env: Env, run: Run) -> PendingActivityInfo:
    return (await env.describe(run)).pending_activities[0]


async def finish(env: Env) -> None:
    await env.raw.step(commands.complete())


@scenario("activity_completed_by_id", items=["activity: by id"])
async def activity_completed_by_id(env: Env) -> list[Run]:
    run = await with_activity(env)
    await env.raw.poll_activity()
    heartbeat = await env.service.record_activity_task_heartbeat_by_id(
        RecordActivityTaskHeartbeatByIdRequest(**target(env, run), details=payloads("by id"))
    )
    env.observe("cancel requested", heartbeat.cancel_requested)
    await env.service.respond_activity_task_completed_by_id(
        RespondActivityTaskCompletedByIdRequest(**target(env, run), result=payloads("done"))
    )
    await env.observe_error(
        "completing it twice",
        env.service.respond_activity_task_completed_by_id(RespondActivityTaskCompletedByIdRequest(**target(env, run))),
    )
    await finish(env)
    return [run]


@scenario("activity_failed_by_id", items=["activity: by id"])
async def activity_failed_by_id(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=NO_RETRY)
    await env.raw.poll_activity()
    await env.service.respond_activity_task_failed_by_id(
        RespondActivityTaskFailedByIdRequest(**target(env, run), failure=failure("by id", "Remote"))
    )
    await finish(env)
    return [run]


@scenario("activity_completed_by_id_before_it_starts", items=["activity: by id"])
async def activity_completed_by_id_before_it_starts(env: Env) -> list[Run]:
    run = await with_activity(env)
    await env.observe_error(
        "heartbeat before it started",
        env.service.record_activity_task_heartbeat_by_id(RecordActivityTaskHeartbeatByIdRequest(**target(env, run))),
    )
    await env.service.respond_activity_task_completed_by_id(
        RespondActivityTaskCompletedByIdRequest(**target(env, run), result=payloads("early"))
    )
    await finish(env)
    return [run]


@scenario("activity_canceled_by_id", items=["activity: by id", "activity: cancellation"])
async def activity_canceled_by_id(env: Env) -> list[Run]:
    run = await with_activity(env)
    task = await env.raw.poll_activity()
    await env.signal(run)
    await env.raw.step(commands.cancel_activity(5))
    heartbeat = await env.raw.heartbeat(task)
    env.observe("cancel requested", heartbeat.cancel_requested)
    await env.service.respond_activity_task_canceled_by_id(
        RespondActivityTaskCanceledByIdRequest(**target(env, run), details=payloads("gone"))
    )
    await finish(env)
    return [run]


@scenario("activity_canceled_before_it_starts", items=["activity: cancellation"])
async def activity_canceled_before_it_starts(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.schedule_activity("a", env.id("nobody")))
    await env.signal(run)
    await env.raw.step(commands.cancel_activity(5))
    await finish(env)
    return [run]


@scenario("activity_canceled_in_the_same_task", items=["activity: cancellation"])
async def activity_canceled_in_the_same_task(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.schedule_activity("a", env.id("nobody")), commands.cancel_activity(5))
    await finish(env)
    return [run]


@scenario("activity_cancel_ends_its_retries", items=["activity: cancellation", "activity: retry"])
async def activity_cancel_ends_its_retries(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(60))
    await env.raw.fail_activity(await env.raw.poll_activity(), failure("first"))
    await env.signal(run)
    await env.raw.step(commands.cancel_activity(5))
    await finish(env)
    return [run]


@scenario("activity_fails_after_cancel_request", items=["activity: cancellation", "activity: retry"])
async def activity_fails_after_cancel_request(env: Env) -> list[Run]:
    """A failure after the request to cancel is not retried."""
    run = await with_activity(env, retry_policy=policy(0.02))
    task = await env.raw.poll_activity()
    await env.signal(run)
    await env.raw.step(commands.cancel_activity(5))
    await env.raw.fail_activity(task, failure("after the request"))
    await finish(env)
    return [run]


@scenario("activity_canceled_unasked_is_refused", items=["activity: cancellation", "activity: by token"])
async def activity_canceled_unasked_is_refused(env: Env) -> list[Run]:
    run = await with_activity(env)
    task = await env.raw.poll_activity()
    await env.observe_error("reporting a cancel nobody asked for", env.raw.cancel_activity(task))
    await env.raw.complete_activity(task)
    await finish(env)
    return [run]


@scenario("activity_tokens_of_the_past", items=["activity: by token"])
async def activity_tokens_of_the_past(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(0.02))
    first = await env.raw.poll_activity()
    await env.raw.fail_activity(first, failure("first"))
    second = await env.raw.poll_activity()
    env.observe("attempt", second.attempt)
    await env.observe_error("completing the first attempt", env.raw.complete_activity(first))
    await env.observe_error("heartbeat of the first attempt", env.raw.heartbeat(first))
    await env.raw.complete_activity(second)
    await env.observe_error("completing it twice", env.raw.complete_activity(second))
    await finish(env)
    await env.observe_error("completing it after the run", env.raw.complete_activity(second))
    return [run]


@scenario("activity_failure_with_heartbeat", items=["activity: heartbeat details"])
async def activity_failure_with_heartbeat(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(0.02), heartbeat_timeout=commands.duration(5))
    await env.raw.fail_activity(await env.raw.poll_activity(), failure("first"), last_heartbeat_details=payloads("last words"))
    second = await env.raw.poll_activity()
    env.observe("details", second.heartbeat_details)
    await env.raw.complete_activity(second, payloads("ok"))
    await finish(env)
    return [run]


@scenario("activity_pending_in_describe", items=["activity: pending", "visibility: describe"])
async def activity_pending_in_describe(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(60, maximum_attempts=5), heartbeat_timeout=commands.duration(30))
    env.observe("scheduled", await pending(env, run))
    task = await env.raw.poll_activity()
    env.observe("started", await pending(env, run))
    await env.raw.heartbeat(task, payloads("half"))
    env.observe("with heartbeat", await pending(env, run))
    await env.raw.fail_activity(task, failure("first", "Kind"))
    env.observe("backing off", await pending(env, run))
    return [run]


@scenario("activity_paused_while_scheduled", items=["activity: pause"])
async def activity_paused_while_scheduled(env: Env) -> list[Run]:
    run = await with_activity(env)
    await env.service.pause_activity(PauseActivityRequest(**execution(env, run), reason="wait"))
    env.observe("paused", await pending(env, run))
    await env.service.unpause_activity(UnpauseActivityRequest(**execution(env, run)))
    env.observe("unpaused", await pending(env, run))
    await env.raw.complete_activity(await env.raw.poll_activity())
    await finish(env)
    return [run]


@scenario("activity_paused_while_running", items=["activity: pause"])
async def activity_paused_while_running(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(0.02))
    task = await env.raw.poll_activity()
    await env.service.pause_activity(PauseActivityRequest(**execution(env, run)))
    env.observe("pause requested", await pending(env, run))
    heartbeat = await env.raw.heartbeat(task)
    env.observe("heartbeat says paused", heartbeat.activity_paused)
    await env.raw.fail_activity(task, failure("stopped for the pause"))
    env.observe("paused", await pending(env, run))
    await env.service.unpause_activity(UnpauseActivityRequest(**execution(env, run), reset_attempts=True))
    again = await env.raw.poll_activity()
    env.observe("attempt after unpause with reset", again.attempt)
    await env.raw.complete_activity(again)
    await finish(env)
    return [run]


@scenario("activity_completes_although_paused", items=["activity: pause"])
async def activity_completes_although_paused(env: Env) -> list[Run]:
    run = await with_activity(env)
    task = await env.raw.poll_activity()
    await env.service.pause_activity(PauseActivityRequest(**execution(env, run)))
    await env.raw.complete_activity(task)
    await finish(env)
    return [run]


@scenario("activity_reset", items=["activity: reset"])
async def activity_reset(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(60), heartbeat_timeout=commands.duration(30))
    task = await env.raw.poll_activity()
    await env.raw.heartbeat(task, payloads("kept"))
    await env.raw.fail_activity(task, failure("first"))
    env.observe("before", (await pending(env, run)).attempt)
    await env.service.reset_activity(ResetActivityRequest(**execution(env, run), reset_heartbeat=True))
    again = await env.raw.poll_activity()
    env.observe("attempt", again.attempt)
    env.observe("details", again.heartbeat_details)
    await env.raw.complete_activity(again)
    await finish(env)
    return [run]


@scenario("activity_reset_while_running", items=["activity: reset"])
async def activity_reset_while_running(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(0.02), start_to_close_timeout=commands.duration(1))
    await env.raw.fail_activity(await env.raw.poll_activity(), failure("first"))
    second = await env.raw.poll_activity()
    await env.service.reset_activity(ResetActivityRequest(**execution(env, run)))
    await env.observe_error("heartbeat of the attempt before the reset", env.raw.heartbeat(second))
    await env.observe_error("failing the attempt before the reset", env.raw.fail_activity(second, failure("second")))
    third = await env.raw.poll_activity()
    env.observe("attempt", third.attempt)
    await env.raw.complete_activity(third)
    await finish(env)
    return [run]


@scenario("activity_options_updated", items=["activity: update options"])
async def activity_options_updated(env: Env) -> list[Run]:
    run = await with_activity(env, retry_policy=policy(60))
    await env.raw.fail_activity(await env.raw.poll_activity(), failure("first"))
    response = await env.service.update_activity_options(
        UpdateActivityOptionsRequest(
            **execution(env, run),
            activity_options=ActivityOptions(
                start_to_close_timeout=commands.duration(3), retry_policy=policy(0.02, maximum_attempts=2)
            ),
            update_mask=FieldMask(
                paths=["start_to_close_timeout", "retry_policy.initial_interval", "retry_policy.maximum_attempts"]
            ),
        )
    )
    env.observe("options", response.activity_options)
    second = await env.raw.poll_activity()
    env.observe("attempt", second.attempt)
    await env.raw.fail_activity(second, failure("second"))
    await finish(env)
    return [run]


@scenario("activity_options_of_nobody", items=["activity: update options", "activity: pause", "activity: reset"])
async def activity_options_of_nobody(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step()
    await env.observe_error("pause", env.service.pause_activity(PauseActivityRequest(**execution(env, run))))
    await env.observe_error("unpause", env.service.unpause_activity(UnpauseActivityRequest(**execution(env, run))))
    await env.observe_error("reset", env.service.reset_activity(ResetActivityRequest(**execution(env, run))))
    await env.observe_error(
        "update options",
        env.service.update_activity_options(
            UpdateActivityOptionsRequest(
                **execution(env, run),
                activity_options=ActivityOptions(start_to_close_timeout=commands.duration(3)),
                update_mask=FieldMask(paths=["start_to_close_timeout"]),
            )
        ),
    )
    return [run]
