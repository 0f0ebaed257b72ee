"""Nexus operations between workflows, with the official SDK on both sides (tests/nexus/services.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import workflow
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import (
    CreateNexusEndpointRequest,
    DeleteNexusEndpointRequest,
    GetNexusEndpointRequest,
    ListNexusEndpointsRequest,
    UpdateNexusEndpointRequest,
)
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from tests.e2e.environment import Env, event_name, run_of
from tests.e2e.registry import Run, scenario
from tests.nexus.services import Backing, Call, Cancels, Handler

KNOWN_S = 2.5  # until every part of the real server knows a new endpoint
KINDS = workflow.NexusOperationCancellationType


def spec(env: Env, name: str = "ep", task_queue: str = "") -> EndpointSpec:
    made = EndpointSpec(name=env.id(name))
    made.target.worker.namespace, made.target.worker.task_queue = env.namespace, task_queue or env.task_queue
    return made


@asynccontextmanager
async def service(env: Env, handler: Handler | None = None, is_served: bool = True) -> AsyncIterator[str]:
    """An endpoint with a handler behind it, and callers; the endpoint's name."""
    queue = "" if is_served else env.id("nobody")
    await env.client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec(env, task_queue=queue)))
    await asyncio.sleep(KNOWN_S)
    handler = handler or Handler(backing_id=env.id("backing"))
    async with env.worker([Call, Cancels, Backing], nexus_service_handlers=[handler]):
        yield env.id("ep")


async def outcome(handle: WorkflowHandle[object, object]) -> str:
    try:
        return str(await handle.result())
    except WorkflowFailureError as error:
        causes: list[str] = []
        cause: BaseException | None = error.cause
        while cause is not None:
            causes.append(f"{type(cause).__name__}: {cause}")
            cause = cause.__cause__
        return " <- ".join(causes)


async def backing(env: Env, name: str = "backing") -> Run:
    described = await env.client.get_workflow_handle(env.id(name)).describe()
    return Run(env.id(name), described.run_id)


async def at_work(env: Env, caller: WorkflowHandle[object, object]) -> Run:
    """The run behind the caller's operation, once both know of each other and wait: from here on nothing happens by itself."""
    await env.seen(run_of(caller), "WORKFLOW_TASK_COMPLETED", 2)
    run = await backing(env)
    await env.seen(run, "WORKFLOW_TASK_COMPLETED")
    return run


async def tell(env: Env, run: Run, word: str) -> None:
    await env.client.get_workflow_handle(run.workflow_id).signal("tell", word)


@scenario("nexus_synchronous", items=["nexus: synchronous"])
async def nexus_synchronous(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "echo", "bob", endpoint, [20, 0, 0])
        env.observe("result", await outcome(caller))
    return [run_of(caller)]


@scenario("nexus_workflow_run", items=["nexus: workflow run", "nexus: callbacks"])
async def nexus_workflow_run(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "run", "wait", endpoint)
        run = await at_work(env, caller)
        await tell(env, run, "papers")
        env.observe("result", await outcome(caller))
        return [run_of(caller), run]


@scenario("nexus_pending", items=["nexus: callbacks"])
async def nexus_pending(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "run", "wait", endpoint, [30, 20, 10])
        await env.seen(run_of(caller), "WORKFLOW_TASK_COMPLETED", 2)
        described = await env.describe(run_of(caller))
        env.observe("pending", list(map(_pending, described.pending_nexus_operations)))
        run = await backing(env)
        theirs = await env.describe(run)
        env.observe("callbacks", [[one.state, one.callback.nexus.url, one.attempt] for one in theirs.callbacks])
        await env.seen(run, "WORKFLOW_TASK_COMPLETED")
        await tell(env, run, "enough")
        env.observe("result", await outcome(caller))
        return [run_of(caller), run]


def _pending(one: object) -> list[object]:
    fields = ("service", "operation", "scheduled_event_id", "state", "attempt", "blocked_reason")
    return [getattr(one, name) for name in fields]


@scenario("nexus_failures", items=["nexus: failures"])
async def nexus_failures(env: Env) -> list[Run]:
    runs = []
    async with service(env) as endpoint:
        for input in ("failed", "canceled", "never"):
            caller = await env.start(Call.run, "refuse", input, endpoint, name=input)
            env.observe(input, await outcome(caller))
            runs.append(run_of(caller))
        caller = await env.start(Call.run, "run", "wait", endpoint, name="run")
        run = await at_work(env, caller)
        await tell(env, run, "fail")
        env.observe("run", await outcome(caller))
        return [*runs, run_of(caller), run]


