"""What a client of the gRPC transport sees, whatever the handler behind it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from temporalio.api.errordetails.v1 import NotFoundFailure
from temporalio.api.workflowservice import v1 as w

from cluster.config import Limits
from cluster.core.errors import CallerError, Code, not_found
from cluster.frontend.call import Call, Handler
from cluster.frontend.methods import METHODS, WORKFLOW_SERVICE
from cluster.frontend.transport_grpc import GrpcTransport, PortInUse
from cluster.seams import SystemIds
from cluster.stores.base import StoreUnavailable

PATH = METHODS["GetSystemInfo"].path


@asynccontextmanager
async def serving(handlers: dict[str, Handler]) -> AsyncIterator[tuple[GrpcTransport, Any, int]]:
    transport = GrpcTransport(handlers, Limits(), SystemIds())
    port = await transport.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield transport, channel, port
    finally:
        await transport.close()


async def ask(channel: Any, data: bytes = b"", timeout: float = 5.0, **options: Any) -> bytes:
    answer: bytes = await channel.unary_unary(PATH)(data, timeout=timeout, **options)
    return answer


def failing(failure: Exception) -> dict[str, Handler]:
    async def handler(call: Call, request: Any) -> Message | bytes:
        raise failure

    return {"GetSystemInfo": handler}


async def refused(channel: grpc.aio.Channel, data: bytes = b"") -> tuple[grpc.StatusCode, str, Status]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, data)
    trailer: dict[str, Any] = dict(caught.value.trailing_metadata() or ())
    status = Status.FromString(trailer.get("grpc-status-details-bin", b""))
    return caught.value.code(), caught.value.details() or "", status


async def test_bytes_of_a_handler_reach_the_client_unchanged() -> None:
    answer = w.GetSystemInfoResponse(server_version="1").SerializeToString()

    async def handler(call: Call, request: Any) -> Message | bytes:
        return answer

    async with serving({"GetSystemInfo": handler}) as (_, channel, _):
        assert await ask(channel) == answer


async def test_a_handler_gets_headers_and_deadline_but_no_grpc_type() -> None:
    seen: list[Call] = []

    async def handler(call: Call, request: Any) -> Message | bytes:
        seen.append(call)
        return b""

    async with serving({"GetSystemInfo": handler}) as (_, channel, _):
        await ask(channel, timeout=7, metadata=(("client-name", "test"), ("trace-bin", b"\1")))
        now = asyncio.get_running_loop().time()
    call = seen[0]
    assert (call.name, call.method) == ("GetSystemInfo", PATH)
    assert call.metadata["client-name"] == "test" and "trace-bin" not in call.metadata
    assert call.deadline is not None and 5 < call.deadline - now < 7.5
    assert call.peer.startswith("ipv4:127.0.0.1:")


async def test_a_refusal_carries_its_code_message_and_typed_details() -> None:
    error = not_found("gone", NotFoundFailure(current_cluster="a", active_cluster="b"))
    async with serving(failing(error)) as (_, channel, _):
        code, message, status = await refused(channel)
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert (status.code, status.message) == (5, "gone")
    detail = NotFoundFailure()
    assert status.details[0].Unpack(detail) and detail.active_cluster == "b"


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
async def test_every_status_code_is_told_as_it_is(code: Code) -> None:
    async with serving(failing(CallerError(code, "because"))) as (_, channel, _):
        assert (await refused(channel))[0].value[0] == int(code)


async def test_an_unexpected_failure_shows_nothing_of_the_inside() -> None:
    async with serving(failing(KeyError("secret table name"))) as (_, channel, _):
        code, message, status = await refused(channel)
    assert code is grpc.StatusCode.INTERNAL
    assert message.startswith("something went wrong, please retry (") and "secret" not in message + status.message


async def test_a_store_that_does_not_answer_is_worth_a_retry() -> None:
    async with serving(failing(StoreUnavailable("disk of host 7 is full"))) as (_, channel, _):
        code, message, _ = await refused(channel)
    assert code is grpc.StatusCode.UNAVAILABLE and "host 7" not in message


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff"])
async def test_a_malformed_request_is_the_callers_fault(data: bytes) -> None:
    async with serving(failing(AssertionError("not reached"))) as (_, channel, _):
        code, message, _ = await refused(channel, data)
    assert code is grpc.StatusCode.INVALID_ARGUMENT and message.startswith("malformed request")


async def test_invalid_utf8_in_a_request_is_refused_at_the_edge() -> None:
    """CVE-2024-2689."""
    data = b"\x0a\x02\xc3\x28"  # field 1 (namespace), two bytes that are no UTF-8

    async def handler(call: Call, request: Any) -> Message | bytes:
        raise AssertionError("not reached")

    async with serving({"StartWorkflowExecution": handler}) as (_, channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(METHODS["StartWorkflowExecution"].path)(data, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_that_quotes_a_huge_input_still_reaches_the_client() -> None:
    async with serving(failing(not_found("x" * 1_000_000, NotFoundFailure(current_cluster="y" * 100_000)))) as (_, channel, _):
        code, message, _ = await refused(channel)
    assert code is grpc.StatusCode.NOT_FOUND and message.startswith("xxx") and len(message) < 2_000


async def _echo_size(call: Call, request: Any) -> Message | bytes:
    return b""


@pytest.mark.parametrize(("extra", "code"), [(-1, None), (0, None), (1, grpc.StatusCode.RESOURCE_EXHAUSTED)])
async def test_a_request_above_four_mebibytes_is_refused(extra: int, code: grpc.StatusCode | None) -> None:
    size = Limits().grpc_message_bytes_max + extra
    # An unknown field of the right length: tag, length (4 bytes), content.
    body = b"x" * (size - 6)
    data = (
        b"\xfa\x7f"
        + bytes((len(body) & 127 | 128, len(body) >> 7 & 127 | 128, len(body) >> 14 & 127 | 128, len(body) >> 21))
        + body
    )
    assert len(data) == size
    async with serving({"GetSystemInfo": _echo_size}) as (_, channel, _):
        if code is None:
            await ask(channel, data)
        else:
            assert (await refused(channel, data))[0] is code


async def test_a_call_whose_client_has_gone_is_cancelled() -> None:
    ended = asyncio.Event()

    async def handler(call: Call, request: Any) -> Message | bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("not reached")

    async with serving({"GetSystemInfo": handler}) as (_, channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            await ended.wait()


async def test_health_is_told_for_the_server_and_the_workflow_service_and_ends_with_the_drain() -> None:
    async with serving({}) as (transport, channel, _):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", WORKFLOW_SERVICE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await transport.say_not_serving()
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=WORKFLOW_SERVICE), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_the_public_services() -> None:
    async with serving({}) as (_, channel, _):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        names = {service.name async for answer in answers for service in answer.list_services_response.service}
    assert {WORKFLOW_SERVICE, "temporal.api.operatorservice.v1.OperatorService", "grpc.health.v1.Health"} <= names


async def test_a_second_server_cannot_share_the_port() -> None:
    async with serving({}) as (_, _, port):
        with pytest.raises(PortInUse):
            await GrpcTransport({}, Limits(), SystemIds()).start("127.0.0.1", port)
