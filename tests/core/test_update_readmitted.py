"""An update that is appended to a run again after its worker refused it: a refusal leaves no event."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType as E
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.update.v1 import Meta, Request

from cluster.core.apply import fold_events
from cluster.core.ledger import admitted_event
from cluster.core.state import UpdateStage


def test_a_history_with_an_update_that_was_refused_and_admitted_again_is_rebuilt() -> None:
    started = HistoryEvent(event_id=1, event_type=E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
    started.workflow_execution_started_event_attributes.workflow_type.name = "program"
    events = [started]
    for event_id in (2, 3):
        admitted = admitted_event(Request(meta=Meta(update_id="u")))
        admitted.event_id = event_id
        events.append(admitted)
    state = fold_events("ns", "w", "r", [event.SerializeToString() for event in events])
    assert (state.updates["u"].stage, state.updates["u"].admitted_event_id) == (UpdateStage.ADMITTED, 3)
