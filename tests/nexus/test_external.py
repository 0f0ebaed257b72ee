"""External targets and callbacks over real HTTP: what is sent, what each answer means, and where nothing is sent to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from temporalio.api.common.v1 import Callback
from temporalio.api.enums.v1 import CallbackState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError

from cluster.nexus.http_client import GuardedClient
from nexus.egress import LOOPBACK_NETWORKS, Egress, EgressSettings
from nexus.protocol import Completion
from tests.nexus.services import Call, Cancels
from tests.nexus.stage import CALLERS, HANDLERS, Stage, result, stage
from tests.nexus.world import RESULT

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Outside:
    """A server elsewhere: answers every POST with the next of `says`, and keeps what it got."""

    def __init__(self) -> None:
        self.says: list[web.Response] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((request.path_qs, headers, await request.read()))
        return self.says.pop(0) if self.says else web.Response(status=500)


@asynccontextmanager
async def outside(s: Stage, allows_loopback: bool = True) -> AsyncIterator[Outside]:
    served = Outside()
    app = web.Application()
    app.router.add_post("/{path:.*}", served.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    served.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/base"  # type: ignore[attr-defined]
    egress = Egress(EgressSettings(allowed_networks=LOOPBACK_NETWORKS if allows_loopback else ()))
    s.node.assembly.nexus.use_http(GuardedClient(egress), "http://gateway.example/namespaces/{namespace}/nexus/callback")
    try:
        await s.endpoint("outside", url=served.url)
        yield served
    finally:
        await egress.close()
        await runner.cleanup()


def answered(status: int, body: Any, **headers: str) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}},
    )


async def failure_of(s: Stage, *arguments: Any) -> Failure:
    """The cause in the event of the operation's end."""
    handle = await s.begin(Call.run, *arguments)
    with pytest.raises(WorkflowFailureError):
        await result(handle)
    failed = await s.seen(handle, "NEXUS_OPERATION_FAILED")
    return failed.nexus_operation_failed_event_attributes.failure.cause


async def test_a_start_is_sent_as_the_protocol_says_and_its_result_comes_with_the_answer() -> None:
    """N04: a handler without workflows."""
    async with stage() as s, outside(s) as other, s.callers(Call):
        other.says = [answered(200, "from outside", Nexus_Operation_State="succeeded")]
        assert await s.call(Call.run, "echo", "bob", "outside", [30, 0, 0], id="caller") == "from outside"
    (path, headers, body) = other.got[0]
    assert path == "/base/Work/echo?callback=http://gateway.example/namespaces/callers/nexus/callback" or path.startswith(
        "/base/Work/echo?callback=http%3A%2F%2Fgateway.example"
    )
    assert body == b'"bob"' and headers["content-type"] == "application/json"
    assert headers["my-header"] == "mine" and len(headers["nexus-request-id"]) == 36
    assert headers["nexus-link"].startswith("<temporal:///namespaces/callers/workflows/caller/")
    assert headers["nexus-callback-temporal-callback-token"] and headers["temporal-nexus-failure-support"] == "true"
    assert headers["request-timeout"] == "10000ms" and headers["operation-timeout"].endswith("ms")


async def test_a_handler_that_answers_with_a_token_calls_back_later() -> None:
    async with stage() as s, outside(s) as other, s.callers(Call):
        other.says = [answered(201, {"token": "theirs", "state": "running"})]
        handle = await s.begin(Call.run, "echo", "bob", "outside")
        started = await s.seen(handle, "NEXUS_OPERATION_STARTED")
        assert started.nexus_operation_started_event_attributes.operation_token == "theirs"
        token = other.got[0][1]["nexus-callback-temporal-callback-token"]
        completion = Completion(token=token, state="succeeded", namespace=CALLERS, result=RESULT)
        await s.node.assembly.nexus.completions.complete(completion)
        assert await result(handle) == "done"


async def test_a_cancel_request_names_the_token() -> None:
    async with stage() as s, outside(s) as other, s.callers(Cancels):
        other.says = [answered(201, {"token": "their/token", "state": "running"}), web.Response(status=202)]
        handle = await s.begin(Cancels.run, "echo", "bob", 0, "outside")
        await s.seen(handle, "NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED")
    path, headers, body = other.got[1]
    assert (path, headers["nexus-operation-token"], body) == ("/base/Work/echo/cancel", "their/token", b"")


