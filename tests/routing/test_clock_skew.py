"""Nodes whose wall clocks differ by minutes: nothing is lost or doubled, and a timer fires once, by the clock of whoever owns it.

Leases are range ids in the store, the lease of reads is monotonic time, deadlines travel as what is left of them: no promise
between nodes rests on their clocks agreeing.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

from temporalio.api.enums.v1 import EventType

from cluster.membership.members import NodeState
from tests.history.commands import timer
from tests.routing.stage import Stage, perform, until
from tests.routing.test_shard_moves import WORKFLOWS, Load, of

MINUTE_NS = 60 * 10**9


def test_nodes_ten_minutes_apart_lose_and_double_no_acknowledged_signal() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        stage.node("a").clock.skew_ns, stage.node("b").clock.skew_ns = 5 * MINUTE_NS, -5 * MINUTE_NS
        load = Load(stage, 1)
        loading = asyncio.ensure_future(load.run())
        await asyncio.sleep(0.5)
        stage.change("c", NodeState.LEAVING)
        await until(lambda: stage.node("c").service.ownership.is_empty)
        stage.forget("c")
        await stage.settled()
        stage.kill("a")  # what the fast clock wrote is taken over by the slow one
        stage.forget("a")
        await stage.settled()
        await asyncio.sleep(0.5)
        load.is_over = True
        await loading
        await load.check()
        for each in WORKFLOWS:
            ids = [event.event_id for event in await stage.history("b", each)]
            assert ids[0] == 1 and all(after == before + 1 for before, after in pairwise(ids))

    perform(story)


def test_a_timer_that_moves_to_a_slow_clock_fires_once_and_late_by_no_more_than_the_difference() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        stage.node("a").clock.skew_ns = 5 * MINUTE_NS
        for each in WORKFLOWS:
            await stage.start("b", each)
        moving = of(stage, "a")
        assert moving
        for each in moving:
            await stage.work(each, timer("t", 10))
        stage.kill("a")
        stage.forget("a")
        await stage.settled()
        await asyncio.sleep(5 * 60 + 15)
        for each in moving:
            fired = [event for event in await stage.history("b", each) if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED]
            assert len(fired) == 1

    perform(story)
