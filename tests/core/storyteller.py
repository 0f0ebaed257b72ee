"""Stories: a run's life as a text of commands and of what follows from them. tests/core/stories/*.txt are written in it.

A line that begins with `>` is a command; the lines below it are what it led to:

    5 TimerStarted timer_id=t ..      an event that joined the history (what every event says is left out)
    buffered TimerFired               one that waits for the running task to end
    owes start child 5                what the run owes the world, when that changed
    wakes +10s                        when it wants to be looked at, when that changed
    refused CODE: words               the caller's error; nothing changed

All else is prose. `REGENERATE=1 pytest tests/core/test_stories.py` writes the outcomes anew: read them before you keep them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import (
    ParentClosePolicy,
    StartChildWorkflowExecutionFailedCause,
    WorkflowTaskFailedCause,
)
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.update.v1 import Outcome

from cluster.core import due
from cluster.core.apply import EVENT_NAMES
from cluster.core.effects import CancelNexusOperation, DeliverCallback, Effect, StartNexusOperation, effects
from cluster.core.errors import CallerError, Code
from cluster.core.events import SECOND_NS, duration, parse_event
from cluster.core.machines import activity_calls, child, external, lifecycle, takeover, workflow_task
from cluster.core.machines.completion import Completed
from cluster.core.transition import Transition
from tests.core import nexus_stories
from tests.core.build import BEGIN_NS, QUEUE, Run, payloads
from tests.core.telling import moment, tell
from tests.e2e import commands

# What nearly every event says and no story is about.
_LEFT_OUT = re.compile(
    r" (identity|request_id|history_size_bytes|workflow_task_completed_event_id|scheduled_event_id|workflow_type"
    r"|namespace|namespace_id|original_execution_run_id|first_execution_run_id|workflow_id|worker_may_ignore"
    r"|task_queue|start_to_close_timeout|workflow_task_timeout|accepted_request\w*|prev_auto_reset_points"
    r"|activity_type|schedule_to_\w+|heartbeat_timeout|parent_\w+|workflow_id_reuse_policy|protocol_instance_id"
    r"|workflow_execution_expiration_time|workflow_run_timeout|root_workflow_execution|attempt=1)"
    r"(=\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|=\S+|(?= |$))"
)
_SPAN = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def span_ns(text: str) -> int:
    found = _SPAN.match(text)
    assert found, f"{text!r} is no span of time, such as 10s or 2m"
    return int(float(found[1]) * _UNITS_S[found[2]] * SECOND_NS)


def span(text: str) -> Duration:
    return duration(span_ns(text))


class Story:
    """One run at a time; `next` goes on with its successor."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.successors: list[Transition] = []
        self._told: tuple[Any, ...] = (0, 0, [], 0)

    def do(self, line: str) -> list[str]:
        """What the command led to."""
        name, *words = line.split()
        handler = COMMANDS.get(name)
        assert handler is not None, f"{name!r} is no command: {sorted(COMMANDS)}"
        options = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("["))
        plain = [word for word in words if "=" not in word]
        try:
            handler(self, plain if name != "answer" else words, options)
        except CallerError as error:
            return [*self._news(), f"refused {Code(error.code).name}: {error.message}"]
        return self._news() or ["nothing happens"]

    @property
    def live(self) -> Run:
        assert self.run is not None, "no run has been started"
        return self.run

    def take(self, done: Completed) -> None:
        if done.completion is not None and done.completion.successor is not None:
            self.successors.append(done.completion.successor)
        for notice in done.t.notices:
            self.notices.append(f"told {notice.update_id}: rejected, {Failure.FromString(notice.failure).message}")
        if done.next_is_started:
            self.notices.append("the next task goes back with the reply")

    notices: list[str]

    def _news(self) -> list[str]:
        run = self.live
        event_id, buffered, owed, wake = self._told
        state = run.state
        lines = [_short(tell(one, BEGIN_NS)) for one in run.events() if one.event_id > event_id]
        if len(state.buffered) > buffered:
            lines += [f"buffered {EVENT_NAMES[parse_event(data).event_type]}" for data in state.buffered[buffered:]]
        lines += self.notices
        self.notices = []
        owes, wakes = effects(state), due.wake_at(state)
        if owes != owed:
            lines.append("owes " + (", ".join(map(_owed, owes)) or "nothing"))
        if wakes != wake:
            lines.append("wakes " + (moment(wakes, BEGIN_NS) if wakes else "never"))
        self._told = (state.next_event_id - 1, len(state.buffered), owes, wakes)
        return lines

    def begin(self, run: Run) -> None:
        self.run, self.notices, self._told = run, [], (0, 0, [], 0)


def _short(told: str) -> str:
    while (shorter := _LEFT_OUT.sub("", told)) != told:
        told = shorter
    return told


def _owed(effect: Effect) -> str:
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", type(effect).__name__).lower()
    number = getattr(effect, "initiated_event_id", None) or getattr(effect, "scheduled_event_id", None)
    if isinstance(effect, StartNexusOperation | CancelNexusOperation):
        return f"{words} {number} (attempt {effect.attempt + 1})"
    if isinstance(effect, DeliverCallback):
        return f"{words} {effect.index} (attempt {effect.attempt + 1})"
    return f"{words} {number}" if number else words


