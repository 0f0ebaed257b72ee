"""A run's life: signals, cancel requests, pauses, options, and the closes that no worker asked for."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import Callback, Link, Priority, WorkflowExecution
from temporalio.api.enums.v1 import EventType, RetryState, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import VersioningOverride

from cluster.config import Limits
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS, duration
from cluster.core.machines import activity_calls, lifecycle, start, workflow_task
from cluster.core.state import RequestSeen, Status
from cluster.core.table import IllegalTransition
from cluster.core.transition import Transition
from tests.core.build import BEGIN_NS, QUEUE, Run, lines
from tests.e2e import commands


def pause(run: Run, request_id: str = "p") -> None:
    run.do(lambda t: lifecycle.pause(t, identity="op", reason="look", request_id=request_id))


def unpause(run: Run) -> None:
    run.do(lambda t: lifecycle.unpause(t, identity="op", reason="go", request_id="q"))


def fail_task(run: Run) -> None:
    def decide(t: Transition) -> None:
        workflow_task.fail(t, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED, Failure(message="bug"))
        workflow_task.schedule(t)

    run.do(decide)


def test_a_signal_is_in_the_history_once_for_its_request_id() -> None:
    run = Run()
    run.task()
    assert run.signal(request_id="one")
    assert not run.signal(request_id="one")
    assert run.signal(request_id="two")
    assert run.told(5) == lines("""
        5 WorkflowExecutionSignaled signal_name=go identity=client request_id=one
        6 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1
        7 WorkflowExecutionSignaled signal_name=go identity=client request_id=two""")
    assert run.state.request_ids["one"] == RequestSeen(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, 5)


def test_a_buffered_signal_is_known_by_its_request_id_before_it_has_an_event() -> None:
    run = Run()
    run.start_task()
    run.signal(request_id="one")
    assert run.state.request_ids["one"].event_id == 0
    assert not run.signal(request_id="one")
    run.answer()
    assert run.state.request_ids["one"].event_id == 5


@pytest.mark.parametrize(("limit", "is_taken"), [(1, False), (2, False), (3, True)])
def test_a_run_takes_only_so_many_signals(limit: int, is_taken: bool) -> None:
    run = Run(limits=Limits(signals_per_run_max=limit))
    for _ in range(min(limit, 2)):
        run.signal()
    if is_taken:
        run.signal()
        return
    with pytest.raises(CallerError, match="exceeded workflow execution limit for signal events") as refused:
        run.signal()
    assert refused.value.code == Code.INVALID_ARGUMENT


def test_a_signal_does_not_shorten_the_wait_for_the_first_task_but_a_cancel_does() -> None:
    run = Run(workflow_start_delay=duration(5 * SECOND_NS))
    run.signal()
    assert run.history() == "1 WorkflowExecutionStarted\n2 WorkflowExecutionSignaled"
    run.request_cancel()
    assert run.history(3) == "3 WorkflowExecutionCancelRequested\n4 WorkflowTaskScheduled"
    run.wait(6)
    run.wake()
    assert run.history(5) == ""


def test_the_first_task_comes_after_the_delay_and_shows_the_signal() -> None:
    run = Run(workflow_start_delay=duration(5 * SECOND_NS))
    run.signal()
    run.wait(4.999)
    run.wake()
    assert run.state.task is None
    run.wait(0.001)
    run.wake()
    assert run.history(2) == "2 WorkflowExecutionSignaled\n3 WorkflowTaskScheduled"


def test_a_cancel_is_asked_for_once_and_a_closed_run_has_nothing_to_cancel() -> None:
    run = Run()
    assert run.request_cancel("one")
    assert not run.request_cancel("two")
    assert run.told(3) == "3 WorkflowExecutionCancelRequested cause=enough identity=client"
    assert run.state.cancel_request_id == "one"
    run.terminate()
    assert not run.request_cancel("three")
    assert run.history(5) == ""


def test_a_cancel_of_another_workflow_names_its_asker() -> None:
    run = Run()
    run.do(
        lambda t: lifecycle.request_cancel(
            t,
            cause="",
            identity="history-service",
            request_id="",
            external_initiated_event_id=14,
            external_execution=WorkflowExecution(workflow_id="p", run_id="pr"),
        )
    )
    assert run.told(3) == lines("""
        3 WorkflowExecutionCancelRequested external_initiated_event_id=14"""
        " external_workflow_execution={workflow_id=p run_id=pr} identity=history-service")


def test_terminating_a_running_task_fails_it_and_flushes_what_was_buffered() -> None:
    run = Run()
    run.start_task()
    run.signal()
    run.terminate()
    assert run.told(4) == lines("""
        4 WorkflowTaskFailed scheduled_event_id=2 started_event_id=3 cause=FORCE_CLOSE_COMMAND identity=history-service
        5 WorkflowExecutionSignaled signal_name=go identity=client
        6 WorkflowExecutionTerminated reason=enough identity=client""")
    assert run.state.status == Status.TERMINATED and run.state.task is None


def test_terminating_a_transient_task_leaves_no_trace_of_it() -> None:
    run = Run()
    run.start_task()
    fail_task(run)
    run.start_task()
    run.signal()
    run.terminate()
    assert run.history(4) == "4 WorkflowTaskFailed\n5 WorkflowExecutionSignaled\n6 WorkflowExecutionTerminated"


def test_terminating_a_speculative_task_writes_it_only_if_it_was_started() -> None:
    started = Run()
    started.task()
    started.update()
    started.start_task()
    started.terminate()
    assert started.history(5) == lines("""
        5 WorkflowTaskScheduled
        6 WorkflowTaskStarted
        7 WorkflowTaskFailed
        8 WorkflowExecutionTerminated""")
    scheduled = Run()
    scheduled.task()
    scheduled.update()
    scheduled.terminate()
    assert scheduled.history(5) == "5 WorkflowExecutionTerminated"


def test_the_run_timeout_closes_a_run_whatever_it_does() -> None:
    run = Run(run_timeout_s=20)
    run.start_task()
    run.signal()
    run.wait(20)
    run.wake()
    assert run.history(4) == lines("""
        4 WorkflowTaskTimedOut
        5 WorkflowExecutionSignaled
        6 WorkflowTaskScheduled
        7 WorkflowExecutionTimedOut""")
    assert run.last("WorkflowExecutionTimedOut").retry_state == RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET


def test_the_execution_timeout_ends_the_chain() -> None:
    run = Run(workflow_execution_timeout=duration(9 * SECOND_NS), cron_schedule="@every 30s")
    assert run.state.execution_expires_at == BEGIN_NS + 9 * SECOND_NS
    run.wait(9)
    run.wake()
    assert run.told(2) == "2 WorkflowExecutionTimedOut retry_state=TIMEOUT"


def closed() -> Run:
    run = Run()
    run.terminate()
    return run


@pytest.mark.parametrize(
    "call",
    [
        Run.signal,
        Run.terminate,
        Run.update,
        pause,
        unpause,
        lambda run: run.do(lambda t: start.attach(t, "r", attach_request_id=True)),
        lambda run: run.do(lambda t: lifecycle.update_options(t, versioning_override=None, priority=None, identity="")),
    ],
)
def test_a_closed_run_takes_nothing_more(call: Any) -> None:
    run = closed()
    with pytest.raises(CallerError, match=r"^workflow execution already completed$") as refused:
        call(run)
    assert refused.value.code == Code.NOT_FOUND


def test_a_paused_run_is_offered_to_nobody_and_goes_on_when_unpaused() -> None:
    run = Run()
    run.task(commands.start_timer("t", 10))
    pause(run)
    pause(run)  # the same request
    with pytest.raises(CallerError, match="workflow is already paused"):
        pause(run, "other")
    run.signal()
    run.request_cancel()
    run.do(lambda t: start.attach(t, "r", attach_request_id=True))
    with pytest.raises(CallerError, match="Workflow is paused"):
        run.update()
    run.wait(10)
    run.wake()
    assert run.told(6) == lines("""
        6 WorkflowExecutionPaused identity=op reason=look request_id=p worker_may_ignore
        7 WorkflowExecutionSignaled signal_name=go identity=client
        8 WorkflowExecutionCancelRequested cause=enough identity=client
        9 WorkflowExecutionOptionsUpdated attached_request_id=r worker_may_ignore
        10 TimerFired timer_id=t started_event_id=5""")
    assert run.state.status == Status.PAUSED and run.state.task is None
    unpause(run)
    assert run.told(11) == lines("""
        11 WorkflowExecutionUnpaused identity=op reason=go request_id=q worker_may_ignore
        12 WorkflowTaskScheduled task_queue={name=tq kind=NORMAL} start_to_close_timeout=10s attempt=1""")
    with pytest.raises(CallerError, match="workflow is not paused"):
        unpause(run)


def test_what_was_offered_before_the_pause_is_void() -> None:
    run = Run()
    run.task(commands.schedule_activity("a", QUEUE), force_create_new_workflow_task=True)
    task, activity = run.state.task, run.state.activities[5]
    pause(run)
    assert task is not None and run.state.task is not None and run.state.task.stamp != task.stamp
    with pytest.raises(IllegalTransition):
        run.start_task()
    with pytest.raises(CallerError, match="the workflow is paused"):
        run.do(lambda t: activity_calls.start(t, 5, request_id="x", identity="w", stamp=activity.stamp))
    unpause(run)
    run.start_task()


def test_a_paused_run_can_still_be_terminated_and_time_out() -> None:
    for end in (Run.terminate, lambda run: (run.wait(5), run.wake())):
        run = Run(run_timeout_s=5)
        pause(run)
        end(run)  # type: ignore[no-untyped-call,unused-ignore]
        assert not run.state.is_open and run.state.paused_at == 0


def test_a_task_that_runs_when_the_run_is_paused_may_answer_but_not_end_the_run() -> None:
    run = Run()
    run.start_task()
    pause(run)
    with pytest.raises(CallerError, match="UnhandledCommand"):
        run.answer(commands.complete())
    assert run.history(4) == "4 WorkflowTaskFailed\n5 WorkflowExecutionPaused"
    other = Run()
    other.start_task()
    pause(other)
    with pytest.raises(CallerError, match="Workflow is paused and force create new workflow task is not allowed"):
        other.answer(force_create_new_workflow_task=True)
    other.answer(commands.marker("m"))
    assert other.history(4) == "4 WorkflowTaskCompleted\n5 MarkerRecorded\n6 WorkflowExecutionPaused"
    assert other.state.task is None


def test_what_a_run_attaches_is_recognised_and_told() -> None:
    run = Run()
    link = Link(workflow_event=Link.WorkflowEvent(namespace="ns", workflow_id="o", run_id="r"))
    callback = Callback(nexus=Callback.Nexus(url="http://back"))
    run.do(lambda t: start.attach(t, "req", callbacks=[callback], links=[link], attach_request_id=True))
    assert run.told(3) == (
        "3 WorkflowExecutionOptionsUpdated attached_request_id=req"
        " attached_completion_callbacks=[{nexus={url=http://back}}] links=1 worker_may_ignore"
    )
    assert run.state.request_ids["req"].event_id == 3
    assert [one.request_id for one in run.state.callbacks] == ["req"]
    run.do(lambda t: start.attach(t, "nothing"))
    assert run.history(4) == ""
    run.start_task()
    run.do(lambda t: start.attach(t, "later", attach_request_id=True))
    run.answer()
    assert run.history(5) == "5 WorkflowTaskCompleted\n6 WorkflowExecutionOptionsUpdated\n7 WorkflowTaskScheduled"
    assert run.state.request_ids["later"].event_id == 6


def test_a_link_that_a_callback_carries_is_told_once() -> None:
    link = Link(workflow_event=Link.WorkflowEvent(namespace="ns", workflow_id="o", run_id="r"))
    callback = Callback(nexus=Callback.Nexus(url="http://back"), links=[link])
    run = Run(links=[link], completion_callbacks=[callback])
    assert "links=1" not in run.told().splitlines()[0].split("completion_callbacks")[0] and not run.state.links


def test_only_so_many_callbacks_can_be_attached() -> None:
    run = Run(limits=Limits(callbacks_per_run_max=1))
    callback = Callback(nexus=Callback.Nexus(url="http://back"))
    with pytest.raises(CallerError, match="cannot attach more than 1 callbacks"):
        run.do(lambda t: start.attach(t, "r", callbacks=[callback, callback]))
    run.do(lambda t: start.attach(t, "r", callbacks=[callback]))


def test_options_are_told_as_a_whole_and_only_if_they_change() -> None:
    run = Run()

    def update(override: VersioningOverride | None, priority: Priority | None) -> bool:
        return run.do(lambda t: lifecycle.update_options(t, versioning_override=override, priority=priority, identity="op"))

    assert not update(None, None)
    assert update(None, Priority(priority_key=3))
    assert not update(None, Priority(priority_key=3))
    assert run.told(3) == (
        "3 WorkflowExecutionOptionsUpdated unset_versioning_override=True identity=op priority={priority_key=3}"
        " worker_may_ignore"
    )
    assert update(VersioningOverride(auto_upgrade=True), Priority(priority_key=3))
    assert run.state.versioning_override
    assert update(None, Priority(priority_key=3))
    assert not run.state.versioning_override


def test_the_worker_that_tries_again_to_end_the_run_is_not_kept_from_it_by_more_news() -> None:
    run = Run()
    run.start_task()
    run.signal()
    with pytest.raises(CallerError, match=r"^UnhandledCommand$"):
        run.answer(commands.complete())
    run.signal()  # before the worker has the task
    run.start_task()
    for call in (Run.signal, Run.update):
        with pytest.raises(CallerError, match="workflow is closing") as refused:
            call(run)
        assert refused.value.code == Code.RESOURCE_EXHAUSTED
    run.answer(commands.complete())
    assert run.state.status == Status.COMPLETED


def test_illegal_steps_raise_and_change_nothing() -> None:
    run = closed()
    with pytest.raises(IllegalTransition):
        run.do(lambda t: start.add_started(t, run.events()[0].workflow_execution_started_event_attributes, ""))
    with pytest.raises(IllegalTransition):
        run.do(lambda t: t.add(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, run.last("WorkflowExecutionTerminated")))


def test_the_words_for_a_run_nobody_knows() -> None:
    assert lifecycle.unknown_run("w", "").message == "workflow not found for ID: w"
    words = 'workflow execution not found for workflow ID "w" and run ID "r"'
    assert lifecycle.unknown_run("w", "r").message == words
