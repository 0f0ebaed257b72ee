"""Several nodes with matching in one loop on virtual time: real wire over pipes in memory, and a model of the shards.

    async def story(stage: MatchingStage) -> None:
        await stage.add("a", "b", "c")
        stage.schedule(task)                        # at the node that has its shard
        answer = await stage.poll("b")              # a client of node b
        stage.kill("a"); stage.forget("a")          # as SIGKILL, then its registration runs out

    perform(story)

The truth about tasks is the stage's (`ModelHistory`: started at most once); each node's shards are an index of what they owe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from google.protobuf.message import Message
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import SimLoop, owned_by, running_loop
from chaos.sim.nodes import NodeDied, NodeSlot
from cluster.core.errors import unavailable
from cluster.frontend.call import Call
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from cluster.matching.window import key_of
from cluster.membership.members import NodeInfo, NodeState
from cluster.membership.ring import Ring
from cluster.membership.static import StaticMembership
from cluster.routing.matching import RoutedMatching
from cluster.routing.matching_messages import BATCH
from cluster.routing.matching_places import Places
from cluster.routing.peers import Peers
from cluster.seams import JobSet
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity, Peer
from cluster.wire.server import WireServer
from tests.matching.world import NAMESPACE, ModelHistory, SeededIds, SimClock
from tests.routing.owned_network import OwnedNetwork
from tests.wire.pipes import MemoryNetwork

SHARDS = 12
HOP_S = 0.001


NODES = ("a", "b", "c")


def info(node_id: str, state: NodeState = NodeState.READY, incarnation: str = "") -> NodeInfo:
    roles = ("frontend", "history", "matching")
    return NodeInfo(node_id, f"{node_id}:7000", roles, "z", "1", SHARDS, "cluster", 0, incarnation, state)


def spread(kind: TaskKind) -> QueueKey:
    """A queue of which each of NODES has a share."""
    places = Places(Ring([info(node_id) for node_id in NODES], SHARDS), "a", MatchingLimits())
    queues = (QueueKey(NAMESPACE.id, f"tq-{number}", kind) for number in range(1_000))
    return next(queue for queue in queues if set(places.nodes_of(queue)) == set(NODES))


QUEUE, ACTIVITIES = spread(TaskKind.WORKFLOW), spread(TaskKind.ACTIVITY)


class ToldMembership(StaticMembership):
    """Shows what the test says, of this node as well."""

    def tell(self, nodes: list[NodeInfo]) -> None:
        self._views.show(sorted(nodes, key=lambda node: node.node_id), is_stale=False)


class ShardIndex:
    """One node's shards: which are open, and what they have outstanding. As history/outstanding.py, without runs."""

    def __init__(self, node: StageNode) -> None:
        self.node = node
        self.open: set[int] = set()
        self.index: dict[tuple[QueueKey, int], dict[Any, TaskHint]] = {}

    def listed(self) -> list[tuple[QueueKey, int]]:
        return list(self.index)

    def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        return list(self.index.get((queue, shard), {}).values())[skip : skip + limit]

    def begin(self, task: TaskHint) -> None:
        self.index.setdefault((task.queue, task.shard), {})[key_of(task)] = task
        if not self.node.routed.offer(task):
            running_loop().call_soon(self.sticky_gone, task)

    def done(self, task: TaskHint, is_forgotten: bool = False) -> None:
        listed = self.index.get((task.queue, task.shard), {})
        if listed.pop(key_of(task), None) is not None:
            if not listed:
                del self.index[task.queue, task.shard]
            (self.node.routed.forget if is_forgotten else self.node.routed.withdraw)(task)

    def sticky_gone(self, task: TaskHint) -> None:
        """The run's task goes to the normal queue, as a new one."""
        stage = self.node.stage
        if task.shard in self.open and stage.history.outstanding.pop(key_of(task), None) is not None:
            self.done(task)
            stage.fallen_back.append(task)
            stage.schedule(msgspec.structs.replace(task, queue=QUEUE, stamp=task.stamp + 1, is_sticky=False))

    def on_ring(self, before: Ring, after: Ring) -> None:
        mine = set(after.shards_of(self.node.node_id))
        for place in [place for place in self.index if place[1] not in mine]:
            for task in list(self.index[place].values()):
                self.done(task, is_forgotten=True)
        gained, self.open = mine - self.open, mine
        for task in list(self.node.stage.history.outstanding.values()):
            if task.shard in gained:
                self.begin(task)


