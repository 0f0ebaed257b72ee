"""Every region accepts every call, and hands it to the region where the namespace is active: once, and untouched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.errordetails.v1 import NamespaceNotActiveFailure, NotFoundFailure
from temporalio.api.workflowservice import v1 as w

from cluster.core.errors import CallerError, Code, not_found
from cluster.failures import status_bytes
from cluster.frontend.call import Call
from cluster.frontend.forwarding import _PER_PLACEMENT, MARK, PLACEMENTS, Placement
from cluster.frontend.methods import METHODS
from cluster.matching.tasks import TaskKind
from cluster.namespaces.regions import namespace_not_active
from cluster.tokens import Purpose, TaskToken
from tests.frontend.two_regions import FORWARDED, UP_TO_FORWARDING, refusal, request_for, two_regions, until


def assert_not_active(error: CallerError, here: str, active: str) -> None:
    assert error.code is Code.FAILED_PRECONDITION
    detail = NamespaceNotActiveFailure()
    assert Status.FromString(status_bytes(error)).details[0].Unpack(detail)
    assert (detail.namespace, detail.current_cluster, detail.active_cluster) == ("shop", here, active)


# --- the table ------------------------------------------------------------------------------------------------------
def test_every_method_has_exactly_one_placement() -> None:
    assert PLACEMENTS.keys() == METHODS.keys()
    assert sum(len(names.split()) for names in _PER_PLACEMENT.values()) == len(PLACEMENTS)


def test_whatever_may_be_forwarded_names_a_namespace() -> None:
    without = [name for name in FORWARDED if "namespace" not in METHODS[name].request.DESCRIPTOR.fields_by_name]
    assert without == []


@pytest.mark.parametrize(("active", "asked"), [("c1", "c2"), ("c2", "c1")])
async def test_every_method_is_served_where_its_placement_says(active: str, asked: str) -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        await pair.link_tokens()
        if active == "c2":
            await pair.fail_over("c2")
        regions = pair.remote.regions
        for name in FORWARDED:
            request = request_for(regions[active], name)
            await regions[asked].ask(name, request)
            assert (regions[asked].served, regions[active].served) == ([], [name]), name
            region, path, data, headers = pair.remote.forwarded[-1]
            assert (region, path, data) == (active, METHODS[name].path, request.SerializeToString())
            assert headers[MARK] == asked
            regions[active].served.clear()
        assert len(FORWARDED) > 100


@pytest.mark.parametrize("header", ["false", "FALSE", "0", "f"])
async def test_who_opts_out_reads_the_local_copy_and_changes_nothing(header: str) -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        await pair.link_tokens()
        for name in FORWARDED:
            answer = pair.two.ask(name, request_for(pair.one, name), xdc_redirection=header)
            if PLACEMENTS[name] in (Placement.READ, Placement.LIST):
                assert await answer == b""
                assert pair.two.served.pop() == name
            else:
                assert_not_active(await refusal(answer), "c2", "c1")
        assert pair.remote.forwarded == [] and pair.one.served == []


@pytest.mark.parametrize("header", ["true", "1", "nonsense", ""])
async def test_other_words_in_the_header_forbid_nothing(header: str) -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        await pair.two.ask("SignalWorkflowExecution", request_for(pair.one, "SignalWorkflowExecution"), xdc_redirection=header)
        assert pair.one.served == ["SignalWorkflowExecution"]


async def test_calls_about_this_cluster_are_served_here_whatever_is_active_where() -> None:
    async with two_regions() as pair:
        await pair.two.ask("DescribeNamespace", w.DescribeNamespaceRequest(namespace="shop"))
        await pair.two.ask("GetClusterInfo", w.GetClusterInfoRequest())
        assert pair.two.served == ["DescribeNamespace", "GetClusterInfo"] and pair.remote.forwarded == []


# --- what a call costs that needs no forwarding ---------------------------------------------------------------------
async def test_a_local_namespace_pays_one_comparison() -> None:
    async with two_regions() as pair:
        reads: list[str] = []

        class Watched:
            def __getattr__(self, name: str) -> Any:
                reads.append(name)
                return False

        async def handler(call: Call, request: Any) -> bytes:
            return b"answer"

        wrapped = pair.two.forwarding.interceptor(METHODS["SignalWorkflowExecution"], handler)
        call = Call("/x/SignalWorkflowExecution", {}, None, "")
        call.record = Watched()  # type: ignore[assignment]
        assert await wrapped(call, None) == b"answer"
        assert reads == ["is_global"]


async def test_a_call_about_the_cluster_is_not_wrapped_at_all() -> None:
    async def handler(call: Call, request: Any) -> bytes:
        return b""

    async with two_regions() as pair:
        assert pair.one.forwarding.interceptor(METHODS["ListNamespaces"], handler) is handler


# --- one hop --------------------------------------------------------------------------------------------------------
async def test_a_forwarded_call_goes_nowhere_else_and_says_whom_its_region_believes_active() -> None:
    async with two_regions() as pair:
        request = w.SignalWorkflowExecutionRequest(namespace="shop", signal_name="s")
        error = await refusal(pair.two.ask("SignalWorkflowExecution", request, outlast_forwarded_from="c1"))
        assert_not_active(error, "c2", "c1")
        assert pair.remote.forwarded == []


async def test_two_regions_that_both_believe_the_other_active_do_not_play_ball() -> None:
    async with two_regions() as pair:
        await pair.one.fail_over("c2")  # c2 has not heard of it
        request = w.SignalWorkflowExecutionRequest(namespace="shop", signal_name="s")
        error = await refusal(pair.one.ask("SignalWorkflowExecution", request))
        assert error.code is Code.UNAVAILABLE, "it passes, and a worker must not end at it"
        assert len(pair.remote.forwarded) == 1
        assert pair.one.served == pair.two.served == []


async def test_a_call_that_came_between_two_regions_beliefs_is_served_once_they_agree() -> None:
    async with two_regions(hold_s=5, through=UP_TO_FORWARDING) as pair:
        await pair.two.fail_over("c2")
        await pair.agree()
        await pair.two.fail_over("c1")  # c1 has not heard of it, and asks c2
        call = asyncio.create_task(pair.one.ask("StopBatchOperation", request_for(pair.one, "StopBatchOperation")))
        await until(lambda: len(pair.remote.forwarded) == 1)
        assert pair.one.served == pair.two.served == []
        await pair.agree()
        await asyncio.wait_for(call, 5)
        assert (pair.one.served, pair.two.served) == (["StopBatchOperation"], [])


async def test_a_call_that_finds_its_run_gone_to_another_region_follows_it() -> None:
    async def leaves(call: Call, request: Any) -> Message | bytes:
        await pair.fail_over("c2")
        raise namespace_not_active(pair.one.record(), "c1")

    async with two_regions(through=UP_TO_FORWARDING) as pair:
        pair.one.overrides["UpdateWorkflowExecution"] = leaves
        await pair.one.ask("UpdateWorkflowExecution", request_for(pair.one, "UpdateWorkflowExecution"))
        assert pair.two.served == ["UpdateWorkflowExecution"]


# --- refusals -------------------------------------------------------------------------------------------------------
ERRORS = {
    "with its own details": not_found("workflow not found for ID: w", NotFoundFailure(current_cluster="a", active_cluster="b")),
    "with the usual ones": not_found("nothing"),
    "without any": CallerError(Code.INVALID_ARGUMENT, "no"),
    "long": CallerError(Code.RESOURCE_EXHAUSTED, "x" * 5_000),
    "with details too large": not_found("large", NotFoundFailure(current_cluster="c" * 10_000)),
}


@pytest.mark.parametrize("kind", ERRORS)
async def test_a_refusal_is_byte_for_byte_that_of_a_local_call(kind: str) -> None:
    async def refuse(call: Call, request: Any) -> Message | bytes:
        raise ERRORS[kind]

    async with two_regions() as pair:
        pair.one.overrides["DescribeWorkflowExecution"] = refuse
        request = w.DescribeWorkflowExecutionRequest(namespace="shop", execution=WorkflowExecution(workflow_id="w"))
        at_home = await refusal(pair.one.ask("DescribeWorkflowExecution", request))
        from_afar = await refusal(pair.two.ask("DescribeWorkflowExecution", request))
        assert status_bytes(from_afar) == status_bytes(at_home)
        assert from_afar.code is at_home.code


async def test_the_active_region_validates_and_the_other_one_does_not() -> None:
    async with two_regions() as pair:
        request = w.StartWorkflowExecutionRequest(namespace="shop")
        local = await refusal(pair.one.ask("StartWorkflowExecution", request))
        assert status_bytes(await refusal(pair.two.ask("StartWorkflowExecution", request))) == status_bytes(local)
        assert len(pair.remote.forwarded) == 1


async def test_an_active_region_out_of_reach_is_unavailable_and_a_name_nobody_knows_is_not_active() -> None:
    async with two_regions() as pair:
        pair.remote.is_cut = True
        request = w.SignalWorkflowExecutionRequest(namespace="shop", signal_name="s")
        assert (await refusal(pair.two.ask("SignalWorkflowExecution", request))).code is Code.UNAVAILABLE
        del pair.remote.regions["c1"]
        assert_not_active(await refusal(pair.two.ask("SignalWorkflowExecution", request)), "c2", "c1")


# --- headers --------------------------------------------------------------------------------------------------------
async def test_a_callers_headers_go_along_and_those_of_the_connection_do_not() -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        headers = {"authorization": "Bearer x", "client-name": "test", "user-agent": "u", "grpc-timeout": "5S", "te": "trailers"}
        await pair.two.raw(METHODS["QueryWorkflow"].path, request_for(pair.one, "QueryWorkflow").SerializeToString(), headers, 5)
        assert pair.remote.forwarded[0][3] == {"authorization": "Bearer x", "client-name": "test", MARK: "c2"}


async def test_the_forwarded_call_has_the_deadline_of_the_call() -> None:
    async with two_regions(through=UP_TO_FORWARDING) as pair:
        await pair.two.ask("PollWorkflowTaskQueue", request_for(pair.one, "PollWorkflowTaskQueue"), timeout_s=7)
        deadline = pair.one.calls[0].deadline
        assert deadline is not None
        assert 6 < deadline - asyncio.get_running_loop().time() <= 7


# --- tokens ---------------------------------------------------------------------------------------------------------
async def test_a_task_given_out_by_one_region_is_completed_in_the_other_after_a_failover() -> None:
    async def completed(request: Any) -> Message:
        return w.RespondActivityTaskCompletedResponse()

    async with two_regions() as pair:
        await pair.link_tokens()
        token = pair.one.world.tokens.seal(
            Purpose.TASK, TaskToken(pair.one.record().id, "workflow", "run", int(TaskKind.ACTIVITY), 0, 5)
        )
        for region in (pair.one, pair.two):
            region.world.history.answers["respond_activity_task_completed"] = completed
        request = w.RespondActivityTaskCompletedRequest(namespace="shop", task_token=token)
        await pair.two.ask("RespondActivityTaskCompleted", request)
        assert len(pair.one.world.history.calls) == 1 and pair.two.world.history.calls == []
        await pair.fail_over("c2")
        await pair.two.ask("RespondActivityTaskCompleted", request)  # where it went
        await pair.one.ask("RespondActivityTaskCompleted", request)  # and by way of where it came from
        assert len(pair.one.world.history.calls) == 1
        verbs = [(verb, workflow_id) for verb, workflow_id, _ in pair.two.world.history.calls]
        assert verbs == [("respond_activity_task_completed", "workflow")] * 2


async def test_a_token_of_a_local_namespace_opens_in_no_other_region() -> None:
    async with two_regions() as pair:
        await pair.link_tokens()
        local = pair.one.world.record("default")
        token = pair.one.world.tokens.seal(Purpose.TASK, TaskToken(local.id, "w", "r", int(TaskKind.ACTIVITY), 0, 5))
        request = w.RespondActivityTaskCompletedRequest(task_token=token)
        error = await refusal(pair.two.ask("RespondActivityTaskCompleted", request))
        assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "Error deserializing task token.")
