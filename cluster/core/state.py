"""The state of one run: a fold over its entries and nothing else.

Parts that change are frozen structs kept in dicts, replaced whole and never mutated. So `fork` is a handful of shallow
copies: decide works on a fork, an error throws the fork away, success makes it the state. Sub-messages that the server
only passes on (payloads, failures, policies) stay encoded bytes. Times are ns since the epoch, 0 = unset; durations ns.
"""

from __future__ import annotations

import copy
import hashlib
from enum import IntEnum

import msgspec

from cluster.core.nexus_state import NexusOperation

SNAPSHOT_FORMAT = 1


class Status(IntEnum):
    """temporal.api.enums.v1.WorkflowExecutionStatus."""

    NONE = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELED = 4
    TERMINATED = 5
    CONTINUED_AS_NEW = 6
    TIMED_OUT = 7
    PAUSED = 8


class TaskType(IntEnum):
    """A speculative task has no events until its worker has shown that it needs them (updates only)."""

    NORMAL = 1
    SPECULATIVE = 2


class UpdateStage(IntEnum):
    """temporal.api.enums.v1.UpdateWorkflowExecutionLifecycleStage, with SENT between admitted and accepted."""

    ADMITTED = 1
    SENT = 2
    ACCEPTED = 3
    COMPLETED = 4


