"""Whole nodes, real history and real matching: a workflow is started, worked on and queried through different nodes."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, QueryResultType, TaskQueueType
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import SimLoop, running_loop
from chaos.sim.rand import SimClock, SimIds, Streams
from cluster.assembly import Assembly, Seams, Settings
from cluster.core.errors import CallerError, Code
from cluster.frontend.authorisation import LoopbackOnly
from cluster.frontend.call import Call
from cluster.frontend.cluster_identity import WantedIdentity
from cluster.frontend.methods import METHODS
from cluster.membership.members import NodeInfo, NodeState
from cluster.membership.static import StaticMembership
from cluster.routing.place import Place
from cluster.seams import JobSet
from cluster.stores.memory import MemoryStore
from cluster.visibility.memory import MemoryVisibility
from tests.routing.matching_stage import NODES, ToldMembership
from tests.wire.pipes import MemoryNetwork

SHARDS = 8
ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


class Region:
    """NODES over one store."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.store, self.visibility = MemoryStore(), MemoryVisibility()
        self.assemblies: dict[str, Assembly] = {}
        self.places: dict[str, Place] = {}
        self.members: dict[str, ToldMembership] = {}
        self.states: dict[str, NodeInfo] = {}
        self.failed: list[tuple[str, BaseException]] = []

    async def start(self) -> None:
        await self.store.open()
        await self.visibility.open()
        for number, node_id in enumerate(NODES):
            ids = SimIds(Streams(number)("ids"))
            spawn = JobSet(lambda name, failure: self.failed.append((name, failure)))
            seams = Seams(SimClock(running_loop().now_ns), ids, spawn, self.store, self.visibility)
            settings = Settings(owner=node_id, identity=WantedIdentity(shard_count=SHARDS))
            assembly = self.assemblies[node_id] = Assembly(seams, settings)
            await assembly.load()
            place = self.places[node_id] = Place(self.network, ids)
            roles = ("frontend", "history", "matching")
            identity = assembly.identity
            me = NodeInfo(node_id, "", roles, "", "1", identity.shard_count, identity.cluster_id, 0, f"{node_id}-1")
            assembly.connect(await place.open(me, f"{node_id}:7000", self._find))
            self.states[node_id] = place.me
        starting = []
        for node_id, assembly in self.assemblies.items():
            self.states[node_id] = self._ready(node_id)
            starting.append(assembly.start(self._tell))
        await asyncio.gather(*starting)
        for assembly in self.assemblies.values():
            assembly.front(LoopbackOnly())

    def _ready(self, node_id: str) -> NodeInfo:
        import msgspec

        return msgspec.structs.replace(self.states[node_id], state=NodeState.READY)

    async def _find(self, me: NodeInfo) -> StaticMembership:
        membership = self.members[me.node_id] = ToldMembership([me])
        return membership

    async def _tell(self) -> None:
        for member in self.members.values():
            member.tell(list(self.states.values()))

    async def call(self, at: str, name: str, request: Any, deadline_s: float = 10.0) -> Any:
        method = METHODS[name]
        call = Call(method.path, {}, running_loop().time() + deadline_s, "ipv4:127.0.0.1:1")
        answer = await self.assemblies[at].frontend.handlers[name](call, request)
        return method.response.FromString(answer) if isinstance(answer, bytes) else answer

    async def stop(self) -> None:
        for node_id, assembly in self.assemblies.items():
            await assembly.close()
            await self.places[node_id].close()


def perform(story: Any) -> None:
    loop = SimLoop.create(limit_s=3_600)

    async def play() -> None:
        region = Region()
        await region.start()
        await story(region)
        await region.stop()
        assert not region.failed, region.failed

    try:
        loop.run_until_complete(play())
    finally:
        loop.close()


def start_request(workflow_id: str) -> api.StartWorkflowExecutionRequest:
    request = api.StartWorkflowExecutionRequest(namespace="default", workflow_id=workflow_id, request_id=workflow_id)
    request.workflow_type.name, request.task_queue.name = "W", "tq"
    return request


async def take(region: Region, at: str, kind: str = "Workflow") -> Any:
    request = getattr(api, f"Poll{kind}TaskQueueRequest")(namespace="default", identity=f"worker at {at}")
    request.task_queue.name = "tq"
    return await region.call(at, f"Poll{kind}TaskQueue", request)


