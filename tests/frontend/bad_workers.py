"""Bad requests of workers: polls and answers."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as w

from tests.frontend.bad_request_parts import LONG, NAMESPACE, QUEUE


def poll_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    return [
        ("PollWorkflowTaskQueue", "no task queue", w.PollWorkflowTaskQueueRequest(namespace=ns)),
        ("PollWorkflowTaskQueue", "no name", w.PollWorkflowTaskQueueRequest(namespace=ns, task_queue=TaskQueue())),
        (
            "PollWorkflowTaskQueue",
            "identity too long",
            w.PollWorkflowTaskQueueRequest(namespace=ns, task_queue=QUEUE, identity=LONG),
        ),
        ("PollActivityTaskQueue", "no task queue", w.PollActivityTaskQueueRequest(namespace=ns)),
        (
            "PollActivityTaskQueue",
            "identity too long",
            w.PollActivityTaskQueueRequest(namespace=ns, task_queue=QUEUE, identity=LONG),
        ),
        ("PollActivityTaskQueue", "no namespace", w.PollActivityTaskQueueRequest(task_queue=QUEUE)),
        ("DescribeTaskQueue", "no task queue", w.DescribeTaskQueueRequest(namespace=ns)),
        ("ListTaskQueuePartitions", "no task queue", w.ListTaskQueuePartitionsRequest(namespace=ns)),
        ("ShutdownWorker", "unknown namespace", w.ShutdownWorkerRequest(namespace="no-such-namespace")),
        (
            "PollWorkflowTaskQueue",
            "reserved name",
            w.PollWorkflowTaskQueueRequest(
                namespace=ns, task_queue=TaskQueue(name="/_sys/q/1", kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL)
            ),
        ),
    ]


def answer_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    garbage = b"\x01garbage"
    by_id: dict[str, Any] = {"namespace": ns, "workflow_id": "w", "activity_id": "a"}
    return [
        ("RespondWorkflowTaskCompleted", "no token", w.RespondWorkflowTaskCompletedRequest(namespace=ns)),
        (
            "RespondWorkflowTaskCompleted",
            "garbage token",
            w.RespondWorkflowTaskCompletedRequest(namespace=ns, task_token=garbage),
        ),
        ("RespondWorkflowTaskCompleted", "no namespace", w.RespondWorkflowTaskCompletedRequest(task_token=garbage)),
        ("RespondWorkflowTaskFailed", "no token", w.RespondWorkflowTaskFailedRequest(namespace=ns)),
        ("RespondWorkflowTaskFailed", "garbage token", w.RespondWorkflowTaskFailedRequest(namespace=ns, task_token=garbage)),
        ("RespondActivityTaskCompleted", "no token", w.RespondActivityTaskCompletedRequest(namespace=ns)),
        (
            "RespondActivityTaskCompleted",
            "garbage token",
            w.RespondActivityTaskCompletedRequest(namespace=ns, task_token=garbage),
        ),
        ("RespondActivityTaskFailed", "garbage token", w.RespondActivityTaskFailedRequest(namespace=ns, task_token=garbage)),
        ("RespondActivityTaskCanceled", "garbage token", w.RespondActivityTaskCanceledRequest(namespace=ns, task_token=garbage)),
        ("RecordActivityTaskHeartbeat", "garbage token", w.RecordActivityTaskHeartbeatRequest(namespace=ns, task_token=garbage)),
        ("RespondQueryTaskCompleted", "no token", w.RespondQueryTaskCompletedRequest(namespace=ns)),
        ("RespondQueryTaskCompleted", "garbage token", w.RespondQueryTaskCompletedRequest(namespace=ns, task_token=garbage)),
        (
            "RespondActivityTaskCompletedById",
            "no activity id",
            w.RespondActivityTaskCompletedByIdRequest(namespace=ns, workflow_id="w"),
        ),
        (
            "RespondActivityTaskCompletedById",
            "no workflow id",
            w.RespondActivityTaskCompletedByIdRequest(namespace=ns, activity_id="a"),
        ),
        (
            "RespondActivityTaskCompletedById",
            "identity too long",
            w.RespondActivityTaskCompletedByIdRequest(identity=LONG, **by_id),
        ),
        (
            "RespondActivityTaskFailedById",
            "no activity id",
            w.RespondActivityTaskFailedByIdRequest(namespace=ns, workflow_id="w"),
        ),
        (
            "RespondActivityTaskCanceledById",
            "no activity id",
            w.RespondActivityTaskCanceledByIdRequest(namespace=ns, workflow_id="w"),
        ),
        (
            "RecordActivityTaskHeartbeatById",
            "no activity id",
            w.RecordActivityTaskHeartbeatByIdRequest(namespace=ns, workflow_id="w"),
        ),
    ]
