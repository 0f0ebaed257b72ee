"""gRPC on our own front, asked by grpcio's client and in frames; and what is passed on to grpcio's server behind it."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from temporalio.api.workflowservice import v1 as w

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.frontend import transport_grpc
from cluster.frontend.call import Call, Handler
from cluster.frontend.http2_headers import encode_headers
from cluster.frontend.methods import METHODS
from cluster.frontend.transport_grpc import Front, GrpcTransport
from cluster.seams import SystemIds
from tests.frontend.http2_client import DATA, END_HEADERS, END_STREAM, HEADERS, Client, call, frame, message, request_fields

PATH = METHODS["GetSystemInfo"].path
START = METHODS["StartWorkflowExecution"].path
ECHO, FAIL, HALF = "/test.Streams/Echo", "/test.Streams/Fail", "/test.Streams/Half"


async def started(call: Call, request: Any) -> Message | bytes:
    """Tells what it was asked."""
    return w.StartWorkflowExecutionResponse(run_id=f"{request.workflow_id}:{len(request.identity)}")


@asynccontextmanager
async def serving(
    handlers: dict[str, Handler], others: Sequence[grpc.GenericRpcHandler] = (), front: Front = "own", **limits: int
) -> AsyncIterator[tuple[Any, int]]:
    transport = GrpcTransport(handlers, Limits(**limits), SystemIds(), others, front)
    port = await transport.start("127.0.0.1", 0)
    options = [("grpc.max_receive_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield channel, port
    finally:
        await transport.close()


def request(id: str, identity: str = "") -> bytes:
    return w.StartWorkflowExecutionRequest(workflow_id=id, identity=identity).SerializeToString()


def run_id(answer: bytes) -> str:
    return w.StartWorkflowExecutionResponse.FromString(answer).run_id


@pytest.mark.parametrize("front", ["own", "grpcio"])
async def test_both_fronts_serve_the_same(front: Front) -> None:
    async def refuses(call: Call, request: Any) -> Message | bytes:
        raise CallerError(Code.NOT_FOUND, "größer als 100 %\n")

    async with serving({"StartWorkflowExecution": started, "GetSystemInfo": refuses}, front=front) as (channel, _):
        assert run_id(await channel.unary_unary(START)(request("a", "me"), timeout=5)) == "a:2"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(PATH)(b"", timeout=5)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "größer als 100 %\n")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/nobody.Knows/This")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_client_may_compress(compression: grpc.Compression) -> None:
    async with serving({"StartWorkflowExecution": started}) as (channel, _):
        data = request("a", "x" * 100_000)
        assert run_id(await channel.unary_unary(START)(data, timeout=5, compression=compression)) == "a:100000"


async def test_many_calls_with_many_sizes_at_once() -> None:
    async with serving({"StartWorkflowExecution": started}) as (channel, _):
        start = channel.unary_unary(START)
        sizes = [size * 997 for size in range(300)]
        answers = await asyncio.gather(*(start(request(str(size), "x" * size), timeout=20) for size in sizes))
        assert [run_id(answer) for answer in answers] == [f"{size}:{size}" for size in sizes]


async def test_a_large_answer_arrives_whole() -> None:
    answer = bytes(range(256)) * 100_000  # 25 MB

    async def large(call: Call, request: Any) -> Message | bytes:
        return answer

    async with serving({"GetSystemInfo": large}) as (channel, _):
        both = await asyncio.gather(*(channel.unary_unary(PATH)(b"", timeout=20) for _ in range(2)))
        assert both == [answer, answer]


async def test_an_answer_above_what_clients_take_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_grpc, "ANSWER_BYTES_MAX", 1_000)

    async def large(call: Call, request: Any) -> Message | bytes:
        return bytes(1_001)

    async with serving({"GetSystemInfo": large}) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(PATH)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "1001 vs. 1000" in str(caught.value.details())


async def test_calls_above_the_limit_of_all_connections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_grpc, "CALLS_IN_FLIGHT_MAX", 1)
    began = asyncio.Event()

    async def waits(call: Call, request: Any) -> Message | bytes:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    async with serving({"GetSystemInfo": waits}) as (channel, _):
        first = channel.unary_unary(PATH)(b"", timeout=5)
        await began.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(PATH)(b"", timeout=5)
        first.cancel()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- what no client should send -------------------------------------------------------------------------------------------
BOMB = gzip.compress(bytes(100_000_000))
OK, UNKNOWN, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = "0", "2", "3", "8", "12", "13"
GZIP = (b"grpc-encoding", b"gzip")


@pytest.mark.parametrize(
    ("body", "header", "status"),
    [
        (message(b""), GZIP, OK),
        (message(gzip.compress(b""), 1), GZIP, OK),
        (message(BOMB, 1), GZIP, RESOURCE_EXHAUSTED),
        (message(gzip.compress(b"")[:-9], 1), GZIP, INVALID_ARGUMENT),
        (message(b"no gzip", 1), GZIP, INVALID_ARGUMENT),
        (message(zlib.compress(b""), 1), (b"grpc-encoding", b"deflate"), OK),
        (message(b"", 1), (b"grpc-encoding", b"snappy"), UNIMPLEMENTED),
        (message(b"", 7), GZIP, UNIMPLEMENTED),
        (b"", GZIP, INVALID_ARGUMENT),
        (b"\0\0\0", GZIP, INVALID_ARGUMENT),
        (message(b"ab")[:-1], GZIP, INVALID_ARGUMENT),
        (message(b"") * 2, GZIP, UNIMPLEMENTED),
        (b"\0\xff\xff\xff\xff" + bytes(9), GZIP, INVALID_ARGUMENT),
        (message(b""), (b"grpc-timeout", b"5 S"), INTERNAL),
        (message(b""), (b"grpc-timeout", b"123456789S"), INTERNAL),
        (message(b""), (b"grpc-timeout", b"5x"), INTERNAL),
        (message(b""), (b"x-bin", b"@@@"), INTERNAL),
        (message(b""), (b"x-bin", b"AAE"), OK),
    ],
)  # fmt: skip
async def test_a_malformed_call_gets_a_status_and_not_silence(body: bytes, header: tuple[bytes, bytes], status: str) -> None:
    async def empty(call: Call, request: Any) -> Message | bytes:
        return b""

    async with serving({"GetSystemInfo": empty}) as (_, port):
        client = await Client.connect(port)
        client.send(frame(HEADERS, END_HEADERS, 1, encode_headers(request_fields(PATH, header))))
        pieces = [body[start : start + 16_384] for start in range(0, len(body), 16_384)] or [b""]
        for piece in pieces:
            client.send(frame(DATA, END_STREAM if piece is pieces[-1] else 0, 1, piece))
        assert (await client.answer(1))[0]["grpc-status"] == status
        client.send(call(3, PATH))
        assert (await client.answer(3))[0]["grpc-status"] == OK


async def test_a_message_that_announces_too_much_is_refused_before_it_has_come() -> None:
    async with serving({"GetSystemInfo": started}) as (_, port):
        client = await Client.connect(port)
        client.send(frame(HEADERS, END_HEADERS, 1, encode_headers(request_fields(PATH))))
        client.send(frame(DATA, 0, 1, b"\0\x7f") + frame(DATA, 0, 1, b"\xff\xff\xff"))
        assert (await client.answer(1))[0]["grpc-status"] == RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("name", "value", "http_status"),
    [(b":method", b"GET", "405"), (b"content-type", b"text/html", "415"), (b"content-type", b"application/grpc-web", "415")],
)  # fmt: skip
async def test_what_is_no_call_gets_an_http_status(name: bytes, value: bytes, http_status: str) -> None:
    fields = [(key, value if key == name else known) for key, known in request_fields(PATH)]
    async with serving({}) as (_, port):
        client = await Client.connect(port)
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, encode_headers(fields)))
        answer, _ = await client.answer(1)
        assert answer[":status"] == http_status and answer["grpc-status"] == UNKNOWN


# --- what is passed on ------------------------------------------------------------------------------------------------------
class Streams(grpc.GenericRpcHandler):
    """Behind the front."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def service(self, handler_call_details: Any) -> Any:
        found = {ECHO: self._echo, FAIL: self._fail, HALF: self._half}.get(handler_call_details.method)
        return None if found is None else grpc.stream_stream_rpc_method_handler(found)

    async def _echo(self, requests: Any, context: Any) -> None:
        headers = dict(context.invocation_metadata())
        await context.send_initial_metadata((("seen", headers["word"]), ("seen-bin", headers["word-bin"])))
        while (data := await context.read()) is not grpc.aio.EOF:
            await context.write(data)
        context.set_trailing_metadata((("bye", "now"),))

    async def _fail(self, requests: Any, context: Any) -> None:
        await context.read()
        await context.write(b"one")
        await context.abort(grpc.StatusCode.ABORTED, "enough", (("why-bin", b"\0\xff"),))

    async def _half(self, requests: Any, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def test_a_stream_goes_both_ways_with_headers_and_trailers() -> None:
    async with serving({}, [Streams()]) as (channel, _), asyncio.timeout(20):
        stream = channel.stream_stream(ECHO)(metadata=(("word", "hi"), ("word-bin", b"\0\1")))
        for data in (b"a", b"", b"x" * 1_000_000):
            await stream.write(data)
            assert await stream.read() == data
        headers = dict(await stream.initial_metadata())
        assert headers["seen"] == "hi" and headers["seen-bin"] == b"\0\1"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK and dict(await stream.trailing_metadata())["bye"] == "now"


async def test_a_stream_of_more_than_all_windows_flows_while_its_reader_is_late() -> None:
    piece, count = bytes(1_000_000), 100  # more than the window of the connection
    async with serving({}, [Streams()]) as (channel, _), asyncio.timeout(30):
        stream = channel.stream_stream(ECHO)(metadata=(("word", "hi"), ("word-bin", b"\0")))

        async def write() -> int:
            for _ in range(count):
                await stream.write(piece)
            await stream.done_writing()
            return count

        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.5)
        assert not writing.done(), "the writer must wait for the reader"
        received = 0
        while (data := await stream.read()) is not grpc.aio.EOF:
            assert len(data) == len(piece)
            received += 1
        assert received == await writing


async def test_a_stream_ends_with_the_status_it_was_given() -> None:
    async with serving({}, [Streams()]) as (channel, _), asyncio.timeout(10):
        stream = channel.stream_stream(FAIL)()
        await stream.write(b"")
        assert await stream.read() == b"one"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "enough")
    assert dict(caught.value.trailing_metadata() or ())["why-bin"] == b"\0\xff"


async def test_a_stream_that_its_client_leaves_is_cancelled_behind() -> None:
    streams = Streams()
    async with serving({}, [streams]) as (channel, _), asyncio.timeout(10):
        stream = channel.stream_stream(HALF)()
        await stream.write(b"")
        await asyncio.sleep(0.2)
        stream.cancel()
        await streams.cancelled.wait()


async def test_a_message_of_a_stream_that_is_too_large_is_refused() -> None:
    async with serving({}, [Streams()]) as (channel, _), asyncio.timeout(10):
        stream = channel.stream_stream(ECHO)(metadata=(("word", "hi"), ("word-bin", b"\0")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.write(bytes(Limits().grpc_message_bytes_max + 1))
            while await stream.read() is not grpc.aio.EOF:
                pass
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
