"""The comparison itself: it must see every difference, and forgive only what has a reason. No server needed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, TimerStartedEventAttributes, WorkflowExecutionStartedEventAttributes

from tests.compare import golden
from tests.compare.accepted import ACCEPTED
from tests.compare.difference import Accepted, differences, unaccepted
from tests.compare.normal import Normaliser, normal_outcome
from tests.e2e.scenarios import SCENARIOS

RUN = "0ddba11e-0000-4000-8000-000000000001"
OTHER = "0ddba11e-0000-4000-8000-000000000002"


def started(run_id: str, first: str) -> HistoryEvent:
    return HistoryEvent(
        event_id=1,
        event_time=Timestamp(seconds=17),
        task_id=99,
        event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        workflow_execution_started_event_attributes=WorkflowExecutionStartedEventAttributes(
            workflow_id="wf-token", original_execution_run_id=run_id, first_execution_run_id=first
        ),
    )


def test_every_scenario_is_recorded_and_nothing_else() -> None:
    assert {path.stem for path in golden.DIRECTORY.glob("*.json")} == set(SCENARIOS)


def test_every_golden_has_content() -> None:
    for name in SCENARIOS:
        recorded = golden.load(name)
        assert recorded is not None
        assert recorded["histories"] or recorded["observed"], name


def test_accepted_differences_belong_to_scenarios_and_have_reasons() -> None:
    for rule in ACCEPTED:
        assert len(rule.reason) > 20
        assert rule.scenario.endswith("*") or rule.scenario in SCENARIOS


def test_ids_times_and_names_of_one_run_do_not_matter() -> None:
    one = normal_outcome("token", [("wf-token", [started(RUN, RUN)])], {"id": RUN})
    event = started(OTHER, OTHER)
    event.workflow_execution_started_event_attributes.workflow_id = "wf-other"
    event.event_time.seconds, event.task_id = 18, 7
    two = normal_outcome("other", [("wf-other", [event])], {"id": OTHER})
    assert one == two


def test_whether_two_ids_are_the_same_matters() -> None:
    one = Normaliser("token").event(started(RUN, RUN))
    two = Normaliser("token").event(started(RUN, OTHER))
    assert [place.place for place in differences(one, two)] == ["attributes/first_execution_run_id"]


def test_durations_matter() -> None:
    def timer(length: int) -> HistoryEvent:
        attributes = TimerStartedEventAttributes(timer_id="t", start_to_fire_timeout=Duration(seconds=length))
        return HistoryEvent(event_id=5, event_type=EventType.EVENT_TYPE_TIMER_STARTED, timer_started_event_attributes=attributes)

    one, two = Normaliser("x").event(timer(1)), Normaliser("x").event(timer(2))
    assert [place.place for place in differences(one, two)] == ["attributes/start_to_fire_timeout"]


def changes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in changes(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in changes(item, (*path, index))]
    return [path]


@pytest.mark.parametrize("name", ["activity_retries", "unhandled_command", "child_completes", "update_completes"])
def test_a_change_in_any_place_of_a_golden_is_seen(name: str) -> None:
    recorded = golden.load(name)
    assert recorded is not None
    for path in changes(recorded):
        if path[-1] == "message" and "error" in str(path):
            continue
        changed = copy.deepcopy(recorded)
        place = changed
        for step in path[:-1]:
            place = place[step]
        if path[-1] == "message" and "error" in place:
            continue
        place[path[-1]] = "changed"
        assert list(differences(recorded, changed)), path


def test_a_lacking_and_an_additional_event_are_seen() -> None:
    recorded = golden.load("activity_retries")
    assert recorded is not None
    shorter = copy.deepcopy(recorded)
    shorter["histories"][0]["events"].pop()
    assert list(differences(recorded, shorter))
    assert list(differences(shorter, recorded))


def test_the_text_of_an_error_does_not_matter_but_its_status_does() -> None:
    error = {"error": "NOT_FOUND", "details": [], "message": "one"}
    assert not list(differences(error, error | {"message": "two"}))
    assert list(differences(error, error | {"error": "INTERNAL"}))
    assert list(differences(error, error | {"details": ["X"]}))


def test_only_the_accepted_place_is_forgiven() -> None:
    rules = [Accepted("some_*", "histories/*/cause", "a reason")]
    wanted = {"histories": [{"cause": 1, "other": 1}]}
    found = {"histories": [{"cause": 2, "other": 2}]}
    assert [one.place for one in unaccepted("some_name", wanted, found, rules)] == ["histories/0/other"]
    assert len(unaccepted("another", wanted, found, rules)) == 2
