"""The end of a history that has grown too long: the run is terminated with the reason, never silently and never by refusal.

What made it too long (a signal, a task's answer) is kept: it was or will be acknowledged. The worker had been told to
continue as new long before (workflow_task.suggest_reasons).
"""

from __future__ import annotations

from cluster.core.machines import lifecycle
from cluster.core.transition import Transition

SIZE_REASON = "Workflow history size exceeds limit."  # the public server's words: common.FailureReasonHistorySizeExceedsLimit
COUNT_REASON = "Workflow history count exceeds limit."  # common.FailureReasonHistoryCountExceedsLimit


def enforce(t: Transition) -> None:
    """Called once for each transition of an open run, before it is committed. Buffered events count too."""
    state, limits = t.state, t.context.limits
    if not state.is_open:
        return
    buffered_bytes = sum(map(len, state.buffered)) if state.buffered else 0
    if state.history_bytes + buffered_bytes > limits.history_bytes_max:
        reason = SIZE_REASON
    elif state.next_event_id - 1 + len(state.buffered) > limits.history_events_max:
        reason = COUNT_REASON
    else:
        return
    lifecycle.terminate(t, reason=reason, details=None, identity=lifecycle.HISTORY_SERVICE)
