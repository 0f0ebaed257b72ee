"""What must hold at the end of a simulated run: the checkers on histories and ledger, and the agreement of all copies of a state.

A run's state exists four times: in the node's memory, in the store (row and journal), as the fold of every entry ever
written, and, but for what public history does not show, as the fold of its events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import RunHistory, Violation
from chaos.checkers.ledger import Ledger
from chaos.checkers.linear import starts_are_linearizable
from chaos.checkers.open_runs import counts_agree, one_open_run_per_id
from chaos.checkers.promises import (
    children_agree_with_parents,
    ended_as_told,
    external_signals_once,
    queries_see_acked_signals,
    request_ids_once,
    resets_keep_signals,
    results_come_from_their_attempt,
)
from chaos.checkers.recorded_once import acked_recorded_once
from chaos.checkers.well_formed import event_ids_dense, histories_well_formed
from chaos.sim.clients import Asked, Ended
from chaos.sim.disk import Chronicle, stored_state
from chaos.sim.rand import EPOCH_NS
from chaos.sim.region import Region, SimNode
from chaos.sim.world import NAMESPACE, World
from cluster.core.apply import fold_events
from cluster.core.state import RunState, checksum
from cluster.core.without_notes import without_notes
from cluster.stores.base import RunKey


@dataclass(frozen=True)
class Evidence:
    ledger: Ledger
    histories: Sequence[RunHistory]
    asked: Sequence[Asked]
    ended: Sequence[Ended]


def judge(evidence: Evidence) -> list[str]:
    """All checkers that need histories and the ledger alone."""
    ledger, histories = evidence.ledger, evidence.histories
    dense = event_ids_dense(histories)
    found = [
        *dense,
        *([] if dense else histories_well_formed(histories)),
        *acked_recorded_once(ledger, histories),
        *one_open_run_per_id(histories),
        *starts_are_linearizable(ledger, histories),
        *request_ids_once(histories),
        *results_come_from_their_attempt(histories),
        *resets_keep_signals(histories),
        *external_signals_once(histories),
        *children_agree_with_parents(histories),
        *ended_as_told([(one.verb, one.workflow_id, one.run_id) for one in evidence.ended], histories),
        *queries_see_acked_signals(_asked_while_open(evidence), ledger, histories),
    ]
    return [str(violation) for violation in found]


def _asked_while_open(evidence: Evidence) -> list[tuple[str, int, int]]:
    """A closed run has forgotten nothing, but what came after its last workflow task it never saw."""
    closed_ns = {run.run_id: run.closed_ns for run in evidence.histories}
    return [
        (one.run_id, one.begun_ns, one.signals_count)
        for one in evidence.asked
        if (closed := closed_ns.get(one.run_id)) is None or closed - EPOCH_NS > one.ended_ns
    ]


async def collect_histories(world: World, chronicle: Chronicle) -> list[RunHistory]:
    """Every run's whole history, as a client reads it."""
    histories: list[RunHistory] = []
    for key in sorted(chronicle.advance()):
        execution = WorkflowExecution(workflow_id=key.workflow_id, run_id=key.run_id)
        request = api.GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution)
        events: list[Any] = []
        while True:
            answer = await world.call_patiently("GetWorkflowExecutionHistory", request)
            events.extend(answer.history.events)
            request.next_page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        settled = chronicle.states[key].next_event_id - 1
        # Behind the last event a reader is shown the transient task that a worker would see; it is not history.
        histories.append(RunHistory(key.workflow_id, key.run_id, tuple(events[:settled])))
    return histories


