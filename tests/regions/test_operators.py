"""What operators meet: a run in quarantine, a region taken out and back, a way that is cut in one direction, a return.

Behaviours of replication.md section 9, on the nodes of two regions.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.replication.v1 import ClusterReplicationConfig, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest
from temporalio.service import RPCError

from cluster.history.forks import Poison
from cluster.history.run_delta import RunDelta
from cluster.node import Node
from cluster.node_config import StoreConfig, VisibilityConfig
from cluster.region_control import HEAR_PEERS_S, RegionControl
from cluster.region_parts import RegionParts
from ops.cli.exit_codes import EXIT_FAILED, EXIT_OK
from replication.failover_report import Kind
from replication.loss_ledger import LossLedger
from tests.regions.looking import has_runs, poll
from tests.regions.regions import NAMESPACE, THREE, TWO, CutRegions, Regions, RegionSpec, eventually, regions
from tests.regions.workflows import QUEUE, Letters, Timer, worker

OUTLAST = str(Path(sys.executable).with_name("outlast"))


def parts_of(node: Node) -> RegionParts:
    parts = node.assembly.regions
    assert parts is not None
    return parts


def control_of(c: Regions, name: str) -> RegionControl:
    return parts_of(c.nodes[name]).control


# --- quarantine -------------------------------------------------------------------------------------------------------------
class Broken:
    """What a region is told of the workflow "bad" cannot be applied, until it is mended."""

    def __init__(self, node: Node) -> None:
        self._region = parts_of(node).region
        self._honest = self._region.take_in
        self._region.take_in = self._fails
        self.is_mended = False

    async def _fails(self, delta: RunDelta) -> Any:
        if delta.workflow_id == "bad" and not self.is_mended:
            raise Poison("a fault of the test")
        return await self._honest(delta)


async def has_quarantined(c: Regions, name: str) -> bool:
    return bool(await control_of(c, name).admin.quarantine())


async def test_dlq_workflow_replication_task_failure() -> None:
    async with regions() as c:
        broken = Broken(c.nodes["c2"])
        await c.one.start_workflow(Letters.run, "a", id="bad", task_queue=QUEUE)
        await c.one.start_workflow(Letters.run, "a", id="good", task_queue=QUEUE)
        await eventually(partial(has_quarantined, c, "c2"), "a row in quarantine")
        await eventually(partial(has_runs, c, "c2", 1), "the good run alone")
        admin = control_of(c, "c2").admin
        (row,) = await admin.quarantine()
        assert (row["workflow_id"], row["peer"], row["reason"]) == ("bad", "c1", "a fault of the test")
        assert await admin.quarantine_row(row["id"]) == row
        failed = await admin.quarantine_retry(row["id"])
        assert not failed["is_taken_in"] and failed["reason"] == "a fault of the test"
        assert (await admin.quarantine_row(row["id"]))["attempts"] == row["attempts"] + 1
        broken.is_mended = True
        assert (await admin.quarantine_retry(row["id"]))["is_taken_in"]
        assert await admin.quarantine() == []
        await c.agree()
        assert {workflow_id for workflow_id, _ in await c.executions("c2")} == {"bad", "good"}


async def outlast(c: Regions, name: str, *words: str) -> tuple[int, str]:
    """The command as an operator gives it, against the HTTP port of the region's node."""
    address = f"127.0.0.1:{c.nodes[name].http_port}"
    process = await asyncio.create_subprocess_exec(
        OUTLAST, *words, "--address", address, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode() + err.decode()


async def test_dlq_is_read_and_merged_with_the_commands() -> None:
    async with regions() as c:
        broken = Broken(c.nodes["c2"])
        handle = await c.one.start_workflow(Letters.run, "a", id="bad", task_queue=QUEUE)
        await eventually(partial(has_quarantined, c, "c2"), "a row in quarantine")
        code, told = await outlast(c, "c2", "region", "quarantine", "list", "--output", "json")
        (row,) = json.loads(told)
        assert code == EXIT_OK and row["run_id"] == handle.result_run_id and row["namespace"] == NAMESPACE
        code, told = await outlast(c, "c2", "region", "quarantine", "show", row["id"])
        assert code == EXIT_OK and "a fault of the test" in told and "bad" in told
        code, told = await outlast(c, "c2", "region", "quarantine", "retry", row["id"])
        assert code == EXIT_FAILED and "not taken in: a fault of the test" in told
        broken.is_mended = True
        code, told = await outlast(c, "c2", "region", "quarantine", "retry", row["id"])
        assert code == EXIT_OK and "taken in" in told
        code, told = await outlast(c, "c2", "region", "quarantine", "list")
        assert code == EXIT_OK and "nothing is in quarantine" in told
        await c.agree()
        assert await has_runs(c, "c2", 1)


# --- clusters of a namespace --------------------------------------------------------------------------------------------------
def _clusters(*names: str) -> NamespaceReplicationConfig:
    return NamespaceReplicationConfig(clusters=[ClusterReplicationConfig(cluster_name=name) for name in names])


async def test_force_workflow_task_close_with_cluster_reconnect() -> None:
    """A task is started in c1, the namespace fails over, c1 leaves it and comes back: the run can be completed."""
    async with regions() as c:
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        task = await poll(c, "c1")
        assert task.task_token
        await c.agree()
        await c.fail_over("c2")
        await c.update("c2", replication_config=_clusters("c2"))
        await c.update("c2", replication_config=_clusters("c2", "c1"))
        with pytest.raises(RPCError):  # whoever still has the task from before: it is void
            await c.two.workflow_service.respond_workflow_task_completed(
                RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token, identity="late")
            )
        async with worker(c.two):
            await c.two.get_workflow_handle("w").signal(Letters.tell, "end")
            assert set(await c.two.get_workflow_handle("w", result_type=list[str]).result()) == {"a", "end"}
        await c.agree()
        assert await c.versions("w") == [1, 2]


