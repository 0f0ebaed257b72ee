"""Every bad request gets what the public server answers to it: status code, message and typed details.

`bad_requests_expected.json` was recorded from it (record_bad_requests.py); what we answer otherwise on purpose is in DIFFERENT.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from cluster.frontend.not_built import NOT_BUILT
from tests.frontend.bad_requests import CASES, OPERATOR_RPCS, BadRequest
from tests.frontend.record_bad_requests import describe_error
from tests.frontend.world import World, world

RECORDED = json.loads((Path(__file__).parent / "bad_requests_expected.json").read_text())
EXPECTED: dict[str, dict[str, Any]] = RECORDED["answers"]

# Case -> our answer and why.
DIFFERENT: dict[str, dict[str, Any]] = {}


def _is_answered_here(case: BadRequest) -> bool:
    """A run that is gone is history's to word; here a stand-in answers for it."""
    return case.name != "SignalWorkflowExecution: gone run"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def answer(served: World, case: BadRequest) -> dict[str, Any]:
    stub = served.operator if case.rpc in OPERATOR_RPCS else served.stub
    try:
        response = await getattr(stub, case.rpc)(case.request, timeout=5)
    except grpc.aio.AioRpcError as error:
        return describe_error(error)
    return {"code": "OK", "message": type(response).__name__, "details": []}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", [case for case in CASES if _is_answered_here(case)], ids=lambda case: case.name)
async def test_a_bad_request_is_answered_as_the_public_server_does(served: World, case: BadRequest) -> None:
    assert await answer(served, case) == DIFFERENT.get(case.name, EXPECTED[case.name])


def test_every_bad_request_was_put_to_the_public_server() -> None:
    assert EXPECTED.keys() == {case.name for case in CASES}
    assert RECORDED["source"].startswith("temporal server")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", sorted(NOT_BUILT))
async def test_a_call_that_is_not_built_says_so_by_name(served: World, name: str) -> None:
    from cluster.frontend.methods import METHODS, OPERATOR_SERVICE

    method = METHODS[name]
    stub = served.operator if method.service == OPERATOR_SERVICE else served.stub
    request = method.request()
    if "namespace" in method.request.DESCRIPTOR.fields_by_name:
        request.namespace = "default"
    if "task_token" in method.request.DESCRIPTOR.fields_by_name:
        return  # nobody can have a token for it
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await getattr(stub, name)(request, timeout=5)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED and name in (refusal.value.details() or "")


@pytest.mark.asyncio(loop_scope="module")
async def test_bad_requests_in_parallel_do_not_disturb_each_other(served: World) -> None:
    cases = [case for case in CASES if _is_answered_here(case)]
    answers = await asyncio.gather(*(answer(served, case) for case in cases))
    wrong = [case.name for case, got in zip(cases, answers, strict=True) if got != DIFFERENT.get(case.name, EXPECTED[case.name])]
    assert wrong == []
