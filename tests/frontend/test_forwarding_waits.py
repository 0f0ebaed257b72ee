"""Calls that last while a namespace moves: long polls and waits follow it, a handover holds what must not be lost."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.enums.v1 import ReplicationState

from cluster.core.errors import Code
from cluster.frontend.forwarding import PLACEMENTS, Placement
from tests.frontend.two_regions import FORWARDED, UP_TO_FORWARDING, Pair, parked, refusal, request_for, two_regions, until
from tests.namespaces.two_regions import wished

HANDOVER = ReplicationState.REPLICATION_STATE_HANDOVER
NORMAL = ReplicationState.REPLICATION_STATE_NORMAL


# --- calls that last ------------------------------------------------------------------------------------------------
POLL = "PollWorkflowTaskQueue"


async def _parked_at_one(pair: Pair, name: str = POLL) -> tuple[asyncio.Task[bytes], list[str]]:
    arrived, ended = asyncio.Event(), list[str]()
    pair.one.overrides[name] = parked(arrived, ended)
    call = asyncio.create_task(pair.two.ask(name, request_for(pair.one, name), timeout_s=30))
    await asyncio.wait_for(arrived.wait(), 5)
    return call, ended


@pytest.mark.parametrize("name", [POLL, "GetWorkflowExecutionHistory", "UpdateWorkflowExecution"])
async def test_a_client_that_goes_ends_its_call_in_the_other_region(name: str) -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        call, ended = await _parked_at_one(pair, name)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended == [name]


@pytest.mark.parametrize("name", [POLL, "GetWorkflowExecutionHistory"])
async def test_what_waits_in_another_region_comes_home_when_the_namespace_does(name: str) -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        call, ended = await _parked_at_one(pair, name)
        await pair.two.fail_over("c2")
        assert await asyncio.wait_for(call, 5) == b""
        assert ended == [name] and pair.two.served == [name]


@pytest.mark.parametrize("name", [POLL, "GetWorkflowExecutionHistory"])
async def test_what_waits_here_goes_along_when_the_namespace_leaves(name: str) -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        arrived, ended = asyncio.Event(), list[str]()
        pair.one.overrides[name] = parked(arrived, ended)
        call = asyncio.create_task(pair.one.ask(name, request_for(pair.one, name), timeout_s=30))
        await asyncio.wait_for(arrived.wait(), 5)
        await pair.two.fail_over("c2")
        assert not call.done()
        await pair.agree()
        assert await asyncio.wait_for(call, 5) == b""
        assert ended == [name] and pair.two.served == [name]


async def test_a_poll_sent_back_by_a_region_that_knew_first_waits_for_the_news_and_stays() -> None:
    async with two_regions(hold_s=5, through=UP_TO_FORWARDING) as pair:
        call, ended = await _parked_at_one(pair)
        await pair.one.fail_over("c2")
        await until(lambda: bool(ended))
        assert not call.done() and pair.two.served == []
        await pair.agree()
        assert await asyncio.wait_for(call, 5) == b""
        assert pair.two.served == [POLL]


async def test_a_change_of_the_namespace_that_moves_it_nowhere_ends_no_poll() -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        call, ended = await _parked_at_one(pair)
        await pair.one.world.namespaces.update(wished("c1", "c2", active=""))
        await pair.agree()
        await asyncio.sleep(0.02)
        assert not call.done() and ended == []
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_call_that_changes_something_is_not_taken_back_from_where_it_went() -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        call, ended = await _parked_at_one(pair, "UpdateWorkflowExecution")
        await pair.two.fail_over("c2")
        assert not call.done() and ended == []
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_node_that_shuts_down_ends_the_polls_it_forwarded_empty() -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        call, ended = await _parked_at_one(pair)
        pair.two.forwarding.end_polls()
        assert await asyncio.wait_for(call, 5) == b""
        assert ended == [POLL] and pair.two.served == []


async def test_a_forwarded_wait_that_the_drain_ends_says_so() -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        call, _ = await _parked_at_one(pair, "GetWorkflowExecutionHistory")
        pair.two.world.frontend.drain.begin()
        error = await refusal(call)
        assert (error.code, error.message) == (Code.UNAVAILABLE, "the server is shutting down, please retry")


# --- handover -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("asked", ["c1", "c2"])
async def test_in_handover_a_call_waits_and_is_served_where_the_namespace_went(asked: str) -> None:
    async with two_regions(hold_s=5, through=UP_TO_FORWARDING) as pair:
        await pair.one.world.namespaces.update(wished(state=HANDOVER))
        await pair.agree()
        region = pair.remote.regions[asked]
        call = asyncio.create_task(region.ask("SignalWorkflowExecution", request_for(pair.one, "SignalWorkflowExecution")))
        await asyncio.sleep(0.05)
        assert not call.done() and pair.one.served == pair.two.served == []
        await pair.fail_over("c2")
        await asyncio.wait_for(call, 5)
        assert (pair.one.served, pair.two.served) == ([], ["SignalWorkflowExecution"])


async def test_a_handover_given_up_lets_held_calls_go_on() -> None:
    async with two_regions(hold_s=5, through=UP_TO_FORWARDING) as pair:
        await pair.one.world.namespaces.update(wished(state=HANDOVER))
        call = asyncio.create_task(pair.one.ask("QueryWorkflow", request_for(pair.one, "QueryWorkflow")))
        await asyncio.sleep(0.02)
        await pair.one.world.namespaces.update(wished(state=NORMAL))
        await asyncio.wait_for(call, 5)
        assert pair.one.served == ["QueryWorkflow"]


async def test_in_handover_nothing_is_changed_or_read_back_but_lists_go_on() -> None:
    async with two_regions(hold_s=0.01, through=UP_TO_FORWARDING) as pair:
        await pair.one.world.namespaces.update(wished(state=HANDOVER))
        for name in FORWARDED:
            call = pair.one.ask(name, request_for(pair.one, name))
            if PLACEMENTS[name] in (Placement.LIST, Placement.NOTICE):
                await call
                assert pair.one.served.pop() == name
            else:
                error = await refusal(call)
                assert (error.code, error.message) == (Code.UNAVAILABLE, "Namespace replication in Handover state.")
        assert pair.one.served == []