# --- commands -----------------------------------------------------------------------------------------------------------

Handler = Callable[[Story, list[str], dict[str, str]], None]
COMMANDS: dict[str, Handler] = {}


def told(handler: Handler) -> Handler:
    COMMANDS[handler.__name__.strip("_").replace("_", "-")] = handler
    return handler


def _policy(text: str) -> RetryPolicy:
    """`1s*2x3`: the first wait, its growth, attempts at most."""
    wait, growth, attempts = re.split(r"[*x]", text)
    return RetryPolicy(initial_interval=span(wait), backoff_coefficient=float(growth), maximum_attempts=int(attempts))


@told
def start(story: Story, words: list[str], options: dict[str, str]) -> None:
    fields: dict[str, Any] = {}
    for name, field in (
        ("run-timeout", "workflow_run_timeout"),
        ("execution-timeout", "workflow_execution_timeout"),
        ("delay", "workflow_start_delay"),
    ):
        if name in options:
            fields[field] = span(options[name])
    if "cron" in options:
        fields["cron_schedule"] = options["cron"].replace("_", " ")
    if "retry" in options:
        fields["retry_policy"] = _policy(options["retry"])
    if "callbacks" in options:
        fields["completion_callbacks"] = [nexus_stories.callback_to(name) for name in options["callbacks"].split(",")]
    story.begin(Run(**fields))


@told
def next_(story: Story, words: list[str], options: dict[str, str]) -> None:
    """The run that follows the one that ended."""
    story.begin(story.live.successor(story.successors.pop()))


@told
def poll(story: Story, words: list[str], options: dict[str, str]) -> None:
    """A worker takes the workflow task."""
    story.live.start_task()
    story.notices += [f"carries {one.id} (after event {one.event_id})" for one in story.live.deliver()]


@told
def answer(story: Story, words: list[str], options: dict[str, str]) -> None:
    """The worker answers: commands in brackets, messages, `sticky`, `force`, `return`."""
    text = " ".join(words)
    wishes, messages = [], []
    for one in re.findall(r"\[([^\]]*)\]", text):
        made = _wish(story, one.split())
        if isinstance(made, Command):
            wishes.append(made)
        else:
            messages.append(made)
            if made.body.type_url.endswith(("Acceptance", "Response")):
                wishes.append(commands.message_command(made.id))
    flags = re.sub(r"\[[^\]]*\]", "", text).split()
    done = story.live.answer(
        *wishes,
        messages=messages,
        sticky="sticky" if "sticky" in flags else "",
        force_create_new_workflow_task="force" in flags,
        return_new_workflow_task="return" in flags,
    )
    story.take(done)


def _wish(story: Story, words: list[str]) -> Any:
    """One command or message: `timer t 10s`, `activity a`, `child c`, `complete` ..."""
    kind, rest = words[0], words[1:]
    options = dict(word.split("=", 1) for word in rest if "=" in word)
    rest = [word for word in rest if "=" not in word]
    if kind == "timer":
        return commands.start_timer(rest[0], span_ns(rest[1]) / SECOND_NS)
    if kind == "cancel-timer":
        return commands.cancel_timer(rest[0])
    if kind == "activity":
        fields: dict[str, Any] = {"retry_policy": _policy(options["retry"])} if "retry" in options else {}
        for name in ("start-to-close", "schedule-to-close", "schedule-to-start"):
            if name in options:
                fields[f"{name.replace('-', '_')}_timeout"] = span(options[name])
        return commands.schedule_activity(rest[0], QUEUE, **fields)
    if kind == "cancel-activity":
        return commands.cancel_activity(story.live.state.activity_ids[rest[0]])
    if kind == "child":
        policy = ParentClosePolicy.Value(f"PARENT_CLOSE_POLICY_{options.get('close', 'TERMINATE')}")
        return commands.start_child(rest[0], parent_close_policy=policy)
    if kind == "operation":
        spans: dict[str, Any] = {name.replace("-", "_") + "_timeout": span(text) for name, text in options.items()}
        return nexus_stories.schedule(rest[0], **spans)
    if kind == "cancel-operation":
        return nexus_stories.request_cancel(int(rest[0]))
    if kind == "signal":
        return commands.signal_external(rest[0])
    if kind == "marker":
        return commands.marker(rest[0])
    if kind == "complete":
        return commands.complete(payloads(rest[0]) if rest else None)
    if kind == "fail":
        return commands.fail(Failure(message=rest[0], application_failure_info=ApplicationFailureInfo()))
    if kind == "cancelled":
        return commands.cancel_workflow()
    if kind == "continue-as-new":
        return commands.continue_as_new()
    request = next((one for one in story.live.deliver() if one.protocol_instance_id == rest[0]), None)
    if kind == "accept":
        assert request is not None, f"update {rest[0]} was not carried"
        return commands.accept(request)
    if kind == "reject":
        assert request is not None, f"update {rest[0]} was not carried"
        return commands.reject(request, Failure(message=" ".join(rest[1:])))
    assert kind == "done", f"{kind!r} is no command of a worker"
    return commands.respond(rest[0], Outcome(success=payloads("done")))


