"""CPU per task of matching over nodes, all nodes in one process on real sockets: `python -m tests.routing.matching_measure`
(not a test; prints a table). Starting a task costs nothing here: what is measured is how it finds its poll."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import Any

import msgspec
import structlog
import uvloop
from temporalio.api.workflowservice import v1 as api

from cluster.frontend.call import Call
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.matching.tasks import QueueKey, TaskHint
from cluster.matching.window import key_of
from cluster.membership.members import NodeInfo
from cluster.membership.ring import Ring
from cluster.membership.static import StaticMembership
from cluster.routing.matching import RoutedMatching
from cluster.routing.matching_places import Places
from cluster.routing.peers import Peers
from cluster.seams import JobSet, SystemIds
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity
from cluster.wire.network import TcpNetwork
from cluster.wire.server import WireServer
from tests.matching.world import NAMESPACE, SimClock, hint
from tests.routing.matching_stage import NODES, QUEUE, SHARDS, info

TASKS, POLLERS = 20_000, 200


class Bench:
    """One node with real sockets; its shards' index is whatever the measurement offers."""

    def __init__(self, node_id: str, started: dict[Any, int]) -> None:
        self.node_id, self.started = node_id, started
        self.spawn = JobSet(lambda name, failure: print(name, repr(failure)))
        self.index: dict[tuple[QueueKey, int], dict[Any, TaskHint]] = {}
        self.outstanding = self
        self.home: Bench | None = None

    async def listen(self) -> NodeInfo:
        identity = Identity(self.node_id, "cluster", SHARDS)
        self.server = WireServer(lambda *call: self.peers.handle(*call), identity, TcpNetwork())
        self.client = WireClient(identity, TcpNetwork(), SystemIds())
        self.me = msgspec.structs.replace(info(self.node_id), address=await self.server.start("127.0.0.1:0"))
        return self.me

    async def join(self, members: list[NodeInfo]) -> None:
        membership = StaticMembership(members)
        self.peers = Peers(membership, self.me, self.client)
        await membership.join(self.me)
        self.matching = Matching(MatchingLimits(), SimClock(), SystemIds(), self.spawn)
        self.routed = RoutedMatching(self.matching, self.peers, self.spawn, SystemIds())
        self.routed.bind(self)  # type: ignore[arg-type]  # only what is asked of it here
        self.peers.look()

    def listed(self) -> list[tuple[QueueKey, int]]:
        return list(self.index)

    def backlog(self, queue: QueueKey, shard: int, skip: int, limit: int) -> list[TaskHint]:
        return list(self.index.get((queue, shard), {}).values())[skip : skip + limit]

    async def start_workflow_task(self, task: TaskHint, poll: Any) -> bytes:
        self.started[key_of(task)] = self.started.get(key_of(task), 0) + 1
        assert self.home is not None
        self.home.routed.withdraw(task)
        return b"\x0a\x01x"

    async def poll(self, queue: QueueKey, deadline_s: float) -> None:
        request = api.PollWorkflowTaskQueueRequest(namespace="ns", identity=self.node_id)
        request.task_queue.name = queue.name
        loop = asyncio.get_running_loop()
        while True:
            await self.routed.poll_workflow_task_queue(NAMESPACE, request, Call("poll", {}, loop.time() + deadline_s, ""))


async def measured(home: str, part: str, poller: str, is_alone: bool = False) -> tuple[float, float, int]:
    """(CPU us per task, tasks a second, batches): shard at `home`, its partition at `part`, polls at `poller`."""
    started: dict[Any, int] = {}
    nodes = {node_id: Bench(node_id, started) for node_id in (NODES[:1] if is_alone else NODES)}
    members = [await node.listen() for node in nodes.values()]
    for node in nodes.values():
        await node.join(members)
        node.home = nodes[home]
    await asyncio.sleep(0.05)
    shard = 0 if is_alone else nodes["a"].routed._places.nodes_of(QUEUE).index(part)
    workers = [asyncio.create_task(nodes[poller].poll(QUEUE, 60.0)) for _ in range(POLLERS)]
    await asyncio.sleep(0.2)
    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(TASKS):
        nodes[home].routed.offer(hint(number, QUEUE, shard))
        if number - len(started) > 500:
            await asyncio.sleep(0)
            while number - len(started) > 500:
                await asyncio.sleep(0.0005)
    while len(started) < TASKS:
        await asyncio.sleep(0.0005)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    batches = sum(node.matching.counts["message"] for node in nodes.values())
    for worker in workers:
        worker.cancel()
    for node in nodes.values():
        node.routed.close()
        await node.client.close()
        await node.server.stop(0.1)
        await node.spawn.close()
    return cpu / TASKS * 1e6, TASKS / took, batches


async def main() -> None:
    root, *rest = dict.fromkeys(Places(Ring([info(node) for node in NODES], SHARDS), "a", MatchingLimits()).nodes_of(QUEUE))
    child, other = rest
    cases: list[tuple[str, tuple[Any, ...]]] = [
        ("one node", ("a", "a", "a", True)),
        ("all on one of three nodes", (child, child, child)),
        ("offered over one hop", (other, child, child)),
        ("offered, then forwarded to polls at the root", (other, child, root)),
        ("offered to the root, lent to polls of a child", (other, root, child)),
        ("offered, forwarded, lent", (root, child, other)),
    ]
    for name, case in cases:
        cpu_us, rate, batches = await measured(*case)
        print(f"{name:48} {cpu_us:7.1f} us CPU a task  {rate:9.0f} tasks/s  {TASKS / max(1, batches):7.0f} tasks a message")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    uvloop.run(main())
