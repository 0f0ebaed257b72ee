"""Updates: accepted, completed, rejected without a trace, waited for by stage, found again by id, sent with a start."""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage
from temporalio.client import WithStartWorkflowOperation, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from tests.e2e.environment import Env, run_of
from tests.e2e.registry import Run, scenario

ACCEPTED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED


@workflow.defn
class Account:
    def __init__(self) -> None:
        self.balance = 0
        self.open = True
        self.gate = False

    @workflow.update
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @deposit.validator
    def check_deposit(self, amount: int) -> None:
        if amount <= 0:
            raise ApplicationError("amount must be positive", type="BadAmount")

    @workflow.update
    async def gated(self) -> str:
        await workflow.wait_condition(lambda: self.gate)
        return "through the gate"

    @workflow.update
    async def broken(self) -> None:
        raise ApplicationError("update failed", type="Broken")

    @workflow.signal
    def open_gate(self) -> None:
        self.gate = True

    @workflow.signal
    def close(self) -> None:
        self.open = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: not self.open)
        return self.balance


async def idle(env: Env, **options: Any) -> Any:
    """An account whose first workflow task is over: the next update comes with a speculative task."""
    handle = await env.start(Account.run, **options)
    await env.seen(run_of(handle), "WORKFLOW_TASK_COMPLETED")
    return handle


@scenario("update_completes", items=["update: complete", "workflow task: speculative"])
async def update_completes(env: Env) -> list[Run]:
    async with env.worker([Account]):
        handle = await idle(env)
        assert await handle.execute_update(Account.deposit, 5, id="first") == 5
        assert await handle.execute_update(Account.deposit, 2, id="second") == 7
        await handle.signal(Account.close)
        assert await handle.result() == 7
    return [run_of(handle)]


@scenario("update_is_rejected_without_a_trace", items=["update: rejected", "workflow task: speculative"])
async def update_is_rejected_without_a_trace(env: Env) -> list[Run]:
    async with env.worker([Account]):
        handle = await idle(env)
        for _ in range(2):
            try:
                await handle.execute_update(Account.deposit, -1)
            except WorkflowUpdateFailedError as error:
                assert isinstance(error.cause, ApplicationError)
                assert error.cause.type == "BadAmount"
            else:
                raise AssertionError("the update should have been rejected")
        await handle.signal(Account.close)
        assert await handle.result() == 0
    return [run_of(handle)]


@scenario("update_fails_after_acceptance", items=["update: complete"])
async def update_fails_after_acceptance(env: Env) -> list[Run]:
    async with env.worker([Account]):
        handle = await idle(env)
        try:
            await handle.execute_update(Account.broken, id="broken")
        except WorkflowUpdateFailedError as error:
            assert isinstance(error.cause, ApplicationError)
        else:
            raise AssertionError("the update should have failed")
        await handle.signal(Account.close)
        await handle.result()
    return [run_of(handle)]


@scenario("update_waits_by_stage", items=["update: stages", "update: re-attach"])
async def update_waits_by_stage(env: Env) -> list[Run]:
    async with env.worker([Account]):
        handle = await idle(env)
        update = await handle.start_update(Account.gated, id="gated", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        # The same id again is the same update: no second task, no second event.
        again = await handle.start_update(Account.gated, id="gated", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        await handle.signal(Account.open_gate)
        assert await update.result() == "through the gate"
        assert await again.result() == "through the gate"
        assert await handle.get_update_handle("gated").result() == "through the gate"
        assert await handle.execute_update(Account.gated, id="gated") == "through the gate"
        await handle.signal(Account.close)
        await handle.result()
    return [run_of(handle)]


@scenario("update_without_cache", items=["update: complete", "workflow task: speculative"])
async def update_without_cache(env: Env) -> list[Run]:
    async with env.worker([Account], max_cached_workflows=0):
        handle = await idle(env)
        assert await handle.execute_update(Account.deposit, 5, id="first") == 5
        await handle.signal(Account.close)
        assert await handle.result() == 5
    return [run_of(handle)]


@scenario("update_unknown_handler", items=["update: rejected"])
async def update_unknown_handler(env: Env) -> list[Run]:
    async with env.worker([Account]):
        handle = await idle(env)
        try:
            await handle.execute_update("nobody", id="nobody")
        except WorkflowUpdateFailedError as error:
            env.observe("error", str(error.cause))
        else:
            raise AssertionError("the update should have been rejected")
        await handle.signal(Account.close)
        await handle.result()
    return [run_of(handle)]


@scenario("update_with_start_new", items=["update: with start"])
async def update_with_start_new(env: Env) -> list[Run]:
    async with env.worker([Account]):
        start = WithStartWorkflowOperation(
            Account.run, id=env.id("wf"), task_queue=env.task_queue, id_conflict_policy=WorkflowIDConflictPolicy.FAIL
        )
        result = await env.client.execute_update_with_start_workflow(
            Account.deposit, 3, id="with-start", start_workflow_operation=start
        )
        assert result == 3
        handle = await start.workflow_handle()
        await handle.signal(Account.close)
        assert await handle.result() == 3
    return [run_of(handle)]


@scenario("update_with_start_existing", items=["update: with start", "workflow: id conflict policy"])
async def update_with_start_existing(env: Env) -> list[Run]:
    async with env.worker([Account]):
        existing = await idle(env)
        start = WithStartWorkflowOperation(
            Account.run, id=existing.id, task_queue=env.task_queue, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )
        result = await env.client.execute_update_with_start_workflow(
            Account.deposit, 3, id="with-start", start_workflow_operation=start
        )
        assert result == 3
        await existing.signal(Account.close)
        assert await existing.result() == 3
    return [run_of(existing)]
