"""A transport for `http2_client.py` to speak to: one call, whose handler the test gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message

from cluster.config import Limits
from cluster.frontend.call import Call
from cluster.frontend.methods import METHODS
from cluster.frontend.transport_grpc import GrpcTransport
from cluster.seams import SystemIds
from tests.frontend.http2_client import Client, message

PATH = METHODS["GetSystemInfo"].path
ANSWER = bytes(range(256)) * 200  # 51,200 bytes: several frames

Answer = Callable[[Call], Awaitable[bytes]]


async def answered(call: Call) -> bytes:
    return ANSWER


@asynccontextmanager
async def serving(answer: Answer = answered) -> AsyncIterator[tuple[GrpcTransport, int]]:
    async def handler(call: Call, request: Any) -> Message | bytes:
        return await answer(call)

    transport = GrpcTransport({"GetSystemInfo": handler}, Limits(), SystemIds())
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    port = await transport.start("127.0.0.1", 0)
    try:
        yield transport, port
    finally:
        await transport.close()
    assert not failures


def running(transport: GrpcTransport) -> int:
    assert transport._front is not None
    return len(transport._front.running)


async def good(client: Client, stream: int = 1) -> None:
    fields, data = await client.answer(stream)
    assert fields[":status"] == "200" and fields["grpc-status"] == "0" and data == message(ANSWER)
