"""Direct queries: matched to a poll, answered by the worker, never stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueResponse, RespondQueryTaskCompletedRequest

from cluster.core.errors import CallerError, Code, not_found
from cluster.matching.tasks import StickyWorkerUnavailable
from tests.matching.world import NAMESPACE, QUEUE, STICKY, Namespace, World, hint, now, run, settle

ANSWERED = QueryResultType.QUERY_RESULT_TYPE_ANSWERED


def build(payload: bytes) -> bytes:
    answer = PollWorkflowTaskQueueResponse(task_token=payload)
    answer.query.query_type = "how are you"
    return answer.SerializeToString()


def ask(world: World, deadline_s: float | None = None, **fields: Any) -> asyncio.Task[RespondQueryTaskCompletedRequest]:
    deadline = None if deadline_s is None else now() + deadline_s
    fields = {"task_queue": QUEUE.name, "is_sticky": False, "build_task": build, **fields}
    return asyncio.get_running_loop().create_task(world.matching.query("ns-id", deadline=deadline, **fields))


async def respond(world: World, payload: bytes, namespace: Namespace = NAMESPACE) -> None:
    request = RespondQueryTaskCompletedRequest(completed_type=ANSWERED)
    await world.matching.respond_query_task_completed(namespace, payload, request)


async def code_of(job: asyncio.Task[Any]) -> Code:
    with pytest.raises(CallerError) as refusal:
        await job
    return refusal.value.code


@pytest.mark.parametrize("is_polled_first", [True, False])
def test_a_query_reaches_a_poll_and_the_answer_comes_back(is_polled_first: bool) -> None:
    async def main() -> None:
        world = World()
        if is_polled_first:
            (poll,) = await world.polls(1, identity="w")
            query = ask(world)
        else:
            query = ask(world)
            await settle()
            (poll,) = await world.polls(1, identity="w")
        task = await poll
        assert task.query.query_type == "how are you" and now() == 0.0
        await respond(world, task.task_token)
        assert (await query).completed_type == ANSWERED
        with pytest.raises(CallerError, match="not found, or already expired"):
            await respond(world, task.task_token)
        assert world.matching.counts["query_match"] == 1

    run(main())


def test_queries_go_before_tasks() -> None:
    async def main() -> None:
        world = World()
        world.schedule(hint(1))
        query = ask(world)
        await settle()
        assert (await world.poll()).HasField("query")
        assert (await world.poll()).task_token == b"wf-1"
        query.cancel()

    run(main())


def test_without_a_poller_the_caller_learns_it_a_second_before_the_deadline() -> None:
    async def main() -> None:
        world = World()
        assert await code_of(ask(world, 5.0)) is Code.FAILED_PRECONDITION
        assert now() == pytest.approx(4.0)
        await world.poll(timeout_s=2.0)
        query = ask(world, 5.0)
        assert await code_of(query) is Code.DEADLINE_EXCEEDED, "a poller was here within 20 s: it may come back"
        assert now() == pytest.approx(10.0)

    run(main())


def test_a_worker_that_never_answers_ends_in_deadline_exceeded() -> None:
    async def main() -> None:
        world = World()
        query = ask(world)
        await settle()
        task = await world.poll()
        assert await code_of(query) is Code.DEADLINE_EXCEEDED and now() == pytest.approx(10.0)
        with pytest.raises(CallerError) as refusal:
            await respond(world, task.task_token)
        assert refusal.value.code is Code.NOT_FOUND

    run(main())


def test_a_sticky_query_without_a_recent_poller_falls_back_at_once() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(StickyWorkerUnavailable):
            await ask(world, task_queue=STICKY.name, is_sticky=True)
        assert world.matching.queue_count == 0
        (poll,) = await world.polls(1, STICKY)
        query = ask(world, task_queue=STICKY.name, is_sticky=True)
        await respond(world, (await poll).task_token)
        await query

    run(main())


def test_a_query_handed_to_a_poll_that_is_gone_goes_to_the_next() -> None:
    async def main() -> None:
        world = World()
        first, second = await world.polls(2)
        query = ask(world)
        await asyncio.sleep(0)
        first.cancel()
        task = await second
        await respond(world, task.task_token)
        await query

    run(main())


def test_a_query_whose_caller_left_is_not_put_to_a_worker() -> None:
    async def main() -> None:
        world = World()
        query = ask(world)
        await settle()
        query.cancel()
        await settle()
        assert not (await world.poll(timeout_s=2.0)).task_token and now() == pytest.approx(1.0)

    run(main())


def test_a_query_that_cannot_be_built_is_refused_and_the_poll_goes_on() -> None:
    def refuse(payload: bytes) -> bytes:
        raise not_found("the run is gone")

    async def main() -> None:
        world = World()
        query = ask(world, build_task=refuse)
        await settle()
        world.schedule(hint(1))
        assert (await world.poll()).task_token == b"wf-1"
        assert await code_of(query) is Code.NOT_FOUND

    run(main())


def test_a_query_token_of_another_namespace_or_of_noise_is_refused() -> None:
    async def main() -> None:
        world = World()
        query = ask(world)
        await settle()
        task = await world.poll()
        for payload, namespace in ((task.task_token, Namespace("other", "other")), (b"noise", NAMESPACE), (b"", NAMESPACE)):
            with pytest.raises(CallerError) as refusal:
                await respond(world, payload, namespace)
            assert refusal.value.code is Code.INVALID_ARGUMENT
        await respond(world, task.task_token)
        await query

    run(main())


@pytest.mark.parametrize("bound", ["queries_per_queue_max", "queries_total_max"])
def test_the_number_of_waiting_queries_is_bounded(bound: str) -> None:
    async def main() -> None:
        world = World(**{bound: 3})
        queries = [ask(world) for _ in range(3)]
        await settle()
        assert not any(query.done() for query in queries)
        assert await code_of(ask(world)) is Code.RESOURCE_EXHAUSTED
        queries[0].cancel()
        await settle()
        (again,) = [ask(world)]
        await settle()
        assert not again.done()
        world.matching.drain()
        assert await code_of(again) is Code.UNAVAILABLE
        assert await code_of(ask(world)) is Code.UNAVAILABLE
        await asyncio.gather(*queries, return_exceptions=True)

    run(main())
