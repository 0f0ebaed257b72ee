"""The Python client and server for plain HTTP: round trips over real sockets, no workflow server (N01, N04, N06, N09, N12)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from nexusrpc import HandlerError, HandlerErrorType, Link, OperationError, OperationErrorState
from yarl import URL

from sdk.nexus_http import CallbackReceiver, CallbackSender, NexusClient, OperationTable, OperationTimedOut, RetryRules
from sdk.nexus_http.wire import STATUS_OF
from tests.nexus_http.payments import Charge, Payments, Receipt, payments, served

FAST = RetryRules(attempts_max=4, first_s=0.01, longest_s=0.02)
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def client(url: str, **options: Any) -> NexusClient:
    return NexusClient(url, Payments, **{"retry": FAST, **options})


async def test_a_synchronous_operation_gives_its_typed_result() -> None:
    async with payments() as (url, handler), client(url, headers={"X-Team": "orders"}) as calls:
        link = Link(url="o:///1", type="a.Order")
        handle = await calls.start(
            Payments.quote, 7, request_id="rid", links=[link], operation_timeout=timedelta(minutes=2)
        )
        assert handle.is_done and await handle.result() == Receipt("quote", 7)
        assert handle.links == [Link(url="quote:///1", type="a.Quote")]
        seen = handler.seen[0]
        assert seen.request_id == "rid" and seen.inbound_links == [link]
        assert seen.headers["x-team"] == "orders" and seen.headers["operation-timeout"] == "120000ms"
        assert seen.request_deadline is not None and seen.service == "pay/ments v1"


async def test_n01_n06_the_same_call_takes_a_result_at_once_or_after_a_while() -> None:
    async with payments() as (url, handler), client(url) as calls:
        quoted = await calls.execute(Payments.quote, 1)
        charging = asyncio.create_task(calls.execute(Payments.charge, Charge(5)))
        while not handler.seen[1:]:
            await asyncio.sleep(0.005)
        handler.go.set()
        assert (quoted, await charging) == (Receipt("quote", 1), Receipt("r-1", 5))
    async with payments(OperationTable(inline_s=5.0)) as (url, handler), client(url) as calls:
        handler.go.set()
        handle = await calls.start(Payments.charge, Charge(5))  # the same operation, done within the request
        assert handle.is_done and await handle.result() == Receipt("r-1", 5)
        with pytest.raises(OperationError, match="stolen"):
            await calls.start(Payments.charge, Charge(5, "stolen"))


async def test_another_process_can_take_the_result_by_the_token() -> None:
    async with payments() as (url, handler), client(url) as calls:
        token = (await calls.start(Payments.charge, Charge(5))).token
        assert (await calls.handle(Payments.charge, token).info())["state"] == "running"
        handler.go.set()
        async with client(url) as other:
            handle = other.handle(Payments.charge, token)
            assert await handle.result() == await handle.result() == Receipt("r-1", 5)
            with pytest.raises(HandlerError) as caught:
                await other.handle(Payments.quote, token).result()
            assert caught.value.type is HandlerErrorType.NOT_FOUND


async def test_a_cancelled_operation_ends_as_cancelled_and_cancelling_twice_is_once() -> None:
    async with payments() as (url, _), client(url) as calls:
        handle = await calls.start(Payments.charge, Charge(5))
        await handle.cancel()
        with pytest.raises(OperationError) as caught:
            await handle.result()
        assert caught.value.state is OperationErrorState.CANCELED
        await handle.cancel()
        with pytest.raises(HandlerError):
            await calls.handle(Payments.charge, "no such token").cancel()


async def test_n10_a_caller_whose_time_is_over_asks_the_operation_to_stop() -> None:
    async with payments() as (url, handler), client(url) as calls:
        with pytest.raises(OperationTimedOut):
            await calls.execute(Payments.charge, Charge(5), timeout=timedelta(milliseconds=50))
        kept = next(iter(handler.table._kept.values()))
        await asyncio.wait_for(kept.ended.wait(), 5)
        assert kept.state == "canceled" and handler.charged == 0


async def test_an_operations_failure_is_an_operation_error() -> None:
    async with payments() as (url, _), client(url) as calls:
        for card, message in (("stolen", "card is stolen"), ("broken", "the reader broke")):
            with pytest.raises(OperationError, match=message) as caught:
                await calls.execute(Payments.charge, Charge(5, card))
            assert isinstance(caught.value, OperationError) and caught.value.state is OperationErrorState.FAILED
        for word in ("failed", "canceled"):
            with pytest.raises(OperationError) as refused:
                await calls.execute(Payments.refuse, word)
            assert OperationErrorState(word) is refused.value.state and str(refused.value.__cause__) == "deep"


@pytest.mark.parametrize("type", list(STATUS_OF), ids=[one.value for one in STATUS_OF])
async def test_n12_only_what_may_be_tried_again_is_tried_again(type: HandlerErrorType) -> None:
    async with payments() as (url, handler), client(url) as calls:
        with pytest.raises(HandlerError) as caught:
            await calls.execute(Payments.refuse, type.value)
        assert caught.value.type is type and caught.value.message == "refused"
        assert len(handler.seen) == (4 if caught.value.retryable else 1)
        assert len({context.request_id for context in handler.seen}) == 1


async def test_a_second_try_that_succeeds_is_a_success_and_an_override_stops_tries() -> None:
    async with payments() as (url, handler), client(url) as calls:
        assert await calls.execute(Payments.refuse, "once:UNAVAILABLE") == "at last"
        count = len(handler.seen)
        with pytest.raises(HandlerError, match="never again"):
            await calls.execute(Payments.refuse, "override")
        assert len(handler.seen) == count + 1


async def test_n09_a_start_whose_reply_is_lost_is_started_once() -> None:
    lost = 2

    async def lose(request: web.Request, handler: Next) -> web.StreamResponse:
        nonlocal lost
        response = await handler(request)
        if lost and request.method == "POST":
            lost -= 1
            assert request.transport is not None
            request.transport.close()
        return response

    async with payments(middleware=lose) as (url, handler), client(url) as calls:
        handler.go.set()
        assert await calls.execute(Payments.charge, Charge(5)) == Receipt("r-1", 5)
        assert lost == 0 and handler.charged == 1 and len(handler.table._kept) == 1


async def test_retry_after_is_waited_for() -> None:
    times = []

    async def busy(request: web.Request) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        return web.json_response(1) if len(times) > 1 else web.Response(status=429, headers={"Retry-After": "1"})

    app = web.Application()
    app.router.add_post("/{path:.*}", busy)
    async with served(app) as url, NexusClient(url, "s", retry=FAST) as calls:
        assert await calls.execute("o") == 1
    assert times[1] - times[0] >= 1.0


async def test_nobody_there_is_unavailable_after_all_tries() -> None:
    async with payments() as (url, _):
        pass
    async with client(url) as calls:
        with pytest.raises(HandlerError) as caught:
            await calls.execute(Payments.quote, 1)
        assert caught.value.type is HandlerErrorType.UNAVAILABLE


async def test_bytes_and_nothing_travel_as_they_are() -> None:
    async with payments() as (url, _), client(url) as calls:
        assert await calls.execute(Payments.copy, b"\x00\xff") == b"\x00\xff"
        assert await calls.execute(Payments.copy, b"") == b""
        handle = await calls.start(Payments.nothing, None)
        assert handle.is_done and handle._value is None


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/pay%2Fments%20v1/quote", b'"seven"', {"Content-Type": "application/json"}, 400),
        ("/pay%2Fments%20v1/quote", b"{", {"Content-Type": "application/json"}, 400),
        ("/pay%2Fments%20v1/nothing/cancel", b"", {}, 400),
        ("/pay%2Fments%20v1/unknown", b"", {}, 404),
        ("/unknown/quote", b"", {}, 404),
        ("/pay%2Fments%20v1/quote", b"1", {"Request-Timeout": "soon"}, 400),
        ("/pay%2Fments%20v1/quote", b"1", {"Nexus-Link": "<x"}, 400),
        ("/pay%2Fments%20v1/refuse", b'"slow"', {"Content-Type": "application/json", "Request-Timeout": "50ms"}, 408),
        ("/pay%2Fments%20v1/refuse", b'"bug"', {"Content-Type": "application/json"}, 500),
        ("/pay%2Fments%20v1/copy", b"x" * 10_001, {}, 400),
        ("/pay%2Fments%20v1/charge?callback=http%3A%2F%2Fx", b'{"amount":1}', {"Content-Type": "application/json"}, 501),
    ],
)
async def test_a_bad_request_to_the_server_gets_its_status_and_a_failure(
    path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with payments() as (url, handler), aiohttp.ClientSession() as session:
        sent = session.post(URL(url + path, encoded=True), data=body, headers=headers)
        async with sent as response:
            assert response.status == status
            failure = await response.json()
        assert failure["metadata"] == {"type": "nexus.HandlerError"} and "secret" not in str(failure)
        assert handler.charged == 0


@asynccontextmanager
async def with_callbacks(flaky: int = 0) -> AsyncIterator[tuple[NexusClient, Any, CallbackReceiver, list[str]]]:
    """A caller's callback page that first loses `flaky` of its answers, and the handler that calls it."""
    answers: list[str] = []

    async def lossy(request: web.Request, handler: Next) -> web.StreamResponse:
        response = await handler(request)
        answers.append(str(response.status))
        return web.Response(status=503) if len(answers) <= flaky else response

    outer = web.Application(middlewares=[web.middleware(lossy)])
    receiver_of: dict[str, CallbackReceiver] = {}
    async with aiohttp.ClientSession() as session:
        table = OperationTable(CallbackSender(session, first_s=0.01, longest_s=0.02, attempts_max=4))
        receiver = receiver_of["it"] = CallbackReceiver("to be known")
        outer.add_subapp("/mine", receiver.app)
        async with served(outer) as callback_url, payments(table) as (url, handler), client(url) as calls:
            receiver._url = f"{callback_url}/mine"
            yield calls, handler, receiver, answers


