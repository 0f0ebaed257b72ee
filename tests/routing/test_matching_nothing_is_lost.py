"""Any placement of tasks and polls, nodes that die, join and leave, broken connections: what is outstanding is started exactly
once by somebody as long as somebody polls. Safety while it happens (the model of the runs refuses a second start), liveness once
it is over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from cluster.membership.members import NodeState
from tests.matching.world import NAMESPACE, hint
from tests.routing.matching_stage import ACTIVITIES, NODES, QUEUE, SHARDS, MatchingStage, perform

QUEUES = [QUEUE, ACTIVITIES, QueueKey(NAMESPACE.id, "another", TaskKind.WORKFLOW)]
STEPS = 60


class Chaos:
    """What happens is drawn from one seed. `did` proves that the run had something to prove."""

    def __init__(self, stage: MatchingStage, seed: int) -> None:
        self.stage = stage
        self.source = random.Random(seed)
        self.mix = self.source.choice(["ssssppppctttkjxou", "sssppppppcttttkjlxbbhou", "ssspcttt", "sssssstppkj"])
        self.polls: list[asyncio.Task[Any]] = []
        self.scheduled: dict[str, TaskHint] = {}
        self.closed: set[str] = set()
        self.number = 0
        self.did: Counter[str] = Counter()

    async def step(self) -> None:
        source, stage = self.source, self.stage
        alive = [node.node_id for node in stage.nodes]
        match source.choice(self.mix):
            case "s":
                for _ in range(source.randrange(1, 6)):
                    self.schedule()
            case "p":
                self.start_poll(source.choice(alive), source.choice(QUEUES), source.choice([1.5, 3.0, 20.0]))
            case "c" if self.polls:
                self.did["cancelled"] += source.choice(self.polls).cancel()
            case "x" if stage.history.outstanding:
                task = stage.history.outstanding[source.choice(list(stage.history.outstanding))]
                self.closed.add(task.workflow_id)
                stage.close_task(task)
            case "o" if stage.history.outstanding:  # a shard offers once more what it has
                task = stage.history.outstanding[source.choice(list(stage.history.outstanding))]
                stage.schedule(task)
            case "k" if len(alive) > 1:
                await self.kill(source.choice(alive))
            case "j" if len(alive) < 4:
                (node_id, *_) = [node_id for node_id in (*NODES, "d") if node_id not in stage.states]
                await stage.add(node_id)
                self.did["joined"] += 1
            case "l" if len(alive) > 1:
                await self.leave(source.choice(alive))
            case "b":
                stage.network.cut.add(f"{source.choice(alive)}:7000")
                self.did["cut"] += 1
            case "h":
                stage.network.heal()
            case "u":  # one node hears of a change later than the others
                stage.tell_one(source.choice(alive))
            case "t":
                await asyncio.sleep(source.choice([0.0, 0.001, 0.004, 0.02, 0.5, 2.0]))
        if source.random() < 0.5:
            await asyncio.sleep(0)

    async def kill(self, node_id: str) -> None:
        self.stage.kill(node_id)
        self.did["killed"] += 1
        await asyncio.sleep(self.source.choice([0.0, 0.01, 1.0]))
        self.stage.forget(node_id)

    async def leave(self, node_id: str) -> None:
        """It gives its share away, ends, and goes."""
        self.stage.change(node_id, NodeState.LEAVING)
        await asyncio.sleep(self.source.choice([0.0, 0.05]))
        self.stage.kill(node_id)
        self.stage.forget(node_id)
        self.did["left"] += 1

    def schedule(self) -> None:
        self.number += 1
        source = self.source
        task = hint(
            self.number,
            source.choice(QUEUES),
            shard=source.randrange(SHARDS),
            priority=source.choice([0, 0, 1, 5]),
            fairness_key=source.choice(["", "", "k1"]),
            created_at=source.randrange(1000),
        )
        self.scheduled[task.workflow_id] = task
        self.stage.schedule(task)

    def start_poll(self, at: str, queue: QueueKey, timeout_s: float) -> None:
        self.polls.append(asyncio.get_running_loop().create_task(self.poll(at, queue, timeout_s)))

    async def poll(self, at: str, queue: QueueKey, timeout_s: float) -> Any:
        try:
            return await self.stage.poll(at, queue, timeout_s)
        except CallerError as refusal:
            assert refusal.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), refusal
            return None

    async def heal(self) -> None:
        """One node's clients poll on: within bounded time every task must reach one of them."""
        stage = self.stage
        stage.network.heal()
        stage.tell()
        await asyncio.sleep(6.0)  # a connection that was cut and is not heard of for 15 s breaks later: the calls time out before
        at = self.source.choice([node.node_id for node in stage.nodes])
        end = asyncio.get_running_loop().time() + 20.0
        while stage.history.outstanding and asyncio.get_running_loop().time() < end:
            await asyncio.gather(*(self.poll(at, queue, 2.0) for queue in QUEUES for _ in range(8)))
        left = list(stage.history.outstanding.values())
        assert not left, f"never delivered to {at}: {left[:5]}, {len(left)} in all"


def play(seed: int) -> Counter[str]:
    totals: Counter[str] = Counter()

    async def story(stage: MatchingStage) -> None:
        chaos = Chaos(stage, seed)
        await stage.add(*NODES[: chaos.source.choice([1, 2, 3, 3])])
        for _ in range(STEPS):
            await chaos.step()
        await chaos.heal()
        await asyncio.sleep(25.0)
        assert all(poll.done() for poll in chaos.polls), "a poll outlived its deadline"
        for poll in chaos.polls:
            if not poll.cancelled():
                poll.result()
        started = set(stage.history.start_order)
        assert len(started) == len(stage.history.start_order), "started twice"
        assert started | chaos.closed == set(chaos.scheduled)
        for node in stage.nodes:
            for partition in node.matching._matcher.partitions.values():
                assert not partition.parked and not partition.window.in_flight_count
                assert partition.link is None or not partition.link.away
            assert not node.routed.unsent_count
            totals.update(node.matching.counts)
        totals.update(chaos.did)
        totals["started"] += len(started)
        totals["gone"] += stage.history.gone_count

    perform(story)
    return totals


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**48))
def test_every_outstanding_task_is_started_once_whatever_happens(seed: int) -> None:
    play(seed)


def test_the_chaos_does_what_it_claims() -> None:
    """Guards against a property that passes by doing nothing."""
    totals: Counter[str] = Counter()
    for seed in range(20):
        totals += play(seed)
    wanted = ["started", "cancelled", "killed", "joined", "left", "cut", "lent_match", "sync_match", "backlog_match", "message"]
    wanted += ["message_failed", "gone"]
    assert all(totals[name] > 4 for name in wanted), totals
