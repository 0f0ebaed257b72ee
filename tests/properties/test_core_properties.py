"""Whatever happens to a run, and in whatever order: what must always hold, holds.

`Run` itself checks after each step that entries and state agree, that the snapshot is the state, and that public history
gives the same state but for its notes. Here: event ids have no gaps, nothing stays due, nobody but the caller is to blame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.update.v1 import Outcome

from cluster.config import Limits
from cluster.core import due
from cluster.core.effects import ApplyClosePolicy, StartChild, effects
from cluster.core.errors import CallerError
from cluster.core.events import SECOND_NS as S
from cluster.core.events import duration
from cluster.core.machines import activity_calls, activity_options, child, external, lifecycle, start, workflow_task
from cluster.core.machines.completion import Completed
from cluster.core.state import UpdateStage
from cluster.core.transition import Transition
from tests.core.build import QUEUE, Run, payloads
from tests.e2e import commands

NAMES = "abc"


class Life:
    """A chain of runs, and what a step does to the one that is current."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.run = Run(limits=Limits(updates_in_flight_max=2, signals_per_run_max=6), **fields)
        self.successors: list[Transition] = []

    def step(self, kind: str, pick: int, other: int) -> None:
        run = self.run
        with contextlib.suppress(CallerError):
            STEPS[kind](self, NAMES[pick % 3], other)
        self.check(run)
        if not run.state.is_open and self.successors:
            self.run = run.successor(self.successors.pop())
            self.check(self.run)

    def check(self, run: Run) -> None:
        assert [event.event_id for event in run.events()] == list(range(1, run.state.next_event_id)), "event ids have a gap"
        self.successors += run.do(due.decide_due)
        wake_at = due.wake_at(run.state)
        assert wake_at == 0 or wake_at > run.now, "something stayed due"
        assert run.do(due.decide_due) == [], "what was done is done again"
        if not run.state.is_open:
            assert run.state.task is None and not run.state.buffered and not run.state.activities
            assert run.events()[-1].event_id == run.state.close_event_id, "something happened behind the end"

    def take(self, done: Completed) -> None:
        if done.completion is not None and done.completion.successor is not None:
            self.successors.append(done.completion.successor)


def _poll(life: Life, name: str, other: int) -> None:
    task = life.run.state.task
    if task is not None and not task.is_started and not life.run.state.paused_at:
        life.run.start_task()


def _answer(life: Life, name: str, other: int) -> None:
    """Up to four commands, among them bad ones, and sometimes an end; something or nothing about each update."""
    run, draw = life.run, Random(other)
    if not run.state.has_started_task:
        return
    wishes = [wish for _ in range(draw.randrange(5)) if (wish := draw.choice(WISHES)(life, draw.choice(NAMES))) is not None]
    if draw.random() < 0.05:
        wishes.append(draw.choice(BAD)(life, name))
    if draw.random() < 0.07:
        wishes.append(draw.choice(ENDS)(life, name))
    messages = [message for one in run.deliver() for message in _messages(one, draw)]
    messages += [
        commands.respond(one.update_id, Outcome(success=payloads("done")))
        for one in run.state.updates.values()
        if one.stage == UpdateStage.ACCEPTED and draw.random() < 0.5
    ]
    flags = {"force_create_new_workflow_task": draw.random() < 0.2, "return_new_workflow_task": draw.random() < 0.5}
    life.take(run.answer(*wishes, messages=messages, sticky="sticky" if draw.random() < 0.3 else "", **flags))


def _messages(request: Any, draw: Random) -> list[Any]:
    response = commands.respond(request.protocol_instance_id, Outcome(success=payloads("done")))
    return draw.choice(
        [
            [],
            [commands.accept(request)],
            [commands.accept(request), response],
            [commands.reject(request, Failure(message="no"))],
            [response],  # out of order
        ]
    )


def _fail_task(life: Life, name: str, other: int) -> None:
    if life.run.state.has_started_task:

        def decide(t: Transition) -> None:
            workflow_task.fail(t, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED, Failure(message="bug"))
            workflow_task.schedule(t)

        life.run.do(decide)


