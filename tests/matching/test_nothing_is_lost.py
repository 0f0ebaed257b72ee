"""Random offers, polls, cancellations, closes, moving shards and tiny windows against a model of the runs: safety while it
happens, liveness once it is over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from tests.matching.world import World, hint, key_of, run, settle

QUEUES = [
    QueueKey("ns-id", "a", TaskKind.WORKFLOW),
    QueueKey("ns-id", "b", TaskKind.WORKFLOW),
    QueueKey("ns-id", "c", TaskKind.ACTIVITY),
]
SHARDS = 3


class Chaos:
    """What happens is drawn from one seed. `did` proves that the run had something to prove."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)
        low = self.source.randrange(3)
        self.world = World(
            window_hints_max=low + self.source.randrange(1, 6),
            window_hints_low=low,
            queues_max=self.source.choice([1, 2, 3, 100]),
            fairness_keys_retained_max=1,
            backlog_retry_s=0.3,
        )
        self.world.history.latency_s = self.source.choice([0.0, 0.0, 0.01, 0.3])
        self.mix = self.source.choice(["ssssssppppccxwdurt", "sppppcxwduttt", "sssppppppppddttttrw"])
        self.polls: list[asyncio.Task[Any]] = []
        self.scheduled: dict[str, TaskHint] = {}
        self.closed: set[str] = set()
        self.cancelled = 0
        self.number = 0

    async def step(self) -> None:
        source, world = self.source, self.world
        match source.choice(self.mix):
            case "s":
                for _ in range(source.randrange(1, 5)):
                    self.schedule()
            case "p":
                queue = source.choice(QUEUES)
                self.start_poll(queue, source.choice([1.5, 3.0, 30.0]))
            case "c" if self.polls:
                poll = source.choice(self.polls)
                self.cancelled += poll.cancel()
            case "x" | "w" as kind if world.history.outstanding:
                task = world.history.outstanding.pop(source.choice(list(world.history.outstanding)))
                self.closed.add(task.workflow_id)
                if kind == "w":
                    world.matching.withdraw(task)
            case "d":
                world.history.down.add(source.randrange(SHARDS))
            case "u":
                world.history.down.clear()
            case "r":  # a shard restarts and offers all it has again
                shard = source.randrange(SHARDS)
                for task in list(world.history.outstanding.values()):
                    if task.shard == shard:
                        world.matching.offer(task)
            case "t":
                await asyncio.sleep(source.choice([0.0, 0.001, 0.02, 0.5, 2.0]))
        if source.random() < 0.5:
            await asyncio.sleep(0)

    def schedule(self) -> None:
        self.number += 1
        source = self.source
        task = hint(
            self.number,
            source.choice(QUEUES),
            shard=source.randrange(SHARDS),
            priority=source.choice([0, 0, 1, 5]),
            fairness_key=source.choice(["", "", "k1", "k2"]),
            created_at=source.randrange(1000),
        )
        self.scheduled[task.workflow_id] = task
        assert self.world.schedule(task)
        if source.random() < 0.2:
            self.world.matching.offer(task)

    async def heal(self) -> None:
        """Pollers keep polling; within bounded time every task that is outstanding must reach one of them."""
        history = self.world.history
        history.down.clear()
        await asyncio.sleep(31.0)  # the polls of the first phase end; each may have held one place in the table of queues
        for _ in range(12):
            if not history.outstanding:
                break
            for queue in QUEUES:
                await asyncio.sleep(1.0)  # a full table of queues is swept at most once per second
                need = sum(task.queue == queue for task in history.outstanding.values())
                await asyncio.gather(*[self.start_poll(queue, 6.0) for _ in range(need)])
        assert not history.outstanding, f"never delivered: {list(history.outstanding)}"

    def start_poll(self, queue: QueueKey, timeout_s: float) -> asyncio.Task[Any]:
        poll = asyncio.get_running_loop().create_task(self.poll(queue, timeout_s))
        self.polls.append(poll)
        return poll

    async def poll(self, queue: QueueKey, timeout_s: float) -> Any:
        """A table of queues that is full of others' work refuses a poll (None)."""
        try:
            return await self.world.poll(queue, timeout_s=timeout_s)
        except CallerError as refusal:
            assert refusal.code is Code.RESOURCE_EXHAUSTED
            return None


def answers(polls: list[asyncio.Task[Any]]) -> Counter[str]:
    results = [poll.result() for poll in polls if not poll.cancelled()]
    return Counter(bytes(result.task_token).decode() for result in results if result is not None and result.task_token)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**48))
def test_every_outstanding_task_is_delivered_once_whatever_happens(seed: int) -> None:
    async def main() -> None:
        chaos = Chaos(seed)
        world = chaos.world
        for _ in range(80):
            await chaos.step()
        await chaos.heal()
        await asyncio.sleep(61.0)
        assert all(poll.done() for poll in chaos.polls)
        delivered = answers(chaos.polls)
        started = set(world.history.start_order)
        assert len(started) == len(world.history.start_order), "started twice"
        assert set(delivered.values()) <= {1} and set(delivered) <= started
        assert len(started - set(delivered)) <= chaos.cancelled, "started, but only a cancelled poll may lose the answer"
        assert started | chaos.closed == set(chaos.scheduled)
        await settle()
        for job in world.jobs.jobs:
            assert job.done() and job.exception() is None
        for partition in world.matching._matcher.partitions.values():
            window = partition.window
            assert not partition.parked and not window.in_flight_count
            assert window.waiting_count + window.delayed_count == len(window.waiting_hints())

    run(main())


def test_the_chaos_does_what_it_claims() -> None:
    """Guards against a property that passes by doing nothing."""
    totals: Counter[str] = Counter()

    async def main(seed: int) -> None:
        chaos = Chaos(seed)
        for _ in range(80):
            await chaos.step()
        await chaos.heal()
        totals.update(chaos.world.matching.counts)
        totals["started"] += len(chaos.world.history.started)
        totals["cancelled"] += chaos.cancelled
        totals["gone"] += chaos.world.history.gone_count
        totals["asks"] += len(chaos.world.history.asks)
        totals["keys"] += len({key_of(task) for task in chaos.scheduled.values()})

    for seed in range(40):
        run(main(seed))
    wanted = ["started", "cancelled", "gone", "asks", "offer_beyond_window", "start_failed", "sync_match", "backlog_match"]
    wanted += ["backlog_failed", "poll_expired"]
    assert all(totals[name] > 9 for name in wanted), totals