async def test_n08_a_result_is_told_by_callback() -> None:
    async with with_callbacks() as (calls, handler, receiver, answers):
        expected = receiver.expect(Payments.charge)
        handle = await calls.start(Payments.charge, Charge(5), callback=expected.callback)
        handler.go.set()
        assert await asyncio.wait_for(expected.result(), 5) == Receipt("r-1", 5)
        assert expected.operation_token == handle.token and answers == ["200"]


async def test_n08_a_failure_is_told_by_callback() -> None:
    async with with_callbacks() as (calls, _, receiver, _answers):
        expected = receiver.expect(Payments.charge)
        await calls.start(Payments.charge, Charge(5, "stolen"), callback=expected.callback)
        with pytest.raises(OperationError, match="stolen"):
            await asyncio.wait_for(expected.result(), 5)


async def test_n08_a_callback_whose_answer_is_lost_comes_again_and_is_harmless() -> None:
    async with with_callbacks(flaky=1) as (calls, handler, receiver, answers):
        expected = receiver.expect(Payments.charge)
        handle = await calls.start(Payments.charge, Charge(5), callback=expected.callback)
        handler.go.set()
        assert await asyncio.wait_for(expected.result(), 5) == Receipt("r-1", 5)
        while not handler.table.undelivered:  # the second time nobody waits, which the sender is told
            await asyncio.sleep(0.005)
        assert answers == ["200", "404"] and handler.table.undelivered[0][0] == handle.token


