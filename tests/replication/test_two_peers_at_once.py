"""Two peers bring the same run, and what the slower one has is old by then."""

from __future__ import annotations

import asyncio
from functools import partial

from cluster.history.replicate import Applied, replicate
from cluster.history.run_delta import RunDelta, decode_delta
from cluster.stores.base import RunKey
from replication.run_news import RunNews, delta_of
from tests.history.world import NAMESPACE, eventually
from tests.replication.two_regions import Pair, play


def test_an_older_snapshot_that_waited_is_not_stored_over_a_run_that_came_and_left_memory() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        pair.is_linked = False
        pair.cut()
        key = RunKey(NAMESPACE.id, "w", await one.start("w"))
        older, newer = [await told(pair, key, name) for name in ("first", "second")]
        shard = two.shard_for("w")
        checkpointer = shard.checkpointer
        of_a_checkpoint, checkpointer.lock = checkpointer.lock, asyncio.Lock()
        await checkpointer.lock.acquire()
        waited_for = checkpointer.lock
        taking = asyncio.get_running_loop().create_task(two.inside(partial(replicate, shard, older)))
        await asyncio.sleep(0.5)  # it has found that the run is new here, and waits
        checkpointer.lock = of_a_checkpoint
        assert isinstance(await two.inside(partial(replicate, shard, newer)), Applied)
        run = shard.runs[key]
        await two.checkpoint()
        await eventually(lambda: shard._is_idle(run))
        shard.forget(run)
        waited_for.release()
        assert isinstance(await taking, Applied)
        assert (await two.all_runs())[key.run_id][3] == newer.head.last_event_id, "and its events can be read"

    async def told(pair: Pair, key: RunKey, signal: str) -> RunDelta:
        await pair.one.signal("w", signal)
        shard = pair.one.shard_for("w")
        return decode_delta(await pair.one.inside(partial(delta_of, shard, RunNews(key, []), 1)))

    play(story)
