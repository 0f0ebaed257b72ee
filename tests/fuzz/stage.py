"""The world a campaign plays in: namespaces, runs in every state, real tokens; and the judge of whether it is still whole.

`fuzz` is the namespace that requests are aimed at, `other` the one they must not reach by accident, `doomed-*` may be changed
and deleted, and `canary` is never named by any generated request: what it holds must stay exactly as it is.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads, WorkflowType
from temporalio.api.operatorservice import v1 as operator_api
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import RunHistory
from chaos.checkers.well_formed import event_ids_dense, histories_well_formed
from tests.e2e import commands
from tests.fuzz import values
from tests.fuzz.pools import CANARY, DOOMED, FUZZ, OTHER, QUEUE, Pools
from tests.fuzz.targets import Answer, Target

POLL_S = 10.0
RUNS_READ_MAX = 60
READABLE_CODES = ("OK", "NOT_FOUND")  # a run may have been deleted by a request that named it


class Broken(AssertionError):
    """The server did what it never may."""


class Stage:
    def __init__(self, target: Target, tag: str = "") -> None:
        """tag: tells the names of two stages on one server apart."""
        self.target = target
        self._tag = tag
        self.pools = Pools()
        self._kept: dict[str, list[bytes]] = {}
        self._turn = 0

    async def ask(self, name: str, request: Message, timeout_s: float = 0.0) -> Any:
        """A correct request: anything but OK means that the stage is broken."""
        answer = await self.target.send(name, request.SerializeToString(), timeout_s)
        if answer.code != "OK":
            raise Broken(f"a correct {name} got {answer.code} {answer.message}\n{answer.inside}\n{request}")
        return answer.parsed(name)

    # --- making -------------------------------------------------------------------------------------------------------
    async def set_up(self) -> None:
        for name in (FUZZ, OTHER, CANARY):
            request = api.RegisterNamespaceRequest(namespace=name)
            request.workflow_execution_retention_period.seconds = 86_400
            await self._register(request)
            described = await self.ask("DescribeNamespace", api.DescribeNamespaceRequest(namespace=name))
            if name != CANARY:
                self.pools.namespace_ids.append(described.namespace_info.id)
        added = {name: number for number, name in enumerate(values.ATTRIBUTES, 1)}
        for name in (FUZZ, OTHER):
            adding = operator_api.AddSearchAttributesRequest(namespace=name, search_attributes=added)  # type: ignore[arg-type]
            answer = await self.target.send("AddSearchAttributes", adding.SerializeToString())
            if answer.code not in ("OK", "ALREADY_EXISTS"):
                raise Broken(f"AddSearchAttributes: {answer}")
        for name in (f"kept-open{self._tag}", f"kept-closed{self._tag}"):
            run_id = await self._start(CANARY, name, name)
            if "closed" in name:
                task = await self._poll(CANARY, name)
                await self._complete(CANARY, task, [commands.complete()])
            self._kept[f"{name} {run_id}"] = [event.SerializeToString() for event in await self.history(CANARY, name, run_id)]
        await self.refresh()

    async def refresh(self) -> None:
        """Runs in every state and fresh tokens; the former ones stay as stale ones."""
        self._turn += 1
        await self._refresh_namespaces()
        turn = f"{self._tag}{self._turn}"
        for namespace in (FUZZ, OTHER):
            made: list[tuple[str, str]] = []
            for name in ("open", "closed", "started", "activity"):
                workflow_id = f"{name}-{turn}"  # in the pools only once it is as it should be
                queue = f"{QUEUE}-stage-{workflow_id}"  # of its own: nobody else polls it, and nothing else comes on it
                run_id = await self._start(namespace, workflow_id, queue)
                made.append((workflow_id, run_id))
                self.pools.names |= {f"run:{namespace}:{name}": run_id, f"id:{namespace}:{name}": workflow_id}
                task = await self._poll(namespace, queue)
                if name != "open":  # there the worker has just died
                    await self._move_on(namespace, name, task, queue)
            if namespace == FUZZ:
                await self._pages()
            runs = self.pools.runs if namespace == FUZZ else self.pools.foreign_runs
            runs += made
            del runs[:-12]

    async def _refresh_namespaces(self) -> None:
        for number in range(4):
            request = api.RegisterNamespaceRequest(namespace=f"{DOOMED}-{number}")
            request.workflow_execution_retention_period.seconds = 86_400
            await self._register(request)

    async def _register(self, request: api.RegisterNamespaceRequest) -> None:
        answer = await self.target.send("RegisterNamespace", request.SerializeToString())
        if answer.code not in ("OK", "ALREADY_EXISTS"):
            raise Broken(f"RegisterNamespace: {answer}")

    async def _move_on(self, namespace: str, name: str, task: Any, queue: str) -> None:
        def keep(purpose: str, token: bytes) -> None:
            self.pools.remember_token(purpose if namespace == FUZZ else f"foreign {purpose}", token)
            self.pools.names[f"token:{namespace}:{purpose}"] = token

        if name == "closed":
            await self._complete(namespace, task, [commands.complete()])
        elif name == "started":
            keep("workflow", task.task_token)
        else:
            await self._complete(namespace, task, [commands.schedule_activity(each, queue) for each in self.pools.activity_ids])
            poll = api.PollActivityTaskQueueRequest(namespace=namespace, task_queue=TaskQueue(name=queue))
            for _ in self.pools.activity_ids[1:]:
                keep("activity", (await self.ask("PollActivityTaskQueue", poll, POLL_S)).task_token)

    async def _pages(self) -> None:
        first = api.ListWorkflowExecutionsRequest(namespace=FUZZ, page_size=1)
        deadline = asyncio.get_running_loop().time() + POLL_S
        while not (token := (await self.ask("ListWorkflowExecutions", first)).next_page_token):  # lists come a moment later
            if asyncio.get_running_loop().time() > deadline:
                raise Broken("two runs were started, but a list of one has no second page")
            await asyncio.sleep(0.02)
        self.pools.remember_token("page", token)
        history = api.GetWorkflowExecutionHistoryRequest(namespace=FUZZ, maximum_page_size=1)
        history.execution.workflow_id = f"activity-{self._tag}{self._turn}"
        self.pools.remember_token("history-page", (await self.ask("GetWorkflowExecutionHistory", history)).next_page_token)

    async def _start(self, namespace: str, workflow_id: str, queue: str) -> str:
        """A new run of this id, whatever there was."""
        request = api.StartWorkflowExecutionRequest(
            namespace=namespace, workflow_id=workflow_id, workflow_type=WorkflowType(name="Raw"), task_queue=TaskQueue(name=queue)
        )
        request.workflow_id_conflict_policy = 3  # type: ignore[assignment]  # TERMINATE_EXISTING
        run_id: str = (await self.ask("StartWorkflowExecution", request)).run_id
        return run_id

    async def _poll(self, namespace: str, queue: str) -> Any:
        request = api.PollWorkflowTaskQueueRequest(namespace=namespace, task_queue=TaskQueue(name=queue), identity="stage")
        task = await self.ask("PollWorkflowTaskQueue", request, POLL_S)
        if not task.task_token:
            raise Broken(f"no workflow task came on {namespace}/{queue}")
        return task

    async def _complete(self, namespace: str, task: Any, wanted: list[Any], **fields: Any) -> Any:
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=namespace, task_token=task.task_token, commands=wanted, **fields
        )
        return await self.ask("RespondWorkflowTaskCompleted", request)

    async def history(self, namespace: str, workflow_id: str, run_id: str) -> list[Any]:
        request = api.GetWorkflowExecutionHistoryRequest(namespace=namespace)
        request.execution.workflow_id, request.execution.run_id = workflow_id, run_id
        events: list[Any] = []
        while True:
            page = await self.ask("GetWorkflowExecutionHistory", request)
            events.extend(page.history.events)
            if not page.next_page_token:
                return events
            request.next_page_token = page.next_page_token

    # --- judging ------------------------------------------------------------------------------------------------------
    async def check_whole(self, rng: random.Random) -> None:
        """Raises Broken. A correct workflow still runs, what nobody touched is as it was, what was touched can be read."""
        self.check_troubles()
        await self._canonical_workflow(f"canonical-{self._tag}{self._turn}-{rng.randrange(1 << 40)}")
        for key, kept in self._kept.items():
            workflow_id, run_id = key.split()
            if [event.SerializeToString() for event in await self.history(CANARY, workflow_id, run_id)] != kept:
                raise Broken(f"the history of {workflow_id}, which nobody touched, has changed")
        for namespace in (FUZZ, OTHER):
            for workflow_id, run_id in await self._some_runs(namespace, rng):
                await self.check_run(namespace, workflow_id, run_id)
        self.check_troubles()

    def check_troubles(self) -> None:
        troubles = self.target.troubles()
        if troubles:
            raise Broken("\n".join(troubles))

    async def _some_runs(self, namespace: str, rng: random.Random) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        request = api.ListWorkflowExecutionsRequest(namespace=namespace, page_size=500)
        while True:
            page = await self.ask("ListWorkflowExecutions", request)
            found += [(info.execution.workflow_id, info.execution.run_id) for info in page.executions]
            if not page.next_page_token:
                break
            request.next_page_token = page.next_page_token
        return rng.sample(found, min(len(found), RUNS_READ_MAX))

    async def check_run(self, namespace: str, workflow_id: str, run_id: str) -> None:
        """The run can be described, and its history is read and well formed."""
        describe = api.DescribeWorkflowExecutionRequest(namespace=namespace)
        describe.execution.workflow_id, describe.execution.run_id = workflow_id, run_id
        answer = await self.target.send("DescribeWorkflowExecution", describe.SerializeToString())
        if answer.code not in READABLE_CODES:
            raise Broken(f"{namespace}/{workflow_id}/{run_id} cannot be described: {answer}")
        if answer.code == "NOT_FOUND":
            return
        answer.parsed("DescribeWorkflowExecution")
        try:
            events = await self.history(namespace, workflow_id, run_id)
        except Broken:
            again = await self.target.send("DescribeWorkflowExecution", describe.SerializeToString())
            if again.code == "NOT_FOUND":  # deleted in between
                return
            raise
        history = [RunHistory(workflow_id, run_id, tuple(events))]
        violations = event_ids_dense(history) or histories_well_formed(history)
        if violations:
            raise Broken(f"{violations}\n{[(event.event_id, event.event_type) for event in events]}\n{events[-2:]}")

    async def _canonical_workflow(self, workflow_id: str) -> None:
        """Activity, timer, signal, update, query and result, in the namespace that nobody disturbs."""
        queue = f"queue-{workflow_id}"
        run_id = await self._start(CANARY, workflow_id, queue)
        wanted = [commands.schedule_activity("a", queue), commands.start_timer("t", 3_600)]
        await self._complete(CANARY, await self._poll(CANARY, queue), wanted)
        poll = api.PollActivityTaskQueueRequest(namespace=CANARY, task_queue=TaskQueue(name=queue))
        activity = await self.ask("PollActivityTaskQueue", poll, POLL_S)
        result = Payloads(payloads=[Payload(data=b"42")])
        await self.ask(
            "RespondActivityTaskCompleted",
            api.RespondActivityTaskCompletedRequest(namespace=CANARY, task_token=activity.task_token, result=result),
        )
        signal = api.SignalWorkflowExecutionRequest(namespace=CANARY, signal_name="go")
        signal.workflow_execution.workflow_id = workflow_id
        await self.ask("SignalWorkflowExecution", signal)
        task = await self._poll(CANARY, queue)
        await self._complete(CANARY, task, [commands.cancel_timer("t"), commands.complete(result)])
        last = (await self.history(CANARY, workflow_id, run_id))[-1]
        if last.workflow_execution_completed_event_attributes.result != result:
            raise Broken(f"the canonical workflow ended with {last}")


# (call, words of its message): UNAVAILABLE is right here, mostly since another client changed the same thing at the same time.
CONTENDED = (
    ("UpdateTaskQueueConfig", "changed by somebody else at the same time"),
    ("UpdateWorkflowExecution", "because workflow is closing"),  # the public server's words and status
    ("ExecuteMultiOperation", "Update-with-Start could not be executed"),  # its update met the same
    ("PollWorkflowExecutionUpdate", "because workflow is closing"),
    ("AddOrUpdateRemoteCluster", "Unable connect to remote cluster"),  # nobody is at the address that was made up
)
BROKEN_CODES = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"})


def fault_of(name: str, answer: Answer, waiting: frozenset[str]) -> str:
    """What is wrong with an answer to whatever request; "" if nothing is."""
    is_contended = any(name == call and words in answer.message for call, words in CONTENDED)
    if answer.code in BROKEN_CODES and not is_contended:
        return f"{name}: {answer.code} {answer.message}\n{answer.inside}"
    if "metadata size exceeds" in answer.message:
        return f"{name}: the answer does not fit into the trailers: {answer.message}"
    if answer.code == "DEADLINE_EXCEEDED" and name not in waiting:
        return f"{name} did not answer"
    if answer.code not in ("OK", "DEADLINE_EXCEEDED", "CANCELLED") and not answer.message:
        return f"{name}: {answer.code} without a message"
    if answer.code == "OK":
        answer.parsed(name)
    return ""