def _activity(life: Life, name: str, other: int) -> None:
    run = life.run
    scheduled_id = run.state.activity_ids.get(name, next(iter(run.state.activities), 0))
    if not scheduled_id:
        return
    pending = run.state.activities[scheduled_id]

    def decide(t: Transition) -> None:
        must_tell = False
        match other % 9:
            case 0 | 1 | 2:
                activity_calls.start(t, scheduled_id, request_id=str(other), identity="w", stamp=pending.stamp)
            case 3:
                must_tell = activity_calls.complete(t, scheduled_id, pending.attempt, None)
            case 4:
                must_tell = activity_calls.fail(t, scheduled_id, pending.attempt, Failure(message="oops"))
            case 5:
                must_tell = activity_calls.cancel(t, scheduled_id, pending.attempt, None)
            case 6:
                activity_calls.heartbeat(t, scheduled_id, pending.attempt, None)
            case 7:
                activity_options.pause(t, [scheduled_id], identity="", reason="", request_id="")
            case _:
                activity_options.unpause(t, [scheduled_id], reset_attempts=other % 2 == 0)
        if must_tell:
            workflow_task.schedule(t)

    run.do(decide)


def _deliver(life: Life, name: str, other: int) -> None:
    """One effect is carried out, or its answer comes a second time."""
    run = life.run
    owed = [one for one in effects(run.state) if not isinstance(one, ApplyClosePolicy)]
    ids = [one.initiated_event_id for one in owed if hasattr(one, "initiated_event_id")]
    for one in run.state.children.values():
        ids.append(one.initiated_event_id)
    if not ids:
        return
    event = run.events()[ids[other % len(ids)] - 1]
    if event.HasField("start_child_workflow_execution_initiated_event_attributes"):
        _child(run, event, other)
    elif event.HasField("signal_external_workflow_execution_initiated_event_attributes"):
        run.do(lambda t: external.record_signal_answer(t, event, None if other % 2 else 1))  # type: ignore[arg-type]
    else:
        run.do(lambda t: external.record_cancel_answer(t, event, None if other % 2 else 1))  # type: ignore[arg-type]


def _child(run: Run, event: Any, other: int) -> None:
    if other % 3 == 0:
        run.do(lambda t: child.record_start_failed(t, event, 1))  # type: ignore[arg-type]
    elif other % 3 == 1:
        run.do(lambda t: child.record_started(t, event, "child-run"))
    else:
        ended = Run(run_timeout_s=5)
        how = other // 3 % 5
        if how < 3:
            ended.task((commands.complete(), commands.fail(Failure()), commands.cancel_workflow())[how])
        elif how == 3:
            ended.terminate()
        else:
            ended.wait(5)
            ended.wake()
        run.do(lambda t: child.record_ended(t, event, WorkflowExecution(run_id="child-run"), ended.events()[-1]))


def _close_policy(life: Life, name: str, other: int) -> None:
    for one in effects(life.run.state):
        if isinstance(one, ApplyClosePolicy):
            life.run.do(lambda t, one=one: child.close_policy_done(t, one.initiated_event_id))  # type: ignore[misc]


def _pass(life: Life, name: str, other: int) -> None:
    life.run.now += (other % 40) * S // 4


def _jump(life: Life, name: str, other: int) -> None:
    """To the very moment the run wants to be looked at."""
    life.run.now = max(life.run.now, due.wake_at(life.run.state))


def _pause(life: Life, name: str, other: int) -> None:
    how = lifecycle.pause if other % 2 else lifecycle.unpause
    life.run.do(lambda t: how(t, identity="", reason="", request_id=""))


def _attach(life: Life, name: str, other: int) -> None:
    life.run.do(lambda t: start.attach(t, name, attach_request_id=True))


def _gone(life: Life, name: str, other: int) -> None:
    task = life.run.state.task
    if task is not None and task.is_sticky and not task.is_started:
        life.run.do(workflow_task.fall_back_to_normal_queue)


