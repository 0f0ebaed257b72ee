"""What is done to the region, and how each is undone.

| fault          | to            | what                                                                               |
|----------------|---------------|------------------------------------------------------------------------------------|
| kill *         | a node        | SIGKILL; started again after 0 to 9 s, before or after the others took its shards  |
| freeze *       | a node        | SIGSTOP for longer than its lease, then SIGCONT: it comes back as a stale owner    |
| doze *         | a node        | SIGSTOP for less than its lease: late, but still the owner                         |
| restart        | a node        | SIGTERM and start: it hands its shards over first                                  |
| etcd_kill      | etcd          | SIGKILL; started again after 0 to 12 s, on its data                                |
| database_kill  | the database  | SIGKILL to all its processes; started again after 0 to 3 s                         |
| database_slow  | a node's link | every piece of data comes 50 to 300 ms late                                        |
| database_cut   | a node's link | writes are carried out, their answers are lost                                     |
| database_mute  | a node's link | nothing comes back, for longer than a statement may take                           |
| etcd_mute      | a node's link | for longer than its lease: alive, serving, and taken for dead                      |
| wire_cut       | a node's link | calls of other nodes to it are lost                                                |
| wire_mute      | a node's link | calls of other nodes to it are never answered                                      |

* counts as a node fault
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.service import RPCError

from chaos.checkers.ledger import ActKind, Outcome
from chaos.cluster.plan import FaultRecord
from chaos.cluster.region import LEASE_S, Links
from chaos.cluster.stage import Stage
from chaos.crash.requests import NO_ANSWER, payloads
from ops.cluster_servers import NodeServer
from ops.services.proxy import Mode, TcpProxy

RECOVERY_S_GIVE_UP = 45.0
STATEMENT_S = 5.0  # region.yaml, store.statement_timeout_s: its default


class Kind(NamedTuple):
    weight: int
    is_node_fault: bool


@dataclass
class Done:
    """What a fault tells of itself."""

    target: str
    recovery_s: dict[int, float | None]
    note: str = ""


KINDS: dict[str, Kind] = {
    "kill": Kind(10, True),
    "freeze": Kind(6, True),
    "doze": Kind(2, True),
    "restart": Kind(2, False),
    "etcd_kill": Kind(2, False),
    "database_kill": Kind(2, False),
    "database_slow": Kind(1, False),
    "database_cut": Kind(2, False),
    "database_mute": Kind(1, False),
    "etcd_mute": Kind(2, False),
    "wire_cut": Kind(1, False),
    "wire_mute": Kind(1, False),
}


class Faults:
    """One instance per campaign; each method is a fault from its begin until it is undone."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.region = stage, stage.region
        self.stream = stage.streams("faults")
        self.pokes = 0
        # Which fault is chosen does not depend on how long those before it took.
        self.kinds = {name: kind for name, kind in KINDS.items() if self._is_possible(name)}

    def _is_possible(self, name: str) -> bool:
        has_links = all(links.database is not None for links in self.region.links.values())
        return has_links or name not in ("database_slow", "database_cut", "database_mute")

    def draw(self, node_faults: bool | None = None) -> str:
        kinds = {name: kind for name, kind in self.kinds.items() if node_faults in (None, kind.is_node_fault)}
        return self.stream.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]

    async def run(self, name: str, is_alone: bool) -> FaultRecord:
        """Does it and undoes it. A shard that does not come back in time is a violation."""
        work: Callable[[], Awaitable[Done]] = getattr(self, f"_{name}")
        record = FaultRecord(name, "", round(self.stage.now_s, 2), is_alone=is_alone)
        self.stage.report.faults.append(record)
        self.stage.note("fault", name=name, alone=is_alone)
        done = await work()
        record.target, record.recovery_s, record.note = done.target, done.recovery_s, done.note
        record.ended_s = round(self.stage.now_s, 2)
        self.stage.note("fault over", name=name, target=done.target, recovery_s=done.recovery_s, text=done.note)
        for shard, seconds in done.recovery_s.items():
            if seconds is None:
                text = f"shard {shard} took no write for {RECOVERY_S_GIVE_UP:.0f} s after {name} of {done.target}"
                self.stage.report.violate("liveness", f"{text} at {record.at_s} s")
        return record

    # --- nodes ----------------------------------------------------------------------------------------------------------
    def _choose(self) -> NodeServer:
        nodes = [node for node in self.region.nodes.nodes if node.node_id not in self.stage.disturbed and node.alive()]
        node = self.stream.choice(nodes)
        self.stage.disturbed.add(node.node_id)
        return node

    def _leave_alone(self, node: NodeServer) -> None:
        self.stage.disturbed.discard(node.node_id)

    def _watch(self, shards: list[int], since: float) -> asyncio.Task[dict[int, float | None]]:
        return asyncio.create_task(self.stage.canaries.answer_again(shards, since, RECOVERY_S_GIVE_UP))

    async def _kill(self) -> Done:
        node = self._choose()
        shards = await self.region.shards_of(node)
        down_s = self.stream.uniform(0.0, 9.0)
        await asyncio.to_thread(node.kill)
        watching = self._watch(shards, time.monotonic())
        await asyncio.sleep(down_s)
        await self.region.start_node(node)
        self._leave_alone(node)
        recovery = await watching
        return Done(node.node_id, recovery, f"down for {down_s:.1f} s")

    async def _freeze(self) -> Done:
        node = self._choose()
        shards = await self.region.shards_of(node)
        for_s = LEASE_S + self.stream.uniform(2.0, 6.0)
        node.pause()
        watching = self._watch(shards, time.monotonic())
        await asyncio.sleep(for_s / 2)
        poked = asyncio.create_task(self._poke(node, shards))
        await asyncio.sleep(for_s / 2)
        node.resume()
        told = await poked
        self._leave_alone(node)
        recovery = await watching
        return Done(node.node_id, recovery, f"for {for_s:.1f} s; a write that waited for it: {told}")

    async def _poke(self, node: NodeServer, shards: list[int]) -> str:
        """A write for one of its shards waits in the frozen node's socket: on waking it may still believe itself the owner."""
        if not shards:
            return "it owned nothing"
        self.pokes += 1
        workflow_id = self.stage.canaries.ids[self.stream.choice(shards)]
        service = self.stage.clients[node.node_id].workflow_service
        with self.stage.requests.act(ActKind.SIGNAL, workflow_id, "poker", attempts=1) as act:
            request = SignalWorkflowExecutionRequest(
                namespace=self.stage.spread.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id),
                signal_name="poke",
                input=payloads(act.token),
                request_id=act.token,
            )
            try:
                await service.signal_workflow_execution(request, timeout=timedelta(seconds=30))
                act.outcome = Outcome.ACKED
            except RPCError as error:
                act.error = f"{error.status.name}: {error.message}"
                if error.status not in NO_ANSWER:
                    act.outcome = Outcome.REFUSED
        return act.error or act.outcome

    async def _doze(self) -> Done:
        node = self._choose()
        for_s = self.stream.uniform(0.2, LEASE_S - 2.5)
        node.pause()
        await asyncio.sleep(for_s)
        node.resume()
        self._leave_alone(node)
        return Done(node.node_id, {}, f"for {for_s:.1f} s")

    async def _restart(self) -> Done:
        node = self._choose()
        shards = await self.region.shards_of(node)
        watching = self._watch(shards, time.monotonic())
        await asyncio.to_thread(node.stop)
        code = node.exit_code
        if code != 0:
            self.stage.report.violate("orderly_end", f"{node.node_id} ended with {code} at SIGTERM")
        await self.region.start_node(node)
        self._leave_alone(node)
        await watching
        return Done(node.node_id, {}, f"exit code {code}")

    # --- what all nodes need --------------------------------------------------------------------------------------------
    async def _etcd_kill(self) -> Done:
        down_s = self.stream.uniform(0.0, 12.0)
        await self.region.kill_etcd()
        await asyncio.sleep(down_s)
        await self.region.start_etcd()
        return Done("etcd", {}, f"down for {down_s:.1f} s")

    async def _database_kill(self) -> Done:
        down_s = self.stream.uniform(0.0, 3.0)
        await self.region.kill_database()
        await asyncio.sleep(down_s)
        await self.region.start_database()
        since = time.monotonic()
        recovery = await self.stage.canaries.answer_again(self.stage.canaries.ids, since, RECOVERY_S_GIVE_UP)
        return Done("database", recovery, f"down for {down_s:.1f} s")

    # --- links ----------------------------------------------------------------------------------------------------------
    async def _link(self, pick: Callable[[Links], TcpProxy | None], mode: Mode, for_s: float, cut: bool = False) -> Done:
        node_id = self.stream.choice([node.node_id for node in self.region.nodes.nodes])
        link = pick(self.region.links[node_id])
        assert link is not None, "drawn only where there is one"
        link.mode = mode
        if cut:
            link.cut()
        await asyncio.sleep(for_s)
        link.mode = "pass"
        link.cut()  # what was swallowed is not made up for: both ends have to see that
        return Done(node_id, {}, f"{mode} for {for_s:.1f} s")

    async def _database_slow(self) -> Done:
        for links in self.region.links.values():
            assert links.database is not None
            links.database.delay_s = self.stream.uniform(0.05, 0.3)
        return await self._link(lambda links: links.database, "slow", self.stream.uniform(3.0, 8.0))

    async def _database_cut(self) -> Done:
        return await self._link(lambda links: links.database, "lose_answers", self.stream.uniform(0.3, 3.0))

    async def _database_mute(self) -> Done:
        return await self._link(lambda links: links.database, "silent", STATEMENT_S + self.stream.uniform(0.5, 3.0))

    async def _etcd_mute(self) -> Done:
        return await self._link(lambda links: links.etcd, "deaf", LEASE_S + self.stream.uniform(2.0, 6.0))

    async def _wire_cut(self) -> Done:
        return await self._link(lambda links: links.wire, "lose_requests", self.stream.uniform(0.5, 5.0), cut=True)

    async def _wire_mute(self) -> Done:
        return await self._link(lambda links: links.wire, "deaf", self.stream.uniform(1.0, 8.0))

    # --- the end ----------------------------------------------------------------------------------------------------------
    async def undo_all(self) -> None:
        """Everything runs again, whatever was under way."""
        self.region.mend_links()
        with suppress(AssertionError):  # it runs already
            await self.region.start_etcd()
        for node in self.region.nodes.nodes:
            if node.is_paused:
                node.resume()
            if not node.alive():
                await self.region.start_node(node)
        self.stage.disturbed.clear()