class StageHistory(ModelHistory):
    """The runs' word, a hop away. A shard that no node has answers UNAVAILABLE."""

    def __init__(self, stage: MatchingStage) -> None:
        super().__init__()
        self.stage = stage

    async def _start(self, task: TaskHint, poll: Any) -> None:
        await asyncio.sleep(HOP_S)
        home = self.stage.home(task.shard)
        if home is None:
            raise unavailable("the shard moves")
        try:
            await super()._start(task, poll)
        finally:
            if key_of(task) not in self.outstanding:
                with owned_by(home.owner):
                    home.shards.done(task)
        await asyncio.sleep(HOP_S)

    async def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        if self.stage.home(shard) is None:
            raise unavailable("the shard moves")
        return await super().backlog(queue, shard, skip, limit)


class StagePort:
    """One node's way to all shards, and the index of its own."""

    def __init__(self, history: StageHistory, outstanding: ShardIndex) -> None:
        self.outstanding = outstanding
        self.start_workflow_task = history.start_workflow_task
        self.start_activity_task = history.start_activity_task
        self.backlog = history.backlog


class StageNode:
    """One life of one node."""

    def __init__(self, stage: MatchingStage, node_id: str, life: int) -> None:
        self.stage, self.node_id = stage, node_id
        self.owner = f"{node_id}#{life}"
        self.spawn = JobSet(lambda name, failure: stage.failed_jobs.append((f"{node_id} {name}", failure)))
        self.network = OwnedNetwork(stage.network, self.owner)
        self.me = info(node_id, NodeState.JOINING, self.owner)
        self.membership = ToldMembership([self.me])

    async def start(self) -> None:
        stage, identity = self.stage, Identity(self.node_id, "cluster", SHARDS)
        ids = SeededIds()
        self.client = WireClient(identity, self.network, ids)
        self.server = WireServer(self._handle, identity, self.network)
        self.peers = Peers(self.membership, self.me, self.client)
        await self.membership.join(self.me)
        self.matching = Matching(stage.limits, SimClock(), ids, self.spawn, host=self.node_id)
        self.routed = RoutedMatching(self.matching, self.peers, self.spawn, ids)
        self.shards = ShardIndex(self)
        self.routed.bind(StagePort(stage.history, self.shards), self.shards.sticky_gone)
        self.peers.on_ring(self.shards.on_ring)
        await self.server.start(self.me.address)

    async def _handle(self, method: str, payload: bytes, deadline: float | None, peer: Peer) -> bytes:
        self.stage.calls.append((peer.node_id, self.node_id, method))
        return await self.peers.handle(method, payload, deadline, peer)