async def test_a_forged_callback_is_refused() -> None:
    async with with_callbacks() as (_, _handler, receiver, _answers), aiohttp.ClientSession() as session:
        expected = receiver.expect(Payments.charge)
        good = {"Token": expected.callback.headers["Token"], "Nexus-Operation-State": "succeeded"}
        for headers, body, status in (
            ({**good, "Token": "guess"}, b"", 404),
            ({**good, "Nexus-Operation-State": "running"}, b"", 400),
            ({**good, "Nexus-Operation-State": "failed"}, b"no json", 400),
            ({**good, "Content-Type": "application/json"}, b'{"number":1}', 400),
        ):
            async with session.post(expected.callback.url, headers=headers, data=body) as response:
                assert response.status == status
        assert not expected.outcome.done()


async def test_a_table_keeps_no_more_than_it_may() -> None:
    async with payments(OperationTable(kept_max=2)) as (url, handler), client(url) as calls:
        first = await calls.start(Payments.charge, Charge(1))
        await calls.start(Payments.charge, Charge(2))
        with pytest.raises(HandlerError) as caught:
            await calls.start(Payments.charge, Charge(3))
        assert caught.value.type is HandlerErrorType.RESOURCE_EXHAUSTED
        handler.go.set()
        await first.result()
        await calls.start(Payments.charge, Charge(3))
        assert len(handler.table._kept) == 2
