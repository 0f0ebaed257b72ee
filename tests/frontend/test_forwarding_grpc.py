"""Forwarding over real connections: the same answers and refusals, byte for byte, and what a lost region looks like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.errordetails.v1 import NotFoundFailure
from temporalio.api.workflowservice import v1 as w

from cluster.core.errors import CallerError, Code, not_found
from cluster.frontend.call import Call
from cluster.frontend.methods import METHODS
from cluster.frontend.remote_grpc import GrpcRegions
from replication.link import UnknownRegion
from tests.frontend.two_regions import Pair, listening, parked, two_regions

DESCRIBE = "DescribeWorkflowExecution"
REQUEST = w.DescribeWorkflowExecutionRequest(namespace="shop", execution=WorkflowExecution(workflow_id="w"))


class Linked:
    """Two regions on ports, each with a client."""

    def __init__(self, pair: Pair, addresses: dict[str, str], stop: AsyncExitStack) -> None:
        self.pair, self.addresses, self.stop_one = pair, addresses, stop
        self.channels = {name: grpc.aio.insecure_channel(address) for name, address in addresses.items()}

    async def ask(self, region: str, name: str, request: Message, timeout_s: float = 5, **headers: str) -> bytes:
        metadata = tuple((key.replace("_", "-"), value) for key, value in headers.items())
        call: Any = self.channels[region].unary_unary(METHODS[name].path)
        answer: bytes = await call(request.SerializeToString(), timeout=timeout_s, metadata=metadata)
        return answer

    async def refused(self, region: str, name: str, request: Message, timeout_s: float = 5) -> tuple[Any, ...]:
        """(code, details, trailer)."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(region, name, request, timeout_s)
        error = caught.value
        trailer: Any = dict(error.trailing_metadata() or ())
        return error.code(), error.details(), trailer.get("grpc-status-details-bin")


@asynccontextmanager
async def on_ports() -> AsyncIterator[Linked]:
    addresses: dict[str, str] = {}
    remotes: list[GrpcRegions] = []

    def remote_of(_: Any) -> GrpcRegions:
        remotes.append(GrpcRegions(addresses.get))
        return remotes[-1]

    async with two_regions(remote_of=remote_of) as pair, AsyncExitStack() as stack, AsyncExitStack() as stop_one:
        addresses["c2"] = await stack.enter_async_context(listening(pair.two))
        addresses["c1"] = await stop_one.enter_async_context(listening(pair.one))
        made = Linked(pair, addresses, stop_one)
        try:
            yield made
        finally:
            for channel in made.channels.values():
                await channel.close()
            for remote in remotes:
                await remote.close()


async def test_request_and_answer_cross_as_they_are_in_both_directions() -> None:
    seen: list[bytes] = []
    answer = w.DescribeWorkflowExecutionResponse().SerializeToString() + b"\xfa\x3f\x03new"  # a field nobody here knows

    async def handler(call: Call, request: Any) -> Message | bytes:
        seen.append(call.data)
        return answer

    async with on_ports() as link:
        for active, other in (("c1", "c2"), ("c2", "c1")):
            await link.pair.fail_over(active)
            link.pair.remote.regions[active].overrides[DESCRIBE] = handler
            assert await link.ask(other, DESCRIBE, REQUEST) == answer
            assert link.pair.remote.regions[other].served == []
            link.pair.remote.regions[active].served.clear()
        assert seen == [REQUEST.SerializeToString()] * 2


@pytest.mark.parametrize(
    "error",
    [
        not_found("workflow not found", NotFoundFailure(current_cluster="a", active_cluster="b")),
        not_found("with ümläuts"),
        CallerError(Code.INVALID_ARGUMENT, "no"),
        CallerError(Code.UNAVAILABLE, "the store did not answer"),
        CallerError(Code.RESOURCE_EXHAUSTED, "x" * 5_000),
        not_found("details too large", NotFoundFailure(current_cluster="c" * 10_000)),
    ],
)
async def test_a_client_cannot_tell_a_forwarded_refusal_from_a_local_one(error: CallerError) -> None:
    async def refuse(call: Call, request: Any) -> Message | bytes:
        raise error

    async with on_ports() as link:
        link.pair.one.overrides[DESCRIBE] = refuse
        assert await link.refused("c2", DESCRIBE, REQUEST) == await link.refused("c1", DESCRIBE, REQUEST)


async def test_a_client_that_goes_ends_its_call_in_the_other_region() -> None:
    arrived, ended = asyncio.Event(), list[str]()
    async with on_ports() as link:
        link.pair.one.overrides["PollWorkflowTaskQueue"] = parked(arrived, ended)
        request = w.PollWorkflowTaskQueueRequest(namespace="shop")
        request.task_queue.name = "queue"
        call = asyncio.create_task(link.ask("c2", "PollWorkflowTaskQueue", request, timeout_s=30))
        await asyncio.wait_for(arrived.wait(), 5)
        call.cancel()
        async with asyncio.timeout(5):
            while not ended:
                await asyncio.sleep(0.01)
        assert ended == ["PollWorkflowTaskQueue"]


async def test_a_deadline_ends_the_call_in_both_regions() -> None:
    arrived, ended = asyncio.Event(), list[str]()
    async with on_ports() as link:
        link.pair.one.overrides[DESCRIBE] = parked(arrived, ended)
        assert (await link.refused("c2", DESCRIBE, REQUEST, timeout_s=0.5))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            while not ended:
                await asyncio.sleep(0.01)


async def test_a_region_that_went_away_is_unavailable_also_to_calls_under_way_and_local_namespaces_do_not_notice() -> None:
    arrived, ended = asyncio.Event(), list[str]()
    async with on_ports() as link:
        link.pair.one.overrides["SignalWorkflowExecution"] = parked(arrived, ended)
        execution = WorkflowExecution(workflow_id="w")
        signal = w.SignalWorkflowExecutionRequest(namespace="shop", workflow_execution=execution, signal_name="s")
        under_way = asyncio.create_task(link.refused("c2", "SignalWorkflowExecution", signal, timeout_s=20))
        await asyncio.wait_for(arrived.wait(), 5)
        await link.stop_one.aclose()
        for code, message, _ in (await asyncio.wait_for(under_way, 10), await link.refused("c2", DESCRIBE, REQUEST)):
            assert code is grpc.StatusCode.UNAVAILABLE
            assert message.startswith("region c1, where the namespace is active, cannot be reached now, please retry")
        local = w.DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="w"))
        assert (await link.refused("c2", DESCRIBE, local))[0] is grpc.StatusCode.NOT_FOUND


async def test_a_region_that_moved_is_found_at_its_new_address_and_one_that_is_gone_is_not_known() -> None:
    async def handler(call: Call, request: Any) -> Message | bytes:
        return b""

    async with on_ports() as link:
        link.pair.one.overrides[DESCRIBE] = handler
        await link.ask("c2", DESCRIBE, REQUEST)
        async with listening(link.pair.one) as address:
            link.addresses["c1"] = address
            await link.stop_one.aclose()
            assert await link.ask("c2", DESCRIBE, REQUEST) == b""
        nobody: dict[str, str] = {}
        regions = GrpcRegions(nobody.get)
        with pytest.raises(UnknownRegion):
            await regions.forward("c1", METHODS[DESCRIBE].path, b"", {}, 1)
        await regions.close()