class WorkflowTask(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The pending workflow task. attempt > 1 = transient: its events are written when it completes."""

    scheduled_event_id: int
    scheduled_at: int
    attempt: int = 1
    type: int = TaskType.NORMAL
    timeout_ns: int = 0
    started_event_id: int = 0
    started_at: int = 0
    request_id: str = ""
    identity: str = ""
    original_scheduled_at: int = 0  # of the first task of a chain of heartbeats
    schedule_to_start_at: int = 0  # sticky or speculative: when to give up the queue
    is_sticky: bool = False
    stamp: int = 0
    history_bytes: int = 0
    suggest_reasons: tuple[int, ...] = ()
    # What a scheduled or started event says beyond the above (queue, versions), for tasks whose events come later.
    started_attributes: bytes = b""
    events_written: bool = True  # scheduled (and started) events are in the history

    @property
    def is_started(self) -> bool:
        return self.started_event_id != 0

    @property
    def is_transient(self) -> bool:
        return self.attempt > 1


class Activity(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A pending activity. started_at != 0 = a worker has it; next_attempt_at != 0 = waits for its next attempt."""

    scheduled_event_id: int
    activity_id: str
    activity_type: str
    task_queue: str
    first_scheduled_at: int
    scheduled_at: int  # of the current attempt
    attempt: int = 1
    stamp: int = 0
    schedule_to_close_ns: int = 0
    schedule_to_start_ns: int = 0
    start_to_close_ns: int = 0
    heartbeat_ns: int = 0
    retry_policy: bytes = b""  # temporal.api.common.v1.RetryPolicy; empty = no retries
    started_event_id: int = 0  # 0 while started but not yet written (the event is written at the end, with the attempt)
    started_at: int = 0
    request_id: str = ""
    identity: str = ""
    next_attempt_at: int = 0
    cancel_requested: bool = False
    cancel_requested_event_id: int = 0
    heartbeat_at: int = 0
    heartbeat_details: bytes = b""  # Payloads
    last_failure: bytes = b""  # Failure
    last_worker_identity: str = ""
    last_attempt_ended_at: int = 0
    priority: bytes = b""
    paused_at: int = 0
    pause_identity: str = ""
    pause_reason: str = ""
    pause_request_id: str = ""
    was_reset: bool = False  # told to the running attempt by its heartbeats
    reset_heartbeats: bool = False  # the next attempt begins without the progress of this one
    worker_version: bytes = b""
    deployment_version: bytes = b""  # WorkerDeploymentVersion of the worker that took it last

    @property
    def is_started(self) -> bool:
        return self.started_at != 0


class Timer(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A user timer that has not fired."""

    timer_id: str
    started_event_id: int
    fires_at: int


class Child(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A child workflow that was wished for and has not ended. started_event_id 0 = start outstanding (or buffered)."""

    initiated_event_id: int
    namespace: str
    namespace_id: str
    workflow_id: str
    workflow_type: str
    parent_close_policy: int
    request_id: str
    run_id: str = ""  # set once started
    started_event_id: int = 0
    is_started: bool = False
    initiated_version: int = 0
    is_policy_done: bool = False  # its parent has closed and has done to it what its policy says


class ExternalSignal(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A signal to another workflow that has not been answered."""

    initiated_event_id: int
    request_id: str
    initiated_version: int = 0


class ExternalCancel(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A cancel request to another workflow that has not been answered."""

    initiated_event_id: int
    request_id: str
    initiated_version: int = 0


class Update(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An update. request (temporal.api.update.v1.Request) is kept until the update is accepted."""

    update_id: str
    stage: int
    request: bytes = b""
    admitted_event_id: int = 0
    accepted_event_id: int = 0
    completed_event_id: int = 0
    sent_task_id: int = 0  # scheduled event id of the workflow task that carried it
    admitted_at: int = 0
    admitted_transition: int = 0  # the run's transition_count once it was admitted: on which side of a fork that was
    links: tuple[bytes, ...] = ()


class Callback(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A completion callback attached to the run; delivered after the run has closed."""

    callback: bytes  # temporal.api.common.v1.Callback
    registered_at: int
    request_id: str = ""
    state: int = 1  # temporal.api.enums.v1.CallbackState: STANDBY; never BLOCKED
    attempt: int = 0  # finished attempts
    last_attempt_at: int = 0
    next_attempt_at: int = 0
    last_failure: bytes = b""
    blocked_reason: str = ""  # why no attempt is made now: the circuit breaker of its address is open


class ParentLink(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Whom to tell when this run ends."""

    namespace: str
    namespace_id: str
    workflow_id: str
    run_id: str
    initiated_event_id: int
    initiated_version: int = 0


class RequestSeen(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request id that attached to this run: the event it led to (0 = buffered)."""

    event_type: int
    event_id: int


class ResetPoint(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a build was first seen (temporal.api.workflow.v1.ResetPointInfo)."""

    build_id: str
    binary_checksum: str
    first_workflow_task_completed_id: int
    created_at: int
    resettable: bool = True
    run_id: str = ""
    expires_at: int = 0  # of a former run: when its retention ends


class InboxItem(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What reached a run after its close waits for the next run of the workflow id, or was given to that one."""

    line: bytes = b""  # an encoded ledger line
    given_to: str = ""  # a run id; "" = it waits


class RunState(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One run. Everything here follows from its entries."""

    namespace_id: str
    workflow_id: str
    run_id: str
    status: int = Status.NONE
    next_event_id: int = 1
    version_history: list[tuple[int, int]] = []  # (last event id, version), ascending
    history_bytes: int = 0
    history_hash: bytes = b""  # of all events, in the order of their ids; b"" with events = the row is older than the hash
    transition_count: int = 0
    transition_history: list[tuple[int, int]] = []  # (last transition_count, version), ascending: with it a state has a name
    # Start
    workflow_type: str = ""
    task_queue: str = ""
    started_at: int = 0
    first_task_at: int = 0  # start + backoff: start delay, cron, retry; 0 = at once
    execution_timeout_ns: int = 0
    run_timeout_ns: int = 0
    task_timeout_ns: int = 0
    execution_expires_at: int = 0
    first_run_id: str = ""
    original_run_id: str = ""
    continued_run_id: str = ""
    start_request_id: str = ""
    attempt: int = 1
    retry_policy: bytes = b""
    cron_schedule: str = ""
    start_attributes: bytes = b""  # of the started event; kept only where a successor needs them (retry, cron)
    parent: ParentLink | None = None
    root_workflow_id: str = ""
    root_run_id: str = ""
    memo: dict[str, bytes] = {}
    search_attributes: dict[str, bytes] = {}
    priority: bytes = b""
    has_priority: bool = False  # an empty priority that was given is still told to the next run
    versioning_override: bytes = b""
    user_metadata: bytes = b""  # UserMetadata of the start
    request_ids: dict[str, RequestSeen] = {}
    callbacks: list[Callback] = []
    links: list[bytes] = []
    start_link_count: int = 0  # that many of the links came with the start: the next run of the chain has them too
    # Workflow task
    task: WorkflowTask | None = None
    task_attempt: int = 1  # of the next task to be scheduled
    task_stamp: int = 0
    last_completed_started_id: int = 0  # started event id of the last completed task
    last_completed_id: int = 0
    last_task_failure: bytes = b""
    last_task_failed_cause: int = 0
    sticky_queue: str = ""
    sticky_timeout_ns: int = 0
    sdk_name: str = ""
    sdk_version: str = ""
    build_id: str = ""
    deployment_version: bytes = b""
    versioning_behavior: int = 0
    reset_points: list[ResetPoint] = []
    # Machines
    activities: dict[int, Activity] = {}
    activity_ids: dict[str, int] = {}
    timers: dict[str, Timer] = {}
    children: dict[int, Child] = {}
    signals_out: dict[int, ExternalSignal] = {}
    cancels_out: dict[int, ExternalCancel] = {}
    updates: dict[str, Update] = {}
    operations: dict[int, NexusOperation] = {}
    signal_request_ids: dict[str, None] = {}
    signal_count: int = 0
    cancel_requested: bool = False
    cancel_request_id: str = ""
    buffered: list[bytes] = []
    paused_at: int = 0
    pause_identity: str = ""
    pause_reason: str = ""
    pause_request_id: str = ""
    # Close
    closed_at: int = 0
    close_event_id: int = 0
    new_run_id: str = ""  # continued as new, retried, next cron run
    parent_told: bool = False
    is_reset_away: bool = False  # closed by a reset: neither its parent nor its children need to know
    reset_run_id: str = ""
    is_deleted: bool = False
    # Between regions
    begun_at: int = 0  # when it took its workflow id; 0 = when its history begins
    inbox: dict[str, InboxItem] = {}  # of a closed run, by request id

    @property
    def took_id_at(self) -> int:
        """Later than that of the run before it, whatever the clocks say."""
        return self.begun_at or self.started_at

    @property
    def is_open(self) -> bool:
        return self.status in (Status.RUNNING, Status.PAUSED)

    @property
    def has_started_task(self) -> bool:
        return self.task is not None and self.task.started_event_id != 0

    @property
    def last_version(self) -> int:
        return self.version_history[-1][1] if self.version_history else 0

    def has_been_told(self, request_id: str) -> bool:
        """A signal, or an update that was given to it, or what waits in its inbox."""
        item = self.inbox.get(request_id)
        is_waiting = item is not None and not item.given_to
        return is_waiting or request_id in self.signal_request_ids or request_id in self.request_ids

    def fork(self) -> RunState:
        """A copy that shares the frozen parts; changing it leaves the original as it was."""
        twin = copy.copy(self)
        twin.version_history = self.version_history.copy()
        twin.transition_history = self.transition_history.copy()
        twin.memo = self.memo.copy()
        twin.search_attributes = self.search_attributes.copy()
        twin.request_ids = self.request_ids.copy()
        twin.callbacks = self.callbacks.copy()
        twin.links = self.links.copy()
        twin.reset_points = self.reset_points.copy()
        twin.activities = self.activities.copy()
        twin.activity_ids = self.activity_ids.copy()
        twin.timers = self.timers.copy()
        twin.children = self.children.copy()
        twin.signals_out = self.signals_out.copy()
        twin.cancels_out = self.cancels_out.copy()
        twin.updates = self.updates.copy()
        twin.operations = self.operations.copy()
        twin.signal_request_ids = self.signal_request_ids.copy()
        twin.buffered = self.buffered.copy()
        twin.inbox = self.inbox.copy()
        return twin


_encoder = msgspec.msgpack.Encoder()
_canonical_encoder = msgspec.msgpack.Encoder(order="sorted")
_decoder = msgspec.msgpack.Decoder(RunState)


class SnapshotFormatError(Exception):
    """The snapshot was written by a newer version of this program."""


def encode_state(state: RunState) -> bytes:
    """Format byte + msgpack. Keys are field names and defaults are left out: an older version reads it as long as nothing new is
    used, and refuses it then, since it would lose what it does not know with its next snapshot."""
    return bytes((SNAPSHOT_FORMAT,)) + _encoder.encode(state)


def decode_state(data: bytes) -> RunState:
    """Raises SnapshotFormatError for a format this program does not know."""
    if not data or data[0] != SNAPSHOT_FORMAT:
        raise SnapshotFormatError(f"snapshot format {data[:1]!r} is not {SNAPSHOT_FORMAT}: run the version that wrote it")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except msgspec.ValidationError as unknown:
        text = f"a snapshot holds what this program does not know ({unknown}): run the version that wrote it"
        raise SnapshotFormatError(text) from None


def checksum(state: RunState) -> str:
    """Canonical digest: equal states have equal digests whatever order things were inserted in."""
    plain = msgspec.to_builtins(state, str_keys=True, builtin_types=(bytes,))  # only text keys can be sorted
    return hashlib.blake2b(_canonical_encoder.encode(plain), digest_size=16).hexdigest()
