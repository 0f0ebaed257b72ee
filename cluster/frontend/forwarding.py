"""Every region accepts every call. One about a namespace that is active in another region goes there, one hop, as it came.

| placement | active elsewhere | `xdc-redirection: false`, active elsewhere | in handover                        |
|-----------|------------------|--------------------------------------------|------------------------------------|
| HERE      | served here      | served here                                | served                             |
| NOTICE    | forwarded        | NamespaceNotActive                         | goes on                            |
| LIST      | forwarded        | served here, from the local copy           | goes on: lists lag anyway          |
| READ      | forwarded        | served here, from the local copy           | held: it must see what was written |
| ACTIVE    | forwarded        | NamespaceNotActive                         | held                               |

Held: the call waits until the namespace's record changes and is then placed anew, or UNAVAILABLE after HOLD_S. The same when a
region says NamespaceNotActive: two regions disagree for a moment, nothing was done, and whoever is behind hears of it soon.
A forwarded call is marked, and the region that gets it serves it or says NamespaceNotActive: it goes nowhere else. Polls and
waiting reads follow the namespace when it becomes active in another region, whether they wait here or there, and also from a
region that does not answer any more: workers get tasks again at once, not when their poll is over.

The request's bytes and the answer's are passed on as they are, and so are a refusal's details; validation is the active region's.
Of the headers, those that belong to one connection stay behind, and binary ones (the transport does not keep them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from enum import Enum
from typing import Any

from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import Message
from temporalio.api.errordetails.v1 import NamespaceNotActiveFailure

from cluster.core.errors import CallerError, Code, unavailable
from cluster.frontend.call import Call, Handler
from cluster.frontend.methods import Method
from cluster.frontend.ports import NamespacesPort
from cluster.frontend.validation import LONG_POLL_MIN_S
from cluster.namespaces.record import HANDOVER, NamespaceRecord
from cluster.namespaces.regions import namespace_not_active
from replication.link import Forwards, UnknownRegion

MARK = "outlast-forwarded-from"  # names the region that forwarded; any client may set it, which only takes a freedom from it
REDIRECTION = "xdc-redirection"  # the public server's header, with the words its ParseBool takes for "no"
_NO = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_OF_ONE_CONNECTION = frozenset({"te", "host", "connection", "content-type", "user-agent", MARK})

HOLD_S = 2.0  # a graceful handover takes less (replication.md 7); SDKs retry UNAVAILABLE
HOLD_TAIL_S = 0.1  # the answer must arrive before the client gives up (the public server's ctxTailRoom)
FORWARD_S_MAX = 90.0  # of a call without a deadline: no long poll lasts longer
PLACED_COUNT_MAX = 4  # times one call is placed; a namespace that moves more often within one call is left to the client


class Placement(Enum):
    HERE = "about this cluster, or about namespaces, which every region holds"
    NOTICE = "a word of a worker to whoever gives it tasks"
    LIST = "reads what lags behind anyway"
    READ = "reads a run or a queue"
    ACTIVE = "changes something, or waits for a worker"


_PER_PLACEMENT: dict[Placement, str] = {
    Placement.HERE: """
        GetSystemInfo GetClusterInfo RegisterNamespace DescribeNamespace ListNamespaces UpdateNamespace DeprecateNamespace
        DeleteNamespace GetSearchAttributes AddSearchAttributes RemoveSearchAttributes ListSearchAttributes ListClusters
        AddOrUpdateRemoteCluster RemoveRemoteCluster GetNexusEndpoint ListNexusEndpoints CreateNexusEndpoint
        UpdateNexusEndpoint DeleteNexusEndpoint""",
    Placement.NOTICE: "ShutdownWorker RecordWorkerHeartbeat",
    Placement.LIST: """
        ListOpenWorkflowExecutions ListClosedWorkflowExecutions ListWorkflowExecutions ListArchivedWorkflowExecutions
        ScanWorkflowExecutions CountWorkflowExecutions ListTaskQueuePartitions ListSchedules CountSchedules ListBatchOperations
        ListDeployments ListWorkerDeployments ListWorkflowRules ListWorkers CountWorkers ListActivityExecutions
        CountActivityExecutions ListNexusOperationExecutions CountNexusOperationExecutions""",
    Placement.READ: """
        GetWorkflowExecutionHistory GetWorkflowExecutionHistoryReverse DescribeWorkflowExecution DescribeTaskQueue
        DescribeSchedule ListScheduleMatchingTimes DescribeBatchOperation DescribeWorkflowRule DescribeWorker
        DescribeActivityExecution DescribeNexusOperationExecution PollActivityExecution PollNexusOperationExecution
        PollWorkflowExecutionTimeSkipping GetWorkerBuildIdCompatibility GetWorkerVersioningRules GetWorkerTaskReachability
        DescribeDeployment GetDeploymentReachability GetCurrentDeployment DescribeWorkerDeployment
        DescribeWorkerDeploymentVersion FetchWorkerConfig ValidateWorkerDeploymentVersionComputeConfig""",
    Placement.ACTIVE: """
        StartWorkflowExecution ExecuteMultiOperation SignalWorkflowExecution SignalWithStartWorkflowExecution
        RequestCancelWorkflowExecution ResetWorkflowExecution TerminateWorkflowExecution DeleteWorkflowExecution
        UpdateWorkflowExecution PollWorkflowExecutionUpdate QueryWorkflow ResetStickyTaskQueue UpdateWorkflowExecutionOptions
        PauseWorkflowExecution UnpauseWorkflowExecution
        PollWorkflowTaskQueue RespondWorkflowTaskCompleted RespondWorkflowTaskFailed RespondQueryTaskCompleted
        PollActivityTaskQueue RecordActivityTaskHeartbeat RecordActivityTaskHeartbeatById RespondActivityTaskCompleted
        RespondActivityTaskCompletedById RespondActivityTaskFailed RespondActivityTaskFailedById RespondActivityTaskCanceled
        RespondActivityTaskCanceledById PollNexusTaskQueue RespondNexusTaskCompleted RespondNexusTaskFailed
        UpdateActivityOptions PauseActivity UnpauseActivity ResetActivity
        CreateSchedule UpdateSchedule PatchSchedule DeleteSchedule StartBatchOperation StopBatchOperation
        UpdateWorkerBuildIdCompatibility UpdateWorkerVersioningRules SetCurrentDeployment SetWorkerDeploymentCurrentVersion
        DeleteWorkerDeployment DeleteWorkerDeploymentVersion SetWorkerDeploymentRampingVersion CreateWorkerDeployment
        CreateWorkerDeploymentVersion UpdateWorkerDeploymentVersionComputeConfig UpdateWorkerDeploymentVersionMetadata
        SetWorkerDeploymentManager CreateWorkflowRule DeleteWorkflowRule TriggerWorkflowRule UpdateTaskQueueConfig
        UpdateWorkerConfig StartActivityExecution RequestCancelActivityExecution TerminateActivityExecution
        DeleteActivityExecution PauseActivityExecution ResetActivityExecution UnpauseActivityExecution
        UpdateActivityExecutionOptions StartNexusOperationExecution RequestCancelNexusOperationExecution
        TerminateNexusOperationExecution DeleteNexusOperationExecution""",
}

PLACEMENTS: dict[str, Placement] = {name: placement for placement, names in _PER_PLACEMENT.items() for name in names.split()}
_IS_HELD = frozenset({Placement.READ, Placement.ACTIVE})
_IS_READ_HERE = frozenset({Placement.LIST, Placement.READ})
# An empty answer means to all of them: nothing came, ask again.
_TASK_POLLS = frozenset({"PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue"})


class _Waiting:
    """A call that may last: where it went, and why it was ended from here."""

    __slots__ = ("ended", "is_forwarded", "record")

    def __init__(self, record: NamespaceRecord, is_forwarded: bool) -> None:
        self.record = record
        self.is_forwarded = is_forwarded
        self.ended = ""


class Forwarding:
    """here: this region's name. The owner tells it of news: `namespaces_changed` whenever records may have changed on this node
    (its own changes, too), `end_polls` when the node shuts down."""

    def __init__(self, here: str, namespaces: NamespacesPort, regions: Forwards, hold_s: float = HOLD_S) -> None:
        self._here = here
        self._cached_by_id = namespaces.cached_by_id
        self._regions = regions
        self._hold_s = hold_s
        self._news = asyncio.Event()
        self._waiting: dict[asyncio.Task[Any], _Waiting] = {}  # bounded by the calls in flight

    # --- news ---------------------------------------------------------------------------------------------------------------
    def namespaces_changed(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        for task, waiting in list(self._waiting.items()):
            record = self._cached_by_id(waiting.record.id)
            if record is not None and record.active_cluster != waiting.record.active_cluster:
                self._end(task, waiting, "moved")

    def end_polls(self) -> None:
        """Forwarded polls come home empty; those that wait here are matching's to end."""
        for task, waiting in list(self._waiting.items()):
            if waiting.is_forwarded:
                self._end(task, waiting, "drained")

    def _end(self, task: asyncio.Task[Any], waiting: _Waiting, why: str) -> None:
        if not waiting.ended:
            waiting.ended = why
            task.cancel()

    # --- the interceptor ------------------------------------------------------------------------------------------------------
    def interceptor(self, method: Method, following: Handler) -> Handler:
        placement = PLACEMENTS[method.name]
        if placement is Placement.HERE:
            return following

        def forwarded(call: Call, request: Any) -> Awaitable[Message | bytes]:
            record: Any = call.record
            if not record.is_global:
                return following(call, request)
            return self._placed(placement, following, call, request)

        return forwarded

    async def _placed(self, placement: Placement, following: Handler, call: Call, request: Any) -> Message | bytes:
        record = call.record
        assert record is not None
        loop = asyncio.get_running_loop()
        hold_until = loop.time() + self._hold_s
        if call.deadline is not None:
            hold_until = min(hold_until, call.deadline - HOLD_TAIL_S)
        is_read_here = placement in _IS_READ_HERE and _has_opted_out(call)
        may_last = (placement is Placement.READ and not is_read_here) or call.name in _TASK_POLLS
        for placed_before in range(PLACED_COUNT_MAX):
            if placed_before and call.name in _TASK_POLLS and _is_almost_over(call, loop.time()):
                return b""
            if record.replication_state == HANDOVER and placement in _IS_HELD and not is_read_here:
                changed = await self._changed(record, hold_until)
                if changed is None:
                    raise unavailable("Namespace replication in Handover state.")
                call.record = record = changed
                continue
            is_here = record.active_cluster == self._here or is_read_here
            try:
                if not is_here and (MARK in call.metadata or _has_opted_out(call)):
                    raise namespace_not_active(record, self._here)
                answer = following(call, request) if is_here else self._forward(record, call, request)
                return await (self._followed(answer, record, call, not is_here) if may_last else answer)
            except UnknownRegion:
                raise namespace_not_active(record, self._here) from None
            except _Moved:
                changed = self._cached_by_id(record.id) or record
            except CallerError as refusal:
                if MARK in call.metadata or _has_opted_out(call) or not _says_not_active(refusal):
                    raise
                changed = await self._changed(record, hold_until)
                if changed is None:  # passing, so the client shall try again: an SDK's worker ends at NamespaceNotActive
                    raise unavailable(f"regions disagree on where namespace {record.name} is, please retry") from refusal
            call.record = record = changed
        raise unavailable(f"namespace {record.name} is moving between regions, please retry")

    async def _changed(self, record: NamespaceRecord, until: float) -> NamespaceRecord | None:
        """The namespace once it is owned otherwise than that record says; None when the time is over."""
        while True:
            news = self._news
            now = self._cached_by_id(record.id)
            if now is not None and _owner(now) != _owner(record):
                return now
            try:
                async with asyncio.timeout_at(until):
                    await news.wait()
            except TimeoutError:
                return None

    async def _forward(self, record: NamespaceRecord, call: Call, request: Any) -> bytes:
        headers = {key: value for key, value in call.metadata.items() if _is_passed_on(key)}
        headers[MARK] = self._here
        timeout_s = FORWARD_S_MAX
        if call.deadline is not None:
            timeout_s = call.deadline - asyncio.get_running_loop().time()
        if timeout_s <= 0:
            raise CallerError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        data = call.data or request.SerializeToString()  # a caller in this process has no bytes
        return await self._regions.forward(record.active_cluster, call.method, data, headers, timeout_s)

    async def _followed(
        self, answer: Awaitable[Message | bytes], record: NamespaceRecord, call: Call, is_forwarded: bool
    ) -> Message | bytes:
        """Raises _Moved when the namespace became active in another region than the call waits in."""
        task = asyncio.current_task()
        assert task is not None
        waiting = self._waiting[task] = _Waiting(record, is_forwarded)
        try:
            return await answer
        except asyncio.CancelledError:
            if not waiting.ended or task.uncancel() > 0:
                raise  # the client has gone, or the node's drain ends the call
            if waiting.ended == "moved":
                raise _Moved from None
            if call.name in _TASK_POLLS:
                return b""
            raise unavailable("the server is shutting down, please retry") from None
        finally:
            del self._waiting[task]


