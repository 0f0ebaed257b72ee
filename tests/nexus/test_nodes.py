"""A request to the workers of a queue, over nodes: asked at one, polled at another, answered through a third; on virtual time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest
from temporalio.api.nexus.v1 import HandlerError, Request, Response
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import running_loop
from cluster.core.errors import CallerError, Code
from cluster.frontend.call import Call
from cluster.matching.tasks import TaskKind
from cluster.nexus import dispatch
from cluster.nexus.dispatch import MatchingDispatch
from cluster.tokens import KeySet, Purpose, TokenKey, Tokens
from tests.matching.world import NAMESPACE
from tests.routing.matching_stage import NODES, MatchingStage, perform, spread, until

TOKENS = Tokens(KeySet([TokenKey(0, b"k" * 32)]))
QUEUE = spread(TaskKind.NEXUS)


def request(id: str = "r") -> Request:
    made = Request()
    made.start_operation.request_id = id
    return made


def dispatching(stage: MatchingStage, at: str, timeout_s: float = 9.0) -> asyncio.Task[Any]:
    async def ask(node: Any) -> Any:
        made = MatchingDispatch(node.routed, TOKENS)
        return await made.dispatch(NAMESPACE.id, QUEUE.name, request(), timeout_s)

    return running_loop().create_task(stage.inside(at, ask))


def polling(stage: MatchingStage, at: str, timeout_s: float = 30.0) -> asyncio.Task[Any]:
    async def poll(node: Any) -> Any:
        asked = api.PollNexusTaskQueueRequest(namespace="ns", identity=f"worker at {at}")
        asked.task_queue.name = QUEUE.name
        call = Call("poll", {}, running_loop().time() + timeout_s, "test")
        answer = await node.routed.poll_nexus_task_queue(NAMESPACE, asked, call)
        return api.PollNexusTaskQueueResponse.FromString(answer) if isinstance(answer, bytes) else answer

    return running_loop().create_task(stage.inside(at, poll))


async def respond(stage: MatchingStage, at: str, task: Any, token: str = "t") -> None:
    response = Response()
    response.start_operation.async_success.operation_token = token
    answer = api.RespondNexusTaskCompletedRequest(task_token=task.task_token, response=response)
    payload = TOKENS.open_query(task.task_token, Purpose.NEXUS_TASK).encode()
    await stage.inside(at, lambda node: node.routed.respond_nexus_task(NAMESPACE, payload, answer))


async def _answer(payload: bytes, answer: Any, node: Any) -> None:
    await node.routed.respond_nexus_task(NAMESPACE, payload, answer)


@pytest.mark.parametrize("is_polled_first", [True, False])
@pytest.mark.parametrize("polled_at", NODES)
@pytest.mark.parametrize("asked_at", NODES)
def test_a_request_reaches_a_poller_and_its_answer_the_asking_node(asked_at: str, polled_at: str, is_polled_first: bool) -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        if is_polled_first:
            poll = polling(stage, polled_at)
            await asyncio.sleep(0.1)
            asking = dispatching(stage, asked_at)
        else:
            asking = dispatching(stage, asked_at)
            await asyncio.sleep(0.1)
            poll = polling(stage, polled_at)
        took_s = await until(poll.done, 2.0)
        task = poll.result()
        assert task.request.start_operation.request_id == "r" and took_s < 0.05
        assert 8.5 < float(task.request.header["request-timeout"].removesuffix("s")) <= 9.0
        answering = next(node for node in NODES if node != asked_at)
        await respond(stage, answering, task)
        assert (await asking).start_operation.async_success.operation_token == "t"
        with pytest.raises(CallerError, match="Nexus task not found or already expired"):
            await respond(stage, answering, task)

    perform(story)


def test_without_a_worker_the_caller_hears_of_it_in_time() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        asking = dispatching(stage, "a", 9.0)
        took_s = await until(asking.done, 12.0)
        error = asking.result()
        assert isinstance(error, dispatch.HandlerError) and error.is_ours and error.is_retryable
        assert (error.type, error.failure.message) == ("UPSTREAM_TIMEOUT", "upstream timeout") and 8.9 < took_s < 9.2

    perform(story)


def test_a_workers_refusal_reaches_the_asking_node_in_either_form() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        older = api.RespondNexusTaskFailedRequest(error=HandlerError(error_type="NOT_FOUND"))
        older.error.failure.message = "no such operation"
        newer = api.RespondNexusTaskFailedRequest()
        newer.failure.message = "no such operation"
        newer.failure.nexus_handler_failure_info.type = "NOT_FOUND"
        for form in (older, newer):
            asking, poll = dispatching(stage, "b"), polling(stage, "c")
            task = await poll
            payload = TOKENS.open_query(task.task_token, Purpose.NEXUS_TASK).encode()
            await stage.inside("a", partial(_answer, payload, form))
            error = await asking
            assert isinstance(error, dispatch.HandlerError) and (error.type, error.is_retryable) == ("NOT_FOUND", False)
            assert "no such operation" in (error.failure.message, error.failure.cause.message)

    perform(story)


def test_the_node_of_the_queue_dies_and_the_request_finds_the_next_one() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root = stage.nodes_of(QUEUE)[0]
        others = [node for node in NODES if node != root]
        asking = dispatching(stage, others[0])
        await asyncio.sleep(0.5)
        stage.kill(root)
        await asyncio.sleep(0.5)
        stage.forget(root)
        task = await polling(stage, others[1])
        await respond(stage, others[1], task)
        assert (await asking).start_operation.async_success.operation_token == "t"

    perform(story)


def test_pollers_of_other_kinds_do_not_see_a_request() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        workflows = stage.polling("a", msgspec.structs.replace(QUEUE, kind=TaskKind.WORKFLOW), timeout_s=5.0)
        asking = dispatching(stage, "a", 3.0)
        assert not (await workflows).task_token
        assert (await asking).type == "UPSTREAM_TIMEOUT"

    perform(story)


def test_a_token_of_another_namespace_answers_nothing() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        asking, poll = dispatching(stage, "a"), polling(stage, "a")
        task = await poll
        payload = TOKENS.open_query(task.task_token, Purpose.NEXUS_TASK).encode()

        class Other:
            id, name = "other-id", "other"

        with pytest.raises(CallerError) as caught:
            answer = api.RespondNexusTaskCompletedRequest()
            await stage.inside("a", lambda node: node.routed.respond_nexus_task(Other(), payload, answer))
        assert caught.value.code is Code.INVALID_ARGUMENT
        await respond(stage, "a", task)
        assert (await asking).HasField("start_operation")

    perform(story)


def test_an_answer_just_before_its_time_is_over_is_counted() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add("a")
        made: list[MatchingDispatch] = []

        async def ask(node: Any) -> Any:
            made.append(MatchingDispatch(node.routed, TOKENS))
            return await made[-1].dispatch(NAMESPACE.id, QUEUE.name, request(), 10.0)

        for after_s, late_count in ((1.0, 0), (8.5, 1)):
            asking = running_loop().create_task(stage.inside("a", ask))
            task = await polling(stage, "a")
            await asyncio.sleep(after_s)
            await respond(stage, "a", task)
            assert (await asking).HasField("start_operation") and made[-1].late_count == late_count

    perform(story)
