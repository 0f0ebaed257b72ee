"""Drives one run through real decisions and checks after each what must always hold.

`Run.do` makes a transition, lets a decision work on it, takes its entry, and demands that the entries, encoded and
decoded, fold to the very state that the decision left. A decision that raises must leave the run as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionSignaledEventAttributes
from temporalio.api.protocol.v1 import Message
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest, StartWorkflowExecutionRequest

from cluster.config import Limits
from cluster.core import due
from cluster.core.apply import EVENT_NAMES, apply_entry, new_state, take_event
from cluster.core.effects import effects
from cluster.core.entry import Entry, Flushed, decode_entry, encode_entry
from cluster.core.events import SECOND_NS, attributes_of, duration, parse_event
from cluster.core.machines import completion, lifecycle, start, update, workflow_task
from cluster.core.state import ParentLink, RunState, checksum, decode_state, encode_state
from cluster.core.transition import Context, EndpointRef, Transition
from cluster.core.without_notes import without_notes
from tests.core.telling import tell

BEGIN_NS = 1_700_000_000 * SECOND_NS
QUEUE = "tq"
R = TypeVar("R")


def update_request(update_id: str) -> Request:
    return Request(meta=Meta(update_id=update_id, identity="client"), input=Input(name="change"))


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


def check_search_attributes(attributes: Any) -> None:
    """A registry that knows every name but one."""
    if "Nobody" in attributes.indexed_fields:
        raise ValueError("Namespace ns has no mapping defined for search attribute Nobody")


class Run:
    """A run that has been started (and whose first workflow task is scheduled)."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        run_timeout_s: int = 0,
        parent: ParentLink | None = None,
        root: WorkflowExecution | None = None,
        eager_identity: str = "",
        adopted: Transition | None = None,
        **fields: Any,
    ) -> None:
        """fields: of the start request. adopted: the run's first transition, made by its predecessor."""
        self.now = BEGIN_NS
        self.ids = CountingIds()
        self.version = 0  # failover version of the namespace
        self.limits = limits or Limits()
        self.entries: list[Entry] = []
        self.namespaces = {"elsewhere": ("elsewhere-id", "elsewhere")}
        self.endpoints = {"ep": EndpointRef("ep-id", "ep"), "private": EndpointRef("private-id", "private", is_allowed=False)}
        wanted: dict[str, Any] = {
            "workflow_id": "w",
            "workflow_type": WorkflowType(name="W"),
            "task_queue": TaskQueue(name=QUEUE),
            "request_id": "start",
        }
        request = StartWorkflowExecutionRequest(**(wanted | fields))
        if run_timeout_s:
            request.workflow_run_timeout.CopyFrom(duration(run_timeout_s * SECOND_NS))
        first = adopted or start.begin_run(
            self.context(), "ns-id", request, "r", parent=parent, root=root, eager_identity=eager_identity
        )
        self.state: RunState = first.state
        key = (self.state.namespace_id, self.state.workflow_id, self.state.run_id)
        self.folded, self.rebuilt = new_state(*key), new_state(*key)  # of the entries, of the public events alone
        self.take(first)

    def successor(self, done: completion.Completed | Transition) -> Run:
        """The next run of the chain, told by the answer (or the time-out) that ended this one."""
        made = done if isinstance(done, Transition) else done.completion.successor if done.completion else None
        assert made is not None, "the run has no successor"
        after = Run(limits=self.limits, adopted=made)
        after.now, after.ids, after.version = self.now, self.ids, self.version
        return after

    def context(self) -> Context:
        return Context("ns", self.now, self.ids, self.limits, self.version, endpoint=self.endpoints.get)

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
        entry = decode_entry(encode_entry(t.entry()))
        self.entries.append(entry)
        self.state = t.state
        self.folded = apply_entry(self.folded, entry)
        for data in _events_of(entry):
            take_event(self.rebuilt, parse_event(data), data)
        self.check()

    def check(self) -> None:
        state = self.state
        assert checksum(self.folded) == checksum(state), "fold(entries) is not the live state"
        decoded = decode_state(encode_state(state))
        assert checksum(decoded) == checksum(state), "the snapshot is not the state"
        assert effects(decoded) == effects(state), "what is owed is not a function of the state"
        assert self.rebuilt.history_hash == state.history_hash, "public history has another hash"
        if not state.buffered:
            assert checksum(without_notes(self.rebuilt)) == checksum(without_notes(state)), "public history gives another state"

    # --- time and workflow tasks

    def wait(self, seconds: float) -> None:
        """Time passes and nothing looks at the run."""
        self.now += int(seconds * SECOND_NS)

    def wake(self) -> None:
        """The run does what is due now."""
        self.do(due.decide_due)

    def start_task(self) -> None:
        """A worker takes the workflow task, and what updates wait."""

        def begin(t: Transition) -> None:
            workflow_task.start(t, request_id=self.ids.uuid(), identity="worker")
            update.send(t)

        self.do(begin)

    def answer(self, *commands: Command, may_be_eager: bool = False, sticky: str = "", **fields: Any) -> completion.Completed:
        """Completes the started workflow task. A bad command raises its refusal after the failed task was taken."""
        request = RespondWorkflowTaskCompletedRequest(identity="worker", commands=commands, **fields)
        if sticky:
            request.sticky_attributes.worker_task_queue.name = sticky
            request.sticky_attributes.schedule_to_start_timeout.CopyFrom(duration(5 * SECOND_NS))
        before = checksum(self.state)
        try:
            done = completion.decide_completed(
                lambda: Transition(self.state, self.context()),
                request,
                resolve_namespace=self.namespaces.get,
                check_search_attributes=check_search_attributes,
                may_be_eager=may_be_eager,
            )
        except Exception:
            assert checksum(self.state) == before, "a refused answer changed the state"
            raise
        self.take(done.t)
        if done.refusal is not None:
            raise done.refusal
        return done

    def open_task(self) -> None:
        """A workflow task is scheduled and started: from now on news are buffered."""
        self.do(workflow_task.schedule)
        self.start_task()

    def task(self, *commands: Command, may_be_eager: bool = False, **fields: Any) -> completion.Completed:
        """Starts the scheduled workflow task (schedules one if there is none) and completes it."""
        if self.state.task is None:
            self.do(workflow_task.schedule)
        self.start_task()
        return self.answer(*commands, may_be_eager=may_be_eager, **fields)

    # --- calls of clients

    def signal(self, name: str = "go", request_id: str = "") -> bool:
        attributes = WorkflowExecutionSignaledEventAttributes(signal_name=name, identity="client", request_id=request_id)
        return self.do(lambda t: lifecycle.signal(t, attributes))

    def request_cancel(self, request_id: str = "cancel") -> bool:
        return self.do(lambda t: lifecycle.request_cancel(t, cause="enough", identity="client", request_id=request_id))

    def terminate(self) -> None:
        self.do(lambda t: lifecycle.terminate(t, reason="enough", details=None, identity="client"))

    def update(self, update_id: str = "u") -> bool:
        return self.do(lambda t: update.admit(t, update_request(update_id)))

    def deliver(self) -> list[Message]:
        """The protocol messages of the started workflow task."""
        return update.messages(self.state)

    # --- what the history says

    def event_bytes(self) -> list[bytes]:
        return [data for entry in self.entries for data in _events_of(entry)]

    def events(self) -> list[HistoryEvent]:
        return [parse_event(data) for data in self.event_bytes()]

    def history(self, since: int = 1) -> str:
        """One line for each event: its id and its name."""
        return "\n".join(f"{one.event_id} {EVENT_NAMES[one.event_type]}" for one in self.events() if one.event_id >= since)

    def told(self, since: int = 1) -> str:
        """One line for each event, with its attributes."""
        return "\n".join(tell(one, BEGIN_NS) for one in self.events() if one.event_id >= since)

    def last(self, name: str) -> Any:
        """Attributes of the last event of that name."""
        return attributes_of([one for one in self.events() if EVENT_NAMES[one.event_type] == name][-1])


def _events_of(entry: Entry) -> list[bytes]:
    """The public events that joined the history, in their order."""
    return [item if isinstance(item, bytes) else item.event for item in entry.items if isinstance(item, bytes | Flushed)]


def lines(text: str) -> str:
    """A history as it is written in a test: indented lines between blank ones."""
    return "\n".join(line.strip() for line in text.strip().splitlines())
