"""The end of a campaign: the load ends, every run ends, everything is read back over the API and from the store, and checked."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import cast

from temporalio.client import Client
from temporalio.service import RPCError

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Outcome
from chaos.cluster.stage import Stage
from chaos.cluster.stored import disagreements
from chaos.crash.collect import ListedRun, as_json, count_runs, fetch_histories, list_runs
from chaos.crash.verdict import judge

# In a node's log: the store's fence refused a write, since somebody else had taken the shard.
REFUSED_WRITE = "LeaseLost"
REFUSED_APPEND = "is not the next position"  # of those the appends, as the SQL stores put it


async def audit(stage: Stage) -> None:
    """Fills the stage's report. The nodes are stopped afterwards."""
    report = stage.report
    await stage.stop_load()
    stage.say(f"load stopped after {stage.acks()} acks")
    client = cast(Client, stage.spread)
    await stage.canaries.end()
    listed = await until_every_run_ended(stage, client)
    counted = await count_runs(client)
    acked = [(act.workflow_id, act.run_id) for act in stage.ledger if act.outcome == Outcome.ACKED and act.run_id]
    histories, unreadable = await fetch_histories(client, [*((run.workflow_id, run.run_id) for run in listed), *acked])
    report.violations += unreadable
    if counted != len(histories):
        report.violate("counts_agree", f"CountWorkflowExecutions says {counted}, there are {len(histories)} histories")
    bank = {name: stage.bank.count(name) for name in ("activities retried", "movements repeated")}
    await stage.end_load()
    await _stored(stage, len(histories))
    # Minutes of pure computation for a long campaign: only now, since the nodes' links run in this very loop.
    report.violations += judge(stage.ledger, histories, listed, stage.bank, stage.load, 0)
    _summarise(stage, histories, bank)
    if report.violations:
        with (stage.plan.folder / "histories.jsonl").open("w") as file:
            file.writelines(json.dumps(as_json(history)) + "\n" for history in histories)


async def until_every_run_ended(stage: Stage, client: Client) -> list[ListedRun]:
    """Entities are told to finish; all else ends by itself. Returns the list at its end."""
    begun = time.monotonic()
    while True:
        listed = await list_runs(client)
        still_open = [run for run in listed if run.is_open]
        stage.report.quiet_s = round(time.monotonic() - begun, 1)
        if not still_open or stage.report.quiet_s > stage.plan.quiet_s_max:
            stage.note("quiet", open=[run.workflow_id for run in still_open])
            return listed
        for run in still_open:
            if run.workflow_id.startswith("entity-"):
                with suppress(RPCError):  # it may have closed since it was listed
                    await client.get_workflow_handle(run.workflow_id).signal("finish")
        await asyncio.sleep(0.5)


async def _stored(stage: Stage, runs_count: int) -> None:
    """Stored state = fold, once no node writes any more."""
    await asyncio.to_thread(stage.region.nodes.stop)
    codes = {node.node_id: node.exit_code for node in stage.region.nodes.nodes}
    for node_id, code in codes.items():
        if code != 0:
            stage.report.violate("orderly_end", f"{node_id} ended with {code} at SIGTERM")
    store = stage.region.store()
    await store.open()
    try:
        count, found = await disagreements(store, stage.plan.shards)
    finally:
        await store.close()
    stage.report.figures["stored states compared with their fold"] = count
    for text in found:
        stage.report.violate("stored_state_is_the_fold", text)
    if count < runs_count:
        stage.report.violate("stored_state_is_the_fold", f"{count} stored runs, but {runs_count} histories")


def refused_writes(stage: Stage) -> dict[str, tuple[int, int]]:
    """node id -> how often its log tells that the fence refused a write of its, and how many of these were appends."""
    logs = {node.node_id: node.log for node in stage.region.nodes.nodes if node.log.exists()}
    texts = {node_id: log.read_text(errors="replace") for node_id, log in logs.items()}
    return {node_id: (text.count(REFUSED_WRITE), text.count(REFUSED_APPEND)) for node_id, text in texts.items()}


def _summarise(stage: Stage, histories: list[RunHistory], bank: dict[str, int]) -> None:
    report, requests = stage.report, stage.requests
    report.runs = len(histories)
    report.events = sum(len(history.events) for history in histories)
    report.counts = stage.ledger.counts()
    report.acks = stage.acks()
    report.figures |= {
        "requests retried": requests.retried_count,
        "requests doubled": requests.doubled_count,
        "worker kills": stage.worker_kills,
        "activities retried": bank["activities retried"],
        "bank movements repeated": bank["movements repeated"],
        "writes refused by the fence, appends of them": refused_writes(stage),
        "answers with an error": dict(sorted(requests.errors_count.items())),
    }
