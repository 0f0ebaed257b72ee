"""Tokens that are malformed, forged, stale or somebody else's; bytes that are no UTF-8; what must not be decoded at all."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from temporalio.api.workflowservice import v1 as api

from cluster.frontend.methods import METHODS
from cluster.frontend.not_built import NOT_BUILT
from tests.e2e import commands
from tests.fuzz.mutations import INVALID_UTF8, delimited
from tests.fuzz.pools import FUZZ, OTHER
from tests.security.standing import Standing, execution

SERVED = sorted(METHODS.keys() - NOT_BUILT.keys())
BY_TOKEN = [name for name in SERVED if "task_token" in METHODS[name].request.DESCRIPTOR.fields_by_name]
WITHOUT_PAGES = {"ListArchivedWorkflowExecutions", "ListClusters"}  # no archive; one cluster, which is one page
PAGED = [name for name in SERVED if "next_page_token" in METHODS[name].request.DESCRIPTOR.fields_by_name]


def with_token(name: str, token: bytes, namespace: str = FUZZ) -> Any:
    request = METHODS[name].request(namespace=namespace, task_token=token)
    if name == "RespondActivityTaskFailed":
        request.failure.application_failure_info.SetInParent()
    return request


def fitting(name: str) -> str:
    return "workflow" if "Workflow" in name else "activity"


async def test_a_malformed_task_token_is_refused_by_every_call(standing: Standing) -> None:
    real = standing.token("activity")
    garbage = (
        b"",
        b"\x00",
        b"x",
        b"\xff" * 40,
        real[:-1],
        real[:18],
        real[:2],
        real + b"\x00",
        b"\x02" + real[1:],
        b"x" * 20_000,
    )
    wrong = {}
    for name in BY_TOKEN:
        for token in garbage:
            answer = await standing.send(name, with_token(name, token))
            if answer.code != "INVALID_ARGUMENT" or not answer.message:
                wrong[name, token[:20]] = answer
    assert wrong == {}


@pytest.mark.parametrize("purpose", ["workflow", "activity"])
async def test_a_task_token_with_any_bit_changed_is_refused(standing: Standing, purpose: str) -> None:
    token = standing.token(purpose)
    name = "RespondWorkflowTaskFailed" if purpose == "workflow" else "RecordActivityTaskHeartbeat"
    wrong = []
    for bit in range(len(token) * 8):
        forged = bytearray(token)
        forged[bit // 8] ^= 1 << bit % 8
        answer = await standing.send(name, with_token(name, bytes(forged)))
        if (answer.code, answer.message) != ("INVALID_ARGUMENT", "Error deserializing task token."):
            wrong.append((bit, answer))
    assert wrong == []
    assert (await standing.send(name, with_token(name, token))).code == "OK", "the real one still works"


async def test_a_token_is_good_for_its_own_kind_of_task_only(standing: Standing) -> None:
    wrong = {}
    tokens = {**{purpose: standing.token(purpose) for purpose in ("workflow", "activity")}, **_pages(standing)}
    for name in BY_TOKEN:
        for purpose, token in tokens.items():
            if purpose == fitting(name) and "Query" not in name:
                continue
            answer = await standing.send(name, with_token(name, token))
            if answer.code != "INVALID_ARGUMENT":
                wrong[name, purpose] = answer
    assert wrong == {}


def _pages(standing: Standing) -> dict[str, bytes]:
    return {purpose: standing.stage.pools.tokens[purpose][-1] for purpose in ("page", "history-page")}


async def test_a_page_token_is_good_for_its_own_call_and_namespace_only(standing: Standing) -> None:
    pages = _pages(standing)
    owners = {
        "page": ("ListWorkflowExecutions",),
        "history-page": ("GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"),
    }
    wrong = {}
    asked = 0
    for name in PAGED:
        if name in WITHOUT_PAGES:
            continue
        for purpose, token in {
            **pages,
            "task": standing.token("activity"),
            "garbage": b"garbage",
            "cut": pages["page"][:-1],
        }.items():
            for namespace in (FUZZ, OTHER):
                if name in owners.get(purpose, ()) and namespace == FUZZ:
                    continue
                request = METHODS[name].request(next_page_token=token)
                fields = request.DESCRIPTOR.fields_by_name
                if "namespace" in fields:
                    request.namespace = namespace
                if "execution" in fields:
                    request.execution.workflow_id = standing.workflow_id("activity")
                answer = await standing.send(name, request)
                asked += 1
                if answer.code != "INVALID_ARGUMENT" or "pagetoken" not in re.sub("[ _]", "", answer.message.lower()):
                    wrong[name, purpose, namespace] = answer
    told = "\n".join(f"{key}: {answer.code} {answer.message}" for key, answer in wrong.items())
    assert told == "" and asked > 30


async def test_a_page_token_of_one_run_does_not_read_another(standing: Standing) -> None:
    request = api.GetWorkflowExecutionHistoryRequest(namespace=FUZZ, next_page_token=_pages(standing)["history-page"])
    request.execution.CopyFrom(execution(standing.workflow_id("closed")))
    answer = await standing.send("GetWorkflowExecutionHistory", request)
    assert (answer.code, answer.message) == ("INVALID_ARGUMENT", "Invalid NextPageToken.")


async def test_a_stale_token_is_not_found_and_changes_nothing(standing: Standing) -> None:
    token = standing.token("workflow")
    fail = with_token("RespondWorkflowTaskFailed", token)
    await standing.stage.ask("RespondWorkflowTaskFailed", fail)
    before = await standing.events(standing.workflow_id("started"))
    for name in ("RespondWorkflowTaskFailed", "RespondWorkflowTaskCompleted"):
        answer = await standing.send(name, with_token(name, token))
        assert (answer.code, answer.message) == ("NOT_FOUND", "Workflow task not found.")
    activity = standing.token("activity")
    await standing.stage.ask("RespondActivityTaskCompleted", with_token("RespondActivityTaskCompleted", activity))
    for name in ("RespondActivityTaskCompleted", "RespondActivityTaskFailed", "RecordActivityTaskHeartbeat"):
        answer = await standing.send(name, with_token(name, activity))
        assert answer.code == "NOT_FOUND" and answer.message.startswith("invalid activityID"), name
    after = await standing.events(standing.workflow_id("started"))
    assert after[: len(before)] == before and not [event for event in after[len(before) :] if event.event_type != 5]


# --- text -----------------------------------------------------------------------------------------------------------------
def text_paths(descriptor: Descriptor, depth: int = 5, seen: tuple[str, ...] = ()) -> list[tuple[int, ...]]:
    """Field numbers that lead to each string of a message."""
    paths: list[tuple[int, ...]] = []
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            paths.append((field.number,))
        elif field.message_type is not None and depth > 1 and field.message_type.full_name not in seen:
            inner = text_paths(field.message_type, depth - 1, (*seen, descriptor.full_name))
            paths += [(field.number, *path) for path in inner]
    return paths


def bytes_at(path: tuple[int, ...], content: bytes) -> bytes:
    for number in reversed(path):
        content = delimited(number, content)
    return content


async def test_invalid_utf8_in_any_text_of_any_call_is_refused(standing: Standing) -> None:
    """CVE-2024-2689: such text must not reach a task queue, which would then never hand it out."""
    wrong = {}
    asked = 0
    for name in SERVED:
        for path in text_paths(METHODS[name].request.DESCRIPTOR):
            asked += 1
            data = METHODS[name].request.FromString(b"").SerializeToString() + bytes_at(
                path, INVALID_UTF8[asked % len(INVALID_UTF8)]
            )
            answer = await standing.target.send(name, data, 3.0)
            if answer.code != "INVALID_ARGUMENT" or not answer.message.startswith("malformed request"):
                wrong[name, path] = answer
    assert wrong == {} and asked > 900


async def test_a_task_answered_with_invalid_utf8_is_still_there(standing: Standing) -> None:
    token = standing.token("workflow")
    before = await standing.events(standing.workflow_id("started"))
    good = api.RespondWorkflowTaskCompletedRequest(namespace=FUZZ, task_token=token, commands=[commands.marker("NAME")])
    data = good.SerializeToString().replace(b"NAME", b"\xff\xfe\xfd\xfc")
    answer = await standing.target.send("RespondWorkflowTaskCompleted", data)
    assert answer.code == "INVALID_ARGUMENT"
    assert await standing.events(standing.workflow_id("started")) == before
    await standing.stage.ask("RespondWorkflowTaskCompleted", good)


async def test_a_message_nested_too_deep_is_refused(standing: Standing) -> None:
    """A failure whose cause has a cause has a cause ..."""
    for depth in (50, 101, 1_000, 20_000):
        content = b""
        for _ in range(depth):
            content = delimited(4, content)  # Failure.cause
        data = with_token("RespondActivityTaskFailed", standing.token("activity")).SerializeToString() + delimited(2, content)
        answer = await standing.target.send("RespondActivityTaskFailed", data)
        assert answer.code == ("OK" if depth < 90 else "INVALID_ARGUMENT"), (depth, answer)
