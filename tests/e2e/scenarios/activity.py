"""Activities: results, the four time-outs, retries, heartbeats, cancellation, failure types."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.common.v1 import RetryPolicy as RawRetryPolicy
from temporalio.client import WorkflowFailureError
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, FailureError

from tests.e2e import commands
from tests.e2e.environment import Env, payloads, run_of, seconds
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario

ONCE = RetryPolicy(maximum_attempts=1)
QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=20), backoff_coefficient=1.0)


@activity.defn
async def echo(value: Any) -> Any:
    return value


@activity.defn
async def sleeps(wait_s: float) -> str:
    await asyncio.sleep(wait_s)
    return "slept"


@activity.defn
async def fails_until(attempt: int) -> int:
    if activity.info().attempt < attempt:
        raise ApplicationError(f"attempt {activity.info().attempt}", {"attempt": activity.info().attempt}, type="Early")
    return activity.info().attempt


@activity.defn
async def fails_with(kind: str) -> None:
    match kind:
        case "non-retryable":
            raise ApplicationError("never again", "detail", 7, type="Final", non_retryable=True)
        case "delay":
            if activity.info().attempt == 1:
                raise ApplicationError("later", type="Later", next_retry_delay=timedelta(milliseconds=30))
            raise ApplicationError("enough", type="Enough", non_retryable=True)
        case "chain":
            try:
                raise ValueError("the cause")
            except ValueError as cause:
                raise RuntimeError("the effect") from cause
        case "cancelled":
            raise CancelledError("of its own accord")
        case _:
            raise ApplicationError(kind, type=kind)


@activity.defn
async def carries_on() -> list[Any]:
    """Leaves its progress in a heartbeat and fails; the next attempt finds it."""
    if activity.info().attempt == 1:
        activity.heartbeat("step", 1)
        raise ApplicationError("half way")
    return list(activity.info().heartbeat_details)


@activity.defn
async def waits_for_cancel(how: str) -> str:
    try:
        while True:
            await asyncio.sleep(0.05)
            activity.heartbeat("alive")
    except asyncio.CancelledError:
        if how == "complete":
            return "completed all the same"
        if how == "fail":
            raise ApplicationError("failed while cancelled", non_retryable=True) from None
        raise


@workflow.defn
class OneActivity:
    """Runs one activity with options given by name and reports how it ended."""

    @workflow.run
    async def run(self, name: str, args: list[Any], options: dict[str, Any]) -> Any:
        times: dict[str, Any] = {key: timedelta(seconds=value) for key, value in options.items() if key.endswith("timeout")}
        times.setdefault("start_to_close_timeout", timedelta(seconds=10))
        if options.get("no_start_to_close"):
            del times["start_to_close_timeout"]
        retry = options.get("retry")
        policy = ONCE
        if retry is not None:
            policy = RetryPolicy(
                initial_interval=timedelta(milliseconds=20),
                backoff_coefficient=1.0,
                maximum_attempts=retry.get("maximum_attempts", 0),
                non_retryable_error_types=retry.get("non_retryable", []),
            )
        try:
            return await workflow.execute_activity(
                name,
                args=args,
                retry_policy=policy,
                task_queue=options.get("task_queue"),
                **times,
            )
        except ActivityError as error:
            cause = error.cause
            assert isinstance(cause, FailureError)
            return {
                "retry_state": error.retry_state.name if error.retry_state else None,
                "cause": type(cause).__name__,
                "message": cause.message,
                "type": getattr(cause, "type", None),
                "details": [str(detail) for detail in getattr(cause, "details", [])],
            }


ACTIVITIES: list[Callable[..., Any]] = [echo, sleeps, fails_until, fails_with, carries_on, waits_for_cancel]


async def one(env: Env, name: str, args: list[Any], **options: Any) -> Run:
    async with env.worker([OneActivity], ACTIVITIES):
        handle = await env.start(OneActivity.run, name, args, options)
        env.observe("result", await handle.result())
    return run_of(handle)


@scenario("activity_complete", items=["activity: complete", "activity: eager"])
async def activity_complete(env: Env) -> list[Run]:
    return [await one(env, "echo", [{"a": [1, None, "x"]}])]


@scenario("activity_not_eager", items=["activity: eager"])
async def activity_not_eager(env: Env) -> list[Run]:
    async with env.worker([OneActivity], ACTIVITIES, disable_eager_activity_execution=True):
        handle = await env.start(OneActivity.run, "echo", ["x"], {})
        assert await handle.result() == "x"
    return [run_of(handle)]


@scenario("activity_on_another_queue", items=["activity: complete"])
async def activity_on_another_queue(env: Env) -> list[Run]:
    async with env.worker([], [echo], task_queue=env.id("other")):
        return [await one(env, "echo", ["x"], task_queue=env.id("other"))]


@scenario("activity_start_to_close_timeout", items=["activity: start-to-close timeout"])
async def activity_start_to_close_timeout(env: Env) -> list[Run]:
    return [await one(env, "sleeps", [30], start_to_close_timeout=1)]


@scenario("activity_schedule_to_start_timeout", items=["activity: schedule-to-start timeout"])
async def activity_schedule_to_start_timeout(env: Env) -> list[Run]:
    return [await one(env, "sleeps", [1], schedule_to_start_timeout=1, task_queue=env.id("nobody"), retry={})]


@scenario("activity_schedule_to_close_timeout", items=["activity: schedule-to-close timeout"])
async def activity_schedule_to_close_timeout(env: Env) -> list[Run]:
    """Only this time-out given: the server fills in the others. It ends although retries are allowed."""
    return [await one(env, "sleeps", [30], schedule_to_close_timeout=1, no_start_to_close=True, retry={})]


@scenario("activity_schedule_to_close_ends_retries", items=["activity: schedule-to-close timeout", "activity: retry"])
async def activity_schedule_to_close_ends_retries(env: Env) -> list[Run]:
    """The next retry would be after the time-out, so the last failure is reported at once."""
    run = await env.start_raw()
    policy = raw_policy(initial_s=30)
    await env.raw.step(
        commands.schedule_activity("a", env.task_queue, schedule_to_close_timeout=commands.duration(5), retry_policy=policy)
    )
    await env.raw.fail_activity(await env.raw.poll_activity(), failure("once"))
    await env.raw.step(commands.complete())
    return [run]


def raw_policy(initial_s: float, **fields: Any) -> RawRetryPolicy:
    return RawRetryPolicy(initial_interval=commands.duration(initial_s), backoff_coefficient=1.0, **fields)


@scenario("activity_heartbeat_timeout", items=["activity: heartbeat timeout"])
async def activity_heartbeat_timeout(env: Env) -> list[Run]:
    return [await one(env, "sleeps", [30], heartbeat_timeout=1)]


@scenario("activity_heartbeat_timeout_keeps_details", items=["activity: heartbeat timeout", "activity: heartbeat details"])
async def activity_heartbeat_timeout_keeps_details(env: Env) -> list[Run]:
    run = await env.start_raw()
    policy = raw_policy(initial_s=0.02, maximum_attempts=2)
    await env.raw.step(
        commands.schedule_activity("a", env.task_queue, heartbeat_timeout=commands.duration(1), retry_policy=policy)
    )
    await env.raw.heartbeat(await env.raw.poll_activity(), payloads("progress", 1))
    second = await env.raw.poll_activity()
    env.observe("details of the second attempt", second.heartbeat_details)
    env.observe("attempt", second.attempt)
    await env.seen(run, "ACTIVITY_TASK_TIMED_OUT")
    await env.raw.step(commands.complete())
    return [run]


@scenario("activity_retries", items=["activity: retry"])
async def activity_retries(env: Env) -> list[Run]:
    return [await one(env, "fails_until", [3], retry={})]


@scenario("activity_maximum_attempts", items=["activity: maximum attempts", "activity: failure types"])
async def activity_maximum_attempts(env: Env) -> list[Run]:
    return [await one(env, "fails_until", [9], retry={"maximum_attempts": 2})]


@scenario("activity_non_retryable_type", items=["activity: non-retryable type"])
async def activity_non_retryable_type(env: Env) -> list[Run]:
    return [await one(env, "fails_with", ["Fatal"], retry={"non_retryable": ["Other", "Fatal"]})]


@scenario("activity_non_retryable_failure", items=["activity: non-retryable type", "activity: failure types"])
async def activity_non_retryable_failure(env: Env) -> list[Run]:
    return [await one(env, "fails_with", ["non-retryable"], retry={})]


@scenario("activity_next_retry_delay", items=["activity: next retry delay"])
async def activity_next_retry_delay(env: Env) -> list[Run]:
    return [await one(env, "fails_with", ["delay"], retry={})]


@scenario("activity_failure_with_cause", items=["activity: failure types"])
async def activity_failure_with_cause(env: Env) -> list[Run]:
    return [await one(env, "fails_with", ["chain"])]


@scenario("activity_cancelled_unasked", items=["activity: failure types"])
async def activity_cancelled_unasked(env: Env) -> list[Run]:
    return [await one(env, "fails_with", ["cancelled"], start_to_close_timeout=1)]


@scenario("activity_not_registered", items=["activity: failure types"])
async def activity_not_registered(env: Env) -> list[Run]:
    return [await one(env, "nowhere", [])]


@scenario("activity_heartbeat_details", items=["activity: heartbeat details"])
async def activity_heartbeat_details(env: Env) -> list[Run]:
    return [await one(env, "carries_on", [], heartbeat_timeout=5, retry={})]


@workflow.defn
class CancelsActivity:
    """Starts an activity, waits until told, cancels it, and says what it saw."""

    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def cancel_now(self) -> None:
        self.go = True

    @workflow.run
    async def run(self, kind: int, how: str) -> str:
        running = workflow.start_activity(
            waits_for_cancel,
            how,
            start_to_close_timeout=timedelta(seconds=20),
            heartbeat_timeout=timedelta(seconds=2),
            cancellation_type=workflow.ActivityCancellationType(kind),
            retry_policy=ONCE,
        )
        await workflow.wait_condition(lambda: self.go)
        running.cancel()
        try:
            return await running
        except ActivityError as error:
            return type(error.cause).__name__


async def cancels(env: Env, kind: workflow.ActivityCancellationType, how: str = "obey") -> Run:
    async with env.worker([CancelsActivity], ACTIVITIES, default_heartbeat_throttle_interval=seconds(0.1)):
        handle = await env.start(CancelsActivity.run, int(kind), how)
        run = run_of(handle)

        async def started() -> bool:
            pending = (await env.describe(run)).pending_activities
            return any(one_of_them.state == 2 and one_of_them.HasField("heartbeat_details") for one_of_them in pending)

        await env.until(started, "the activity's first heartbeat")
        await handle.signal(CancelsActivity.cancel_now)
        env.observe("result", await handle.result())
    return run


@scenario("activity_cancel_try", items=["activity: cancellation"])
async def activity_cancel_try(env: Env) -> list[Run]:
    return [await cancels(env, workflow.ActivityCancellationType.TRY_CANCEL)]


@scenario("activity_cancel_wait", items=["activity: cancellation"])
async def activity_cancel_wait(env: Env) -> list[Run]:
    return [await cancels(env, workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)]


@scenario("activity_cancel_abandon", items=["activity: cancellation"])
async def activity_cancel_abandon(env: Env) -> list[Run]:
    return [await cancels(env, workflow.ActivityCancellationType.ABANDON)]


@scenario("activity_cancel_but_it_completes", items=["activity: cancellation"])
async def activity_cancel_but_it_completes(env: Env) -> list[Run]:
    return [await cancels(env, workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, "complete")]


@scenario("activity_cancel_but_it_fails", items=["activity: cancellation"])
async def activity_cancel_but_it_fails(env: Env) -> list[Run]:
    return [await cancels(env, workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, "fail")]


@workflow.defn
class FailsByActivity:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            fails_with, "Broken", start_to_close_timeout=timedelta(seconds=5), retry_policy=ONCE, summary="will fail",
            priority=Priority(priority_key=2),
        )  # fmt: skip


@scenario(
    "activity_failure_fails_the_workflow", items=["activity: failure types", "workflow: user metadata", "workflow: priority"]
)
async def activity_failure_fails_the_workflow(env: Env) -> list[Run]:
    async with env.worker([FailsByActivity], ACTIVITIES):
        handle = await env.start(FailsByActivity.run)
        try:
            await handle.result()
        except WorkflowFailureError as error:
            assert isinstance(error.cause, ActivityError)
            assert isinstance(error.cause.cause, ApplicationError)
            env.observe("type", error.cause.cause.type)
        else:
            raise AssertionError("the workflow should have failed")
    return [run_of(handle)]
