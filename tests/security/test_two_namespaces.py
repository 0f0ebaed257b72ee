"""No namespace sees or moves another's data by any field of any call.

Every served call is sent many times in the caller's namespace with everything that belongs to the other one: its workflow ids,
run ids, task and page tokens, task queues, update and activity ids. Afterwards the other namespace is, byte for byte, what it
was, and no answer has held a word of it.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from cluster.frontend.methods import METHODS
from cluster.frontend.not_built import NOT_BUILT
from tests.e2e import commands
from tests.fuzz.messages import NAMESPACE_CALLS, MessageMaker
from tests.fuzz.pools import FUZZ, OTHER, Pools
from tests.fuzz.stage import Stage
from tests.fuzz.targets import WAITING, InProcess, in_process
from tests.security.standing import start

SERVED = sorted(METHODS.keys() - NOT_BUILT.keys())
# The attack knows every name of the other namespace, and none of its contents.
NAMED, CONTENT = "zNAMEz", "zCONTENTz"
QUEUE = f"queue-{NAMED}"
ROUNDS = 25


async def furnish(stage: Stage) -> Pools:
    """Runs in `other` that hold the secret wherever it can stand; what names them is the pool for the attack."""
    pools = Pools(queue=QUEUE, activity_ids=("a1",), update_ids=["u1"])
    for name in ("open", "started", "activity", "closed"):
        request = start(f"{name}-{NAMED}", QUEUE, namespace=OTHER, identity=CONTENT)
        request.input.payloads.add(data=CONTENT.encode())
        request.memo.fields["m"].data = CONTENT.encode()
        request.search_attributes.indexed_fields["FuzzKeyword"].data = f'"{CONTENT}"'.encode()
        request.search_attributes.indexed_fields["FuzzKeyword"].metadata["encoding"] = b"json/plain"
        pools.runs.append((request.workflow_id, (await stage.ask("StartWorkflowExecution", request)).run_id))
        if name == "open":
            continue
        task = await poll(stage)
        while task.workflow_execution.workflow_id != f"{name}-{NAMED}":
            task = await poll(stage)
        if name == "started":
            pools.remember_token("workflow", task.task_token)
            continue
        wanted = commands.complete() if name == "closed" else commands.schedule_activity("a1", QUEUE)
        answer = api.RespondWorkflowTaskCompletedRequest(namespace=OTHER, task_token=task.task_token, commands=[wanted])
        await stage.ask("RespondWorkflowTaskCompleted", answer)
        if name == "activity":
            polled = api.PollActivityTaskQueueRequest(namespace=OTHER, task_queue=TaskQueue(name=QUEUE))
            pools.remember_token("activity", (await stage.ask("PollActivityTaskQueue", polled, 5.0)).task_token)
    listed = await stage.ask("ListNamespaces", api.ListNamespacesRequest(page_size=1))
    pools.remember_token("page", listed.next_page_token)
    history = api.GetWorkflowExecutionHistoryRequest(namespace=OTHER, maximum_page_size=1)
    history.execution.workflow_id = f"activity-{NAMED}"
    pools.remember_token("history-page", (await stage.ask("GetWorkflowExecutionHistory", history)).next_page_token)
    heartbeat = api.RecordWorkerHeartbeatRequest(namespace=OTHER)
    heartbeat.worker_heartbeat.add(worker_instance_key="worker-1", worker_identity=CONTENT, task_queue=QUEUE)
    await stage.ask("RecordWorkerHeartbeat", heartbeat)
    return pools


async def poll(stage: Stage) -> Any:
    request = api.PollWorkflowTaskQueueRequest(namespace=OTHER, task_queue=TaskQueue(name=QUEUE))
    task = await stage.ask("PollWorkflowTaskQueue", request, 5.0)
    assert task.task_token
    return task


async def all_listed(stage: Stage, count: int) -> None:
    """Lists come a moment after the runs."""
    deadline = asyncio.get_running_loop().time() + 10
    request = api.CountWorkflowExecutionsRequest(namespace=OTHER)
    while (await stage.ask("CountWorkflowExecutions", request)).count < count:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


async def picture(stage: Stage, pools: Pools) -> dict[str, Any]:
    """All that can be seen of `other`, apart from clocks."""
    seen: dict[str, Any] = {}
    for workflow_id, run_id in pools.runs:
        request = api.DescribeWorkflowExecutionRequest(namespace=OTHER)
        request.execution.workflow_id, request.execution.run_id = workflow_id, run_id
        seen[f"{workflow_id} described"] = await stage.ask("DescribeWorkflowExecution", request)
        seen[f"{workflow_id} history"] = await stage.history(OTHER, workflow_id, run_id)
    for name, extra in (
        ("DescribeNamespace", {}), ("ListSearchAttributes", {}), ("CountWorkflowExecutions", {}),
        ("DescribeWorker", {"worker_instance_key": "worker-1"}),
    ):  # fmt: skip
        seen[name] = await stage.ask(name, METHODS[name].request(namespace=OTHER, **extra))
    described = await stage.ask(
        "DescribeTaskQueue", api.DescribeTaskQueueRequest(namespace=OTHER, task_queue=TaskQueue(name=QUEUE), report_config=True)
    )
    seen["config"] = described.config
    return seen


def attack(rng: random.Random, pools: Pools, name: str) -> Any:
    """A plausible request in the caller's namespace, full of the other's names."""
    request = MessageMaker(rng, pools, name, "plausible").make(METHODS[name].request)
    fields = request.DESCRIPTOR.fields_by_name
    if "namespace" in fields:
        request.namespace = FUZZ
    if name in ("DescribeNamespace", "DeleteNamespace"):
        request.ClearField("id" if name == "DescribeNamespace" else "namespace_id")
    if "task_token" in fields:
        request.task_token = pools.token(rng, "workflow" if "Workflow" in name else "activity")
    return request


async def check_call(target: InProcess, pools: Pools, name: str, number: int) -> str:
    """What was wrong, "" if nothing."""
    rng = random.Random(f"{name}/{number}")
    request = attack(rng, pools, name)
    timeout_s, patience_s = (3.0, 0.05) if name in WAITING else (0.0, 0.0)
    answer = await target.send(name, request.SerializeToString(), timeout_s, patience_s)
    if answer.code in ("INTERNAL", "UNKNOWN", "DATA_LOSS"):
        return f"{name}: {answer}"
    if CONTENT.encode() in answer.data:
        return f"{name} told {answer.data[:300]!r}"
    return ""


async def test_no_call_sees_or_moves_another_namespace(tmp_path: Path) -> None:
    async with in_process(tmp_path) as target:
        stage = Stage(target)
        await stage.set_up()
        pools = await furnish(stage)
        await all_listed(stage, len(pools.runs) + len(stage.pools.foreign_runs))
        before = await picture(stage, pools)
        wrong = []
        for name in SERVED:
            if name in NAMESPACE_CALLS:
                continue  # they are about namespaces; who may call them is authorisation's
            for number in range(ROUNDS):
                fault = await check_call(target, pools, name, number)
                if fault:
                    wrong.append(fault)
            after = await picture(stage, pools)
            changed = [key for key in before if before[key] != after[key]]
            if changed:
                wrong.append(f"{name} changed {changed} of the other namespace")
                before = after
        assert wrong == []


async def test_the_same_names_in_two_namespaces_are_different_things(tmp_path: Path) -> None:
    """Workflow id, task queue, update id, request id: all of them belong to their namespace."""
    async with in_process(tmp_path) as target:
        stage = Stage(target)
        await stage.set_up()
        runs = {}
        for namespace in (FUZZ, OTHER):
            request = start("same", "same-queue", namespace=namespace, request_id="same-request")
            request.input.payloads.add(data=namespace.encode())
            runs[namespace] = (await stage.ask("StartWorkflowExecution", request)).run_id
        assert runs[FUZZ] != runs[OTHER]
        for namespace in (OTHER, FUZZ):
            poll_request = api.PollWorkflowTaskQueueRequest(namespace=namespace, task_queue=TaskQueue(name="same-queue"))
            task = await stage.ask("PollWorkflowTaskQueue", poll_request, 5.0)
            started = task.history.events[0].workflow_execution_started_event_attributes
            assert task.workflow_execution.run_id == runs[namespace] and started.input.payloads[0].data == namespace.encode()
        terminate = api.TerminateWorkflowExecutionRequest(namespace=FUZZ)
        terminate.workflow_execution.workflow_id = "same"
        await stage.ask("TerminateWorkflowExecution", terminate)
        describe = api.DescribeWorkflowExecutionRequest(namespace=OTHER)
        describe.execution.workflow_id = "same"
        assert (await stage.ask("DescribeWorkflowExecution", describe)).workflow_execution_info.status == 1
