"""Markers, search attributes, memo: what a workflow writes down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.common.v1 import Header, Memo, SearchAttributes
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.common import RetryPolicy, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError

from tests.e2e import commands
from tests.e2e.environment import Env, payload, payloads, run_of
from tests.e2e.raw_worker import failure
from tests.e2e.registry import Run, scenario

# Registered in the namespace before the corpus runs.
SEARCH_ATTRIBUTES = {
    "E2eKeyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "E2eText": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
    "E2eInt": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "E2eDouble": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    "E2eBool": IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
    "E2eDatetime": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
    "E2eKeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}

KEYWORD = SearchAttributeKey.for_keyword("E2eKeyword")
TEXT = SearchAttributeKey.for_text("E2eText")
INT = SearchAttributeKey.for_int("E2eInt")
DOUBLE = SearchAttributeKey.for_float("E2eDouble")
BOOL = SearchAttributeKey.for_bool("E2eBool")
LIST = SearchAttributeKey.for_keyword_list("E2eKeywordList")


@workflow.defn
class Patched:
    @workflow.run
    async def run(self) -> list[Any]:
        return [workflow.patched("new-way"), workflow.uuid4() != workflow.uuid4(), 0 <= workflow.random().random() < 1]


@scenario("marker_of_patches", items=["marker", "search attributes"])
async def marker_of_patches(env: Env) -> list[Run]:
    async with env.worker([Patched]):
        handle = await env.start(Patched.run)
        assert await handle.result() == [True, True, True]
    return [run_of(handle)]


@activity.defn
async def locally(value: int) -> int:
    if value == 1 and activity.info().attempt < 3:
        raise ApplicationError("not yet")
    if value == 2:
        raise ApplicationError("never", type="Never", non_retryable=True)
    return value * 10


@workflow.defn
class Locals:
    @workflow.run
    async def run(self) -> list[Any]:
        results: list[Any] = []
        for value in range(3):
            try:
                results.append(
                    await workflow.execute_local_activity(
                        locally,
                        value,
                        start_to_close_timeout=timedelta(seconds=5),
                        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
                    )
                )
            except ApplicationError as error:  # Unlike a remote activity's, it comes without an ActivityError around it.
                results.append(error.type)
        return results


@scenario("local_activities", items=["activity: local", "marker"])
async def local_activities(env: Env) -> list[Run]:
    async with env.worker([Locals], [locally]):
        handle = await env.start(Locals.run)
        assert await handle.result() == [0, 10, "Never"]
    return [run_of(handle)]


@workflow.defn
class Upserts:
    @workflow.run
    async def run(self) -> dict[str, Any]:
        workflow.upsert_search_attributes([KEYWORD.value_set("one"), INT.value_set(1), LIST.value_set(["a", "b"])])
        workflow.upsert_memo({"kept": 1, "changed": "before", "gone": True})
        await workflow.sleep(1)
        workflow.upsert_search_attributes(
            [KEYWORD.value_set("two"), INT.value_unset(), BOOL.value_set(True), DOUBLE.value_set(1.5)]
        )
        workflow.upsert_memo({"changed": "after", "gone": None})
        return dict(workflow.memo())


@scenario("upserts", items=["search attributes", "memo", "visibility: describe"])
async def upserts(env: Env) -> list[Run]:
    started = TypedSearchAttributes([SearchAttributePair(KEYWORD, "zero"), SearchAttributePair(TEXT, "some text")])
    async with env.worker([Upserts]):
        handle = await env.start(Upserts.run, search_attributes=started, memo={"at start": [1, 2]})
        env.observe("memo", await handle.result())
    info = (await env.describe(run_of(handle))).workflow_execution_info
    env.observe("described memo", info.memo)
    env.observe("described search attributes", info.search_attributes)
    return [run_of(handle)]


@scenario("search_attributes_bad_at_start", items=["search attributes"])
async def search_attributes_bad_at_start(env: Env) -> list[Run]:
    for name, fields in {
        "unknown": {"Nobody": payload("x")},
        "wrong type": {"E2eInt": payload("x")},
        "system": {"WorkflowId": payload("x")},
        "list for a keyword": {"E2eKeyword": payload(["a", "b"])},
    }.items():
        request = env.start_request(search_attributes=SearchAttributes(indexed_fields=fields))
        await env.observe_error(name, env.service.start_workflow_execution(request))
    return []


@scenario("markers_raw", items=["marker"])
async def markers_raw(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(
        commands.marker("plain"),
        commands.marker("with all", details={"a": payloads(1), "b": payloads(2, 3)}, failure=failure("why")),
        commands.marker("with header", header=Header(fields={"h": payload("v")})),
        commands.complete(),
    )
    return [run]


@scenario("continue_as_new_carries_records", items=["continue-as-new", "search attributes", "memo"])
async def continue_as_new_carries_records(env: Env) -> list[Run]:
    """The new run has what the command says, nothing is inherited silently."""
    first = await env.start_raw(
        memo=Memo(fields={"m": payload("kept?")}),
        search_attributes=SearchAttributes(indexed_fields={"E2eKeyword": payload("kept?")}),
    )
    await env.raw.step(commands.continue_as_new())
    second = await env.raw.poll()
    await env.raw.complete(
        second,
        commands.continue_as_new(
            memo=Memo(fields={"n": payload("new")}), search_attributes=SearchAttributes(indexed_fields={"E2eInt": payload(3)})
        ),
    )
    third = await env.raw.poll()
    await env.raw.complete(third, commands.complete())
    return [first, *(Run(first.workflow_id, task.workflow_execution.run_id) for task in (second, third))]
