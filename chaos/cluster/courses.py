"""What happens to a region under load: one function per course, each ends with the region healed.

| course   | what                                                                                          |
|----------|-----------------------------------------------------------------------------------------------|
| faults   | seeded random faults of nodes, links, etcd and the database (faults.py), sometimes two at once |
| rolling  | every node in turn: SIGTERM, start                                                            |
| resize   | a node is added, then taken out again                                                         |
| versions | one node of the release, two of this version; then the old node is replaced                   |
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.cluster.audit import refused_writes
from chaos.cluster.faults import KINDS, Faults
from chaos.cluster.plan import FaultRecord, parts
from chaos.cluster.stage import Stage
from ops.cluster_servers import NodeServer

SHOW_EVERY_S = 15.0
SETTLE_S_MAX = 30.0
OVERLAP_RATE, HEAL_RATE, WORKER_KILL_RATE = 0.25, 0.7, 0.15


# --- faults -----------------------------------------------------------------------------------------------------------------
async def run_faults(stage: Stage) -> None:
    faults, plan, stream = Faults(stage), stage.plan, stage.streams("course")
    await stage.work_for(3.0)
    node_faults, shown_at, is_healed = 0, 0.0, True
    # Every kind comes at least once, where there is room for it: the draw alone could leave one out.
    least = [name for name in faults.kinds if plan.faults >= 20 or name in ("kill", "freeze", "etcd_kill", "database_kill")]
    stream.shuffle(least)
    while node_faults < plan.faults or least:
        name = least.pop() if least else faults.draw()
        second = faults.draw(node_faults=False) if stream.random() < OVERLAP_RATE and plan.faults >= 20 else ""
        second = "" if second.split("_")[0] == name.split("_")[0] else second  # not the same thing twice at once
        jobs = [faults.run(name, is_alone=is_healed and not second)]
        if second:
            jobs.append(_later(stream.uniform(0.0, 3.0), faults, second))
        if stream.random() < WORKER_KILL_RATE:
            await stage.kill_worker()
        await asyncio.gather(*jobs)
        node_faults += KINDS[name].is_node_fault
        is_healed = stream.random() < HEAL_RATE
        if is_healed:
            await stage.healthy()
            await stage.work_for(stream.uniform(0.5, 3.0))
        else:
            await asyncio.sleep(stream.uniform(0.0, 1.0))
        if stage.now_s - shown_at > SHOW_EVERY_S:
            shown_at = stage.now_s
            stage.say(f"{node_faults} of {plan.faults} node faults, {stage.acks()} acks, last {name} {second}")
    await faults.undo_all()
    await stage.healthy()
    await stage.work_for(3.0)
    _figures_of_faults(stage, faults)


async def _later(pause_s: float, faults: Faults, name: str) -> FaultRecord:
    await asyncio.sleep(pause_s)
    return await faults.run(name, is_alone=False)


def _figures_of_faults(stage: Stage, faults: Faults) -> None:
    report, records = stage.report, stage.report.faults
    killed = [seconds for one in records if one.name == "kill" for seconds in one.recovery_s.values() if seconds is not None]
    kills_alone = [one for one in records if one.name == "kill" and one.is_alone]
    alone = [seconds for one in kills_alone for seconds in one.recovery_s.values() if seconds is not None]
    counts = Counter(one.name for one in records)
    report.figures |= {
        "faults": dict(counts),
        "node faults": sum(count for name, count in counts.items() if KINDS[name].is_node_fault),
        "recovery s after SIGKILL, nothing else broken": parts(alone),
        "recovery s after SIGKILL, all": parts(killed),
        "writes sent to frozen nodes": faults.pokes,
    }
    if alone and parts(alone)["p99"] > stage.plan.recovery_s_max:
        report.violate("recovery", f"p99 {parts(alone)['p99']} s until a killed node's shard takes writes again")
    too_little = [name for name in faults.kinds if not counts[name]] if stage.plan.faults >= 20 else []
    if too_little:
        report.violate("minimum_work", f"never happened: {', '.join(too_little)}")
    refused = refused_writes(stage).values()
    if counts["freeze"] >= 3 and not sum(appends if stage.plan.store != "cassandra" else writes for writes, appends in refused):
        report.violate("minimum_work", "no append of a stale owner was refused: the fence was not tried")
    if not alone and stage.plan.faults >= 6:
        report.violate("minimum_work", "no node was killed with nothing else broken: recovery was not measured")


# --- rolling restart ----------------------------------------------------------------------------------------------------------
async def run_rolling(stage: Stage) -> None:
    """Zero failed calls beyond retryable ones: the audit's ledger knows every answer; here are the figures."""
    await stage.work_for(stage.plan.load_s)
    figures: dict[str, Any] = {}
    for node in stage.region.nodes.nodes:
        shards = await stage.region.shards_of(node)
        stage.disturbed.add(node.node_id)
        began = time.monotonic()
        watching = asyncio.create_task(stage.canaries.answer_again(shards, began, SETTLE_S_MAX))
        await asyncio.to_thread(node.stop)
        stopped = time.monotonic()
        if node.exit_code != 0:
            stage.report.violate("orderly_end", f"{node.node_id} ended with {node.exit_code} at SIGTERM")
        await stage.region.start_node(node)
        started = time.monotonic()
        silent = [shard for shard, seconds in (await watching).items() if seconds is None]
        if silent:
            stage.report.violate("liveness", f"shards {silent} took no write while {node.node_id} was restarted")
        stage.disturbed.discard(node.node_id)
        await settled(stage)
        took = {"stop_s": round(stopped - began, 2), "start_s": round(started - stopped, 2)}
        figures[node.node_id] = {"shards": len(shards), **took}
        stage.say(f"{node.node_id} restarted: {figures[node.node_id]}")
        await stage.healthy()
        await stage.work_for(stage.plan.load_s / 2)
    stage.report.figures["restarts"] = figures
    only_retryable(stage)


