"""What clients and workers say in the tests of two regions, beyond what every World can say (tests/history/world.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message as ProtobufMessage
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Acceptance, Outcome, Request, Response
from temporalio.api.workflowservice import v1 as api

from cluster.tokens import Purpose, TaskToken
from replication.loss_ledger import LedgerEntry, LossLedger
from tests.history.commands import QUEUE, text
from tests.history.world import NAMESPACE, name_of
from tests.replication.two_regions import Pair, RegionWorld

ACCEPTED, COMPLETED = 2, 3  # temporal.api.enums.v1.UpdateWorkflowExecutionLifecycleStage


# --- clients -------------------------------------------------------------------------------------------------------------


def execution(workflow_id: str, run_id: str = "") -> WorkflowExecution:
    return WorkflowExecution(workflow_id=workflow_id, run_id=run_id)


def send_update(world: RegionWorld, workflow_id: str, update_id: str, stage: int = ACCEPTED) -> asyncio.Future[Any]:
    """Under way when it returns; its outcome need not be looked at."""
    request = api.UpdateWorkflowExecutionRequest(workflow_execution=execution(workflow_id))
    request.wait_policy.lifecycle_stage = stage  # type: ignore[assignment]
    request.request.meta.update_id, request.request.input.name = update_id, "change"
    request.request.input.args.CopyFrom(text(f"of {world.name}"))
    sent = asyncio.ensure_future(world.call("update_workflow_execution", workflow_id, request))
    sent.add_done_callback(lambda done: done.cancelled() or done.exception())
    return sent


async def signal_with_start(world: RegionWorld, workflow_id: str, signal: str) -> str:
    request = api.SignalWithStartWorkflowExecutionRequest(
        namespace=NAMESPACE.name,
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name="W"),
        task_queue=TaskQueue(name=QUEUE),
        signal_name=signal,
        signal_input=text(signal),
        request_id=f"{signal} of {world.name}",
    )
    request.workflow_task_timeout.FromSeconds(10)
    answer = await world.call("signal_with_start_workflow_execution", workflow_id, request)
    return str(answer.run_id)


async def reset(world: RegionWorld, workflow_id: str, finish_id: int, run_id: str = "") -> str:
    request = api.ResetWorkflowExecutionRequest(
        namespace=NAMESPACE.name,
        workflow_execution=execution(workflow_id, run_id),
        reason="again",
        workflow_task_finish_event_id=finish_id,
        request_id=f"reset {workflow_id} {run_id} {finish_id}",
    )
    return str((await world.call("reset_workflow_execution", workflow_id, request)).run_id)


async def cancel(world: RegionWorld, workflow_id: str) -> None:
    request = api.RequestCancelWorkflowExecutionRequest(workflow_execution=execution(workflow_id), request_id="cancel")
    await world.call("request_cancel_workflow_execution", workflow_id, request)


# --- workers -------------------------------------------------------------------------------------------------------------


async def answer(
    world: RegionWorld,
    task: api.PollWorkflowTaskQueueResponse,
    *commands: Command,
    messages: Sequence[Message] = (),
    sticky: str = "",
) -> Any:
    assert task.task_token, "no workflow task came"
    token = world.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
    request = api.RespondWorkflowTaskCompletedRequest(
        task_token=task.task_token, commands=commands, messages=messages, identity="worker", namespace=NAMESPACE.name
    )
    if sticky:
        request.sticky_attributes.worker_task_queue.name = sticky
        request.sticky_attributes.worker_task_queue.normal_name = QUEUE
        request.sticky_attributes.schedule_to_start_timeout.FromSeconds(5)
    return await world.call("respond_workflow_task_completed", token.workflow_id, request, token)


def accepting(task: api.PollWorkflowTaskQueueResponse, *, completes: bool = False) -> list[Message]:
    """What a worker says that accepts all updates of its task: those of messages, and those that its history tells of."""
    wishes: list[tuple[str, int, Request]] = []
    for message in task.messages:
        wish = Request()
        message.body.Unpack(wish)
        wishes.append((message.id, message.event_id, wish))
    accepted = {
        event.workflow_execution_update_accepted_event_attributes.protocol_instance_id for event in task.history.events
    }
    for event in task.history.events:
        wish = event.workflow_execution_update_admitted_event_attributes.request
        if name_of(event) == "WorkflowExecutionUpdateAdmitted" and wish.meta.update_id not in accepted:
            wishes.append((f"{wish.meta.update_id}/request", event.event_id, wish))
    messages = []
    for id, event_id, wish in wishes:
        update_id = wish.meta.update_id
        acceptance = Acceptance(
            accepted_request_message_id=id, accepted_request_sequencing_event_id=event_id, accepted_request=wish
        )
        messages.append(_message(update_id, "accept", acceptance))
        if completes:
            messages.append(completing(update_id))
    return messages


def completing(update_id: str) -> Message:
    outcome = Outcome(success=text(f"done {update_id}"))
    return _message(update_id, "complete", Response(meta={"update_id": update_id}, outcome=outcome))  # type: ignore[arg-type]


def _message(update_id: str, kind: str, content: ProtobufMessage) -> Message:
    body = AnyMessage()
    body.Pack(content)
    return Message(id=f"{update_id}/{kind}", protocol_instance_id=update_id, body=body)


async def fail_activity(world: RegionWorld, task: api.PollActivityTaskQueueResponse) -> None:
    token = world.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
    failure = Failure(message="not now", application_failure_info=ApplicationFailureInfo(type="T"))
    request = api.RespondActivityTaskFailedRequest(task_token=task.task_token, failure=failure, identity="worker")
    await world.call("respond_activity_task_failed", token.workflow_id, request, token)


async def heartbeat(world: RegionWorld, task: api.PollActivityTaskQueueResponse, details: str) -> None:
    token = world.life.tokens.open(Purpose.TASK, task.task_token, TaskToken)
    request = api.RecordActivityTaskHeartbeatRequest(task_token=task.task_token, details=text(details), identity="worker")
    await world.call("record_activity_task_heartbeat", token.workflow_id, request, token)


# --- two regions -----------------------------------------------------------------------------------------------------------


async def split(pair: Pair, version: int = 2) -> None:
    """The link is cut, and two takes over by force; one does not hear of it, and goes on."""
    pair.is_linked = False
    pair.cut()
    pair.two.view.active, pair.two.view.failover_version = "two", version
    await pair.activate()


async def heal(pair: Pair) -> None:
    """The link is there again, and one hears of the failover."""
    pair.one.view.active, pair.one.view.failover_version = "two", pair.two.view.failover_version
    pair.is_linked = True
    await pair.activate()
    await pair.agree()


async def fail_over(pair: Pair, to: RegionWorld, version: int) -> None:
    """Everything is there when the other region takes over, and both know at once."""
    await pair.agree()
    pair.fail_over(to, version)
    await pair.activate()


async def ledger(world: RegionWorld) -> list[LedgerEntry]:
    return await LossLedger(world.store, world.shards_count).lines()


async def outcomes(world: RegionWorld, *names: str) -> list[tuple[str, str]]:
    """Of the region's ledger: event name and outcome, of events of these names (none: of all)."""
    return [(one.line.name, str(one.line.outcome)) for one in await ledger(world) if not names or one.line.name in names]


async def events_named(world: RegionWorld, workflow_id: str, name: str, run_id: str = "") -> list[HistoryEvent]:
    return [event for event in await world.history_of(workflow_id, run_id) if name_of(event) == name]


async def signals(world: RegionWorld, workflow_id: str, run_id: str = "") -> list[str]:
    found = await events_named(world, workflow_id, "WorkflowExecutionSignaled", run_id)
    return [event.workflow_execution_signaled_event_attributes.signal_name for event in found]
