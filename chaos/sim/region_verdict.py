"""What several regions have at the end, gathered for the checkers: each region's runs, histories, rows, records and ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import RunHistory
from chaos.checkers.linear import starts_are_linearizable
from chaos.checkers.promises import (
    children_agree_with_parents,
    external_signals_once,
    request_ids_once,
    results_come_from_their_attempt,
)
from chaos.checkers.recorded_once import acked_recorded_once
from chaos.checkers.regions import AT_THE_END, LedgerEntry, RegionsEvidence, RegionView, i7_one_open_run
from chaos.checkers.well_formed import event_ids_dense, histories_well_formed
from chaos.checkers.written import Written
from chaos.sim.region import Region
from chaos.sim.replays import histories_replay
from chaos.sim.verdict import is_fed, states_agree
from chaos.sim.world import World
from cluster.core.entry import Entry, encode_entry
from cluster.core.errors import CallerError, Code
from cluster.core.state import RunState, checksum
from cluster.frontend.forwarding import REDIRECTION
from cluster.history.loss_rows import LEDGER_KIND, decode_row
from cluster.history.replicas import BRANCHES_KIND, BranchList
from cluster.namespaces.record import NamespaceRecord, decode_record
from cluster.namespaces.rows import KIND as NAMESPACE_KIND
from cluster.stores.base import RunKey, ShardId
from replication.cursors import CURSOR_KIND

if TYPE_CHECKING:
    from chaos.sim.region_story import RegionStory

HERE: Mapping[str, str] = {REDIRECTION: "false"}  # from the region that is asked, whoever is active


def watch_writes(world: World, written: Written) -> None:
    """From now on `written` hears of every append, and of the rows that say who owns what."""
    for region in world.regions:
        region.disk.on_append = _told_of_appends(region, written)
        region.disk.on_metadata = _told_of_rows(region, written)


def _told_of_appends(region: Region, written: Written) -> Any:
    def told(entries: list[Entry]) -> None:
        written.appended(region.name, [(entry, encode_entry(entry)) for entry in entries])

    return told


def _told_of_rows(region: Region, written: Written) -> Any:
    def told(kind: str, id: str, data: bytes) -> None:
        if kind == NAMESPACE_KIND:
            record = decode_record(data)
            written.owned(region.name, record.id, record.failover_version if record.is_global else 0, record.active_cluster)
        elif kind == CURSOR_KIND:
            shard = ShardId(int(id.rpartition("/")[2]))
            position = msgspec.msgpack.decode(data, type=int)
            written.cursor(region.name, id, position, region.disk.durable_position(shard))

    return told


class Gathering:
    """Reads a story's world, and judges it."""

    def __init__(self, story: RegionStory) -> None:
        self.story, self.world = story, story.world

    # --- runs -------------------------------------------------------------------------------------------------------------
    def states(self, region: str) -> dict[RunKey, RunState]:
        """By the fold of all entries; deleted runs are left out."""
        states = self.story.chronicles[region].advance()
        return {key: state for key, state in sorted(states.items()) if not state.is_deleted}

    def deleted(self) -> frozenset[str]:
        """Where a region has deleted it, or a client was told so."""
        told = {run_id for workload in self.story.workloads for run_id in workload.deleted}
        chronicles = self.story.chronicles.values()
        return frozenset(told | {key.run_id for one in chronicles for key, state in one.advance().items() if state.is_deleted})

    async def has_converged(self) -> bool:
        """The same runs in the same states in all regions, and nothing left to tell."""
        names = [region.name for region in self.world.regions]
        one, *others = ({key: checksum(state) for key, state in self.states(name).items()} for name in names)
        return all(one == other for other in others) and all(not lag for lag in self._lags())

    def _lags(self) -> list[str]:
        found: list[str] = []
        for region in self.world.regions:
            for node in region.nodes:
                assert node.assembly.regions is not None
                for peer, by_shard in node.assembly.regions.region.lag().items():
                    for shard, lag in by_shard.items():
                        if shard in node.history.ownership.open and (lag.positions or lag.is_catching_up or lag.entries):
                            found.append(f"{node.host} shard {shard} has not told {peer} all: {lag}")
        return found

    async def differences(self) -> list[str]:
        found = self._lags()
        first = self.world.regions[0].name
        one = self.states(first)
        for region in self.world.regions[1:]:
            other = self.states(region.name)
            for key in sorted(one.keys() | other.keys()):
                ours, theirs = one.get(key), other.get(key)
                if ours is None or theirs is None:
                    found.append(f"{key} is only in {first if theirs is None else region.name}")
                elif checksum(ours) != checksum(theirs):
                    found.append(f"{key} differs: {_difference(ours, theirs)}")
        return found

    # --- before and at the end --------------------------------------------------------------------------------------------
    async def before_the_end(self) -> list[str]:
        found: list[str] = []
        for name in self.story.namespaces:
            found += map(str, i7_one_open_run(await self._evidence(name)))
        return found

    async def are_rows_written(self) -> bool:
        return all(is_fed(region) for region in self.world.regions)

    async def judge(self) -> list[str]:
        story = self.story
        found = [str(violation) for violation in story.written.violations]
        for name in story.namespaces:
            evidence = await self._evidence(name)
            for check in AT_THE_END:
                found += map(str, check(evidence))
            found += self._judge_final(evidence)
            for region in self.world.regions:
                histories = evidence.views[region.name].histories
                found += map(str, story.written.histories_are_written(region.name, histories))
                found += [f"{region.name}: {text}" for text in await self._states_agree(region, name, histories)]
        return found

    def _judge_final(self, evidence: RegionsEvidence) -> list[str]:
        """What a region alone would be judged by. What rests on one order of all acts holds only where nothing was forced."""
        final, ledger = evidence.final, evidence.ledger
        dense = event_ids_dense(final)
        found = [*dense, *([] if dense else histories_well_formed(final)), *request_ids_once(final), *histories_replay(final)]
        found += results_come_from_their_attempt(final)
        if evidence.is_graceful:  # what a lost branch has sent to other workflows, its winner sends again
            found += [*children_agree_with_parents(final), *external_signals_once(final)]
            if not evidence.deleted:
                found += acked_recorded_once(ledger, final)
            if not any(region.skews_ns for region in self.world.regions) and not evidence.deleted:
                found += starts_are_linearizable(ledger, final)
        return [f"{evidence.namespace}: {violation}" for violation in found]

    async def _states_agree(self, region: Region, name: str, histories: list[RunHistory] | Any) -> list[str]:
        """States of all namespaces are looked at with the first one's histories, and each one's histories with its own."""
        chronicle = self.story.chronicles[region.name]
        wanted = self._namespace(region, name).id
        found = await states_agree(region, chronicle, histories)
        others = {key.run_id for key in chronicle.states if key.namespace_id != wanted}
        return [text for text in found if not any(f" {run_id}: " in text for run_id in others)]

    # --- evidence ---------------------------------------------------------------------------------------------------------
    async def _evidence(self, name: str) -> RegionsEvidence:
        views = {region.name: await self._view(region, name) for region in self.world.regions}
        run_ids = {history.run_id for view in views.values() for history in view.histories}
        namespace_id = self._namespace(self.world.region, name).id
        lines = [line for region in self.world.regions for line in await _lines(region, namespace_id)]
        final = next(iter(views.values())).histories
        return RegionsEvidence(
            namespace=name,
            views=views,
            ledger=self.story.ledgers[name],
            lines=lines,
            lost=self.story.written.lost(final),
            buffered=self.story.written.buffered,
            events=self.story.written.events,
            deleted=self.deleted(),
            is_graceful=self.story.failovers.is_graceful,
            forks_count=sum([await _forks_count(region, run_ids) for region in self.world.regions]),
        )

    def _namespace(self, region: Region, name: str) -> NamespaceRecord:
        record = region.nodes[0].assembly.namespaces.cached(name)
        assert record is not None, f"{region.name} does not know {name}"
        return record

    async def histories(self, region: Region, name: str) -> list[RunHistory]:
        namespace_id = self._namespace(region, name).id
        return [await self._history(region, name, key) for key in self.states(region.name) if key.namespace_id == namespace_id]

    async def _view(self, region: Region, name: str) -> RegionView:
        record = self._namespace(region, name)
        keys = [key for key in self.states(region.name) if key.namespace_id == record.id]
        histories = await self.histories(region, name)
        return RegionView(
            histories=histories,
            current=await self._current(region, name, sorted({key.workflow_id for key in keys})),
            digests={key.run_id: _digest(self.story.chronicles[region.name].states[key]) for key in keys},
            rows=await self._rows(region, name),
            record=_record(record),
        )

    async def _history(self, region: Region, name: str, key: RunKey) -> RunHistory:
        execution = WorkflowExecution(workflow_id=key.workflow_id, run_id=key.run_id)
        request = api.GetWorkflowExecutionHistoryRequest(namespace=name, execution=execution)
        events: list[Any] = []
        while True:
            answer = await self._ask(region, "GetWorkflowExecutionHistory", request)
            events.extend(answer.history.events)
            request.next_page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        settled = self.story.chronicles[region.name].states[key].next_event_id - 1
        return RunHistory(key.workflow_id, key.run_id, tuple(events[:settled]))

    async def _current(self, region: Region, name: str, workflow_ids: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for workflow_id in workflow_ids:
            request = api.DescribeWorkflowExecutionRequest(
                namespace=name, execution=WorkflowExecution(workflow_id=workflow_id)
            )
            try:
                answer = await self._ask(region, "DescribeWorkflowExecution", request)
            except CallerError as error:
                if error.code is not Code.NOT_FOUND:  # after the current run is deleted there is none
                    raise
            else:
                found[workflow_id] = answer.workflow_execution_info.execution.run_id
        return found

    async def _rows(self, region: Region, name: str) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        request = api.ListWorkflowExecutionsRequest(namespace=name, page_size=50)
        while True:
            answer = await self._ask(region, "ListWorkflowExecutions", request)
            for info in answer.executions:
                is_open = not info.HasField("close_time")
                length = 0 if is_open else info.history_length
                found[info.execution.run_id] = (info.execution.workflow_id, is_open, length)
            request.next_page_token = answer.next_page_token
            if not answer.next_page_token:
                return found

    async def _ask(self, region: Region, name: str, request: Any) -> Any:
        return await self.world.doors[region.name].call_patiently(name, request, HERE)


def _digest(state: RunState) -> dict[str, str]:
    return {"state": checksum(state), "history": state.history_hash.hex(), "status": str(state.status)}


def _record(record: NamespaceRecord) -> dict[str, str]:
    shown = {
        "id": record.id,
        "active": record.active_cluster,
        "version": record.failover_version,
        "state": record.replication_state,
        "clusters": sorted(record.members),
        "history": [(one.version, one.at) for one in record.failover_history],
        "attributes": sorted(record.custom_search_attributes.items()),
        "retention": record.retention_ns,
        "data": sorted(record.data.items()),
    }
    return {name: str(value) for name, value in shown.items()}


async def _branches(region: Region) -> list[BranchList]:
    rows = [row for shard in range(region.config.shards) for row in await region.disk.metadata_list(f"{BRANCHES_KIND}/{shard}")]
    return [msgspec.msgpack.decode(row.data, type=BranchList) for row in rows]


async def _lines(region: Region, namespace_id: str) -> list[LedgerEntry]:
    """The loss ledger of the region, as it is stored; also of runs that were deleted since."""
    rows = [row for shard in range(region.config.shards) for row in await region.disk.metadata_list(f"{LEDGER_KIND}/{shard}")]
    return [
        LedgerEntry(
            line.run_id, str(line.source), line.number, line.version, line.event_type, str(line.outcome), line.reason, line.key
        )
        for row in map(decode_row, (stored.data for stored in rows))
        if row.namespace_id == namespace_id
        for line in row.lines
    ]


async def _forks_count(region: Region, run_ids: set[str]) -> int:
    """Runs with a branch that lost here."""
    return sum(
        1 for listed in await _branches(region) if listed.key.run_id in run_ids and any(one.state for one in listed.branches)
    )


def _difference(one: RunState, other: RunState) -> str:
    fields = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
    return "; ".join(f"{name}: {getattr(one, name)!r} / {getattr(other, name)!r}" for name in fields)[:400]
