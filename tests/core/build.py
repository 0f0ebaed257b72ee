"""Drives one run through real decisions and checks after each what must always hold.

`Run.do` makes a transition, lets a decision work on it, takes its entry, and demands that the entries, encoded and
decoded, fold to the very state that the decision left. A decision that raises must leave the run as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads, WorkflowType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest, StartWorkflowExecutionRequest

from cluster.config import Limits
from cluster.core import due
from cluster.core.apply import EVENT_NAMES, fold, fold_events
from cluster.core.entry import Entry, Flushed, decode_entry, encode_entry
from cluster.core.events import SECOND_NS, attributes_of, duration, parse_event
from cluster.core.machines import completion, start, workflow_task
from cluster.core.state import RunState, checksum
from cluster.core.transition import Context, Transition

BEGIN_NS = 1_700_000_000 * SECOND_NS
QUEUE = "tq"
R = TypeVar("R")


class CountingIds:
    """Ids one after the other; the jitter is always one half."""

    def __init__(self) -> None:
        self.count = 0

    def uuid(self) -> str:
        self.count += 1
        return f"id-{self.count}"

    def jitter(self) -> float:
        return 0.5


def payloads(text: str) -> Payloads:
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=f'"{text}"'.encode())])


class Run:
    """A run that has been started (and whose first workflow task is scheduled)."""

    def __init__(self, *, limits: Limits | None = None, run_timeout_s: int = 0) -> None:
        self.now = BEGIN_NS
        self.ids = CountingIds()
        self.limits = limits or Limits()
        self.entries: list[Entry] = []
        request = StartWorkflowExecutionRequest(
            workflow_id="w", workflow_type=WorkflowType(name="W"), task_queue=TaskQueue(name=QUEUE), request_id="start"
        )
        if run_timeout_s:
            request.workflow_run_timeout.CopyFrom(duration(run_timeout_s * SECOND_NS))
        first = start.begin_run(self.context(), "ns-id", request, "r")
        self.state: RunState = first.state
        self.take(first)

    def context(self) -> Context:
        return Context("ns", self.now, self.ids, self.limits)

    def do(self, decide: Callable[[Transition], R]) -> R:
        """One transition. If `decide` raises, so does this, and nothing has changed."""
        before, t = checksum(self.state), Transition(self.state, self.context())
        try:
            result = decide(t)
        except Exception:
            assert checksum(self.state) == before, "a refused decision changed the state"
            raise
        self.take(t)
        return result

    def take(self, t: Transition) -> None:
        if t.is_empty:
            return
        self.entries.append(decode_entry(encode_entry(t.entry())))
        self.state = t.state
        self.check()

    def check(self) -> None:
        assert checksum(fold("ns-id", "w", "r", self.entries)) == checksum(self.state), "fold(entries) is not the live state"
        if not self.state.buffered:
            rebuilt = fold_events("ns-id", "w", "r", self.event_bytes())
            for part in ("activities", "activity_ids", "timers", "children", "status", "next_event_id"):
                mine, theirs = getattr(self.state, part), getattr(rebuilt, part)
                if part == "activities":
                    mine, theirs = set(mine), set(theirs)
                assert mine == theirs, f"{part}: public history alone gives another state"

    # --- time and workflow tasks

    def wait(self, seconds: float) -> None:
        """Time passes and nothing looks at the run."""
        self.now += int(seconds * SECOND_NS)

    def wake(self) -> None:
        """The run does what is due now."""
        self.do(due.decide_due)

    def start_task(self) -> None:
        self.do(lambda t: workflow_task.start(t, request_id=self.ids.uuid(), identity="worker"))

    def answer(self, *commands: Command, may_be_eager: bool = False) -> completion.Completed:
        """Completes the started workflow task. A bad command raises its refusal after the failed task was taken."""
        done = completion.decide_completed(
            lambda: Transition(self.state, self.context()),
            RespondWorkflowTaskCompletedRequest(identity="worker", commands=commands),
            resolve_namespace=lambda name: None,
            check_search_attributes=lambda attributes: None,
            may_be_eager=may_be_eager,
        )
        self.take(done.t)
        if done.refusal is not None:
            raise done.refusal
        return done

    def open_task(self) -> None:
        """A workflow task is scheduled and started: from now on news are buffered."""
        self.do(workflow_task.schedule)
        self.start_task()

    def task(self, *commands: Command, may_be_eager: bool = False) -> completion.Completed:
        """Starts the scheduled workflow task (schedules one if there is none) and completes it."""
        if self.state.task is None:
            self.do(workflow_task.schedule)
        self.start_task()
        return self.answer(*commands, may_be_eager=may_be_eager)

    # --- what the history says

    def event_bytes(self) -> list[bytes]:
        found: list[bytes] = []
        for entry in self.entries:
            for item in entry.items:
                if isinstance(item, bytes | Flushed):
                    found.append(item if isinstance(item, bytes) else item.event)
        return found

    def events(self) -> list[HistoryEvent]:
        return [parse_event(data) for data in self.event_bytes()]

    def history(self, since: int = 1) -> str:
        """One line for each event: its id and its name."""
        return "\n".join(f"{one.event_id} {EVENT_NAMES[one.event_type]}" for one in self.events() if one.event_id >= since)

    def last(self, name: str) -> Any:
        """Attributes of the last event of that name."""
        return attributes_of([one for one in self.events() if EVENT_NAMES[one.event_type] == name][-1])


def lines(text: str) -> str:
    """A history as it is written in a test: indented lines between blank ones."""
    return "\n".join(line.strip() for line in text.strip().splitlines())
