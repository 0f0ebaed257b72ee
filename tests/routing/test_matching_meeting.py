"""Tasks and polls of one queue meet, on whatever nodes they are, in few messages; busy shares keep to themselves."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from cluster.matching.meeting import CHILD_NEEDS, ROOT_NEEDS, Need
from cluster.matching.tasks import QueueKey, TaskHint
from tests.matching import world
from tests.routing.matching_stage import ACTIVITIES, NODES, QUEUE, MatchingStage, perform, until


def hint(number: int, queue: QueueKey = QUEUE, shard: int = 1) -> TaskHint:
    return world.hint(number, queue, shard)


def token(answer: object) -> str:
    return bytes(answer.task_token).decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_task_first", [True, False])
@pytest.mark.parametrize(("task_at", "poll_at"), list(itertools.product(NODES, NODES)))
def test_a_task_and_a_poll_meet_wherever_they_are(task_at: str, poll_at: str, is_task_first: bool) -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        assert set(stage.nodes_of()) == set(NODES), "the queue was chosen for that"
        task = hint(1, shard=stage.shard_at(task_at))
        if is_task_first:
            stage.schedule(task)
            await asyncio.sleep(0.1)
            before = stage.batches()
            poll = stage.polling(poll_at)
        else:
            poll = stage.polling(poll_at, timeout_s=30.0)
            await asyncio.sleep(0.1)
            before = stage.batches()
            stage.schedule(task)
        took_s = await until(poll.done)
        assert token(poll.result()) == "wf-1" and not stage.history.outstanding
        assert stage.batches() - before <= 4 + 2, "a forward, a word of interest, a loan; besides the offer and its withdrawal"
        assert took_s < 0.03, "some hops of 2 ms there and back"

    perform(story)


def test_polls_are_parked_at_their_own_node_and_none_hops_without_need() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        polls = [stage.polling(node, timeout_s=3.0) for node in NODES]
        await asyncio.gather(*polls)
        assert not [call for call in stage.calls if call[2] == "matching.poll"]

    perform(story)


def test_a_node_without_a_share_sends_its_polls_one_hop() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add("a", "b", "c", "d", "e", "f")
        (outside, *_) = [node.node_id for node in stage.nodes if node.node_id not in stage.nodes_of()]
        polls = [stage.polling(outside, timeout_s=30.0) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert [call[2] for call in stage.calls if call[0] == outside].count("matching.poll") == 4
        for shard in range(4):
            stage.schedule(hint(shard, shard=shard))
        assert sorted([token(await poll) for poll in polls]) == ["wf-0", "wf-1", "wf-2", "wf-3"]

    perform(story)


def test_a_share_that_is_polled_keeps_its_tasks_to_itself() -> None:
    """No share lacks anything: what travels are offers and withdrawals, no loan and no forwarded hint."""

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        stop = asyncio.Event()

        async def work(at: str) -> None:
            while not stop.is_set():
                await stage.poll(at, timeout_s=2.0)
                await asyncio.sleep(0.001)

        workers = [asyncio.create_task(work(node)) for node in NODES for _ in range(4)]
        await asyncio.sleep(0.05)
        for number in range(600):
            stage.schedule(hint(number, shard=number % 12))
            if number % 4 == 3:
                await asyncio.sleep(0.004)
        await until(lambda: not stage.history.outstanding)
        lent = sum(node.matching.counts["lent_match"] for node in stage.nodes)
        assert lent < 60, f"{lent} of 600 tasks went to another share"
        assert stage.history.gone_count < 30
        stop.set()
        await asyncio.gather(*workers)

    perform(story)


def test_a_backlog_far_from_its_only_poller_is_worked_off_and_forwarding_is_bounded() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root, *_ = stage.nodes_of()
        child = next(node for node in stage.nodes_of() if node != root)
        other = next(node for node in stage.nodes_of() if node not in (root, child))
        for number in range(1_000):
            stage.schedule(hint(number, shard=stage.shard_at(child)))
        await asyncio.sleep(0.5)
        partition = stage.node(child).matching._matcher.partitions[QUEUE]
        assert partition.link is not None and len(partition.link.away) == stage.limits.forward_hints_max
        assert len(stage.node(root).matching._matcher.partitions[QUEUE].window.entries()) == stage.limits.forward_hints_max
        seen = set()
        for _ in range(1_000):
            seen.add(token(await stage.poll(other)))
        assert len(seen) == 1_000 and stage.history.gone_count == 0
        await asyncio.sleep(0.1)
        for node in stage.nodes:
            part = node.matching._matcher.partitions.get(QUEUE)
            assert part is None or (part.window.is_empty and not part.link.away and not part.link.guests)  # type: ignore[union-attr]

    perform(story)


def test_a_poll_that_leaves_gives_what_it_was_lent_to_another() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root, *_ = stage.nodes_of()
        child = next(node for node in stage.nodes_of() if node != root)
        poll = stage.polling(child, timeout_s=30.0)
        await asyncio.sleep(0.1)
        stage.history.latency_s = 0.5
        stage.schedule(hint(1, shard=stage.shard_at(root)))
        await asyncio.sleep(0.05)
        poll.cancel()
        assert token(await stage.poll(root)) == "wf-1"

    perform(story)


def test_a_rate_limit_holds_for_the_whole_queue_wherever_its_polls_are() -> None:
    from google.protobuf.wrappers_pb2 import DoubleValue
    from temporalio.api.taskqueue.v1 import TaskQueueMetadata

    metadata = TaskQueueMetadata(max_tasks_per_second=DoubleValue(value=10.0))

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for number in range(60):
            stage.schedule(hint(number, ACTIVITIES, shard=number % 12))
        stop = asyncio.Event()

        async def work(at: str) -> None:
            while not stop.is_set():
                await stage.poll(at, ACTIVITIES, timeout_s=2.0, task_queue_metadata=metadata)

        workers = [asyncio.create_task(work(node)) for node in NODES for _ in range(3)]
        await asyncio.sleep(4.0)
        done = 60 - len(stage.history.outstanding)
        assert 36 <= done <= 53, f"{done} tasks in 4 s at 10 per second, with a burst of 10"
        stop.set()
        await asyncio.gather(*workers)

    perform(story)


def test_the_tables_lack_no_row_and_say_what_the_text_says() -> None:
    rows = list(itertools.product((True, False), repeat=3))
    assert set(CHILD_NEEDS) == set(ROOT_NEEDS) == set(rows)
    for has_tasks, has_polls, known in rows:
        child, root = CHILD_NEEDS[has_tasks, has_polls, known], ROOT_NEEDS[has_tasks, has_polls, known]
        assert (child is Need.MEET) == (root is Need.MEET) == (has_tasks and has_polls)
        assert (child is Need.FORWARD) == (has_tasks and not has_polls)
        assert (child is Need.TELL) == (has_polls and not has_tasks and not known)
        assert (root is Need.LEND) == (has_tasks and not has_polls and known)


def test_shares_that_wait_are_silent_but_for_a_word_now_and_then() -> None:
    """No ping-pong: neither tasks without a poll nor polls without a task are news more than once in half a minute."""

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for number in range(100):
            stage.schedule(hint(number, shard=number % 12))
        polls = [stage.polling(node, ACTIVITIES, timeout_s=200.0) for node in NODES]
        await asyncio.sleep(0.5)
        before = stage.batches()
        await asyncio.sleep(58.0)
        assert stage.batches() - before <= 2 * 2 * 2, "two queues, two children, two refreshes"
        for poll in polls:
            poll.cancel()

    perform(story)


def test_a_hint_that_was_lent_to_a_node_that_hangs_goes_to_another_poll() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root, child = tuple(dict.fromkeys(stage.nodes_of()))[:2]
        poll = stage.polling(child, timeout_s=60.0)
        await asyncio.sleep(0.1)
        stage.network.unread.add(f"{child}:7000")
        heard = [shard for shard in range(12) if stage.home(shard) is not stage.node(child)]
        stage.schedule(hint(1, shard=next(shard for shard in heard if stage.nodes_of()[shard % 4] == root)))
        await asyncio.sleep(0.1)
        assert token(await stage.poll(root, timeout_s=30.0)) == "wf-1"
        stage.network.read_again(f"{child}:7000")
        poll.cancel()

    perform(story)
