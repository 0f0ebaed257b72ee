"""Retries, the circuit breaker, crashes: the drivers of effects on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import CallbackState, PendingNexusOperationState
from temporalio.api.workflowservice import v1 as api

from cluster.nexus.answers import CallFailed
from cluster.nexus.http_calls import HttpAnswer
from tests.core.nexus_stories import request_cancel, schedule, seconds
from tests.history.commands import complete
from tests.nexus.world import HANG, NexusWorld, away, callback_to, play, started, succeeded

STATES = PendingNexusOperationState
COMPLETED, SCHEDULED = "NexusOperationCompleted", "NexusOperationScheduled"


def test_a_handler_that_is_away_is_called_again_after_one_second_doubling() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away(), away(), away(), away(), succeeded()]
        await world.begin_operation()
        await world.until_event(COMPLETED)
        gaps = world.handler.gaps_s
        assert all(low <= gap <= high + 0.2 for gap, low, high in zip(gaps, (0.8, 1.6, 3.2, 6.4), (1, 2, 4, 8), strict=True))
        assert len(world.handler.request_ids) == 1
        assert (await world.event_names("caller"))[4:6] == [SCHEDULED, COMPLETED]

    play(story)


def test_a_final_refusal_is_not_repeated() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away("NOT_FOUND")]
        await world.begin_operation()
        await world.until_event("NexusOperationFailed")
        await asyncio.sleep(100)
        assert len(world.handler.asked) == 1

    play(story)


def test_a_circuit_breaker_opens_after_five_failures_and_lets_one_probe_through() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away()] * 5 + [succeeded()]
        await world.begin_operation()
        await world.until(lambda: len(world.handler.asked) == 5)
        await asyncio.sleep(0.2)
        opened_at = asyncio.get_running_loop().time()
        await world.begin_operation("second")
        await asyncio.sleep(30)
        for id in ("caller", "second"):
            pending = await world.pending(id)
            assert pending.state == STATES.PENDING_NEXUS_OPERATION_STATE_BLOCKED, id
            assert pending.blocked_reason == "The circuit breaker is open."
        assert len(world.handler.asked) == 5
        (told,) = world.breakers.described(asyncio.get_running_loop().time())
        assert (told["state"], told["destination"], told["failures"]) == ("open", "id of ep", 5)
        await world.begin_operation("other", endpoint="other")
        await world.until_event(COMPLETED, "other")
        await world.until_event(COMPLETED, "second", within_s=100)
        await world.until_event(COMPLETED, "caller", within_s=100)
        assert 59 < world.handler.asked[6][0] - opened_at < 62
        assert not world.breakers.described(0.0)

    play(story)


def test_a_probe_that_fails_keeps_the_breaker_open_for_as_long_again() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away()]
        for number in range(8):
            await world.begin_operation(f"caller-{number}")
        await asyncio.sleep(1)
        count = len(world.handler.asked)
        assert 5 <= count <= 8  # those under way when it opened are not cut off
        await asyncio.sleep(60)
        assert len(world.handler.asked) == count + 1, "one probe"
        await asyncio.sleep(55)
        assert len(world.handler.asked) == count + 1
        await asyncio.sleep(10)
        assert len(world.handler.asked) == count + 2

    play(story)


def test_an_operator_closes_a_breaker() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away()] * 5 + [succeeded()]
        await world.begin_operation()
        await world.until(lambda: len(world.handler.asked) == 5)
        await asyncio.sleep(20)
        breakers = world.breakers
        assert breakers.reset(next(iter(breakers._breakers)))
        await world.until_event(COMPLETED, within_s=5)

    play(story)


@pytest.mark.parametrize(("field", "name"), [("schedule_to_close_timeout", "close"), ("schedule_to_start_timeout", "start")])
def test_an_operation_that_waits_for_a_breaker_times_out_in_time(field: str, name: str) -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away()]
        times: dict[str, Any] = {field: seconds(40)}
        await world.begin_operation(**times)
        began = asyncio.get_running_loop().time()
        await world.until_event("NexusOperationTimedOut", within_s=45)
        assert 38 < asyncio.get_running_loop().time() - began < 42

    play(story)


def test_a_silent_handler_is_given_ten_seconds_and_asked_again() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [HANG, succeeded()]
        await world.begin_operation()
        await world.until_event(COMPLETED)
        assert 9 < world.handler.gaps_s[0] < 11

    play(story)


# --- crashes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.04, 0.051, 0.06, 0.2])
def test_a_node_that_dies_during_a_call_repeats_it_and_the_operation_ends_once(after_s: float) -> None:
    async def story(world: NexusWorld) -> None:
        await world.begin_operation()
        await asyncio.sleep(after_s)
        await world.restart()
        await world.until_event(COMPLETED)
        names = await world.event_names("caller")
        assert names.count(COMPLETED) == 1 and len(world.handler.request_ids) == 1
        await world.check_replay()

    play(story)


def test_attempts_and_the_time_of_the_next_one_survive_a_crash() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away(), away(), away(), succeeded()]
        await world.begin_operation()
        await world.until(lambda: len(world.handler.asked) == 3)
        await asyncio.sleep(0.2)
        before = await world.pending()
        assert before.attempt == 3
        await world.restart()
        after = await world.pending()
        assert (after.attempt, after.next_attempt_schedule_time) == (before.attempt, before.next_attempt_schedule_time)
        await world.until_event(COMPLETED)
        assert len(world.handler.asked) == 4

    play(story)


def test_a_cancel_request_survives_a_crash() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [started(), HANG]
        await world.begin_operation()
        await world.until_event("NexusOperationStarted")
        await world.work(request_cancel())
        await world.until(lambda: len(world.handler.asked) == 2)
        world.handler.says = [away(), succeeded()]
        await world.restart()
        await world.until_event("NexusOperationCancelRequestCompleted")
        cancels = [request.cancel_operation for _, request in world.handler.asked[1:]]
        assert {one.operation_token for one in cancels} == {"t"} and len(cancels) == 3

    play(story)


def test_a_cancel_request_waits_until_the_operation_can_be_named() -> None:
    async def story(world: NexusWorld) -> None:
        world.handler.says = [away(), started("late"), succeeded()]
        await world.begin_operation()
        await world.signal("caller")
        await world.work(request_cancel())
        await world.until_event("NexusOperationCancelRequestCompleted")
        kinds = [request.WhichOneof("variant") for _, request in world.handler.asked]
        assert kinds == ["start_operation", "start_operation", "cancel_operation"]

    play(story)


# --- callbacks --------------------------------------------------------------------------------------------------------------


def test_a_callback_is_repeated_until_it_is_heard_and_the_closed_run_wakes_for_it() -> None:
    async def story(world: NexusWorld) -> None:
        world.http.says = [HttpAnswer(503, [], b""), CallFailed("cannot connect"), HttpAnswer(200, [], b"")]
        run_id = await _closed_with_callback(world, "http://caller/back")
        await world.until(lambda: len(world.http.asked) == 1)
        await asyncio.sleep(0.2)
        one = await world.callback("handled", run_id)
        assert one.state == CallbackState.CALLBACK_STATE_BACKING_OFF
        assert one.last_attempt_failure.message == "handler error (UNAVAILABLE)"
        await world.restart()
        await world.until(lambda: len(world.http.asked) == 3)
        await asyncio.sleep(0.2)
        one = await world.callback("handled", run_id)
        assert (one.state, one.attempt) == (CallbackState.CALLBACK_STATE_SUCCEEDED, 3)
        _, url, headers, body = world.http.asked[-1]
        assert url == "http://caller/back" and body == b'"ok"'
        assert headers["nexus-operation-state"] == "succeeded" and headers["content-type"] == "application/json"
        assert "temporal:///namespaces/ns/workflows/handled/" in headers["nexus-link"]
        await world.check_replay()

    play(story)


async def _closed_with_callback(world: NexusWorld, url: str) -> str:
    request = api.StartWorkflowExecutionRequest(
        namespace="ns", workflow_id="handled", request_id="r", completion_callbacks=[callback_to(url, {"mine": "yes"})]
    )
    request.workflow_type.name, request.task_queue.name = "W", "tq"
    request.workflow_task_timeout.seconds = 10
    run_id: str = (await world.call("start_workflow_execution", "handled", request)).run_id
    await world.work(complete())
    return run_id


def test_a_callback_that_is_refused_for_good_is_not_repeated() -> None:
    async def story(world: NexusWorld) -> None:
        world.http.says = [HttpAnswer(400, [("content-type", "application/json")], b'{"message": "no"}')]
        run_id = await _closed_with_callback(world, "http://caller/back")
        await asyncio.sleep(100)
        one = await world.callback("handled", run_id)
        assert one.state == CallbackState.CALLBACK_STATE_FAILED and len(world.http.asked) == 1
        assert one.last_attempt_failure.message == "handler error (BAD_REQUEST)"

    play(story)


def test_a_callback_that_is_never_heard_ends_with_the_runs_retention() -> None:
    async def story(world: NexusWorld) -> None:
        world.http.says = [CallFailed("cannot connect")]
        await _closed_with_callback(world, "http://caller/back")
        await asyncio.sleep(86_400 + 7_200)
        assert not world.shard.runs, "the run is gone"
        assert 20 < len(world.http.asked) < 60  # doubling up to an hour, and once a minute while the breaker is open

    play(story)


def test_a_passing_outage_of_one_endpoint_does_not_touch_another() -> None:
    async def story(world: NexusWorld) -> None:
        world.http.says = [CallFailed("cannot connect")]
        await world.start("two")
        await world.work(schedule(endpoint="http-one"), schedule(endpoint="ep"))
        await world.until_event(COMPLETED, "two")
        (pending,) = (await world.describe("two")).pending_nexus_operations
        assert pending.endpoint == "http-one"
        assert pending.last_attempt_failure.application_failure_info.type == "CallError"

    play(story)
