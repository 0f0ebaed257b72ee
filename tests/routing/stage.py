"""Several nodes with history in one loop on virtual time: one store, node-to-node calls over pipes in memory, a told membership.

    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")              # joined, and every shard is open where the ring wants it
        await stage.start("a", "w")                 # through node a, wherever the shard is
        stage.kill("b")                             # nothing of it runs any more, its connections break
        stage.forget("b")                           # the others are told
        await stage.settled()

    perform(story)

Nobody routes tasks here: each node has a Matching of its own, and a worker polls at the node that has the shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import SimLoop, owned_by, running_loop
from chaos.sim.nodes import NodeDied, NodeSlot
from chaos.sim.rand import SimClock, SimIds, Streams
from cluster.config import Limits, ShardConfig
from cluster.core.errors import CallerError, Code, unavailable
from cluster.core.events import duration
from cluster.frontend.call import Call
from cluster.history.service import HistoryService
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.membership.members import NodeInfo, NodeState
from cluster.membership.static import StaticMembership
from cluster.namespaces.record import NamespaceRecord
from cluster.routing.history import RoutedHistory
from cluster.routing.peers import Peers
from cluster.routing.shard_moves import ShardMoves
from cluster.seams import JobSet
from cluster.stores.base import RunKey
from cluster.stores.memory import MemoryStore
from cluster.tokens import Purpose, TaskToken, Tokens, load_keys
from cluster.visibility.memory import MemoryVisibility
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.server import WireServer
from tests.history.commands import text
from tests.history.held_store import HeldStore
from tests.history.world import NAMESPACE, KnownNamespaces, name_of
from tests.routing.owned_network import OwnedNetwork
from tests.wire.pipes import MemoryNetwork

SHARDS = 24
STORE_LATENCY_S = 0.002
RETRYABLE = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


def info(node_id: str, state: NodeState = NodeState.READY, shards: int = SHARDS) -> NodeInfo:
    roles = ("frontend", "history", "matching")
    return NodeInfo(node_id, f"{node_id}:7000", roles, "z", "1", shards, "cluster", 0, f"{node_id}-1", state)


class ToldMembership(StaticMembership):
    """Shows what the test says, also that nothing is known any more."""

    def tell(self, nodes: list[NodeInfo], is_stale: bool = False) -> None:
        self._views.show(sorted(nodes, key=lambda node: node.node_id), is_stale)


class SlowStore:
    """Every call takes a moment, before and after its effect."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.kind = inner.kind

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(STORE_LATENCY_S / 2)
            answer = await attribute(*args, **kwargs)
            await asyncio.sleep(STORE_LATENCY_S / 2)
            return answer

        return call


class StageNode:
    """One life of one node."""

    def __init__(self, stage: Stage, node_id: str, life: int) -> None:
        self.stage, self.node_id = stage, node_id
        self.owner = f"{node_id}#{life}"
        self.spawn = JobSet(lambda name, failure: stage.failed_jobs.append((f"{node_id} {name}", failure)))
        self.store = HeldStore(SlowStore(stage.store))
        self.clock = SimClock(running_loop().now_ns)
        self.ids = SimIds(Streams(life)(f"ids of {node_id}"))
        self.network = OwnedNetwork(stage.network, self.owner)
        self.me = msgspec.structs.replace(info(node_id, NodeState.JOINING, stage.shards), incarnation=self.owner)
        self.membership = ToldMembership([self.me])
        self.unknown_namespaces: set[str] = set()

    async def start(self) -> None:
        stage, identity = self.stage, Identity(self.node_id, "cluster", self.stage.shards)
        self.client = WireClient(identity, self.network, self.ids)
        self.server = WireServer(self._handle, identity, self.network)
        self.peers = Peers(self.membership, self.me, self.client)
        self.tokens = Tokens(await load_keys(stage.store, SimIds(Streams(0)("keys"))))
        self.matching = Matching(MatchingLimits(), self.clock, self.ids, self.spawn, host=self.node_id)
        self.service = HistoryService(
            store=self.store,
            clock=self.clock,
            ids=self.ids,
            spawn=self.spawn,
            namespaces=KnownNamespaces(),
            matching=self.matching,
            visibility=stage.visibility,
            tokens=self.tokens,
            shards_count=stage.shards,
            owner=self.owner,
            config=stage.config,
            limits=Limits(),
        )
        self.moves = ShardMoves(self.service, self.peers, self.spawn, self.ids)
        self.routed = RoutedHistory(self.service, self.peers, self.moves, self._record)
        await self.service.start(())
        await self.membership.join(self.me)
        await self.server.start(self.me.address)
        self.moves.start()

    async def _handle(self, method: str, payload: bytes, deadline: float | None, peer: Peer) -> bytes:
        self.stage.calls.append((peer.node_id, self.node_id, method))
        return await self.peers.handle(method, payload, deadline, peer)

    async def _record(self, namespace_id: str) -> NamespaceRecord:
        return self.service.namespaces.by_id(namespace_id)

    @property
    def open(self) -> set[int]:
        return set(self.service.ownership.open)