class _Moved(Exception):
    """The call was ended from here, to be placed anew."""


def regions_of_namespace(namespaces: NamespacesPort) -> Callable[[str], Collection[str]]:
    """For `tokens.Links`: which regions have a namespace, as this node knows it."""
    cached_by_id = namespaces.cached_by_id

    def regions_of(namespace_id: str) -> Collection[str]:
        record = cached_by_id(namespace_id)
        return record.members if record is not None and record.is_replicated else ()

    return regions_of


def _owner(record: NamespaceRecord) -> tuple[str, int, int]:
    return record.active_cluster, record.failover_version, record.replication_state


def _is_almost_over(call: Call, now_s: float) -> bool:
    """What is left of it is less than a poll must have: validation would refuse it, which its client has no part in."""
    return call.deadline is not None and call.deadline - now_s < LONG_POLL_MIN_S


def _has_opted_out(call: Call) -> bool:
    return call.metadata.get(REDIRECTION, "") in _NO


def _is_passed_on(header: str) -> bool:
    return header not in _OF_ONE_CONNECTION and not header.startswith((":", "grpc-"))


def _says_not_active(refusal: CallerError) -> bool:
    return any(
        isinstance(detail, NamespaceNotActiveFailure)
        or (isinstance(detail, PackedAny) and detail.Is(NamespaceNotActiveFailure.DESCRIPTOR))
        for detail in refusal.details
    )