async def test_a_plain_failure_keeps_what_the_handler_said() -> None:
    async with stage() as s, outside(s) as other, s.callers(Call):
        body = {"message": "bad luck", "metadata": {"k": "v"}, "details": {"a": 1}}
        other.says = [answered(424, body, Nexus_Operation_State="failed")]
        cause = await failure_of(s, "echo", "x", "outside")
    info = cause.application_failure_info
    assert (cause.message, info.type) == ("bad luck", "NexusFailure")
    assert json.loads(info.details.payloads[0].data) == {"metadata": {"k": "v"}, "details": {"a": 1}}


async def test_a_final_status_fails_the_operation_with_the_type_it_stands_for() -> None:
    async with stage() as s, outside(s) as other, s.callers(Call):
        other.says = [answered(400, {"message": "no such thing"})]
        cause = await failure_of(s, "echo", "x", "outside")
        assert cause.nexus_handler_failure_info.type == "BAD_REQUEST" and cause.cause.message == "no such thing"
        body = {"message": "not now", "metadata": {"type": "nexus.HandlerError"}, "details": {"type": "NOT_FOUND"}}
        other.says = [answered(404, body)]
        cause = await failure_of(s, "echo", "x", "outside")
        assert (cause.message, cause.nexus_handler_failure_info.type) == ("not now", "NOT_FOUND")
        final = {"type": "INTERNAL", "retryableOverride": False}
        other.says = [answered(500, {"message": "never", "metadata": {"type": "nexus.HandlerError"}, "details": final})]
        cause = await failure_of(s, "echo", "x", "outside")
        assert cause.nexus_handler_failure_info.type == "INTERNAL"


async def test_a_server_that_is_away_is_called_again_with_the_same_request_id() -> None:
    """N09, N12."""
    async with stage() as s, outside(s) as other, s.callers(Call):
        other.says = [answered(503, {"message": "later"}), answered(200, "at last")]
        assert await s.call(Call.run, "echo", "x", "outside") == "at last"
    assert len({headers["nexus-request-id"] for _, headers, _ in other.got}) == 1 and len(other.got) == 2


async def test_a_result_that_is_too_large_fails_the_operation_for_good() -> None:
    async with stage() as s, outside(s) as other, s.callers(Call):
        other.says = [answered(200, "x" * (2 * 1024 * 1024 + 1))]
        cause = await failure_of(s, "echo", "x", "outside")
    assert cause.message == "http: response body too large" and cause.application_failure_info.non_retryable


async def test_a_redirect_is_not_followed() -> None:
    async with stage() as s, outside(s) as other, s.callers(Call):
        other.says = [web.Response(status=307, headers={"Location": other.url + "/elsewhere"}), answered(200, "x")]
        handle = await s.begin(Call.run, "echo", "x", "outside")
        described = await s.described(
            handle.id, lambda one: one.pending_nexus_operations and one.pending_nexus_operations[0].attempt
        )
        assert described.pending_nexus_operations[0].last_attempt_failure.message == "unexpected response status: 307"
        assert len(other.got) == 1 or other.got[1][0].startswith("/base/Work/echo")
        await handle.terminate()


async def test_an_address_of_this_network_is_refused_and_never_called() -> None:
    async with stage() as s, outside(s, allows_loopback=False) as other, s.callers(Call):
        cause = await failure_of(s, "echo", "x", "outside")
        assert "may not be called" in cause.message and cause.application_failure_info.type == "CallError"
        assert not other.got


async def test_a_run_calls_back_over_http_when_it_ends() -> None:
    async with stage() as s, outside(s) as other:
        other.says = [web.Response(status=503), web.Response(status=200)]
        callback = Callback(nexus=Callback.Nexus(url=other.url + "/back", header={"Authorization": "Bearer mine", "X": "1"}))
        request = StartWorkflowExecutionRequest(
            namespace=HANDLERS, workflow_id="w", request_id="r", completion_callbacks=[callback]
        )
        request.workflow_type.name, request.task_queue.name = "W", "none"
        await s.handler.workflow_service.start_workflow_execution(request)
        await s.handler.get_workflow_handle("w").terminate("secret reason")
        ended = await s.described("w", lambda one: one.callbacks[0].attempt == 2, s.handler)
        assert ended.callbacks[0].state == CallbackState.CALLBACK_STATE_SUCCEEDED
    path, headers, body = other.got[1]
    assert path == "/base/back" and headers["authorization"] == "Bearer mine" and headers["x"] == "1"
    assert headers["nexus-operation-state"] == "failed"
    told = json.loads(body)
    assert told["message"] == "operation terminated" and "secret" not in body.decode()