@scenario("nexus_handler_terminated", items=["nexus: failures"])
async def nexus_handler_terminated(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "run", "wait", endpoint)
        run = await at_work(env, caller)
        await env.client.get_workflow_handle(run.workflow_id).terminate(reason="enough")
        env.observe("result", await outcome(caller))
        return [run_of(caller), run]


@scenario("nexus_unknown_endpoint", items=["nexus: endpoints"])
async def nexus_unknown_endpoint(env: Env) -> list[Run]:
    async with env.worker([Call]):
        caller = await env.start(Call.run, "echo", "x", env.id("none"))
        failed = await env.seen(run_of(caller), "WORKFLOW_TASK_FAILED")
        env.observe("failure", failed.workflow_task_failed_event_attributes.failure.message)
        await env.client.get_workflow_handle(caller.id).terminate()
    return []


@scenario("nexus_wait_completed", items=["nexus: cancellation"])
async def nexus_wait_completed(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Cancels.run, "run", "wait", int(KINDS.WAIT_COMPLETED), endpoint, True)
        run = await at_work(env, caller)
        await caller.signal("go")
        env.observe("result", await outcome(caller))
        # Whether the request's answer and the operation's end are told in one task or in two is a matter of chance.
        history = await env.history(run_of(caller))
        env.observe("caller", [event_name(one) for one in history if event_name(one).startswith("NEXUS")])
        return [run]


@scenario("nexus_abandon", items=["nexus: cancellation"])
async def nexus_abandon(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Cancels.run, "run", "wait", int(KINDS.ABANDON), endpoint, True)
        await at_work(env, caller)
        await caller.signal("go")
        env.observe("result", await outcome(caller))
        return [run_of(caller)]


@scenario("nexus_cancel_refused", items=["nexus: cancellation"])
async def nexus_cancel_refused(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Cancels.run, "manual", "refuses", int(KINDS.WAIT_COMPLETED), endpoint, True)
        await env.seen(run_of(caller), "WORKFLOW_TASK_COMPLETED", 2)
        await caller.signal("go")
        await env.seen(run_of(caller), "NEXUS_OPERATION_CANCEL_REQUEST_FAILED")
        await env.seen(run_of(caller), "WORKFLOW_TASK_COMPLETED", 4)
    return [run_of(caller)]


@scenario("nexus_timeouts", items=["nexus: time-outs"])
async def nexus_timeouts(env: Env) -> list[Run]:
    callers = []
    async with service(env, is_served=False) as endpoint:
        for name, times in (("close", [2, 0, 0]), ("start", [0, 2, 0]), ("short", [1, 0, 0])):
            callers.append(await env.start(Call.run, "echo", "x", endpoint, times, name=name))
        for caller in callers:
            env.observe(caller.id.split("-")[0], await outcome(caller))
    return [run_of(caller) for caller in callers]


@scenario("nexus_start_to_close", items=["nexus: time-outs"])
async def nexus_start_to_close(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "manual", "x", endpoint, [0, 0, 1])
        env.observe("result", await outcome(caller))
    return [run_of(caller)]


@scenario("nexus_retry", items=["nexus: retry"])
async def nexus_retry(env: Env) -> list[Run]:
    async with service(env, Handler(fails_first=2)) as endpoint:
        caller = await env.start(Call.run, "refuse", "done", endpoint)
        env.observe("result", await outcome(caller))
    return [run_of(caller)]