async def states_agree(region: Region, chronicle: Chronicle, histories: Sequence[RunHistory]) -> list[str]:
    """Memory = store = fold of all entries; fold of events = what events determine of it. Deleted runs are left out."""
    states = {key: state for key, state in chronicle.advance().items() if not state.is_deleted}
    events = {(history.workflow_id, history.run_id): history for history in histories}
    found: list[Violation] = []

    def differ(key: RunKey, text: str) -> None:
        found.append(Violation("fold_equals_state", key.workflow_id, key.run_id, text))

    for key, state in sorted(states.items()):
        whole = checksum(state)
        kept = await stored_state(region.disk, chronicle.shards[key], key)
        if kept is None:
            differ(key, "has entries and is not stored")
        elif checksum(kept) != whole:
            differ(key, f"the stored state differs from the fold of its entries in {differences(kept, state)}")
        for node in region.nodes:
            held = memory_state(node, chronicle.shards[key], key)
            if held is not None and checksum(held) != whole:
                text = f"the state in the memory of {node.host} differs from the fold of its entries in"
                differ(key, f"{text} {differences(held, state)}")
        history = events.get((key.workflow_id, key.run_id))
        if history is None:
            differ(key, "began after everything had come to an end")
        elif not state.buffered:
            folded = fold_events(
                key.namespace_id, key.workflow_id, key.run_id, [event.SerializeToString() for event in history.events]
            )
            if checksum(without_notes(folded)) != checksum(without_notes(state)):
                fields = differences(without_notes(folded), without_notes(state))
                differ(key, f"the fold of its events differs from its state in {fields}")
    return [str(violation) for violation in found]


def memory_state(node: SimNode, shard: int, key: RunKey) -> RunState | None:
    """The state in the node's memory; None if the run is not there."""
    open_shard = node.history._shards.get(shard)
    run = open_shard.runs.get(key) if open_shard is not None else None
    return run.state if run is not None else None


def differences(one: RunState, other: RunState) -> str:
    fields = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
    return "; ".join(f"{name}: {getattr(one, name)!r} / {getattr(other, name)!r}" for name in fields)[:600]


def lost_children(history: RunHistory, by_run: Mapping[str, RunHistory]) -> bool:
    """A run that was reset from one which had been closed (not by the reset) waits in vain for children that were started before
    the reset point: they told the closed run, and do not tell again. The public server has the same gap; the simulator ends
    such runs from outside, and counts them."""
    base = by_run.get(history.base_run_id)
    if base is None:
        return False
    was_closed = base.closed_ns is not None and base.closed_ns < history.started_ns
    return was_closed or lost_children(base, by_run)


def is_fed(region: Region) -> bool:
    """Whether visibility has been told of everything. A shard that is open nowhere may still owe something."""
    feeds = [node.history.feed for node in region.nodes]
    open_somewhere = {number for node in region.nodes for number in node.history._shards}
    return len(open_somewhere) == region.config.shards and not any(feed._waiting or feed._writing for feed in feeds)


def open_in_one_place(region: Region) -> list[str]:
    """With a ring that has come to rest: each shard is open on one node, and it is the one that the ring names."""
    found: list[str] = []
    for number in range(region.config.shards):
        holders = [node.host for node in region.nodes if number in node.history._shards]
        named = {owner.node_id if (owner := node.ring.owner_of_shard(number)) else "nobody" for node in region.nodes}
        if holders != sorted(named):
            found.append(f"shard {number} is open on {holders}, the nodes' rings name {sorted(named)}")
    return found


async def list_agrees(world: World, chronicle: Chronicle, histories: Sequence[RunHistory]) -> list[str]:
    """The list shows every run as it is."""
    states = chronicle.advance()
    listed: list[tuple[str, str, bool]] = []
    found: list[str] = []
    request = api.ListWorkflowExecutionsRequest(namespace=NAMESPACE, page_size=50)
    while True:
        answer = await world.call_patiently("ListWorkflowExecutions", request)
        for info in answer.executions:
            workflow_id, run_id = info.execution.workflow_id, info.execution.run_id
            listed.append((workflow_id, run_id, not info.HasField("close_time")))
            state = next((one for key, one in states.items() if key.run_id == run_id), None)
            shown = (info.status, info.history_length)
            if state is not None and not state.is_open and (state.status, state.next_event_id - 1) != shown:
                found.append(f"list: {workflow_id} {run_id} is shown with {info.status}, {info.history_length} events")
        request.next_page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    found += [str(violation) for violation in counts_agree(histories, listed)]
    return found
