"""What an acknowledged write of a namespace is worth: async, bounded, sync."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.namespace.v1 import UpdateNamespaceInfo
from temporalio.service import RPCError, RPCStatusCode

from cluster.core.errors import CallerError
from cluster.namespaces.write_mode import KEY, WriteMode, write_mode_of
from tests.regions.regions import HERE_ONLY, Regions, eventually, regions
from tests.regions.workflows import QUEUE, Letters

SHORT = timedelta(seconds=2)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("", WriteMode()),
        ("async", WriteMode()),
        ("sync", WriteMode(is_sync=True)),
        ("bounded events=5", WriteMode(events_max=5)),
        ("bounded seconds=1.5 events=7", WriteMode(events_max=7, seconds_max=1.5)),
    ],
)
def test_a_write_mode_is_read(text: str, mode: WriteMode) -> None:
    assert write_mode_of({KEY: text} if text else {}) == mode


@pytest.mark.parametrize(
    "text", ["fast", "sync 1", "bounded", "bounded events", "bounded events=x", "bounded lag=1", "bounded events=-1"]
)
def test_a_write_mode_that_nobody_understands_is_refused(text: str) -> None:
    with pytest.raises(CallerError):
        write_mode_of({KEY: text})


async def set_mode(c: Regions, mode: str) -> None:
    await c.update("c1", update_info=UpdateNamespaceInfo(data={KEY: mode}))


async def test_a_wrong_write_mode_changes_nothing() -> None:
    async with regions() as c:
        with pytest.raises(RPCError) as refused:
            await set_mode(c, "often")
        assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
        assert KEY not in (await c.describe("c1")).namespace_info.data


async def test_a_sync_write_is_in_another_region_when_it_is_acknowledged() -> None:
    async with regions() as c:
        await set_mode(c, "sync")
        for number in range(5):
            handle = await c.one.start_workflow(Letters.run, "a", id=f"w{number}", task_queue=QUEUE)
            await handle.signal(Letters.tell, "b")
            there = await c.two.get_workflow_handle(f"w{number}").fetch_history(rpc_metadata=HERE_ONLY)
            kinds = [event.WhichOneof("attributes") for event in there.events]
            assert "workflow_execution_signaled_event_attributes" in kinds


async def test_a_sync_write_that_no_region_can_hold_is_refused_and_leaves_nothing() -> None:
    async with regions() as c:
        await set_mode(c, "sync")
        await c.cut()
        await eventually(lambda: _is_unlinked(c), "the link is down")
        with pytest.raises(RPCError) as refused:
            await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE, rpc_timeout=SHORT)
        assert refused.value.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
        assert not c.in_memory("c1")
        c.heal()
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()


async def test_a_bounded_write_is_refused_beyond_the_bound_and_goes_on_when_the_others_have_caught_up() -> None:
    async with regions() as c:
        handle = await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await set_mode(c, "bounded events=5")
        await c.cut()
        told = 0
        with pytest.raises(RPCError) as refused:
            for told in range(100):
                await handle.signal(Letters.tell, f"{told}", rpc_timeout=SHORT)
        assert 4 <= told <= 6, told
        assert "behind" in refused.value.message or refused.value.status is not RPCStatusCode.NOT_FOUND
        c.heal()
        await eventually(lambda: _takes_signals(handle), "signals are taken again")
        await c.agree()


async def _is_unlinked(c: Regions) -> bool:
    parts = c.nodes["c1"].assembly.regions
    assert parts is not None
    return not any(sender.is_linked for sender in parts.region.senders.values())


async def _takes_signals(handle) -> bool:  # type: ignore[no-untyped-def]
    try:
        await handle.signal(Letters.tell, "again", rpc_timeout=SHORT)
    except RPCError:
        await asyncio.sleep(0.1)
        return False
    return True
