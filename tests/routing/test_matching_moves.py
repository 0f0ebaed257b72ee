"""Rings that change, connections that break, nodes that are slow: offers come again, nothing is lost, memory is bounded."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from cluster.matching.window import key_of
from cluster.membership.members import NodeState
from tests.matching import world
from tests.matching.world import NAMESPACE
from tests.routing.matching_stage import ACTIVITIES, NODES, QUEUE, SHARDS, MatchingStage, perform, until

STICKY = QueueKey(NAMESPACE.id, "sticky-of-a-worker", TaskKind.WORKFLOW)


def hint(number: int, queue: QueueKey = QUEUE, shard: int = 1) -> TaskHint:
    return world.hint(number, queue, shard)


def token(answer: object) -> str:
    return bytes(answer.task_token).decode()  # type: ignore[attr-defined]


def sticky_hint(number: int, shard: int) -> TaskHint:
    return msgspec.structs.replace(hint(number, STICKY, shard), is_sticky=True)


def home_id(stage: MatchingStage, shard: int) -> str:
    home = stage.home(shard)
    assert home is not None
    return home.node_id


def shard_away_from(stage: MatchingStage, node_id: str) -> int:
    """A shard that is open on another node."""
    return next(shard for shard in range(SHARDS) if home_id(stage, shard) != node_id)


def test_a_sticky_task_reaches_its_worker_on_whatever_node_the_queue_is() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        (owner,) = set(stage.nodes_of(STICKY)[:1])
        poller = next(node for node in NODES if node != owner)
        poll = stage.polling(poller, STICKY, is_sticky=True, timeout_s=30.0)
        await asyncio.sleep(0.05)
        assert len(stage.node(owner).matching._matcher.partitions[STICKY].parked) == 1, "parked at the queue's only partition"
        stage.schedule(sticky_hint(1, shard_away_from(stage, owner)))
        await until(poll.done, 1.0)
        assert token(poll.result()) == "wf-1" and not stage.fallen_back

    perform(story)


def test_a_sticky_task_without_a_worker_falls_back_to_its_normal_queue() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        owner = stage.nodes_of(STICKY)[0]
        assert not (await stage.poll(owner, STICKY, is_sticky=True, timeout_s=1.2)).task_token
        await asyncio.sleep(11.0)  # it polled once, and not since
        shard = shard_away_from(stage, owner)
        stage.schedule(sticky_hint(1, shard))
        await until(lambda: bool(stage.fallen_back), 0.5)
        assert token(await stage.poll("a")) == "wf-1"
        # A queue that its owner does not know gets a moment's grace first: its worker may be on its way.
        fresh = msgspec.structs.replace(sticky_hint(2, shard), queue=QueueKey(NAMESPACE.id, "sticky-2", TaskKind.WORKFLOW))
        stage.schedule(fresh)
        await until(lambda: len(stage.fallen_back) == 2, 3.0)
        assert token(await stage.poll("b")) == "wf-2"

    perform(story)


def test_a_ring_change_ends_polls_that_are_elsewhere_now_and_offers_tasks_where_they_belong() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add("a")
        for number in range(40):
            stage.schedule(hint(number, shard=number % SHARDS))
        other = QueueKey(NAMESPACE.id, "moves", TaskKind.WORKFLOW)
        poll = stage.polling("a", other, timeout_s=50.0)
        await asyncio.sleep(0.01)
        await stage.add("b", "c", "d", "e", "f")
        if "a" not in stage.nodes_of(other):
            assert poll.done() and not poll.result().task_token, "the client polls again at once, and reaches the owner"
        parts = {node.node_id: node.matching._matcher.partitions.get(QUEUE) for node in stage.nodes}
        places = stage.nodes[0].routed._places
        held = Counter(
            node_id
            for node_id, part in parts.items()
            if part is not None
            for entry in part.window.entries()
            if places.node_of(entry.hint) == node_id
        )
        assert sum(held.values()) == 40 and set(held) == set(stage.nodes_of())
        taken = [token(await stage.poll(node.node_id)) for node in stage.nodes for _ in range(7)][:40]
        assert len(set(taken)) == 40
        if not poll.done():
            poll.cancel()

    perform(story)


def test_a_dying_matching_node_loses_nothing() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for number in range(60):
            stage.schedule(hint(number, shard=number % SHARDS))
        await asyncio.sleep(0.2)
        root = stage.nodes_of()[0]
        stage.kill(root)
        stage.forget(root)
        left = next(node.node_id for node in stage.nodes)
        seen = [token(await stage.poll(left, timeout_s=10.0)) for _ in range(60)]
        assert len(set(seen)) == 60

    perform(story)


def test_a_leaving_node_gives_its_queues_away_while_it_still_has_shards() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root = stage.nodes_of()[0]
        for number in range(30):
            stage.schedule(hint(number, shard=number % SHARDS))
        polls = [stage.polling(root, ACTIVITIES, timeout_s=50.0) for _ in range(3)]
        await asyncio.sleep(0.1)
        stage.change(root, NodeState.LEAVING)
        await asyncio.sleep(0.1)
        assert QUEUE not in stage.node(root).matching._matcher.partitions
        assert all(poll.done() and not poll.result().task_token for poll in polls)
        assert not (await stage.poll(root, ACTIVITIES, timeout_s=1.3)).task_token, "its clients' polls hop"
        seen = [token(await stage.poll(root)) for _ in range(30)]
        assert len(set(seen)) == 30

    perform(story)


def test_a_drained_node_ends_its_clients_polls_wherever_they_are_parked() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add("a", "b", "c", "d", "e", "f")
        outside = next(node.node_id for node in stage.nodes if node.node_id not in stage.nodes_of())
        polls = [stage.polling(outside, timeout_s=50.0) for _ in range(3)]
        others = stage.polling(stage.nodes_of()[0], timeout_s=50.0)
        await asyncio.sleep(0.1)

        async def drain(node: object) -> None:
            node.routed.drain()  # type: ignore[attr-defined]

        await stage.inside(outside, drain)
        await until(lambda: all(poll.done() for poll in polls), 0.5)
        assert not any(poll.result().task_token for poll in polls) and not others.done()
        others.cancel()

    perform(story)


def test_offers_that_did_not_arrive_are_made_again() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        target = stage.nodes_of()[1]
        stage.network.cut.add(f"{target}:7000")
        shard = next(
            shard for shard in range(1, SHARDS, 4) if stage.nodes_of()[shard % 4] == target and home_id(stage, shard) != target
        )
        for number in range(20):
            stage.schedule(hint(number, shard=shard))
        await asyncio.sleep(30.0)  # the connection is given up, new ones come to nothing
        part = stage.node(target).matching._matcher.partitions.get(QUEUE)
        assert part is None or not part.window.entries()
        stage.network.heal()
        seen = [token(await stage.poll(target, timeout_s=12.0)) for _ in range(20)]
        assert len(set(seen)) == 20

    perform(story)


def test_a_node_that_takes_nothing_costs_bounded_memory_and_holds_up_nobody_else() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        slow = stage.nodes_of()[1]
        stage.network.unread.add(f"{slow}:7000")
        shards = [shard for shard in range(SHARDS) if home_id(stage, shard) != slow]
        to_slow = [shard for shard in shards if stage.nodes_of()[shard % 4] == slow]
        to_others = [shard for shard in shards if stage.nodes_of()[shard % 4] != slow]
        for number in range(3_000):
            stage.schedule(hint(number, shard=to_slow[number % len(to_slow)]))
        await asyncio.sleep(0.05)
        for node in stage.nodes:
            outbox = node.routed._outboxes.get(slow)
            assert outbox is None or outbox.unsent_count <= 500 + 2 * SHARDS, "what does not fit is a place to be listed later"
        stage.schedule(hint(9_999, shard=to_others[0]))
        quick = next(node for node in NODES if node != slow)
        assert token(await stage.poll(quick, timeout_s=2.0)) == "wf-9999"
        stage.network.read_again(f"{slow}:7000")
        seen: set[str] = set()
        while len(seen) < 3_000:
            answers = await asyncio.gather(*(stage.poll(slow, timeout_s=20.0) for _ in range(50)))
            seen |= {token(answer) for answer in answers if answer.task_token}
        assert not stage.history.outstanding

    perform(story, unsent_hints_max=500, message_hints_max=100, window_hints_max=400, window_hints_low=100)


def test_offers_of_one_turn_travel_as_one_message() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        for number in range(500):
            stage.schedule(hint(number, shard=number % SHARDS))
        await asyncio.sleep(0.003)
        assert stage.batches() <= 6, "one for each pair of nodes"

    perform(story)


def test_a_withdrawn_task_is_forgotten_by_every_share() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        tasks = [hint(number, shard=number % SHARDS) for number in range(24)]
        for task in tasks:
            stage.schedule(task)
        await asyncio.sleep(0.2)
        for task in tasks:
            stage.close_task(task)
        await asyncio.sleep(0.05)
        for node in stage.nodes:
            part = node.matching._matcher.partitions.get(QUEUE)
            assert part is None or part.window.is_empty
        assert not stage.history.gone_count

    perform(story)


def test_a_shard_that_moved_does_not_undo_the_offers_of_its_next_owner() -> None:
    """Its former owner may learn late that it lost the shard: what it takes back then was offered by the next one."""

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        target = stage.nodes_of()[1]
        former = next(node for node in NODES if node != target)
        shard = next(
            shard for shard in range(1, SHARDS) if stage.nodes_of()[shard % 4] == target and home_id(stage, shard) == former
        )
        task = hint(1, shard=shard)
        stage.schedule(task)
        await asyncio.sleep(0.1)
        node = stage.node(former)

        async def lose(_: object) -> None:
            node.shards.done(task, is_forgotten=True)

        await stage.inside(former, lose)
        await asyncio.sleep(0.1)
        part = stage.node(target).matching._matcher.partitions[QUEUE]
        assert part.window.entry(key_of(task)) is not None

    perform(story)


def test_a_former_owner_that_still_believes_to_be_alone_does_not_undo_the_offers_of_the_next_one() -> None:
    """The next owner's offer arrives here, where the queue is, before this node's ring names anybody else."""

    async def story(stage: MatchingStage) -> None:
        await stage.add("a", "b")
        shard = next(
            shard for shard in range(SHARDS) if stage.nodes_of()[shard % 4] == "a" and home_id(stage, shard) == "b"
        )
        stage.change("b", NodeState.LEAVING)
        task = hint(1, shard=shard)
        await asyncio.sleep(0.1)
        assert home_id(stage, shard) == "a"
        stage.schedule(task)
        stage.states["b"] = NodeState.READY
        stage.tell_one("b")
        await asyncio.sleep(0.1)
        former = stage.node("a")
        assert former.routed._places.now.is_local and shard in stage.node("b").shards.open

        async def lose(_: object) -> None:
            former.shards.open.discard(shard)
            former.shards.done(task, is_forgotten=True)

        await stage.inside("a", lose)
        stage.tell()
        await asyncio.sleep(0.1)
        assert token(await stage.poll("b", timeout_s=2.0)) == "wf-1"

    perform(story)


def test_a_node_alone_sends_no_message() -> None:
    async def story(stage: MatchingStage) -> None:
        await stage.add("a")
        poll = stage.polling("a", timeout_s=30.0)
        await asyncio.sleep(0.01)
        stage.schedule(hint(1))
        assert token(await poll) == "wf-1"
        assert not stage.calls and not stage.node("a").routed._outboxes

    perform(story)


def test_a_root_that_learns_late_of_another_nodes_new_life_keeps_what_was_forwarded_to_it() -> None:
    """The child forwards anew when its ring changes; the root, whose ring changes after that, is not told again for long."""

    async def story(stage: MatchingStage) -> None:
        await stage.add(*NODES)
        root = stage.nodes_of()[0]
        child, third = (node for node in NODES if node != root)
        shard = next(
            shard for shard in range(SHARDS) if stage.nodes_of()[shard % 4] == child and home_id(stage, shard) != third
        )
        stage.schedule(hint(1, shard=shard))
        await asyncio.sleep(0.1)
        stage.kill(third)
        await stage.slots[third].start()
        for node in (child, third, root):
            stage.tell_one(node)
            await asyncio.sleep(0.1)
        poll = stage.polling(root, timeout_s=20.0)
        assert await until(poll.done) < 0.05
        assert token(poll.result()) == "wf-1" and not stage.history.outstanding
        link = stage.node(child).matching._matcher.partitions[QUEUE].link
        assert link is not None
        await until(lambda: not link.away, 0.1)

    perform(story)