STEPS: dict[str, Callable[[Life, str, int], None]] = {
    "poll": _poll,
    "answer": _answer,
    # What moves a run comes more often than the rest, lest runs do nothing.
    "answer again": _answer,
    "answer once more": _answer,
    "poll again": _poll,
    "poll once more": _poll,
    "fail task": _fail_task,
    "activity": _activity,
    "activity again": _activity,
    "deliver": _deliver,
    "close policy": _close_policy,
    "time passes": _pass,
    "time jumps": _jump,
    "pause": _pause,
    "attach": _attach,
    "sticky worker is gone": _gone,
    "signal": lambda life, name, other: void(life.run.signal(name, name if other % 2 else "")),
    "update": lambda life, name, other: void(life.run.update(name)),
    "cancel": lambda life, name, other: void(life.run.request_cancel()),
    "terminate": lambda life, name, other: life.run.terminate() if other % 12 == 0 else None,
}


def void(_: object) -> None:
    """The step's answer is of no interest."""


def _unless(taken: Any, name: str, make: Callable[[str], Command]) -> Command | None:
    return make(name) if name not in taken else None


def _of_any(ids: Any, make: Callable[[Any], Command]) -> Command | None:
    return make(next(iter(ids))) if ids else None


def _schedule(name: str) -> Command:
    spans = {"start_to_close_timeout": duration(3 * S), "schedule_to_close_timeout": duration(9 * S)}
    return commands.schedule_activity(name, QUEUE, **spans)


WISHES: list[Callable[[Life, str], Command | None]] = [
    lambda life, name: _unless(life.run.state.timers, name, lambda one: commands.start_timer(one, 2)),
    lambda life, name: _of_any(life.run.state.timers, commands.cancel_timer),
    lambda life, name: _unless(life.run.state.activity_ids, name, _schedule),
    lambda life, name: _unless(life.run.state.activity_ids, name, _schedule),
    lambda life, name: _of_any(
        [one.scheduled_event_id for one in life.run.state.activities.values() if not one.cancel_requested],
        commands.cancel_activity,
    ),
    lambda life, name: commands.start_child(name),
    lambda life, name: commands.signal_external(name),
    lambda life, name: commands.cancel_external(f"other {name}"),
    lambda life, name: commands.marker(name),
]
BAD: list[Callable[[Life, str], Command]] = [
    lambda life, name: commands.cancel_timer(f"no {name}"),
    lambda life, name: commands.cancel_activity(99),
    lambda life, name: commands.marker(""),
]
ENDS: list[Callable[[Life, str], Command]] = [
    lambda life, name: commands.complete(),
    lambda life, name: commands.fail(Failure(message="oops")),
    lambda life, name: commands.continue_as_new(),
    lambda life, name: commands.cancel_workflow(),
]
FIELDS: list[dict[str, Any]] = [
    {},
    {"workflow_run_timeout": duration(20 * S)},
    {"cron_schedule": "@every 5s", "workflow_execution_timeout": duration(60 * S)},
    {"retry_policy": RetryPolicy(initial_interval=duration(S), maximum_attempts=3)},
    {"workflow_start_delay": duration(4 * S)},
]
step = st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 2), st.integers(0, 10_000))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIELDS), st.lists(step, min_size=5, max_size=40))
def test_whatever_happens_what_must_hold_holds(fields: dict[str, Any], steps: list[tuple[str, int, int]]) -> None:
    life = Life(fields)
    for kind, pick, other in steps:
        life.step(kind, pick, other)


def test_a_life_without_an_accident_comes_to_its_end() -> None:
    """The steps really do something: a run that can, ends, and its children are let go."""
    life = Life({})
    for kind, other in (("poll", 0), ("answer", 3), ("deliver", 1), ("poll", 0), ("terminate", 0), ("close policy", 0)):
        life.step(kind, 0, other)
    assert not life.run.state.is_open and effects(life.run.state) == []
    assert not any(isinstance(one, StartChild) for one in effects(life.run.state))