@told
def fail_task(story: Story, words: list[str], options: dict[str, str]) -> None:
    def decide(t: Transition) -> None:
        cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
        workflow_task.fail(t, cause, Failure(message=" ".join(words)), identity="worker")
        workflow_task.schedule(t)

    story.live.do(decide)


@told
def signal(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.live.signal(words[0])


@told
def update(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.live.update(words[0])


@told
def cancel(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.live.request_cancel()


@told
def terminate(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.live.terminate()


@told
def pause(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.live.do(lambda t: lifecycle.pause(t, identity="operator", reason=" ".join(words), request_id="pause"))


@told
def unpause(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.live.do(lambda t: lifecycle.unpause(t, identity="operator", reason=" ".join(words), request_id="unpause"))


@told
def advance(story: Story, words: list[str], options: dict[str, str]) -> None:
    """Time passes, and the run does what has become due."""
    story.live.now += span_ns(words[0])
    story.successors += story.live.do(due.decide_due)


@told
def fail_over(story: Story, words: list[str], options: dict[str, str]) -> None:
    """`fail-over 2`: another region writes under that version from now on, and takes the run over."""
    run = story.live
    run.version = int(words[0])
    if takeover.is_needed(run.state):
        run.do(takeover.take_over)


@told
def activity(story: Story, words: list[str], options: dict[str, str]) -> None:
    """`activity a starts`, `completes`, `fails words`, `beats`."""
    run, (activity_id, what, *rest) = story.live, words
    scheduled_id = run.state.activity_ids[activity_id]
    pending = run.state.activities[scheduled_id]

    def decide(t: Transition) -> None:
        must_tell = False
        if what == "starts":
            activity_calls.start(t, scheduled_id, request_id="poll", identity="worker", stamp=pending.stamp)
        elif what == "completes":
            must_tell = activity_calls.complete(t, scheduled_id, pending.attempt, payloads("done"), identity="worker")
        elif what == "fails":
            failure = Failure(message=" ".join(rest), application_failure_info=ApplicationFailureInfo())
            must_tell = activity_calls.fail(t, scheduled_id, pending.attempt, failure, identity="worker")
        else:
            assert what == "beats", f"an activity does not do {what!r}"
            activity_calls.heartbeat(t, scheduled_id, pending.attempt, payloads("half"))
        if must_tell:
            workflow_task.schedule(t)

    run.do(decide)


@told
def child_(story: Story, words: list[str], options: dict[str, str]) -> None:
    """`child 5 starts`, `exists`, `completes`, `is let go`."""
    run, event_id, what = story.live, int(words[0]), words[1]
    initiated = run.events()[event_id - 1]
    if what == "starts":
        run.do(lambda t: child.record_started(t, initiated, "child-run"))
    elif what == "exists":
        cause = StartChildWorkflowExecutionFailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
        run.do(lambda t: child.record_start_failed(t, initiated, cause))
    elif what == "completes":
        other = Run()
        other.task(commands.complete(payloads("done")))
        execution = WorkflowExecution(workflow_id="c", run_id="child-run")
        run.do(lambda t: child.record_ended(t, initiated, execution, other.events()[-1]))
    else:
        assert what == "is", "a child starts, exists, completes, or is let go"
        run.do(lambda t: child.close_policy_done(t, event_id))


@told
def sent(story: Story, words: list[str], options: dict[str, str]) -> None:
    """The other workflow has the signal."""
    initiated = story.live.events()[int(words[0]) - 1]
    story.live.do(lambda t: external.record_signal_answer(t, initiated, None))


@told
def operation(story: Story, words: list[str], options: dict[str, str]) -> None:
    """`operation 5 starts`, `completes`, `fails`, `is away`, `is blocked`, `calls back with a result`, `hears the cancel` ..."""
    nexus_stories.tell_operation(story.live, int(words[0]), " ".join(words[1:]))


@told
def callback(story: Story, words: list[str], options: dict[str, str]) -> None:
    """`callback 0 is heard`, `is refused`, `is not reached`."""
    nexus_stories.tell_callback(story.live, int(words[0]), " ".join(words[1:]))


@told
def attach(story: Story, words: list[str], options: dict[str, str]) -> None:
    """A start that uses the existing run leaves its callback on it."""
    nexus_stories.attach(story.live, words[0])


def play(text: str) -> str:
    """The story with its outcomes as they are now."""
    story, lines = Story(), []
    is_outcome = False
    for line in text.splitlines():
        if line.startswith("> "):
            lines += [line, *story.do(line[2:])]
            is_outcome = True
        elif not line.strip():
            is_outcome = False
            lines.append(line)
        elif not is_outcome:
            lines.append(line)
    return "\n".join(lines) + "\n"
