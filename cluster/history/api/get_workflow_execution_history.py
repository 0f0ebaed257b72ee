"""GetWorkflowExecutionHistory, forward with its long poll, and in reverse. Events are passed on as they were encoded."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.enums.v1 import HistoryEventFilterType
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryResponse,
    GetWorkflowExecutionHistoryReverseResponse,
)

from cluster.core.errors import invalid_argument
from cluster.core.events import frame, join_framed
from cluster.core.machines import workflow_task
from cluster.core.state import RunState
from cluster.history.events import page_end
from cluster.history.polls import HistoryPageToken
from cluster.history.run import Run, long_poll_until
from cluster.history.shard import Shard
from cluster.tokens import Purpose, TokenRefused, Tokens

_HISTORY_TAG = b"\x0a"  # GetWorkflowExecutionHistoryResponse.history, field 1


async def forward(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    page = _open(service.tokens, namespace.id, request)
    run = await shard.find(namespace.id, request.execution.workflow_id, page.run_id if page else request.execution.run_id)
    state = await shard.read(run)
    first = page.next_event_id if page else 1
    is_waiting = request.wait_new_event
    wants_close = request.history_event_filter_type == HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    if is_waiting:
        state = await _wait(shard, run, first, wants_close, long_poll_until(service.limits, call))
    last = state.next_event_id - 1
    if wants_close:
        return await _close_event(service.tokens, shard, run, state, is_waiting)
    count = min(request.maximum_page_size or shard.limits.history_page_events_max, shard.limits.history_page_events_max)
    page_last = min(last, first + count - 1)
    events = await shard.events(run, first, page_last)
    events = events[: page_end(events, shard.limits.history_page_bytes_max)]
    page_last = first + len(events) - 1
    if page_last == last and state.is_open and not is_waiting:
        events = events + _pending(state)
    has_more = page_last < last or (is_waiting and state.is_open)
    rest = HistoryPageToken(*_names(run), page_last + 1, last, is_waiting) if has_more else None
    return _encode(service.tokens, events, rest)


def _pending(state: RunState) -> list[bytes]:
    """The events of a transient task, which are not in the history; they are shown while they continue it. Once something was
    recorded after the task was made (a signal during its backoff), its start gives it events of its own."""
    pending = workflow_task.pending_events(state, state.last_version)
    if not pending or pending[0].event_id != state.next_event_id:
        return []
    return [event.SerializeToString() for event in pending]


async def _close_event(tokens: Tokens, shard: Shard, run: Run, state: RunState, is_waiting: bool) -> bytes:
    """The last event of a closed run; of an open one nothing (the public server lets the caller wait for that)."""
    last = state.next_event_id - 1
    if state.is_open and is_waiting:
        return _encode(tokens, [], HistoryPageToken(*_names(run), last + 1, last, True))
    if state.is_open:
        return _encode(tokens, [], None)
    return _encode(tokens, await shard.events(run, last, last), None)


async def reverse(service: Any, shard: Shard, namespace: Any, request: Any, call: Any, token: Any) -> Any:
    page = _open(service.tokens, namespace.id, request)
    run = await shard.find(namespace.id, request.execution.workflow_id, page.run_id if page else request.execution.run_id)
    state = await shard.read(run)
    last = page.last_event_id if page else state.next_event_id - 1
    count = min(request.maximum_page_size or shard.limits.history_page_events_max, shard.limits.history_page_events_max)
    first = max(1, last - count + 1)
    events = (await shard.events(run, first, last))[::-1]
    events = events[: page_end(events, shard.limits.history_page_bytes_max)]
    first = last - len(events) + 1
    answer = GetWorkflowExecutionHistoryReverseResponse()
    if first > 1:
        answer.next_page_token = service.tokens.seal(Purpose.HISTORY_PAGE, HistoryPageToken(*_names(run), 1, first - 1))
    return answer.SerializeToString() + _length_delimited(join_framed(events))


async def _wait(shard: Shard, run: Run, first: int, wants_close: bool, until: float) -> RunState:
    """Until there is something new (or the close), or the time is over; a run that went on is followed by nobody."""
    loop = asyncio.get_running_loop()
    while True:
        state = await shard.read(run)
        is_new = not state.is_open or (not wants_close and first < state.next_event_id)
        if is_new or loop.time() >= until:
            return state
        if run.state is not state:
            continue  # it went on during the read
        await run.changed_until(until)


def _names(run: Run) -> tuple[str, str, str]:
    return run.key.namespace_id, run.key.workflow_id, run.key.run_id


def _open(tokens: Tokens, namespace_id: str, request: Any) -> HistoryPageToken | None:
    if not request.next_page_token:
        return None
    try:
        page = tokens.open(Purpose.HISTORY_PAGE, request.next_page_token, HistoryPageToken)
    except TokenRefused:
        raise invalid_argument("Invalid NextPageToken.") from None
    execution = request.execution
    if page.namespace_id != namespace_id or page.workflow_id != execution.workflow_id:
        raise invalid_argument("Invalid NextPageToken.")
    if execution.run_id and execution.run_id != page.run_id:
        raise invalid_argument("RunId does not match NextPageToken.")
    return page


def _encode(tokens: Tokens, events: list[bytes], rest: HistoryPageToken | None) -> bytes:
    answer = GetWorkflowExecutionHistoryResponse()
    if rest is not None:
        answer.next_page_token = tokens.seal(Purpose.HISTORY_PAGE, rest)
    return answer.SerializeToString() + _length_delimited(join_framed(events))


def _length_delimited(history: bytes) -> bytes:
    framed = frame(history)
    assert framed[:1] == _HISTORY_TAG
    return framed
