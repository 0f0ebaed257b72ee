"""A transition in the making: decide functions add events and notes to it, and it applies each at once to a fork.

If the decision raises, the fork is thrown away and nothing changed. If it ends well, `entry()` is what the journal gets
and `state` is the run's new state: the same apply functions have made it that will make it again at recovery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message
from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.sdk.v1 import UserMetadata

from cluster.config import Limits
from cluster.core.apply import apply_event, apply_note, count_transition, flush_event, new_state, take_event
from cluster.core.entry import Base, Buffered, Entry, Flushed, Item, Note
from cluster.core.events import ATTRIBUTES_FIELD, FLUSHED_LAST, NEVER_BUFFERED, parse_event, timestamp
from cluster.core.state import RunState, decode_state

_TERMINAL_OF_ACTIVITY = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
}


class Ids(Protocol):
    """New ids and jitter are arguments of a decision."""

    def uuid(self) -> str: ...

    def jitter(self) -> float: ...


class EndpointRef(NamedTuple):
    """A Nexus endpoint by which an operation may be called."""

    id: str
    name: str
    is_allowed: bool = True  # the caller's namespace may use it


EndpointLookup = Callable[[str], EndpointRef | None]


def no_endpoints(name: str) -> EndpointRef | None:
    """The registry of a server without Nexus."""
    return None


class Context:
    """What every decision is given besides state and request. `now` is ns since the epoch."""

    __slots__ = ("endpoint", "ids", "limits", "namespace", "now", "retention_ns", "version")

    def __init__(
        self,
        namespace: str,
        now: int,
        ids: Ids,
        limits: Limits,
        version: int = 0,
        retention_ns: int = 0,
        endpoint: EndpointLookup = no_endpoints,
    ) -> None:
        """retention_ns: the namespace's; 0 = the default of the limits. A chain of runs says until when it can be reset.

        endpoint: the Nexus endpoint of that name, None = there is none.
        """
        self.namespace = namespace  # its name: what the run's public events say
        self.retention_ns = retention_ns or limits.retention_default_ns
        self.now = now
        self.ids = ids
        self.limits = limits
        self.version = version
        self.endpoint = endpoint


# Called before a fact from outside (anything that may be buffered) is added: see `before_fact`.
_BEFORE_FACT: list[Callable[[Transition], None]] = []


def before_fact(function: Callable[[Transition], None]) -> Callable[[Transition], None]:
    """Registers what must be in the history before news can be: a speculative task becomes a real one (workflow_task.py)."""
    _BEFORE_FACT.append(function)
    return function


class Transition:
    """See the module's text. `notices` go to those who wait in memory; they are no part of the entry."""

    __slots__ = ("context", "first_event_id", "is_new", "items", "notices", "now", "state")

    def __init__(self, state: RunState, context: Context) -> None:
        self.state = state.fork()
        self.context = context
        self.now = context.now
        self.first_event_id = state.next_event_id
        self.items: list[Item] = []
        self.notices: list[Any] = []
        self.is_new = state.next_event_id == 1

    @classmethod
    def of_new_run(cls, namespace_id: str, workflow_id: str, run_id: str, context: Context) -> Transition:
        return cls(new_state(namespace_id, workflow_id, run_id), context)

    @classmethod
    def from_base(cls, snapshot: bytes, context: Context) -> Transition:
        """A run that begins with a stored prefix (reset); `snapshot` is the encoded fold of that prefix."""
        state = decode_state(snapshot)
        transition = cls(state, context)
        transition.is_new = True
        transition.items.append(Base(snapshot, state.next_event_id - 1))
        return transition

    def add(
        self,
        event_type: EventType.ValueType,
        attributes: Message,
        *,
        user_metadata: UserMetadata | None = None,
        links: Sequence[Link] = (),
        at: int = 0,
        is_behind: bool = False,
        worker_may_ignore: bool = False,
    ) -> HistoryEvent:
        """Adds one event, or buffers it while a workflow task is started. Its event_id is 0 if it was buffered.

        is_behind: buffer it although no task is started: it joins the history behind the other events of this
        transition, or never, if the run closes first (the outcome of a command that ends what nobody had begun).
        """
        state = self.state
        is_fact = event_type not in NEVER_BUFFERED
        if is_fact:
            for prepare in _BEFORE_FACT:
                prepare(self)
        is_buffered = is_fact and (is_behind or state.has_started_task)
        event = HistoryEvent(
            event_id=0 if is_buffered else state.next_event_id,
            event_time=timestamp(at or self.now),
            event_type=event_type,
            version=self.context.version,
            user_metadata=user_metadata,
            links=links,
            worker_may_ignore=worker_may_ignore,
            **{ATTRIBUTES_FIELD[event_type]: attributes},  # type: ignore[arg-type]
        )
        data = event.SerializeToString()
        if is_buffered:
            apply_event(state, event)
            state.buffered.append(data)
            self.items.append(Buffered(data))
        else:
            take_event(state, event, data)
            self.items.append(data)
        return event

    def note(self, note: Note) -> None:
        apply_note(self.state, note)
        self.items.append(note)

    def flush(self) -> bool:
        """Gives the buffered events their ids, results last. Returns whether there were any."""
        waiting = self.state.buffered
        if not waiting:
            return False
        assert not self.state.has_started_task, "events are flushed only when no workflow task is started"
        events = [parse_event(data) for data in waiting]
        events.sort(key=lambda event: event.event_type in FLUSHED_LAST)  # stable
        started_ids: dict[tuple[str, int], int] = {}
        for event in events:
            event.event_id = self.state.next_event_id
            event.version = self.context.version  # a failover may lie between the buffering and now
            _wire_started_id(event, started_ids)
            data = event.SerializeToString()
            flush_event(self.state, event, data)
            self.items.append(Flushed(data))
        return True

    @property
    def is_empty(self) -> bool:
        return not self.items

    def entry(self) -> Entry:
        """Raises IllegalTransition for a version below the run's last: the namespace is active elsewhere, or this is stale."""
        state, version = self.state, self.context.version
        count_transition(state, version)
        return Entry(state.namespace_id, state.workflow_id, state.run_id, self.first_event_id, self.now, self.items, version)


def _wire_started_id(event: HistoryEvent, started_ids: dict[tuple[str, int], int]) -> None:
    """A result that was buffered together with its start could not name the start's id before now."""
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
        started_ids["activity", event.activity_task_started_event_attributes.scheduled_event_id] = event.event_id
    elif event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
        started_ids["child", event.child_workflow_execution_started_event_attributes.initiated_event_id] = event.event_id
    elif event.event_type in FLUSHED_LAST:
        attributes: Any = getattr(event, ATTRIBUTES_FIELD[event.event_type])
        if event.event_type in _TERMINAL_OF_ACTIVITY:
            key = ("activity", attributes.scheduled_event_id)
        elif hasattr(attributes, "initiated_event_id"):
            key = ("child", attributes.initiated_event_id)
        else:
            return
        if not attributes.started_event_id:
            attributes.started_event_id = started_ids.get(key, 0)