class MatchingStage:
    """See the module's text."""

    def __init__(self, **limits: Any) -> None:
        self.limits = MatchingLimits(**limits)
        self.network = MemoryNetwork(HOP_S)
        self.history = StageHistory(self)
        self.slots: dict[str, NodeSlot[StageNode]] = {}
        self.states: dict[str, NodeState] = {}
        self.calls: list[tuple[str, str, str]] = []  # from, to, method
        self.fallen_back: list[TaskHint] = []
        self.failed_jobs: list[tuple[str, BaseException]] = []

    # --- nodes ------------------------------------------------------------------------------------------------------------
    def node(self, node_id: str) -> StageNode:
        node = self.slots[node_id].node
        assert node is not None, f"{node_id} does not live"
        return node

    @property
    def nodes(self) -> list[StageNode]:
        return [slot.node for slot in self.slots.values() if slot.node is not None]

    async def add(self, *node_ids: str) -> None:
        for node_id in node_ids:

            async def build(life: int, node_id: str = node_id) -> StageNode:
                node = StageNode(self, node_id, life)
                await node.start()
                return node

            await self.slots.setdefault(node_id, NodeSlot(node_id, build)).start()
            self.states[node_id] = NodeState.READY
        self.tell()
        await asyncio.sleep(0.01)

    def tell(self) -> None:
        for node in self.nodes:
            self.tell_one(node.node_id)

    def tell_one(self, node_id: str) -> None:
        node = self.node(node_id)
        view = [info(each, state, self.slots[each].owner) for each, state in self.states.items()]
        with owned_by(node.owner):
            node.membership.tell(view)

    def kill(self, node_id: str) -> None:
        node = self.node(node_id)
        self.slots[node_id].crash()
        node.network.die()

    def forget(self, node_id: str) -> None:
        del self.states[node_id]
        self.tell()

    def change(self, node_id: str, state: NodeState) -> None:
        self.states[node_id] = state
        self.tell()

    def home(self, shard: int) -> StageNode | None:
        """Who has the shard open. Two may think so for a moment; a fence would choose one."""
        return next((node for node in self.nodes if shard in node.shards.open), None)

    def nodes_of(self, queue: QueueKey = QUEUE) -> tuple[str, ...]:
        """By partition, by the ring of somebody who lives."""
        return self.nodes[0].routed._places.nodes_of(queue)

    def shard_at(self, node_id: str, queue: QueueKey = QUEUE) -> int:
        """A shard whose tasks of the queue belong to that node's share."""
        return self.nodes_of(queue).index(node_id)

    # --- shards and clients ---------------------------------------------------------------------------------------------------
    def schedule(self, task: TaskHint) -> None:
        self.history.outstanding[key_of(task)] = task
        home = self.home(task.shard)
        if home is not None:
            with owned_by(home.owner):
                home.shards.begin(task)

    def close_task(self, task: TaskHint) -> None:
        """Its run ends."""
        if self.history.outstanding.pop(key_of(task), None) is not None and (home := self.home(task.shard)) is not None:
            with owned_by(home.owner):
                home.shards.done(task)

    async def inside(self, node_id: str, work: Callable[[StageNode], Coroutine[Any, Any, Any]]) -> Any:
        node = self.slots[node_id].node
        if node is None:
            raise unavailable(f"{node_id} is not there")
        try:
            return await self.slots[node_id].run_inside(lambda: work(node), "call")
        except NodeDied:
            raise unavailable(f"{node_id} died") from None

    async def poll(
        self, at: str, queue: QueueKey = QUEUE, timeout_s: float = 5.0, is_sticky: bool = False, **fields: Any
    ) -> Any:
        """The decoded answer of a poll by a client of node `at`."""
        call = Call("poll", {}, running_loop().time() + timeout_s, "test")
        is_workflow = queue.kind is TaskKind.WORKFLOW
        form: Any = api.PollWorkflowTaskQueueRequest if is_workflow else api.PollActivityTaskQueueRequest
        request = form(namespace="ns", **{"identity": f"worker at {at}", **fields})
        request.task_queue.name = queue.name
        kinds = TaskQueueKind
        request.task_queue.kind = kinds.TASK_QUEUE_KIND_STICKY if is_sticky else kinds.TASK_QUEUE_KIND_NORMAL
        name = f"poll_{queue.kind.name.lower()}_task_queue"
        answer = await self.inside(at, lambda node: getattr(node.routed, name)(NAMESPACE, request, call))
        if isinstance(answer, Message):
            return answer
        return (api.PollWorkflowTaskQueueResponse if is_workflow else api.PollActivityTaskQueueResponse).FromString(answer)

    def polling(self, at: str, queue: QueueKey = QUEUE, **fields: Any) -> asyncio.Task[Any]:
        return running_loop().create_task(self.poll(at, queue, **fields))

    def batches(self) -> int:
        return sum(method == BATCH for _, _, method in self.calls)

    async def close(self) -> None:
        for node in self.nodes:
            await self.inside(node.node_id, _close)
            self.kill(node.node_id)


async def _close(node: StageNode) -> None:
    node.routed.close()
    node.matching.drain()
    await node.server.stop(0.1)
    await node.client.close()


def perform(story: Callable[[MatchingStage], Coroutine[Any, Any, None]], **limits: Any) -> MatchingStage:
    """Runs a story on virtual time; a background job that failed fails it."""
    loop = SimLoop.create(limit_s=36_000)
    made: list[MatchingStage] = []

    async def play() -> None:
        stage = MatchingStage(**limits)
        made.append(stage)
        await story(stage)
        await stage.close()
        assert not stage.failed_jobs, stage.failed_jobs

    try:
        loop.run_until_complete(play())
    finally:
        loop.close()
    return made[0]


async def until(is_so: Callable[[], bool], limit_s: float = 10.0) -> float:
    """Returns how long it took."""
    began = running_loop().time()
    while not is_so():
        assert running_loop().time() < began + limit_s, f"did not come true within {limit_s} s"
        await asyncio.sleep(0.0005)
    return running_loop().time() - began