# --- one node more, one node less ---------------------------------------------------------------------------------------------
async def run_resize(stage: Stage) -> None:
    await stage.work_for(stage.plan.load_s)
    before = await settled(stage)
    began = time.monotonic()
    added: NodeServer = await asyncio.to_thread(stage.region.nodes.add)
    await stage.connect(added)
    with_it = await settled(stage, lambda ring: added.node_id in ring)
    in_s = round(time.monotonic() - began, 2)
    await stage.healthy()
    await stage.work_for(stage.plan.load_s)
    moved_in = [shard for shard, owner in enumerate(before) if with_it[shard] != owner]
    wrong = [shard for shard in moved_in if with_it[shard] != added.node_id]
    if wrong:
        stage.report.violate("only_its_share_moves", f"{added.node_id} came, but shards {wrong} moved between others")
    began = time.monotonic()
    stage.disconnect(added)
    await asyncio.to_thread(added.stop)
    after = await settled(stage, lambda ring: added.node_id not in ring)
    out_s = round(time.monotonic() - began, 2)
    if after != before:
        different = [shard for shard, owner in enumerate(before) if after[shard] != owner]
        stage.report.violate("only_its_share_moves", f"{added.node_id} came and went, but shards {different} have other owners")
    await stage.healthy()
    await stage.work_for(stage.plan.load_s)
    stage.report.figures |= {
        "shards": len(before),
        "moved to the new node": len(moved_in),
        "fair share": round(len(before) / len(set(with_it)), 1),
        "in s": in_s,
        "out s": out_s,
    }
    if not moved_in:
        stage.report.violate("minimum_work", "the new node was given nothing")
    only_retryable(stage)


# --- two versions ---------------------------------------------------------------------------------------------------------------
async def run_versions(stage: Stage) -> None:
    """Node 0 runs the release. Then it is replaced by this version on the same data, as an upgrade in place would."""
    await settled(stage)
    page = await stage.region.page()
    assert page is not None
    stage.report.figures["versions in the ring"] = dict(Counter(node["version"] for node in page["nodes"]))
    await stage.work_for(2 * stage.plan.load_s)
    await stage.healthy()
    old, this = stage.region.nodes.nodes[0], stage.region.nodes.nodes[1]
    # Shards move from new to old and back, so that each reads what the other wrote.
    for node in (this, old):
        stage.disturbed.add(node.node_id)
        await asyncio.to_thread(node.stop)
        await stage.work_for(stage.plan.load_s)
        if node is old:
            node.outlast = this.outlast
        await stage.region.start_node(node)
        stage.disturbed.discard(node.node_id)
        await settled(stage)
        await stage.healthy()
        await stage.work_for(stage.plan.load_s)
    only_retryable(stage)


# --- what they have in common -------------------------------------------------------------------------------------------------
async def settled(stage: Stage, wanted: Callable[[list[str]], bool] = lambda ring: True) -> list[str]:
    """Waits until every node that runs sees the same ring, and each shard is open at its owner and nowhere else. The ring."""
    give_up_at = time.monotonic() + SETTLE_S_MAX
    seen: object = None
    while time.monotonic() < give_up_at:
        running = [node for node in stage.region.nodes.nodes if node.alive()]
        try:
            pages = [await asyncio.to_thread(node.cluster_page) for node in running]
        except OSError as unreachable:
            seen = unreachable
        else:
            rings = [page["ring"] for page in pages]
            seen = rings
            open_at = {(row["shard"], row["node"]) for row in pages[0]["shards"] if row["state"]}
            if all(ring == rings[0] for ring in rings) and wanted(rings[0]) and open_at == set(enumerate(rings[0])):
                found: list[str] = rings[0]
                return found
        await asyncio.sleep(0.1)
    stage.report.violate("liveness", f"the ring did not settle within {SETTLE_S_MAX:.0f} s: {seen}")
    raise RuntimeError("the ring did not settle")


# What the official clients repeat by themselves. UNKNOWN and INTERNAL only as the HTTP/2 library reports a broken connection.
RETRYABLE = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"),
    *("UNKNOWN: transport", "INTERNAL: h2"),
)
# What the load provokes by itself: contention on few ids, policies that exclude each other.
MEANT = ("ALREADY_EXISTS", "NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT: Invalid WorkflowIDReusePolicy")


ATTEMPTS_OF_THE_SDK = 1_000  # what the ledger writes for them: nobody knows how many (chaos/crash/load.py)


def only_retryable(stage: Stage) -> None:
    """No call failed otherwise than in a way that its caller repeats."""
    strange = {text: count for text, count in stage.requests.errors_count.items() if not text.startswith((*RETRYABLE, *MEANT))}
    retryable = sum(count for text, count in stage.requests.errors_count.items() if text.startswith(RETRYABLE))
    stage.report.figures["retryable answers"] = retryable
    if strange:
        stage.report.violate("only_retryable_failures", str(strange))
    # The official client's own attempts all go to one node, which may be down for longer than it repeats; ours go to all.
    unknown = [act.token for act in stage.ledger if act.outcome == "unknown" and 5 < act.attempts < ATTEMPTS_OF_THE_SDK]
    if unknown:
        stage.report.violate("only_retryable_failures", f"these were repeated in vain: {unknown[:10]}")


COURSES: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "faults": run_faults,
    "rolling": run_rolling,
    "resize": run_resize,
    "versions": run_versions,
}
