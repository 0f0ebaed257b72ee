"""The gateway's routes and answers, over real sockets (nexus.md, Protocol and Baseline)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import ApplicationFailureInfo, CanceledFailureInfo, Failure
from temporalio.api.nexus.v1 import Link, Request, Response

from cluster.nexus.dispatch import HandlerError
from nexus.errors import STATUS_OF
from nexus.policy import Caller, EndpointPolicy
from tests.nexus_http.world import World, gateway_world, handler_error, json_payload, started, succeeded

BY_NAME = "/nexus/endpoints/payments/services/billing/charge"
BY_ID = "/nexus/endpoints/e1/services/billing/charge"
BY_QUEUE = "/namespaces/pay/task-queues/pay-queue/nexus-services/billing/charge"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with gateway_world() as made:
        yield made


def answering(response: Response | HandlerError) -> Any:
    async def work(namespace_id: str, task_queue: str, request: Request, timeout_s: float) -> Response | HandlerError:
        return response

    return work


@pytest.mark.parametrize("path", [BY_NAME, BY_ID, BY_QUEUE])
async def test_n14_an_operation_is_started_by_plain_http_and_answers_inline(world: World, path: str) -> None:
    async with world.post(path, b'{"amount":7}', Content_Type="application/json") as response:
        assert response.status == 200
        assert response.headers["Nexus-Operation-State"] == "succeeded"
        assert response.headers["Content-Type"] == "application/json"
        assert await response.read() == b'{"amount":7}'
    namespace_id, task_queue, request, _ = world.worker.asked[0]
    assert (namespace_id, task_queue) == ("id-of-pay", "pay-queue")
    assert (request.start_operation.service, request.start_operation.operation) == ("billing", "charge")
    assert request.start_operation.request_id  # made for a caller that sends none
    assert request.endpoint == ("" if path == BY_QUEUE else "payments")
    assert request.capabilities.temporal_failure_responses


async def test_n18_a_missing_request_timeout_gets_a_default_and_the_worker_less_than_that(world: World) -> None:
    async with world.post(BY_NAME):
        pass
    assert world.worker.asked[0][3] == 9.0
    assert world.worker.last.header["request-timeout"] == "9000ms"
    async with world.post(BY_NAME, Request_Timeout="500ms"):
        pass
    assert world.worker.asked[1][3] == 0.45


async def test_what_the_caller_says_reaches_the_worker(world: World) -> None:
    link = '<temporal:///namespaces/pay/workflows/w/r/history>; type="temporal.api.common.v1.Link.WorkflowEvent"'
    async with world.post(
        BY_NAME + "?callback=http%3A%2F%2Fcaller.example%2Fdone%3Fx%3D1",
        b"abc",
        Content_Type="application/octet-stream",
        Nexus_Request_Id="rid-1",
        Nexus_Link=link,
        Nexus_Callback_Token="cb-token",
        Nexus_Callback_Extra="more",
        Operation_Timeout="2m",
        X_Mine="yes",
        Authorization="Bearer secret",
        Cookie="secret=1",
    ) as response:
        assert response.status == 200
    start = world.worker.last.start_operation
    assert start.callback == "http://caller.example/done?x=1"
    assert dict(start.callback_header) == {"token": "cb-token", "extra": "more"}
    assert start.request_id == "rid-1"
    assert [(one.url, one.type) for one in start.links] == [
        ("temporal:///namespaces/pay/workflows/w/r/history", "temporal.api.common.v1.Link.WorkflowEvent")
    ]
    assert start.payload == Payload(metadata={"encoding": b"binary/plain"}, data=b"abc")
    header = dict(world.worker.last.header)
    assert header["x-mine"] == "yes" and header["operation-timeout"] == "2m" and header["nexus-request-id"] == "rid-1"
    assert not {"authorization", "cookie", "host", "content-type", "nexus-callback-token"} & set(header)


async def test_an_operation_that_goes_on_is_told_by_a_token_and_can_be_cancelled_with_it(world: World) -> None:
    world.worker.work = answering(started("handlers-own"))
    async with world.post(BY_NAME) as response:
        assert response.status == 201
        info = await response.json()
    assert info["state"] == "running"
    assert "handlers-own" not in info["token"]
    world.worker.work = type(world.worker)().work
    for _ in range(2):  # asking twice is asking once
        async with world.post(BY_NAME + "/cancel", Nexus_Operation_Token=info["token"]) as response:
            assert response.status == 202
            assert await response.read() == b""
    async with world.post(BY_NAME + f"/cancel?token={info['token']}") as response:
        assert response.status == 202
    assert world.worker.last.cancel_operation.operation_token == "handlers-own"


async def test_a_token_is_worth_nothing_for_another_operation_endpoint_or_namespace(world: World) -> None:
    world.worker.work = answering(started("handlers-own"))
    async with world.post(BY_NAME) as response:
        token = (await response.json())["token"]
    count = len(world.worker.asked)
    for path in (BY_QUEUE, BY_NAME.replace("charge", "refund"), BY_NAME.replace("billing", "other"),
                 BY_QUEUE.replace("/pay/", "/ship/")):
        async with world.post(path + "/cancel", Nexus_Operation_Token=token) as response:
            assert response.status == 404, path
        async with world.session.get(f"{world.url}{path}/operations/{token}?wait=0s") as response:
            assert response.status == 404, path
    for forged in ("handlers-own", token[:-2] + "zz", "A" * 40, "x" * 4_096):
        async with world.post(BY_NAME + "/cancel", Nexus_Operation_Token=forged) as response:
            assert response.status == 404
            assert (await response.json())["details"] == {"type": "NOT_FOUND"}
    assert len(world.worker.asked) == count  # nobody was asked
    assert world.operations.asked_tokens == []


@pytest.mark.parametrize("type", sorted(STATUS_OF))
async def test_each_handler_error_has_its_status_and_names_itself(world: World, type: str) -> None:
    world.worker.work = answering(handler_error(type, "because", Failure(message="deep", stack_trace="at /srv/secret.py:7")))
    async with world.post(BY_NAME) as response:
        assert response.status == STATUS_OF[type]
        body = await response.json()
    assert body["metadata"] == {"type": "nexus.HandlerError"}
    assert body["details"] == {"type": type} and body["message"] == "because"
    assert body["cause"]["message"] == "deep"
    assert "secret.py" not in json.dumps(body)


async def test_a_handlers_retry_override_goes_on_to_the_caller(world: World) -> None:
    world.worker.work = answering(handler_error("INTERNAL", "never", retry_behavior=2))
    async with world.post(BY_NAME) as response:
        assert response.status == 500
        assert response.headers["Nexus-Request-Retryable"] == "false"
        assert (await response.json())["details"] == {"type": "INTERNAL", "retryableOverride": False}


async def test_stack_traces_are_shown_only_by_an_endpoint_that_opted_in(world: World) -> None:
    world.endpoints.allow(EndpointPolicy(shows_stack_traces=True))
    world.worker.work = answering(handler_error("INTERNAL", "x", Failure(message="deep", stack_trace="at /srv/code.py:7")))
    async with world.post(BY_NAME) as response:
        assert (await response.json())["cause"]["stackTrace"] == "at /srv/code.py:7"


@pytest.mark.parametrize(("state", "info"), [("failed", "application"), ("canceled", "canceled")])
async def test_an_unsuccessful_operation_is_424_with_its_state(world: World, state: str, info: str) -> None:
    failure = Failure(message="no money", stack_trace="at /srv/x.py:1")
    if info == "canceled":
        failure.canceled_failure_info.CopyFrom(CanceledFailureInfo())
    else:
        failure.application_failure_info.CopyFrom(ApplicationFailureInfo(type="NoMoney", non_retryable=True))
    newer = Response()
    newer.start_operation.failure.CopyFrom(failure)
    older = Response()
    older.start_operation.operation_error.operation_state = state
    older.start_operation.operation_error.failure.message = "no money"
    older.start_operation.operation_error.failure.stack_trace = "at /srv/x.py:1"
    for response_of_worker in (newer, older):
        world.worker.work = answering(response_of_worker)
        async with world.post(BY_NAME) as response:
            assert response.status == 424
            assert response.headers["Nexus-Operation-State"] == state
            body = await response.json()
        assert body["message"] == "no money"
        assert body["metadata"]["type"] == "nexus.OperationError" and body["details"]["state"] == state
        assert "x.py" not in json.dumps(body)


async def test_links_of_a_handler_come_back(world: World) -> None:
    links = [Link(url="temporal:///a/b", type="T"), Link(url="bad>", type="T")]  # the second one fits no header
    world.worker.work = answering(succeeded(json_payload(b"1"), links))
    async with world.post(BY_NAME) as response:
        assert response.headers.getall("Nexus-Link") == ['<temporal:///a/b>; type="T"']


async def test_an_empty_input_is_null_and_a_null_result_is_an_empty_answer(world: World) -> None:
    async with world.post(BY_NAME) as response:
        assert response.status == 200
        assert "Content-Type" not in response.headers
        assert await response.read() == b""
    assert world.worker.last.start_operation.payload.metadata["encoding"] == b"binary/null"


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/json", b"json/plain"),
        ("application/octet-stream", b"binary/plain"),
        ('application/x-protobuf; message-type="a.b.C"', b"binary/protobuf"),
        ('application/json; format=protobuf; message-type="a.b.C"', b"json/protobuf"),
        ("application/json; charset=utf-8", b"unknown/nexus-content"),
        ("image/png", b"unknown/nexus-content"),
    ],
)
async def test_content_passes_through_untouched(world: World, content_type: str, encoding: bytes) -> None:
    body = b'\x00\xff{"a":1}' if encoding != b"json/plain" else b'{ "a" : 1 }'
    async with world.post(BY_NAME, body, Content_Type=content_type) as response:
        assert await response.read() == body
        assert response.headers["Content-Type"].replace('"', "") == content_type.replace('"', "")
    assert world.worker.last.start_operation.payload.metadata["encoding"] == encoding


async def test_a_compressed_body_goes_on_as_it_came(world: World) -> None:
    async with world.post(BY_NAME, b"\x1f\x8bnot really", Content_Type="text/plain", Content_Encoding="gzip") as response:
        assert response.status == 200
    payload = world.worker.last.start_operation.payload
    assert payload.data == b"\x1f\x8bnot really"
    assert dict(payload.metadata) == {"encoding": b"unknown/nexus-content", "type": b"text/plain", "content-encoding": b"gzip"}


async def test_names_with_slashes_dots_and_unicode_are_one_segment_each(world: World) -> None:
    names = {"a/b": "a%2Fb", "..": "%2E%2E", "Zürich £": "Z%C3%BCrich%20%C2%A3", "100%": "100%25", "a+b": "a+b"}
    for name, encoded in names.items():
        text = await world.raw(
            f"POST /nexus/endpoints/payments/services/{encoded}/{encoded} HTTP/1.1\r\nHost: x\r\n"
            "Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert text.startswith(b"HTTP/1.1 200 "), (name, text)
        assert (world.worker.last.start_operation.service, world.worker.last.start_operation.operation) == (name, name)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nexus/endpoints/nobody/services/a/b", 404),
        ("/namespaces/nobody/task-queues/q/nexus-services/a/b", 404),
        ("/nexus/endpoints/payments/services/a", 404),
        ("/nexus/endpoints/payments/services//b", 404),
        ("/nexus/nothing", 404),
        ("/nexus/endpoints/payments/services/%FF/b", 400),
        ("/nexus/endpoints/payments/services/a/%00", 400),
        (f"/nexus/endpoints/payments/services/{'s' * 1_000}/b", 200),
        (f"/nexus/endpoints/payments/services/{'s' * 1_001}/b", 400),
        (BY_NAME + "?callback=temporal%3A%2F%2Fsystem", 400),
        (BY_NAME + "?callback=http%3A%2F%2Fa%3Ab%40host%2F", 400),
        (BY_NAME + "?callback=http://h/&callback=http://h/", 400),
        (BY_NAME + "?callback=http://h/" + "x" * 991, 200),
        (BY_NAME + "?callback=http://h/" + "x" * 992, 400),
    ],
)
async def test_bad_paths_and_names_get_the_right_status_and_a_failure_object(world: World, path: str, status: int) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    text = await world.raw(head.encode())
    assert text.startswith(f"HTTP/1.1 {status} ".encode()), text[:200]
    if status != 200:
        failure = json.loads(text.partition(b"\r\n\r\n")[2])
        assert failure["message"] and failure["metadata"] == {"type": "nexus.HandlerError"}
        assert world.worker.asked == []


async def test_a_wrong_method_is_told_which_ones_there_are(world: World) -> None:
    async with world.session.get(world.url + BY_NAME) as response:
        assert response.status == 405 and response.headers["Allow"] == "POST"


async def test_a_handler_that_answers_something_else_is_an_internal_error_without_details(world: World) -> None:
    world.worker.work = answering(Response())
    async with world.post(BY_NAME) as response:
        assert response.status == 500

    async def broken(namespace_id: str, task_queue: str, request: Request, timeout_s: float) -> Response:
        raise RuntimeError("in /srv/secret.py")

    world.worker.work = broken
    async with world.post(BY_NAME) as response:
        assert response.status == 500
        assert "secret" not in await response.text()


async def test_a_worker_that_never_comes_is_an_upstream_timeout(world: World) -> None:
    world.worker.work = answering(handler_error("UPSTREAM_TIMEOUT", "upstream timeout"))
    async with world.post(BY_NAME) as response:
        assert response.status == 520
        assert (await response.json())["details"]["type"] == "UPSTREAM_TIMEOUT"


@pytest.mark.parametrize("caller", [Caller(), Caller(namespace="ship"), Caller(subject="eve")])
async def test_n11_a_caller_who_is_not_on_the_list_is_refused_on_every_path(world: World, caller: Caller) -> None:
    world.worker.work = answering(started("handlers-own"))
    world.endpoints.allow(EndpointPolicy(callers=("namespace:order*", "subject:alice")))
    world.caller = Caller(namespace="orders")
    async with world.post(BY_NAME) as response:
        assert response.status == 201
        token = (await response.json())["token"]
    world.caller = caller
    count = len(world.worker.asked)
    for path in (BY_NAME, BY_NAME + f"/cancel?token={token}"):
        async with world.post(path) as response:
            assert response.status == 403
            assert (await response.json())["details"]["type"] == "UNAUTHORIZED"
    for query in ("", "?wait=1s"):
        async with world.session.get(f"{world.url}{BY_NAME}/operations/{token}{query}") as response:
            assert response.status == 403
    async with world.session.get(f"{world.url}{BY_NAME}/operations/{token}", headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 403
    assert len(world.worker.asked) == count and world.operations.asked_tokens == []


async def test_a_caller_of_one_namespace_cannot_name_anothers_queue(world: World) -> None:
    world.caller = Caller(namespace="ship")
    async with world.post(BY_QUEUE) as response:
        assert response.status == 403
    assert world.worker.asked == []


async def test_n03_an_endpoint_offers_only_what_its_policy_lists(world: World) -> None:
    world.endpoints.allow(EndpointPolicy(services=("billing",), operations=("billing/charge", "*/refund")))
    async with world.post(BY_NAME) as response:
        assert response.status == 200
    for path in (BY_NAME.replace("charge", "steal"), BY_NAME.replace("billing", "other")):
        async with world.post(path) as response:
            assert response.status == 404


async def test_an_endpoints_rate_limit_says_when_to_come_again(world: World) -> None:
    world.endpoints.allow(EndpointPolicy(rate_per_s=2))
    statuses = []
    for _ in range(5):
        async with world.post(BY_NAME) as response:
            statuses.append(response.status)
            if response.status == 429:
                assert int(response.headers["Retry-After"]) >= 1
    assert statuses[:2] == [200, 200] and 429 in statuses
    assert len(world.worker.asked) == statuses.count(200)
    async with world.post(BY_QUEUE) as response:  # another way in has its own
        assert response.status == 200


async def test_a_synchronous_handler_near_its_deadline_is_counted(world: World) -> None:
    async def slow(namespace_id: str, task_queue: str, request: Request, timeout_s: float) -> Response:
        await asyncio.sleep(timeout_s * 0.9)
        return succeeded(json_payload(b"1"))

    world.worker.work = slow
    async with world.post(BY_NAME, Request_Timeout="100ms") as response:
        assert response.status == 200
    assert world.gateway.near_deadline_count == 1


async def test_a_stopping_gateway_refuses_and_says_when_to_come_again(world: World) -> None:
    world.is_draining = True
    async with world.post(BY_NAME) as response:
        assert response.status == 503 and response.headers["Retry-After"] == "1"
    assert world.worker.asked == []
