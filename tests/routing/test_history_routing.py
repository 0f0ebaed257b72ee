"""Calls find the run's node from any other one, and come back as they would from here."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.workflowservice import v1 as api

from chaos.sim.loop import running_loop
from cluster.core.errors import Code
from cluster.frontend.methods import METHODS
from cluster.history.ownership import READ_LEASE_S, NotHere
from cluster.matching.tasks import QueueKey, TaskGone, TaskKind
from cluster.membership.members import NodeState
from cluster.routing import history_messages as messages
from cluster.routing.history import BACKLOG_S_MAX, PATIENCE_S
from tests.history.commands import complete
from tests.history.world import NAMESPACE
from tests.routing.stage import SHARDS, Stage, StageNode, perform, refused, until

WORKFLOWS = [f"w{number}" for number in range(12)]


def test_calls_from_any_node_reach_the_owner() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b", "c")
        runs = {each: await stage.start("a", each) for each in WORKFLOWS}
        assert len({stage.home(each).node_id for each in WORKFLOWS}) == 3, "the workflows lie on all nodes"
        for each in WORKFLOWS:
            for node_id in "abc":
                found = await stage.describe(node_id, each)
                assert found.workflow_execution_info.execution.run_id == runs[each]
                await stage.signal(node_id, each, f"from {node_id}")
            assert await stage.signals("b", each) == ["from a", "from b", "from c"]

    perform(story)


def test_a_node_alone_sends_nothing() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a")
        for each in WORKFLOWS:
            await stage.start("a", each)
            await stage.signal("a", each, "s")
        node = stage.node("a")
        assert stage.calls == [] and node.routed.forwarded_count == node.routed.repeated_count == 0

    perform(story)


def test_a_refusal_comes_back_with_its_details() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        run_id = await stage.start("a", "w")
        other = "a" if stage.home("w").node_id == "b" else "b"
        request = api.StartWorkflowExecutionRequest(namespace=NAMESPACE.name, workflow_id="w", request_id="another")
        error = await refused(stage.call(other, "start_workflow_execution", "w", request))
        assert error.code is Code.ALREADY_EXISTS
        (detail,) = error.details
        assert isinstance(detail, WorkflowExecutionAlreadyStartedFailure) and detail.run_id == run_id
        assert (await refused(stage.describe(other, "nobody"))).code is Code.NOT_FOUND

    perform(story)


def test_a_worker_may_answer_its_task_through_any_node() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
            await stage.work(each, complete(), at="b")
            assert (await stage.names("a", each))[-1] == "WorkflowExecutionCompleted"

    perform(story)


def test_matching_of_another_node_starts_a_task_once() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        await stage.start("a", "w")
        home = stage.home("w")
        other = "a" if home.node_id == "b" else "b"
        queue, shard = QueueKey(NAMESPACE.id, "q-w", TaskKind.WORKFLOW), stage.shard_of("w")
        (hint,) = await stage.inside(other, lambda node: node.routed.backlog(queue, shard, 0, 10))
        assert hint.workflow_id == "w"
        poll = api.PollWorkflowTaskQueueRequest(identity="far")
        answer = await stage.inside(other, lambda node: node.routed.start_workflow_task(hint, poll))
        task = api.PollWorkflowTaskQueueResponse.FromString(answer)
        assert task.workflow_execution.workflow_id == "w" and len(task.history.events) == 3
        with pytest.raises(TaskGone):
            await stage.inside(other, lambda node: node.routed.start_workflow_task(hint, poll))
        assert await stage.inside(other, lambda node: node.routed.backlog(queue, shard, 0, 10)) == []

    perform(story)


def test_a_shard_that_does_not_answer_is_never_said_to_have_no_more_tasks() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        far = next(each for each in WORKFLOWS if stage.home(each).node_id == "b")
        stage.kill("b")
        queue, shard = QueueKey(NAMESPACE.id, f"q-{far}", TaskKind.WORKFLOW), stage.shard_of(far)
        began = running_loop().time()
        error = await refused(stage.inside("a", lambda node: node.routed.backlog(queue, shard, 0, 10)))
        assert error.code is Code.UNAVAILABLE
        assert running_loop().time() - began <= BACKLOG_S_MAX + 0.1, "other shards wait to be asked"

    perform(story)


def test_a_node_alone_takes_over_from_one_that_leaves_without_refusing_a_call() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        stage.node("b").store.hold("checkpoint")
        stage.change("b", NodeState.LEAVING)
        await asyncio.sleep(0.1)
        assert stage.node("a").routed._is_alone and len(stage.node("a").open) < SHARDS
        calls = [asyncio.ensure_future(stage.signal("a", each, "s")) for each in WORKFLOWS]
        await asyncio.sleep(0.5)
        stage.node("b").store.release("checkpoint")
        await asyncio.gather(*calls)
        for each in WORKFLOWS:
            assert await stage.signals("a", each) == ["s"]

    perform(story)


def test_a_long_poll_for_history_waits_on_another_node() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        run_id = await stage.start("a", "w")
        home = stage.home("w").node_id
        other = "a" if home == "b" else "b"
        execution = WorkflowExecution(workflow_id="w", run_id=run_id)
        request = api.GetWorkflowExecutionHistoryRequest(execution=execution, wait_new_event=True)
        first = await stage.call(other, "get_workflow_execution_history", "w", request)
        request.next_page_token = first.next_page_token
        waiting = asyncio.ensure_future(stage.call(other, "get_workflow_execution_history", "w", request, deadline_s=30))
        await asyncio.sleep(5)
        assert not waiting.done()
        await stage.signal(home, "w", "news")
        events = (await waiting).history.events
        assert [event.workflow_execution_signaled_event_attributes.signal_name for event in events] == ["news"]

    perform(story)


def test_a_node_that_does_not_have_the_shard_says_so_and_names_who_should() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        home = stage.home("w").node_id
        other = "a" if home == "b" else "b"
        message = messages.InvokeRun(
            verb="describe_workflow_execution", namespace_id=NAMESPACE.id, workflow_id="w", request=b"", call=None
        )

        async def ask(node: StageNode) -> bytes:
            return await node.peers.handle(messages.INVOKE, messages.encode(message), None, None)  # type: ignore[arg-type]

        answer = await stage.inside(other, ask)
        with pytest.raises(NotHere) as told:
            messages.unmarked(7, answer)
        assert told.value.ask == home
        assert [method for _, _, method in stage.calls if method == messages.INVOKE] == [], "it is not forwarded again"

    perform(story)


def test_a_call_by_an_old_ring_is_sent_on_to_the_new_owner() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        await stage.begin("c")
        stage.silent = {"a"}  # does not hear that c takes part
        stage.change("c", NodeState.READY)
        await until(lambda: stage.node("c").open == set(stage.node("c").peers.ring.shards_of("c")) != set())
        moved = [each for each in WORKFLOWS if stage.shard_of(each) in stage.node("c").open]
        assert moved
        for each in moved:
            await stage.signal("a", each, "late")
            assert await stage.signals("a", each) == ["late"]
        stage.silent = set()
        stage.tell()

    perform(story)


def test_a_call_waits_for_the_ring_while_its_node_is_gone() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        far = next(each for each in WORKFLOWS if stage.home(each).node_id == "b")
        stage.kill("b")
        await asyncio.sleep(0.01)  # the broken connection is noticed
        calling = asyncio.ensure_future(stage.signal("a", far, "patient"))
        await asyncio.sleep(4)
        assert not calling.done(), "nobody knows yet that b is gone"
        stage.forget("b")
        told_at = running_loop().time()
        await calling
        assert READ_LEASE_S <= running_loop().time() - told_at < READ_LEASE_S + 0.5, "the new ring wakes it"
        assert await stage.signals("a", far) == ["patient"]

    perform(story)


def test_a_shard_that_nobody_has_is_unavailable_after_the_patience() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        far = next(each for each in WORKFLOWS if stage.home(each).node_id == "b")
        stage.kill("b")
        began = running_loop().time()
        error = await refused(stage.describe("a", far, deadline_s=60))
        assert error.code is Code.UNAVAILABLE and "request id" in error.message
        assert PATIENCE_S <= running_loop().time() - began <= PATIENCE_S + 1
        began = running_loop().time()
        assert (await refused(stage.describe("a", far, deadline_s=2))).code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        assert running_loop().time() - began <= 2.1, "no longer than its caller waits"

    perform(story)


def test_a_write_whose_node_dies_under_it_is_unavailable_and_a_read_goes_on() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a", "b")
        for each in WORKFLOWS:
            await stage.start("a", each)
        far = next(each for each in WORKFLOWS if stage.home(each).node_id == "b")
        stage.node("b").store.hold("append")
        writing = asyncio.ensure_future(refused(stage.signal("a", far, "lost")))
        await asyncio.sleep(0.1)
        reading = asyncio.ensure_future(stage.describe("a", far))  # waits for what it has seen to be durable
        await asyncio.sleep(0.1)
        assert not writing.done() and not reading.done()
        stage.kill("b")
        error = await writing
        assert error.code is Code.UNAVAILABLE and "may have been executed" in error.message
        stage.forget("b")
        assert (await reading).workflow_execution_info.execution.workflow_id == far
        await stage.signal("a", far, "lost")
        assert await stage.signals("a", far) == ["lost"]

    perform(story)


def test_a_message_of_a_newer_version_is_refused_loudly() -> None:
    async def story(stage: Stage) -> None:
        await stage.add("a")

        async def send(payload: bytes) -> None:
            peers = stage.node("a").peers
            error = await refused(peers.handle(messages.INVOKE, payload, None, None))  # type: ignore[arg-type]
            assert error.code is Code.UNIMPLEMENTED

        newer = messages.InvokeRun(
            version=messages.VERSION + 1, verb="describe_workflow_execution", namespace_id="n", workflow_id="w", request=b""
        )
        await send(messages.encode(newer))
        await send(messages.encode(messages.InvokeRun(verb="levitate", namespace_id="n", workflow_id="w", request=b"")))
        await send(b"\xc1 no message")

    perform(story)


def test_every_verb_travels_as_the_request_the_frontend_decodes() -> None:
    by_verb = {method.verb: method.request for method in METHODS.values() if method.verb in messages.REQUESTS}
    assert {verb: messages.REQUESTS[verb] for verb in by_verb} == by_verb
    assert set(by_verb) == set(messages.REQUESTS)


def test_an_answer_with_an_unknown_mark_is_an_error() -> None:
    assert messages.unmarked(0, messages.ANSWER + b"x") == b"x"
    for bad in (b"", b"\xff"):
        with pytest.raises(Exception, match="mark"):
            messages.unmarked(0, bad)
