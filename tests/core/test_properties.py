"""What a workflow writes about itself: markers, search attributes, memo."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import (
    Command,
    ModifyWorkflowPropertiesCommandAttributes,
    UpsertWorkflowSearchAttributesCommandAttributes,
)
from temporalio.api.common.v1 import Header, Memo, Payload, SearchAttributes
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import Failure

from cluster.config import Limits
from cluster.core.errors import CallerError
from tests.core.build import Run, payloads
from tests.e2e.commands import marker

NULL = Payload(metadata={"encoding": b"binary/null"})


def json(data: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


def upsert(**fields: Payload) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        upsert_workflow_search_attributes_command_attributes=UpsertWorkflowSearchAttributesCommandAttributes(
            search_attributes=SearchAttributes(indexed_fields=fields)
        ),
    )


def modify(**fields: Payload) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES,
        modify_workflow_properties_command_attributes=ModifyWorkflowPropertiesCommandAttributes(
            upserted_memo=Memo(fields=fields)
        ),
    )


def refused(wish: Command, **limits: Any) -> str:
    with pytest.raises(CallerError) as error:
        Run(limits=Limits(**limits)).task(wish)
    return error.value.message


def values(kept: dict[str, bytes]) -> dict[str, bytes]:
    return {key: Payload.FromString(value).data for key, value in kept.items() if key != "BuildIds"}


def test_a_marker_is_kept_as_it_is() -> None:
    run = Run()
    run.task(marker("plain"), marker("all", details={"a": payloads("x")}, failure=Failure(message="why"), header=Header()))
    assert run.told(5) == (
        "5 MarkerRecorded marker_name=plain workflow_task_completed_event_id=4\n"
        '6 MarkerRecorded marker_name=all details={a={payloads=["x"]}} workflow_task_completed_event_id=4'
        " header={} failure={message=why}"
    )


def test_search_attributes_are_merged_and_null_removes_one() -> None:
    run = Run(search_attributes=SearchAttributes(indexed_fields={"Kept": json(b"1"), "Gone": json(b"2")}))
    run.task(upsert(Gone=NULL, New=json(b"3")))
    assert run.told(5) == (
        "5 UpsertWorkflowSearchAttributes workflow_task_completed_event_id=4 search_attributes={indexed_fields={Gone= New=3}}"
    )
    assert values(run.state.search_attributes) == {"Kept": b"1", "New": b"3"}


@pytest.mark.parametrize("nothing", [NULL, json(b"null"), json(b"[]"), Payload()])
def test_nothing_removes_what_was_there(nothing: Payload) -> None:
    run = Run(memo=Memo(fields={"a": json(b"1"), "b": json(b"2")}))
    run.task(modify(a=nothing))
    assert values(run.state.memo) == {"b": b"2"}


def test_a_memo_is_merged() -> None:
    run = Run(memo=Memo(fields={"kept": json(b"1"), "changed": json(b"2")}))
    run.task(modify(changed=json(b"3")))
    assert run.told(5) == (
        "5 WorkflowPropertiesModified workflow_task_completed_event_id=4 upserted_memo={fields={changed=3}}"
    )
    assert values(run.state.memo) == {"kept": b"1", "changed": b"3"}


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (marker(""), "BadRecordMarkerAttributes: MarkerName is not set on RecordMarkerCommand."),
        (
            marker("x" * 1001),
            "BadRecordMarkerAttributes: MarkerName on RecordMarkerCommand exceeds length limit. "
            f"MarkerName={'x' * 1001} Length=1001 Limit=1000",
        ),
        (upsert(), "BadSearchAttributes: IndexedFields is not set on UpsertWorkflowSearchAttributesCommand."),
        (upsert(Nobody=json(b"1")), "BadSearchAttributes: Namespace ns has no mapping defined for search attribute Nobody"),
        (
            Command(command_type=13, upsert_workflow_search_attributes_command_attributes={}),  # type: ignore[arg-type]
            "BadSearchAttributes: SearchAttributes is not set on UpsertWorkflowSearchAttributesCommand.",
        ),
        (
            modify(),
            "BadModifyWorkflowPropertiesAttributes: UpsertedMemo.Fields is not set on ModifyWorkflowPropertiesCommand.",
        ),
        (
            Command(command_type=16, modify_workflow_properties_command_attributes={}),  # type: ignore[arg-type]
            "BadModifyWorkflowPropertiesAttributes: UpsertedMemo is not set on ModifyWorkflowPropertiesCommand.",
        ),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_the_public_servers_words(wish: Command, text: str) -> None:
    assert refused(wish) == text


@pytest.mark.parametrize(
    ("wish", "limits", "text"),
    [
        (upsert(a=json(b"x" * 50)), {"payload_bytes_max": 50}, "UpsertWorkflowSearchAttributesCommandAttributes exceeds size"),
        (upsert(a=json(b"x" * 50)), {"search_attributes_bytes_max": 50}, "total size of search attributes"),
        (modify(a=json(b"x" * 50)), {"payload_bytes_max": 50}, "ModifyWorkflowPropertiesCommandAttributes exceeds size limit."),
        (modify(a=json(b"x" * 50)), {"memo_bytes_max": 50}, "ModifyWorkflowPropertiesCommandAttributes. Memo exceeds size"),
    ],
)
def test_what_is_too_large_ends_the_run(wish: Command, limits: dict[str, int], text: str) -> None:
    run = Run(limits=Limits(**limits))
    with pytest.raises(CallerError) as error:
        run.task(wish)
    assert text in error.value.message
    assert run.history(4) == "4 WorkflowTaskFailed\n5 WorkflowExecutionTerminated"


def test_many_small_changes_to_a_memo_count_together() -> None:
    run = Run(limits=Limits(memo_bytes_max=150))
    run.task(modify(a=json(b"x" * 50)))
    with pytest.raises(CallerError, match="Memo exceeds size limit"):
        run.task(modify(b=json(b"x" * 50)))
