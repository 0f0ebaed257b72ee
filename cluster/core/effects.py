"""What a run owes the world: a pure function of its state, recomputed after every change and after every crash.

There is no queue that could disagree with history. Every effect is idempotent (its request id comes from the run and an
event id) and ends in an entry that makes it disappear from here.
"""

from __future__ import annotations

import msgspec

from cluster.core.machines import activity, callback, child, commands, nexus_operation
from cluster.core.state import RunState, Status


class OfferWorkflowTask(msgspec.Struct, frozen=True):
    """The scheduled workflow task waits for a worker."""

    scheduled_event_id: int
    stamp: int


class OfferActivityTask(msgspec.Struct, frozen=True):
    """An activity's current attempt waits for a worker."""

    scheduled_event_id: int
    stamp: int


class StartChild(msgspec.Struct, frozen=True):
    initiated_event_id: int


class SignalExternal(msgspec.Struct, frozen=True):
    initiated_event_id: int


class CancelExternal(msgspec.Struct, frozen=True):
    initiated_event_id: int


class TellParent(msgspec.Struct, frozen=True):
    """The closed run's parent must hear how it ended."""


class ApplyClosePolicy(msgspec.Struct, frozen=True):
    """The closed run's child must be terminated, cancelled or let go."""

    initiated_event_id: int


class StartNexusOperation(msgspec.Struct, frozen=True):
    """The handler of this operation must be called. attempt: how many calls have failed; each call is an effect of its own."""

    scheduled_event_id: int
    attempt: int


class CancelNexusOperation(msgspec.Struct, frozen=True):
    """The handler must hear that the operation is no longer wanted."""

    scheduled_event_id: int
    attempt: int


class DeliverCallback(msgspec.Struct, frozen=True):
    """Somebody waits to be told how the closed run ended: the callback of this number."""

    index: int
    attempt: int


Effect = (
    OfferWorkflowTask
    | OfferActivityTask
    | StartChild
    | SignalExternal
    | CancelExternal
    | TellParent
    | ApplyClosePolicy
    | StartNexusOperation
    | CancelNexusOperation
    | DeliverCallback
)


def effects(state: RunState) -> list[Effect]:
    """All that is outstanding, in the order of the events that made it so."""
    if state.is_open:
        return _of_open_run(state)
    if state.status == Status.NONE:
        return []
    owed: list[Effect] = [ApplyClosePolicy(one.initiated_event_id) for one in child.owes_close_policy(state)]
    if state.parent is not None and not state.parent_told and not state.new_run_id and not state.is_reset_away:
        owed.append(TellParent())
    if commands.NEXUS_IS_SERVED:
        owed += [DeliverCallback(at, one.attempt) for at, one in enumerate(state.callbacks) if callback.is_callable(one)]
    return owed


def _of_open_run(state: RunState) -> list[Effect]:
    owed: list[Effect] = []
    is_paused = state.status == Status.PAUSED
    task = state.task
    if task is not None and not task.started_event_id and not is_paused:
        owed.append(OfferWorkflowTask(task.scheduled_event_id, task.stamp))
    if state.activities and not is_paused:
        for one in state.activities.values():
            if activity.is_dispatchable(one):
                owed.append(OfferActivityTask(one.scheduled_event_id, activity.offer_stamp(one)))
    if state.children:
        owed.extend(StartChild(one.initiated_event_id) for one in state.children.values() if not one.is_started)
    if state.signals_out:
        owed.extend(map(SignalExternal, state.signals_out))
    if state.cancels_out:
        owed.extend(map(CancelExternal, state.cancels_out))
    if state.operations and commands.NEXUS_IS_SERVED:
        owed.extend(_of_operations(state))
    return owed


def _of_operations(state: RunState) -> list[Effect]:
    owed: list[Effect] = []
    for one in state.operations.values():
        if nexus_operation.is_callable(one):
            owed.append(StartNexusOperation(one.scheduled_event_id, one.attempt))
        if one.cancellation is not None and nexus_operation.is_cancel_callable(one):
            owed.append(CancelNexusOperation(one.scheduled_event_id, one.cancellation.attempt))
    return owed
