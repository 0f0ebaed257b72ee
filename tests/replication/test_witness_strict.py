"""Strict mode at the only right place: a write that is durable after the region's deadline is not acknowledged, and not lost."""

from __future__ import annotations

import pytest

from cluster.core.errors import CallerError, Code
from tests.history.world import NAMESPACE, World, play


def test_a_write_that_is_durable_after_the_deadline_is_not_acknowledged_and_its_retry_is_once_the_lease_is_back() -> None:
    async def story(world: World) -> None:
        held = {NAMESPACE.id: True}
        world.history.may_acknowledge = held.__getitem__
        await world.start("before")
        store, append = world.store, world.store.append

        async def runs_out(lease: object, position: int, data: bytes) -> None:
            await append(lease, position, data)  # type: ignore[arg-type]
            held[NAMESPACE.id] = False

        store.append = runs_out  # type: ignore[method-assign]
        with pytest.raises(CallerError) as refused:
            await world.start("w", request_id="once")
        assert refused.value.code is Code.UNAVAILABLE and "witness" in refused.value.message
        assert len(world.states()) == 2, "it is durable all the same"
        with pytest.raises(CallerError):
            await world.start("w", request_id="once")
        store.append = append  # type: ignore[method-assign]
        held[NAMESPACE.id] = True
        await world.start("w", request_id="once")
        assert len(world.states()) == 2

    play(story)