class Stage:
    """See the module's text."""

    def __init__(self, shards: int = SHARDS, config: ShardConfig | None = None) -> None:
        self.shards = shards
        self.config = config or ShardConfig()
        self.store = MemoryStore()
        self.visibility = MemoryVisibility()
        self.network = MemoryNetwork()
        self.slots: dict[str, NodeSlot[StageNode]] = {}
        self.states: dict[str, NodeState] = {}  # what the registry knows
        self.silent: set[str] = set()  # whom the registry does not reach
        self.calls: list[tuple[str, str, str]] = []  # from, to, method
        self.failed_jobs: list[tuple[str, BaseException]] = []

    # --- nodes --------------------------------------------------------------------------------------------------------------
    def node(self, node_id: str) -> StageNode:
        node = self.slots[node_id].node
        assert node is not None, f"{node_id} does not live"
        return node

    @property
    def nodes(self) -> list[StageNode]:
        return [slot.node for slot in self.slots.values() if slot.node is not None]

    async def add(self, *node_ids: str) -> None:
        """They join, take part, and every shard has found its place."""
        for node_id in node_ids:
            await self.begin(node_id)
        for node_id in node_ids:
            self.states[node_id] = NodeState.READY
        self.tell()
        await self.settled()

    async def begin(self, node_id: str) -> None:
        """A life that is a member, and owns nothing yet."""

        async def build(life: int) -> StageNode:
            node = StageNode(self, node_id, life)
            await node.start()
            return node

        slot = self.slots.setdefault(node_id, NodeSlot(node_id, build))
        await slot.start()
        self.states[node_id] = NodeState.JOINING
        self.tell()

    def tell(self) -> None:
        """All who can hear learn who is there now."""
        for node in self.nodes:
            if node.node_id not in self.silent:
                self.tell_one(node.node_id)

    def tell_one(self, node_id: str, is_stale: bool = False) -> None:
        node = self.node(node_id)
        view = [
            msgspec.structs.replace(info(each, state, self.shards), incarnation=self.slots[each].owner)
            for each, state in self.states.items()
        ]
        with owned_by(node.owner):
            node.membership.tell(view, is_stale)

    def kill(self, node_id: str) -> None:
        """As SIGKILL: nothing of it runs any more; the system closes its sockets."""
        node = self.node(node_id)
        self.slots[node_id].crash()
        node.network.die()

    def forget(self, node_id: str) -> None:
        """Its registration has run out."""
        del self.states[node_id]
        self.tell()

    def change(self, node_id: str, state: NodeState) -> None:
        self.states[node_id] = state
        self.tell()

    def owner(self, shard: int) -> str:
        """By the ring of those who are told of it."""
        told = next(node for node in self.nodes if node.node_id not in self.silent)
        owner = told.peers.ring.owner_of_shard(shard)
        assert owner is not None
        return owner.node_id

    def shard_of(self, workflow_id: str) -> int:
        return self.nodes[0].service.shard_number(NAMESPACE.id, workflow_id)

    def home(self, workflow_id: str) -> StageNode:
        return self.node(self.owner(self.shard_of(workflow_id)))

    def is_settled(self) -> bool:
        """Every shard is open on one node, the one that the ring names."""
        told = [node for node in self.nodes if node.node_id not in self.silent]
        wanted = {node.node_id: set(node.peers.ring.shards_of(node.node_id)) for node in told}
        return all(node.open == wanted[node.node_id] and not node.moves.under_way_count for node in told)

    async def settled(self, limit_s: float = 30.0) -> float:
        """How long it took."""
        await asyncio.sleep(0.001)  # what has just been told is heard in the next turn
        began = running_loop().time()
        await until(self.is_settled, limit_s)
        return running_loop().time() - began

    # --- calls --------------------------------------------------------------------------------------------------------------
    async def inside(self, node_id: str, work: Callable[[StageNode], Coroutine[Any, Any, Any]]) -> Any:
        """Raises UNAVAILABLE if the node dies under it, as its client would see it."""
        node = self.node(node_id)
        try:
            return await self.slots[node_id].run_inside(lambda: work(node), "call")
        except NodeDied:
            raise unavailable(f"{node_id} died") from None

    async def call(
        self, at: str, verb: str, workflow_id: str, request: Message, token: TaskToken | None = None, deadline_s: float = 10.0
    ) -> Any:
        """Through node `at`. Raises CallerError."""
        call = Call(f"/{verb}", {}, running_loop().time() + deadline_s, "test")
        answer = await self.inside(
            at, lambda node: node.routed.invoke(verb, NAMESPACE, workflow_id, request, call=call, token=token)
        )
        name = "".join(part.capitalize() for part in verb.split("_")) + "Response"
        return getattr(api, name).FromString(answer) if isinstance(answer, bytes) else answer

    async def start(self, at: str, workflow_id: str, **fields: Any) -> str:
        request = api.StartWorkflowExecutionRequest(
            namespace=NAMESPACE.name,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="W"),
            task_queue=TaskQueue(name=f"q-{workflow_id}"),
            workflow_task_timeout=duration(10_000_000_000),
            request_id=f"start of {workflow_id}",
            **fields,
        )
        return str((await self.call(at, "start_workflow_execution", workflow_id, request)).run_id)

    async def signal(self, at: str, workflow_id: str, name: str, deadline_s: float = 10.0) -> None:
        request = api.SignalWorkflowExecutionRequest(signal_name=name, request_id=f"signal {name}", input=text(name))
        request.workflow_execution.workflow_id = workflow_id
        await self.call(at, "signal_workflow_execution", workflow_id, request, deadline_s=deadline_s)

    async def terminate(self, at: str, workflow_id: str) -> None:
        request = api.TerminateWorkflowExecutionRequest(workflow_execution=WorkflowExecution(workflow_id=workflow_id))
        await self.call(at, "terminate_workflow_execution", workflow_id, request)

    async def describe(self, at: str, workflow_id: str, deadline_s: float = 10.0) -> api.DescribeWorkflowExecutionResponse:
        request = api.DescribeWorkflowExecutionRequest(execution=WorkflowExecution(workflow_id=workflow_id))
        answer: api.DescribeWorkflowExecutionResponse = await self.call(
            at, "describe_workflow_execution", workflow_id, request, deadline_s=deadline_s
        )
        return answer

    async def history(self, at: str, workflow_id: str) -> list[HistoryEvent]:
        """All pages."""
        request = api.GetWorkflowExecutionHistoryRequest(execution=WorkflowExecution(workflow_id=workflow_id))
        events: list[HistoryEvent] = []
        while True:
            answer = await self.call(at, "get_workflow_execution_history", workflow_id, request)
            events += answer.history.events
            if not answer.next_page_token:
                return events
            request.next_page_token = answer.next_page_token

    async def names(self, at: str, workflow_id: str) -> list[str]:
        return [name_of(event) for event in await self.history(at, workflow_id)]

    async def signals(self, at: str, workflow_id: str) -> list[str]:
        events = await self.history(at, workflow_id)
        attributes = [event.workflow_execution_signaled_event_attributes for event in events]
        return [one.signal_name for one in attributes if one.signal_name]

    # --- a worker -----------------------------------------------------------------------------------------------------------
    async def work(self, workflow_id: str, *commands: Command, at: str = "") -> None:
        """Takes the workflow's task at the node that has it, answers it through `at`."""
        home = self.home(workflow_id).node_id
        request = api.PollWorkflowTaskQueueRequest(
            namespace=NAMESPACE.name, task_queue=TaskQueue(name=f"q-{workflow_id}"), identity="worker"
        )
        call = Call("poll", {}, running_loop().time() + 5, "test")
        polled = await self.inside(home, lambda node: node.matching.poll_workflow_task_queue(NAMESPACE, request, call))
        task = polled if isinstance(polled, Message) else api.PollWorkflowTaskQueueResponse.FromString(polled)
        assert isinstance(task, api.PollWorkflowTaskQueueResponse)
        assert task.task_token, f"no workflow task of {workflow_id} came at {home}"
        token = self.node(home).tokens.open(Purpose.TASK, task.task_token, TaskToken)
        done = api.RespondWorkflowTaskCompletedRequest(
            task_token=task.task_token, commands=commands, identity="worker", namespace=NAMESPACE.name
        )
        await self.call(at or home, "respond_workflow_task_completed", workflow_id, done, token)

    async def close(self) -> None:
        """Every node that lives ends in good order."""
        for node in self.nodes:
            await self.inside(node.node_id, _close)
            self.kill(node.node_id)


