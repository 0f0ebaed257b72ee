"""Twelve canonical workflows, each with a client that does one thing after the other: the ground for exhaustive store faults.

A story is deterministic but for workflow tasks and repeated attempts: whatever single fault hits it, its runs must end with the
same events in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api

from chaos.checkers.histories import RunHistory, tokens_in
from chaos.checkers.ledger import Conflict
from chaos.sim.clients import Requests, workflow_retry
from chaos.sim.world import NAMESPACE

E = EventType
ClientStory = Callable[[Requests], Awaitable[object]]

# Tasks and attempts may be repeated after a fault; everything else may not.
REPEATABLE = frozenset(
    {
        E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        E.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
        E.EVENT_TYPE_WORKFLOW_TASK_FAILED,
        E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        E.EVENT_TYPE_ACTIVITY_TASK_STARTED,
    }
)
ID_FIELDS = ("activity_id", "timer_id", "workflow_id", "marker_name", "signal_name", "protocol_instance_id", "reason")


async def hello_activity(requests: Requests) -> None:
    await requests.start("client", "hello", [["activity", 0]])


async def timer(requests: Requests) -> None:
    await requests.start("client", "timer", [["timer", 1.0], ["marker"]])


async def signal(requests: Requests) -> None:
    await requests.start("client", "signal", [["signals", 2]])
    await requests.signal("client", "signal")
    await requests.signal("client", "signal")


async def child(requests: Requests) -> None:
    await requests.start("client", "parent", [["child", [["activity", 0]], "terminate", True]])


async def continue_as_new(requests: Requests) -> None:
    await requests.start("client", "again", [["timer", 0.2], ["again", 2]])


async def retry_activity(requests: Requests) -> None:
    await requests.start("client", "retries", [["activity", 2]])


async def cancel(requests: Requests) -> None:
    await requests.start("client", "cancelled", [["timer", 60.0]])
    await until_event(requests, "cancelled", E.EVENT_TYPE_TIMER_STARTED)
    await requests.end("client", "cancel", "cancelled", "")


async def update(requests: Requests) -> None:
    await requests.start("client", "updated", [["signals", 1]])
    await requests.update("client", "updated", "", "now")
    await requests.update("client", "updated", "", "later")
    await requests.update("client", "updated", "", "refuse")
    await requests.signal("client", "updated")


async def terminate_and_start(requests: Requests) -> None:
    await requests.start("client", "replaced", [["timer", 60.0]])
    await until_event(requests, "replaced", E.EVENT_TYPE_TIMER_STARTED)
    await asyncio.sleep(1.1)  # a run younger than a second may not be replaced
    await requests.start("client", "replaced", [["marker"]], Conflict.TERMINATE_EXISTING)


async def retry_workflow(requests: Requests) -> None:
    await requests.start("client", "failing", [["marker"], ["fail"]], retry_policy=workflow_retry(3))


async def signal_external(requests: Requests) -> None:
    await requests.start("client", "hearer", [["signals", 1]])
    await requests.start("client", "sayer", [["signal", "hearer"]])


async def reset(requests: Requests) -> None:
    act = await requests.start("client", "reset", [["activity", 0], ["signals", 1]])
    await until_event(requests, "reset", E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    await requests.signal("client", "reset")
    await until_event(requests, "reset", E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    point = await until_event(requests, "reset", E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    await requests.reset("client", "reset", act.run_id, point.event_id)


STORIES: dict[str, ClientStory] = {
    story.__name__: story
    for story in (
        hello_activity,
        timer,
        signal,
        child,
        continue_as_new,
        retry_activity,
        cancel,
        update,
        terminate_and_start,
        retry_workflow,
        signal_external,
        reset,
    )
}


async def history_of(requests: Requests, workflow_id: str) -> Sequence[HistoryEvent]:
    """The current run's history so far; empty if it cannot be had now."""
    request = api.GetWorkflowExecutionHistoryRequest(
        namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    answer = await requests.maybe("client", "GetWorkflowExecutionHistory", request)
    return answer.history.events if answer is not None else []


async def until_event(requests: Requests, workflow_id: str, event_type: EventType.ValueType) -> HistoryEvent:
    """The first event of that type, once it is there."""
    while True:
        for event in await history_of(requests, workflow_id):
            if event.event_type == event_type:
                return event
        await asyncio.sleep(0.2)


def essence(histories: Sequence[RunHistory]) -> dict[str, list[list[str]]]:
    """Per workflow id, its runs in order, and of each what may not differ: type and ids of events that cannot be repeated."""
    found: dict[str, list[list[str]]] = {}
    for history in sorted(histories, key=lambda run: (run.workflow_id, run.started_ns, run.closed_ns or 0)):
        lines = [_line(event) for event in history.events if event.event_type not in REPEATABLE]
        found.setdefault(history.workflow_id, []).append(lines)
    return found


def _line(event: HistoryEvent) -> str:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    names = [str(getattr(attributes, field)) for field in ID_FIELDS if field in attributes.DESCRIPTOR.fields_by_name]
    tokens = tokens_in(attributes.input) if "input" in attributes.DESCRIPTOR.fields_by_name else []
    kind = E.Name(event.event_type).removeprefix("EVENT_TYPE_")
    return " ".join([kind, *filter(None, names), *tokens])