def test_workflows_run_whatever_nodes_their_client_and_their_workers_talk_to() -> None:
    async def story(region: Region) -> None:
        for number in range(24):
            await region.call(NODES[number % 3], "StartWorkflowExecution", start_request(f"w{number}"))
        for number in range(24):
            task = await take(region, NODES[(number + 1) % 3])
            assert len(task.history.events) == 3
            command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
            schedule = command.schedule_activity_task_command_attributes
            schedule.activity_id, schedule.activity_type.name, schedule.task_queue.name = "1", "A", "tq"
            schedule.start_to_close_timeout.seconds = 10
            done = api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, commands=[command])
            await region.call(NODES[number % 3], "RespondWorkflowTaskCompleted", done)
        for number in range(24):
            task = await take(region, NODES[number % 3], "Activity")
            answer = api.RespondActivityTaskCompletedRequest(task_token=task.task_token)
            await region.call(NODES[(number + 2) % 3], "RespondActivityTaskCompleted", answer)
        for number in range(24):
            task = await take(region, NODES[0])
            command = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
            command.complete_workflow_execution_command_attributes.SetInParent()
            done = api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, commands=[command])
            await region.call(NODES[number % 3], "RespondWorkflowTaskCompleted", done)
        for number in range(24):
            request = api.DescribeWorkflowExecutionRequest(namespace="default")
            request.execution.workflow_id = f"w{number}"
            described = await region.call(NODES[number % 3], "DescribeWorkflowExecution", request)
            assert described.workflow_execution_info.status == 2

    perform(story)


def test_a_workflow_is_queried_through_one_node_and_answered_through_others() -> None:
    async def story(region: Region) -> None:
        await region.call("a", "StartWorkflowExecution", start_request("w"))
        task = await take(region, "b")
        done = api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token)
        await region.call("c", "RespondWorkflowTaskCompleted", done)
        for asked_at in NODES:
            request = api.QueryWorkflowRequest(namespace="default")
            request.execution.workflow_id, request.query.query_type = "w", "state"
            query = asyncio.create_task(region.call(asked_at, "QueryWorkflow", request))
            task = await take(region, "b")
            assert task.query.query_type == "state" and len(task.history.events) == 4
            answer = api.RespondQueryTaskCompletedRequest(
                task_token=task.task_token, completed_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED
            )
            answer.query_result.payloads.add(data=b"fine")
            await region.call("c", "RespondQueryTaskCompleted", answer)
            assert (await query).query_result.payloads[0].data == b"fine"

    perform(story)


def test_a_rate_set_through_one_node_is_known_to_all() -> None:
    async def story(region: Region) -> None:
        request = api.UpdateTaskQueueConfigRequest(namespace="default", task_queue="tq", task_queue_type=ACTIVITY)
        request.update_queue_rate_limit.rate_limit.requests_per_second = 7.0
        await region.call("b", "UpdateTaskQueueConfig", request)
        for node in NODES:
            describe = api.DescribeTaskQueueRequest(namespace="default", task_queue_type=ACTIVITY, report_config=True)
            describe.task_queue.name = "tq"
            answer = await region.call(node, "DescribeTaskQueue", describe)
            assert answer.config.queue_rate_limit.rate_limit.requests_per_second == 7.0
        second = api.UpdateTaskQueueConfigRequest(namespace="default", task_queue="tq", task_queue_type=ACTIVITY)
        second.set_fairness_weight_overrides["key"] = 2.0
        config = (await region.call("c", "UpdateTaskQueueConfig", second)).config
        assert config.queue_rate_limit.rate_limit.requests_per_second == 7.0, "made from what is stored"

    perform(story)


def test_workers_are_counted_from_any_node() -> None:
    async def story(region: Region) -> None:
        for node in NODES:
            beat = api.RecordWorkerHeartbeatRequest(namespace="default")
            beat.worker_heartbeat.add(worker_instance_key=f"w-{node}")
            await region.call(node, "RecordWorkerHeartbeat", beat)
        for node in NODES:
            assert (await region.call(node, "CountWorkers", api.CountWorkersRequest(namespace="default"))).count == 3
        try:
            await region.call("a", "DescribeWorker", api.DescribeWorkerRequest(namespace="default", worker_instance_key="no"))
        except CallerError as refusal:
            assert refusal.code is Code.NOT_FOUND
        else:
            raise AssertionError("there is no such worker")

    perform(story)
