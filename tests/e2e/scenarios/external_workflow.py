"""Signals and cancels that one workflow sends to another."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.exceptions import ApplicationError

from tests.e2e import commands
from tests.e2e.environment import Env, payloads, run_of
from tests.e2e.registry import Run, scenario


@workflow.defn
class Receiver:
    def __init__(self) -> None:
        self.words: list[str] = []

    @workflow.signal
    def hear(self, word: str) -> None:
        self.words.append(word)

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.words) > 0)
        return self.words


@workflow.defn
class Sender:
    @workflow.run
    async def run(self, target: str, what: str) -> str:
        other = workflow.get_external_workflow_handle(target)
        try:
            if what == "signal":
                await other.signal("hear", "hello")
            else:
                await other.cancel(reason="not needed")
        except ApplicationError as error:
            return f"{error.type}: {error.message}"
        return "sent"


@scenario("external_signal", items=["external: signal", "workflow: signal"])
async def external_signal(env: Env) -> list[Run]:
    async with env.worker([Receiver, Sender]):
        receiver = await env.start(Receiver.run, name="receiver")
        await env.seen(run_of(receiver), "WORKFLOW_TASK_COMPLETED")
        sender = await env.start(Sender.run, receiver.id, "signal", name="sender")
        assert await sender.result() == "sent"
        assert await receiver.result() == ["hello"]
    return [run_of(sender), run_of(receiver)]


@scenario("external_signal_to_nobody", items=["external: signal failed"])
async def external_signal_to_nobody(env: Env) -> list[Run]:
    async with env.worker([Sender]):
        sender = await env.start(Sender.run, env.id("nobody"), "signal", name="sender")
        env.observe("result", await sender.result())
    return [run_of(sender)]


@scenario("external_cancel_to_nobody", items=["external: cancel failed"])
async def external_cancel_to_nobody(env: Env) -> list[Run]:
    async with env.worker([Sender]):
        sender = await env.start(Sender.run, env.id("nobody"), "cancel", name="sender")
        env.observe("result", await sender.result())
    return [run_of(sender)]


async def idle_target(env: Env) -> Run:
    """A run that no worker touches."""
    return await env.start_raw("target", task_queue=TaskQueue(name=env.id("nobody")))


@scenario("external_cancel", items=["external: cancel"])
async def external_cancel(env: Env) -> list[Run]:
    target = await idle_target(env)
    async with env.worker([Sender]):
        sender = await env.start(Sender.run, target.workflow_id, "cancel", name="sender")
        assert await sender.result() == "sent"
    return [run_of(sender), target]


@scenario("external_cancel_twice", items=["external: cancel"])
async def external_cancel_twice(env: Env) -> list[Run]:
    target, sender = await idle_target(env), await env.start_raw("sender")
    await env.raw.step(commands.cancel_external(target.workflow_id, target.run_id, reason="first", control="c1"))
    await env.raw.step(commands.cancel_external(target.workflow_id, reason="second"))
    await env.raw.step(commands.complete())
    return [sender, target]


@scenario("external_signal_to_a_closed_run", items=["external: signal failed", "external: cancel failed"])
async def external_signal_to_a_closed_run(env: Env) -> list[Run]:
    target = await env.start_raw("target")
    await env.raw.step(commands.complete())
    sender = await env.start_raw("sender")
    await env.raw.step(commands.signal_external(target.workflow_id, control="c"))
    await env.raw.step(commands.cancel_external(target.workflow_id, target.run_id))
    await env.raw.step(commands.complete())
    return [sender, target]


@scenario("external_signal_to_itself", items=["external: signal failed", "external: cancel failed"])
async def external_signal_to_itself(env: Env) -> list[Run]:
    run = await env.start_raw()
    await env.raw.step(commands.signal_external(run.workflow_id, run.run_id, input=payloads("me")))
    await env.raw.step(commands.signal_external(run.workflow_id))
    await env.raw.step(commands.cancel_external(run.workflow_id))
    await env.raw.step(commands.complete())
    return [run]


@scenario("external_signal_of_a_child_only", items=["external: signal", "external: signal failed"])
async def external_signal_of_a_child_only(env: Env) -> list[Run]:
    """A signal marked "child only" to a workflow that is not the sender's child is refused."""
    target, sender = await idle_target(env), await env.start_raw("sender")
    await env.raw.step(commands.signal_external(target.workflow_id, child_workflow_only=True))
    await env.raw.step(commands.cancel_external(target.workflow_id, child_workflow_only=True))
    await env.raw.step(commands.signal_external(target.workflow_id, input=payloads(1, 2), signal_name="plain"))
    await env.raw.step(commands.complete())
    return [sender, target]


@scenario("external_signal_in_the_closing_task", items=["external: signal"])
async def external_signal_in_the_closing_task(env: Env) -> list[Run]:
    """A run that ends in the task that sends: the real server drops the signal, since a closed run sends nothing."""
    target, sender = await idle_target(env), await env.start_raw("sender")
    await env.raw.step(commands.signal_external(target.workflow_id), commands.complete())
    await asyncio.sleep(1)  # Nothing must come; nothing can be awaited.
    return [sender, target]