# --- the way between ------------------------------------------------------------------------------------------------------------
async def test_asymmetric_partition() -> None:
    """c1 reaches nobody, c2 reaches c1: runs flow both ways over the link that c2 dials, and a failover is heard of."""
    async with regions() as c:
        remote = parts_of(c.nodes["c1"]).remote
        assert isinstance(remote, CutRegions)
        remote.is_cut = True
        await remote.real.close()
        await c.one.start_workflow(Letters.run, "a", id="from c1", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.two):
            await c.two.get_workflow_handle("from c1").signal(Letters.tell, "end")
            await c.two.get_workflow_handle("from c1").result()
        await c.two.start_workflow(Letters.run, "a", id="from c2", task_queue=QUEUE)
        await c.agree()
        with pytest.raises(RPCError):  # what must be carried out in c2 cannot be asked for in c1 now
            await c.one.workflow_service.signal_workflow_execution(  # not by the handle, which would try again and again
                SignalWorkflowExecutionRequest(
                    namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id="from c2"), signal_name="tell"
                )
            )
        remote.is_cut = False
        await c.one.get_workflow_handle("from c2").signal(Letters.tell, "heard")
        await c.agree()


# --- forced failovers ---------------------------------------------------------------------------------------------------------
async def test_a_forced_failover_notes_how_far_the_lost_region_was_heard() -> None:
    async with regions() as c:
        for number in range(6):
            await c.one.start_workflow(Letters.run, "a", id=f"w{number}", task_queue=QUEUE)
        await c.agree()
        heard = {int(shard.id): shard.journal.durable_position for shard in c.nodes["c1"].history.ownership.open.values()}
        receiver = parts_of(c.nodes["c2"]).region._receivers["c1"]
        assert receiver.heard == receiver.told and all(at <= heard[shard] for shard, at in receiver.heard.items())
        assert receiver.heard, "six workflow ids are in some shard"
        was_heard = receiver.heard
        await c.cut()
        report = await control_of(c, "c2").failovers.fail_over(NAMESPACE, "c2", Kind.FORCED)
        assert report.is_done
        ledger = LossLedger(c.nodes["c2"].store, 7)
        (cut,) = await ledger.cuts()
        assert (cut.peer, cut.old_version, cut.new_version) == ("c1", 1, 2)
        assert dict(cut.positions) == was_heard


