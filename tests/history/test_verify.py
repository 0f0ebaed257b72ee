"""A sample of the runs read from the store is compared with the fold of its history."""

from __future__ import annotations

from chaos.sim.loop import simulate
from cluster.config import ShardConfig
from cluster.core.state import decode_state, encode_state
from cluster.history.events import disagreement
from tests.history.world import SHARD, World


def test_a_stored_state_that_its_history_does_not_give_is_noticed() -> None:
    async def story() -> None:
        world = World(config=ShardConfig(verified_loads_share=1.0))
        await world.begin()
        await world.start("w")
        await world.signal("w")
        await world.settle()
        await world.checkpoint()
        run = await world.current("w")
        assert await disagreement(world.store, SHARD, run) == ""
        wrong = decode_state(encode_state(run.state))
        wrong.signal_count += 1
        run.state = wrong
        assert "signal_count" in await disagreement(world.store, SHARD, run)
        await world.close()

    simulate(story())