@scenario("nexus_several_callers", items=["nexus: several callers"])
async def nexus_several_callers(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        callers = []
        for number in range(3):
            callers.append(await env.start(Call.run, "shared", "wait", endpoint, name=f"caller-{number}"))
            await env.seen(run_of(callers[-1]), "WORKFLOW_TASK_COMPLETED", 2)
            if not number:
                run = await backing(env)
                await env.seen(run, "WORKFLOW_TASK_COMPLETED")
        await tell(env, run, "all")
        for caller in callers:
            env.observe(f"result of {caller.id.split('-')[1]}", await outcome(caller))
        return [*map(run_of, callers), run]


@scenario("nexus_handler_continues_as_new", items=["nexus: workflow run"])
async def nexus_handler_continues_as_new(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "run", "wait", endpoint)
        first = await at_work(env, caller)
        await tell(env, first, "again")
        env.observe("result", await outcome(caller))
        return [run_of(caller), first, await backing(env)]


@scenario("nexus_handler_reset", items=["nexus: reset"])
async def nexus_handler_reset(env: Env) -> list[Run]:
    async with service(env) as endpoint:
        caller = await env.start(Call.run, "run", "wait", endpoint)
        await env.seen(run_of(caller), "WORKFLOW_TASK_COMPLETED", 2)
        first = await backing(env)
        await env.seen(first, "WORKFLOW_TASK_COMPLETED")
        request = ResetWorkflowExecutionRequest(namespace=env.namespace, workflow_task_finish_event_id=4, request_id=env.id("r"))
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = first
        await env.service.reset_workflow_execution(request)
        second = await backing(env)
        await env.seen(second, "WORKFLOW_TASK_COMPLETED")
        await tell(env, second, "all")
        env.observe("result", await outcome(caller))
        return [run_of(caller), first, second]


@scenario("nexus_endpoints", items=["nexus: endpoints"])
async def nexus_endpoints(env: Env) -> list[Run]:
    operator = env.client.operator_service
    wish = spec(env)
    created = (await operator.create_nexus_endpoint(CreateNexusEndpointRequest(spec=wish))).endpoint
    env.observe("created", created.spec)
    env.observe("version", created.version)
    env.observe("url prefix", created.url_prefix.replace(created.id, "ID"))
    await env.observe_error("twice", operator.create_nexus_endpoint(CreateNexusEndpointRequest(spec=wish)))
    wish.target.external.url = "http://example.com/nexus"
    updated = (
        await operator.update_nexus_endpoint(UpdateNexusEndpointRequest(id=created.id, version=created.version, spec=wish))
    ).endpoint
    env.observe("updated", updated.spec)
    env.observe("updated version", updated.version)
    stale = UpdateNexusEndpointRequest(id=created.id, version=created.version, spec=wish)
    await env.observe_error("stale version", operator.update_nexus_endpoint(stale))
    env.observe("found", (await operator.get_nexus_endpoint(GetNexusEndpointRequest(id=created.id))).endpoint.spec)
    listed = await operator.list_nexus_endpoints(ListNexusEndpointsRequest(name=wish.name))
    env.observe("listed", [one.version for one in listed.endpoints])
    for name, bad in _bad_specs(env).items():
        await env.observe_error(name, operator.create_nexus_endpoint(CreateNexusEndpointRequest(spec=bad)))
    for name, id in (("empty id", ""), ("short id", "abc"), ("no such id", "3f2504e0-4f89-41d3-9a0c-0305e82c3301")):
        await env.observe_error(f"get {name}", operator.get_nexus_endpoint(GetNexusEndpointRequest(id=id)))
        await env.observe_error(f"delete {name}", operator.delete_nexus_endpoint(DeleteNexusEndpointRequest(id=id, version=1)))
    await env.observe_error("list too many", operator.list_nexus_endpoints(ListNexusEndpointsRequest(page_size=1_001)))
    await env.observe_error("list negative", operator.list_nexus_endpoints(ListNexusEndpointsRequest(page_size=-1)))
    await env.observe_error("delete without version", operator.delete_nexus_endpoint(DeleteNexusEndpointRequest(id=created.id)))
    await operator.delete_nexus_endpoint(DeleteNexusEndpointRequest(id=created.id, version=updated.version))
    await env.observe_error("get deleted", operator.get_nexus_endpoint(GetNexusEndpointRequest(id=created.id)))
    return []


def _bad_specs(env: Env) -> dict[str, EndpointSpec]:
    bad = {"empty": EndpointSpec(), "no target": EndpointSpec(name="abc")}
    for name in ("a", "-abc", "abc-", "a_b", "a b", "x" * 201, "é"):
        bad[f"name {name[:10]}"] = spec(env)
        bad[f"name {name[:10]}"].name = name
    for url in ("", "ftp://example.com", "http://" + "x" * 4_100, "no-scheme"):
        bad[f"url {url[:12]}"] = EndpointSpec(name="abc")
        bad[f"url {url[:12]}"].target.external.url = url
    for namespace, queue in (("no-such-namespace", "q"), ("", "q"), (env.namespace, ""), (env.namespace, "/_sys/x")):
        one = bad[f"target {namespace} {queue}"] = EndpointSpec(name="abc")
        one.target.worker.namespace, one.target.worker.task_queue = namespace, queue
    long = bad["description"] = spec(env)
    long.description.data = b"x" * 20_001
    return bad
