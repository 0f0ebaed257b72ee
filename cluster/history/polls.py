"""A poller and a task meet: the run marks the task started, once, and its answer is put together from encoded pieces.

History in an answer is never parsed: the scalar fields are one small message, the events are joined behind them as bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec
from temporalio.api.common.v1 import Header, Payloads, Priority, RetryPolicy, WorkerVersionStamp, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse, PollWorkflowTaskQueueResponse

from cluster.core.errors import CallerError, Code, unavailable
from cluster.core.events import duration, join_framed, parse_event, timestamp
from cluster.core.machines import activity, activity_calls, update, workflow_task
from cluster.core.state import RunState
from cluster.history.events import page_end
from cluster.history.queries import send_buffered
from cluster.history.run import Run
from cluster.history.shard import Shard
from cluster.matching.tasks import TaskGone, TaskHint, TaskKind
from cluster.tokens import Purpose, TaskToken, Tokens

_HISTORY_TAG = b"\x42"  # PollWorkflowTaskQueueResponse.history, field 8, length-delimited


class HistoryPageToken(msgspec.Struct, frozen=True, array_like=True):
    """Events next_event_id..last_event_id of a run are still to be read; is_waiting: the caller wants those to come."""

    namespace_id: str
    workflow_id: str
    run_id: str
    next_event_id: int
    last_event_id: int
    is_waiting: bool = False


async def start_workflow_task(shard: Shard, run: Run, hint: TaskHint, poll: Any, tokens: Tokens) -> bytes:
    """Raises TaskGone if the run has no such task any more."""
    task = run.state.task
    if (
        task is None
        or task.is_started
        or task.scheduled_event_id != hint.scheduled_event_id
        or task.stamp != hint.stamp
        or not run.state.is_open
    ):
        raise TaskGone
    t = shard.begin(run)
    workflow_task.start(
        t,
        request_id=shard.ids.uuid(),
        identity=poll.identity,
        worker_version=worker_version_of(poll),
    )
    update.send(t)
    done = shard.commit((run, t))
    state, branch = t.state, run.branch
    await done
    if state.task is None:
        raise TaskGone  # its events made the history too long, and the run was ended
    return await workflow_task_answer(shard, run, state, branch, tokens, is_sticky=hint.is_sticky)


async def events_of_branch(shard: Shard, run: Run, branch: int, first: int, last: int) -> list[bytes]:
    """For a task that was decided on when the run was of that branch. Another region's branch may have become the run while the
    decision became durable, or since: its events do not belong to that task. Raises TaskGone, CallerError."""
    try:
        events = await shard.events(run, first, last)
    except CallerError:
        if run.branch == branch:
            raise
        raise TaskGone from None
    if run.branch != branch:
        raise TaskGone
    return events


async def workflow_task_answer(
    shard: Shard, run: Run, state: RunState, branch: int, tokens: Tokens, *, is_sticky: bool
) -> bytes:
    """The encoded PollWorkflowTaskQueueResponse for the task that `state` shows as started, on that branch. Raises TaskGone."""
    answer, first, last = scalar_answer(shard, run, state, tokens, is_sticky=is_sticky)
    pending = [event.SerializeToString() for event in workflow_task.pending_events(state, state.last_version)]
    events, rest = await first_page(shard, run, branch, first, last, tokens)
    if rest:
        answer.next_page_token, pending = rest, []
    send_buffered(run, state, answer)
    return with_history(answer, join_framed(events + pending))


async def first_page(
    shard: Shard, run: Run, branch: int, first: int, last: int, tokens: Tokens
) -> tuple[list[bytes], bytes]:
    """Events from `first` on, as many as go into one answer, and the token of the rest (empty: that is all). Raises TaskGone."""
    limits = shard.limits
    events = await events_of_branch(shard, run, branch, first, min(last, first + limits.history_page_events_max - 1))
    events = events[: page_end(events, limits.history_page_bytes_max)]
    following = first + len(events)
    if following > last:
        return events, b""
    key = run.key
    token = HistoryPageToken(key.namespace_id, key.workflow_id, key.run_id, following, last)
    return events, tokens.seal(Purpose.HISTORY_PAGE, token)


async def history_for_query(shard: Shard, run: Run, tokens: Tokens) -> tuple[list[bytes], bytes]:
    """The first page of all that is durable of the run, and the token of the rest. Raises CallerError."""
    branch = run.branch
    last = (await shard.read(run)).next_event_id - 1
    try:
        return await first_page(shard, run, branch, 1, last, tokens)
    except TaskGone:
        raise unavailable("Another region's history has just become this workflow's. Please retry.") from None


def with_history(answer: PollWorkflowTaskQueueResponse, history: bytes) -> bytes:
    """The message and its history, encoded."""
    return answer.SerializeToString() + _HISTORY_TAG + _varint(len(history)) + history


def scalar_answer(
    shard: Shard, run: Run, state: RunState, tokens: Tokens, *, is_sticky: bool
) -> tuple[PollWorkflowTaskQueueResponse, int, int]:
    """Everything but the history, and the event range that belongs to it."""
    task = state.task
    assert task is not None
    token = TaskToken(
        state.namespace_id,
        state.workflow_id,
        state.run_id,
        TaskKind.WORKFLOW,
        shard.id,
        task.scheduled_event_id,
        task.started_event_id,
        task.attempt,
        task.stamp,
        started_at=task.started_at,
    )
    answer = PollWorkflowTaskQueueResponse(
        task_token=tokens.seal(Purpose.TASK, token),
        workflow_execution=WorkflowExecution(workflow_id=state.workflow_id, run_id=state.run_id),
        workflow_type=WorkflowType(name=state.workflow_type),
        previous_started_event_id=state.last_completed_started_id,
        started_event_id=task.started_event_id,
        attempt=task.attempt,
        workflow_execution_task_queue=TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        scheduled_time=timestamp(task.scheduled_at),
        started_time=timestamp(task.started_at),
        messages=update.messages(state) if state.updates else (),
    )
    first = state.last_completed_started_id + 1 if is_sticky else 1
    last = state.next_event_id - 1
    return answer, first, last


async def start_activity_task(shard: Shard, run: Run, hint: TaskHint, poll: Any, tokens: Tokens) -> bytes:
    """Raises TaskGone if the activity is not to be started any more."""
    t = shard.begin(run)
    try:
        activity_calls.start(
            t,
            hint.scheduled_event_id,
            request_id=shard.ids.uuid(),
            identity=poll.identity,
            stamp=hint.stamp,
            worker_version=worker_version_of(poll),
        )
    except CallerError as error:
        if error.code in (Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION):
            raise TaskGone from error
        raise
    done = shard.commit((run, t))
    state, branch = t.state, run.branch
    await done
    scheduled = await events_of_branch(shard, run, branch, hint.scheduled_event_id, hint.scheduled_event_id)
    return activity_answer(shard, state, scheduled[0], hint.scheduled_event_id, tokens).SerializeToString()


def activity_answer(
    shard: Shard, state: RunState, scheduled: bytes, scheduled_event_id: int, tokens: Tokens
) -> PollActivityTaskQueueResponse:
    """What a worker gets for an activity it has just been given."""
    one = state.activities[scheduled_event_id]
    attributes = parse_event(scheduled).activity_task_scheduled_event_attributes
    token = TaskToken(
        state.namespace_id,
        state.workflow_id,
        state.run_id,
        TaskKind.ACTIVITY,
        shard.id,
        scheduled_event_id,
        attempt=one.attempt,
        stamp=one.stamp,
        activity_id=one.activity_id,
        activity_type=one.activity_type,
        started_at=one.started_at,
    )
    answer = PollActivityTaskQueueResponse(
        task_token=tokens.seal(Purpose.TASK, token),
        workflow_namespace=shard.context(state.namespace_id).namespace,
        workflow_type=WorkflowType(name=state.workflow_type),
        workflow_execution=WorkflowExecution(workflow_id=state.workflow_id, run_id=state.run_id),
        activity_type=attributes.activity_type,
        activity_id=one.activity_id,
        header=attributes.header if attributes.HasField("header") else Header(),
        input=attributes.input if attributes.HasField("input") else None,
        heartbeat_details=Payloads.FromString(one.heartbeat_details) if one.heartbeat_details else None,
        scheduled_time=timestamp(one.first_scheduled_at),
        current_attempt_scheduled_time=timestamp(one.scheduled_at),
        started_time=timestamp(one.started_at),
        attempt=one.attempt,
        schedule_to_close_timeout=duration(one.schedule_to_close_ns),
        start_to_close_timeout=duration(one.start_to_close_ns),
        heartbeat_timeout=duration(one.heartbeat_ns),
        retry_policy=RetryPolicy.FromString(one.retry_policy) if one.retry_policy else None,
    )
    priority = activity.priority_of(state, one)
    if priority != Priority():
        answer.priority.CopyFrom(priority)
    return answer


def query_answer(
    shard: Shard, run: Run, query: WorkflowQuery, token: bytes, history: bytes
) -> bytes:
    """A query as a workflow task of its own: no event, no state. history: framed events the worker needs."""
    state = run.state
    answer = PollWorkflowTaskQueueResponse(
        task_token=token,
        workflow_execution=WorkflowExecution(workflow_id=state.workflow_id, run_id=state.run_id),
        workflow_type=WorkflowType(name=state.workflow_type),
        previous_started_event_id=state.last_completed_started_id,
        attempt=1,  # started_event_id stays 0: a query starts nothing
        workflow_execution_task_queue=TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        query=query,
    )
    return with_history(answer, history)


def worker_version_of(poll: Any) -> WorkerVersionStamp | None:
    """What the started event says of the worker's build."""
    build_id = poll.worker_version_capabilities.build_id
    if not build_id:
        return None
    return WorkerVersionStamp(build_id=build_id, use_versioning=poll.worker_version_capabilities.use_versioning)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

