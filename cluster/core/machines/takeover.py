"""A region becomes the one that writes a run: what belonged to the other region's workers is void.

| the run's workflow task      | becomes                                                                                     |
|------------------------------|---------------------------------------------------------------------------------------------|
| none                         | none                                                                                        |
| scheduled, normal queue      | stays                                                                                       |
| scheduled, sticky queue      | the same task on the normal queue: that worker's cache is far away                          |
| scheduled, repeated          | attempt 1: that it failed there says nothing of the workers here                            |
| started                      | failed with the cause FAILOVER_CLOSE_COMMAND; what was buffered joins the history; a new one|

Where the region wrote the run last itself, and the namespace has been elsewhere since, a started task and the number of attempts
stay: those are this region's own workers. The sticky queue goes all the same: its worker may have seen another branch of the run
in the other region meanwhile, and would take the rest of this one for the rest of that.

Activities stay as they are: a worker that has one may still complete it, wherever it asks. As the public server does
(service/history/workflow/mutable_state_impl.go, startTransactionHandleWorkflowTaskFailover). No table of its own: the steps are
the workflow task's.
"""

from __future__ import annotations

from msgspec.structs import replace
from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from cluster.core.entry import StickyNote, TaskNote
from cluster.core.machines import workflow_task
from cluster.core.machines.late_events import write_scheduled
from cluster.core.state import RunState, TaskType
from cluster.core.transition import Transition

CAUSE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND
IDENTITY = "history-service"


def is_needed(state: RunState) -> bool:
    task = state.task
    if not state.is_open:
        return False
    return bool(state.sticky_queue) if task is None else task.is_started or task.is_sticky or task.attempt > 1


def is_stuck_to_a_worker(state: RunState) -> bool:
    """Whether there is something to do for a run that this region wrote last itself, before the namespace went and came back."""
    return state.is_open and bool(state.sticky_queue)


def come_back(t: Transition) -> None:
    task = t.state.task
    if task is not None and task.is_sticky and not task.is_started:
        workflow_task.fall_back_to_normal_queue(t)
    else:
        t.note(StickyNote("", 0))


def take_over(t: Transition) -> None:
    task = t.state.task
    if task is not None and task.is_started:
        workflow_task.fail(t, CAUSE, identity=IDENTITY)
        t.note(TaskNote(None, 1, t.state.task_stamp, t.state.last_task_failure, t.state.last_task_failed_cause))
        t.note(StickyNote("", 0))
        workflow_task.schedule(t)
        return
    if task is not None and task.is_sticky:
        workflow_task.fall_back_to_normal_queue(t)
    elif t.state.sticky_queue:
        t.note(StickyNote("", 0))
    task = t.state.task
    if task is not None and not task.events_written and task.attempt > 1:
        task = write_scheduled(t, replace(task, attempt=1, type=TaskType.NORMAL, scheduled_at=t.now))
        stamp = task.stamp + 1
        note = TaskNote(replace(task, stamp=stamp), 1, stamp, t.state.last_task_failure, t.state.last_task_failed_cause)
        t.note(note)