async def _close(node: StageNode) -> None:
    await node.moves.close()
    await node.service.close()
    await node.server.stop(0.1)
    await node.client.close()


def perform(story: Callable[[Stage], Coroutine[Any, Any, None]], stage: Stage | None = None) -> None:
    """Runs a story on virtual time; a background job that failed fails it."""
    loop = SimLoop.create(limit_s=3_600)
    made = stage or Stage()

    async def play() -> None:
        await story(made)
        await made.close()
        assert not made.failed_jobs, made.failed_jobs

    try:
        loop.run_until_complete(play())
    finally:
        loop.close()


async def until(is_so: Callable[[], bool], limit_s: float = 10.0) -> None:
    end = running_loop().time() + limit_s
    while not is_so():
        assert running_loop().time() < end, f"did not come true within {limit_s} s"
        await asyncio.sleep(0.005)


async def acknowledged(attempt: Callable[[], Coroutine[Any, Any, Any]], limit_s: float = 60.0) -> int:
    """Repeats what is refused for the moment, as an SDK does; returns how many attempts it took. Raises other CallerErrors."""
    end, count = running_loop().time() + limit_s, 0
    while True:
        count += 1
        try:
            await attempt()
            return count
        except CallerError as error:
            if error.code not in RETRYABLE or running_loop().time() > end:
                raise
        await asyncio.sleep(0.05)


async def refused(call: Coroutine[Any, Any, Any]) -> CallerError:
    """The error a call must end with."""
    try:
        answer = await call
    except CallerError as error:
        return error
    raise AssertionError(f"not refused: {answer!r}")


def key(workflow_id: str, run_id: str) -> RunKey:
    return RunKey(NAMESPACE.id, workflow_id, run_id)
