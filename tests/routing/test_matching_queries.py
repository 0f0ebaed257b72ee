"""Direct queries over nodes: put to a poller wherever it is, answered to the node that asked, with the errors of one node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueResponse, RespondQueryTaskCompletedRequest

from chaos.sim.loop import running_loop
from cluster.core.errors import CallerError, Code, not_found
from cluster.matching.queries import QueryToken
from cluster.matching.tasks import QueueKey, StickyWorkerUnavailable, TaskKind
from tests.matching.world import NAMESPACE
from tests.routing.matching_stage import NODES, QUEUE, MatchingStage, perform, until

ANSWERED = QueryResultType.QUERY_RESULT_TYPE_ANSWERED


def build(payload: bytes) -> bytes:
    answer = PollWorkflowTaskQueueResponse(task_token=payload)
    answer.query.query_type = "how are you"
    return answer.SerializeToString()


def ask(stage: MatchingStage, at: str, timeout_s: float = 10.0, **fields: Any) -> asyncio.Task[Any]:
    named = {"task_queue": QUEUE.name, "is_sticky": False, "build_task": build, **fields}
    until_s = running_loop().time() + timeout_s
    return running_loop().create_task(stage.inside(at, lambda node: node.routed.query(NAMESPACE.id, deadline=until_s, **named)))


async def respond(stage: MatchingStage, at: str, payload: bytes) -> None:
    request = RespondQueryTaskCompletedRequest(completed_type=ANSWERED, error_message="from a worker")
    await stage.inside(at, lambda node: node.routed.respond_query_task_completed(NAMESPACE, payload, request))


async def code_of(job: asyncio.Task[Any]) -> Code:
    with pytest.raises(CallerError) as refusal:
        await job
    return refusal.value.code


@pytest.mark.parametrize("is_polled_first", [True, False])
@pytest.mark.parametrize("polled_at", NODES)
@pytest.mark.parametrize("asked_at", NODES)
def test_a_query_reaches_a_poller_and_its_answer_the_asking_node(asked_at: str, polled_at: str, is_polled_first: bool) -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        if is_polled_first:
            poll = stage.polling(polled_at, timeout_s=30.0)
            await asyncio.sleep(0.1)
            query = ask(stage, asked_at)
        else:
            query = ask(stage, asked_at)
            await asyncio.sleep(0.1)
            poll = stage.polling(polled_at, timeout_s=30.0)
        took_s = await until(poll.done, 2.0)
        task = poll.result()
        assert task.query.query_type == "how are you" and took_s < 0.05
        answering = next(node for node in NODES if node != asked_at)
        await respond(stage, answering, task.task_token)
        assert (await query).error_message == "from a worker"
        with pytest.raises(CallerError, match="not found, or already expired"):
            await respond(stage, answering, task.task_token)

    perform(story)


def test_a_query_reaches_a_poller_that_is_never_idle() -> None:
    async def story(stage: MatchingStage) -> None:
        from tests.matching.world import hint

        await stage.add(*NODES)
        child = next(node for node in stage.nodes_of() if node != stage.nodes_of()[0])
        for number in range(400):
            stage.schedule(hint(number, QUEUE, stage.shard_at(child)))
        asked: list[bytes] = []

        async def work() -> None:
            while not asked:
                answer = await stage.poll(child, timeout_s=2.0)
                if answer.HasField("query"):
                    asked.append(answer.task_token)

        worker = asyncio.create_task(work())
        await asyncio.sleep(0.05)
        query = ask(stage, child)
        await worker
        assert stage.history.outstanding, "it had enough else to do"
        await respond(stage, child, asked[0])
        await query

    perform(story)


def test_without_a_poller_anywhere_the_caller_learns_it_before_the_deadline() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        began = running_loop().time()
        asking = next(node for node in NODES if node != stage.nodes_of()[0])
        assert await code_of(ask(stage, asking, 5.0)) is Code.FAILED_PRECONDITION
        assert running_loop().time() - began == pytest.approx(4.0, abs=0.1)
        await stage.poll(asking, timeout_s=2.0)
        assert await code_of(ask(stage, asking, 5.0)) is Code.DEADLINE_EXCEEDED, "a poller was at a child within 20 s"

    perform(story)


def test_a_sticky_query_without_a_recent_poller_falls_back_at_once() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for node in NODES:
            with pytest.raises(StickyWorkerUnavailable):
                await ask(stage, node, task_queue="sticky-1", is_sticky=True)
        assert running_loop().time() < 1.0
        queue = QueueKey(NAMESPACE.id, "sticky-1", TaskKind.WORKFLOW)
        poll = stage.polling("a", queue, is_sticky=True, timeout_s=30.0)
        await asyncio.sleep(0.05)
        query = ask(stage, "b", task_queue="sticky-1", is_sticky=True)
        await respond(stage, "c", (await poll).task_token)
        await query

    perform(story)


def test_a_query_survives_the_end_of_the_node_it_waited_at() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root = stage.nodes_of()[0]
        asking, polling = (node for node in NODES if node != root)
        query = ask(stage, asking, 20.0)
        await asyncio.sleep(0.1)
        stage.kill(root)
        await asyncio.sleep(0.5)
        stage.forget(root)
        task = await stage.poll(polling, timeout_s=10.0)
        assert task.HasField("query")
        await respond(stage, polling, task.task_token)
        await query

    perform(story)


def test_an_answer_to_a_node_that_is_gone_finds_nobody() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        query = ask(stage, "a", 20.0)
        task = await stage.poll("b")
        stage.kill("a")
        stage.forget("a")
        assert await code_of(query) is Code.UNAVAILABLE
        with pytest.raises(CallerError) as refusal:
            await respond(stage, "b", task.task_token)
        assert refusal.value.code is Code.NOT_FOUND

    perform(story)


def test_a_query_whose_caller_left_is_not_put_to_a_worker() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        asking = next(node for node in NODES if node != stage.nodes_of()[0])
        query = ask(stage, asking)
        await asyncio.sleep(0.1)
        query.cancel()
        await asyncio.sleep(0.1)
        for node in NODES:
            assert not (await stage.poll(node, timeout_s=1.2)).HasField("query")

    perform(story)


def test_a_query_that_cannot_be_built_is_refused_to_its_caller() -> None:
    def refuse(payload: bytes) -> bytes:
        raise not_found("the run is gone")

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        assert await code_of(ask(stage, "a", build_task=refuse)) is Code.NOT_FOUND

    perform(story)


def test_the_token_names_the_node_that_waits_and_older_tokens_are_understood() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        poll = stage.polling("b", timeout_s=30.0)
        query = ask(stage, "a")
        token = QueryToken.decode((await poll).task_token)
        assert token.node == "a" and token.task_queue == QUEUE.name
        query.cancel()

    perform(story)