# --- a return -------------------------------------------------------------------------------------------------------------------
async def test_a_region_that_returns_fires_no_timer_of_runs_that_another_has_taken_over(tmp_path: Path) -> None:
    """Without a witness: it asks the regions it is linked with before its shards open."""
    files = StoreConfig(kind="sqlite", url=str(tmp_path / "c1.db"))
    specs = [RegionSpec("c1", 3, files, VisibilityConfig(kind="sqlite", url=str(tmp_path / "c1.visibility.db"))), TWO[1]]
    async with regions(specs) as c:
        async with worker(c.one):
            await c.one.start_workflow(Timer.run, 2.0, id="w", task_queue=QUEUE)
            await eventually(partial(_has_started_timer, c), "the timer is in both regions")
        await _stop(c, "c1")
        await c.fail_over("c2", is_known_to_all=False)
        await eventually(partial(_has_fired, c), "the timer has fired in c2")
        await c.start(specs[0], 1)
        async with worker(c.two):
            await c.two.get_workflow_handle("w").result()
        await c.link_all()
        await c.agree()
        fired = [one.version for one in await c.history("c1", "w") if one.event_type == EventType.EVENT_TYPE_TIMER_FIRED]
        assert fired == [2]
        assert await control_of(c, "c2").admin.conflicts() == [], "c1 has written nothing that was lost"
        assert (await control_of(c, "c2").admin.ledger())["summary"]["lines"] == 0


async def _has_started_timer(c: Regions) -> bool:
    if not await has_runs(c, "c2", 1):
        return False
    return any(one.event_type == EventType.EVENT_TYPE_TIMER_STARTED for one in await c.history("c2", "w"))


async def _has_fired(c: Regions) -> bool:
    return any(one.event_type == EventType.EVENT_TYPE_TIMER_FIRED for one in await c.history("c2", "w"))


async def _stop(c: Regions, name: str) -> None:
    node = c.nodes[name]
    await node.drain(hands_over=False)
    await node.close()


async def test_regions_that_do_not_answer_hold_a_start_up_for_a_second_and_no_longer() -> None:
    async with regions(THREE) as c:
        parts = parts_of(c.nodes["c1"])
        asked: list[str] = []

        async def silent(region: str, *rest: Any) -> bytes:
            asked.append(region)
            await asyncio.Event().wait()
            raise AssertionError

        remote = parts.remote
        honest, remote.forward = remote.forward, silent  # type: ignore[method-assign, assignment]
        began = time.monotonic()
        await parts.control.hear_of_moves()
        took_s = time.monotonic() - began
        remote.forward = honest  # type: ignore[method-assign]
        assert set(asked) == {"c2", "c3"} and HEAR_PEERS_S <= took_s < HEAR_PEERS_S + 0.8, "both at once"


async def test_a_returning_region_hears_of_a_failover_with_one_question() -> None:
    async with regions() as c:
        await c.cut()
        await c.fail_over("c2", is_known_to_all=False)
        assert (await c.describe("c1")).replication_config.active_cluster_name == "c1"
        await control_of(c, "c1").hear_of_moves()  # nobody can be asked: it stays as it was
        assert (await c.describe("c1")).replication_config.active_cluster_name == "c1"
        remote = parts_of(c.nodes["c1"]).remote
        assert isinstance(remote, CutRegions)
        remote.is_cut = False
        await control_of(c, "c1").hear_of_moves()
        record = c.nodes["c1"].namespaces.cached(NAMESPACE)
        assert record is not None and (record.active_cluster, record.failover_version) == ("c2", 2)
        c.heal()
