"""Who asks for what: a handful of clients that get in each other's way on a few workflow ids.

| client | does | to |
|---|---|---|
| contender | starts with every conflict and reuse policy, signals, signals with start | contest-0 .. contest-2 |
| correspondent | starts if need be, signals and updates, pinned to a run or to whatever run is current | entity-0 .. entity-2 |
| outsider | starts a workflow and completes its activity from outside | outside-* |
| teller | transfers money and waits for the result | transfer-* |
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from chaos.checkers.histories import text_of
from chaos.checkers.ledger import Act, ActKind, Conflict, Outcome, Reuse
from chaos.crash.requests import Requests, payloads
from chaos.crash.workflows import TASK_QUEUE, ContestInput, EntityState, TransferInput

CONTESTED = [f"contest-{number}" for number in range(3)]
ENTITIES = [f"entity-{number}" for number in range(3)]
ACCOUNTS = {f"account-{number}": 1_000_000 for number in range(6)}
CLOSED_ACCOUNTS = frozenset({"account-5"})


class Load:
    """Runs until `stop`; then every client finishes what it is at."""

    def __init__(self, client: Client, requests: Requests, streams: Callable[[str], random.Random]) -> None:
        self.client = client
        self.requests = requests
        self.streams = streams
        self.told: dict[str, str] = {}  # run id -> result that a client was given
        self.faults: list[str] = []  # answers that no server may give
        self.tasks_outside: asyncio.Queue[tuple[bytes, str, str]] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._numbers = 0

    def hand_out(self, task_token: bytes, workflow_id: str, run_id: str) -> None:
        self.tasks_outside.put_nowait((task_token, workflow_id, run_id))

    def stop(self) -> None:
        self._stopping.set()

    def clients(self) -> list[Coroutine[Any, Any, None]]:
        """One coroutine per client; each ends after `stop`."""
        return [
            *(self._repeat(f"contender-{number}", self._contend, 0.03) for number in range(5)),
            *(self._repeat(f"correspondent-{number}", self._correspond, 0.03) for number in range(5)),
            *(self._repeat(f"outsider-{number}", self._start_outside, 0.25) for number in range(2)),
            *(self._repeat(f"teller-{number}", self._transfer, 0.05) for number in range(3)),
        ]

    async def _repeat(self, name: str, step: Callable[[str, random.Random], Coroutine[Any, Any, None]], pause_s: float) -> None:
        stream = self.streams(name)
        while not self._stopping.is_set():
            await step(name, stream)
            await asyncio.sleep(stream.uniform(0, 2 * pause_s))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- contention on starts ---------------------------------------------------------------------------------------
    async def _contend(self, name: str, stream: random.Random) -> None:
        workflow_id = stream.choice(CONTESTED) + self.requests.tag
        kind = stream.random()
        if kind < 0.3:
            await self.requests.signal(name, workflow_id, "")
            return
        linger_ms, fails = stream.randint(0, 600), stream.random() < 0.4
        if kind < 0.45:
            await self.requests.signal_with_start(
                name, workflow_id, "Contest", lambda token: ContestInput(token, linger_ms, fails)
            )
            return
        await self.requests.start(
            name,
            workflow_id,
            "Contest",
            lambda token: ContestInput(token, linger_ms, fails),
            stream.choices(list(Conflict), weights=[4, 3, 2])[0],
            stream.choices(list(Reuse), weights=[6, 3, 1])[0],
        )

    # --- signals and updates to shared entities -----------------------------------------------------------------------
    async def _correspond(self, name: str, stream: random.Random) -> None:
        workflow_id = stream.choice(ENTITIES) + self.requests.tag
        run_id = await self._current_run(workflow_id)
        if run_id is None:
            order: Callable[[str], object] = lambda token: EntityState(token=token)  # noqa: E731
            await self.requests.start(name, workflow_id, "Entity", order, Conflict.USE_EXISTING, Reuse.ALLOW_DUPLICATE)
            return
        target = run_id if stream.random() < 0.5 else ""
        if stream.random() < 0.65:
            await self.requests.signal(name, workflow_id, target)
        else:
            await self.requests.update(name, workflow_id, target, stream.randint(1, 9))

    async def _current_run(self, workflow_id: str) -> str | None:
        """The open run, None if there is none or the server cannot be asked now."""
        request = DescribeWorkflowExecutionRequest(
            namespace=self.client.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        try:
            answer = await self.client.workflow_service.describe_workflow_execution(
                request, timeout=self.requests.ATTEMPT_TIMEOUT
            )
        except RPCError:
            return None
        info = answer.workflow_execution_info
        return None if info.HasField("close_time") else info.execution.run_id

    # --- activities completed from outside -----------------------------------------------------------------------------
    async def _start_outside(self, name: str, stream: random.Random) -> None:
        workflow_id = f"outside-{self._number()}{self.requests.tag}"
        act = await self.requests.start(name, workflow_id, "Outside", lambda token: token, Conflict.FAIL, Reuse.ALLOW_DUPLICATE)
        self._must_start(act)

    async def complete_outside(self) -> None:
        """Completes tasks as they are handed out, also after `stop`, until cancelled."""
        under_way: set[asyncio.Task[Act]] = set()
        while True:
            task_token, workflow_id, run_id = await self.tasks_outside.get()
            job = asyncio.create_task(self.requests.complete("outside", workflow_id, run_id, task_token))
            under_way.add(job)
            job.add_done_callback(under_way.discard)

    # --- money ----------------------------------------------------------------------------------------------------------
    async def _transfer(self, name: str, stream: random.Random) -> None:
        workflow_id = f"transfer-{self._number()}{self.requests.tag}"
        source = stream.choice(sorted(ACCOUNTS.keys() - CLOSED_ACCOUNTS))
        target = stream.choice(sorted(ACCOUNTS.keys() - {source}))
        cents = stream.randint(1, 500)

        def order(token: str) -> TransferInput:
            return TransferInput(token, source, target, cents)

        if stream.random() < 0.5:
            act = await self.requests.start(name, workflow_id, "Transfer", order, Conflict.FAIL, Reuse.ALLOW_DUPLICATE)
        else:
            act = await self._start_by_sdk(name, workflow_id, order)
        self._must_start(act)
        if act.outcome == Outcome.ACKED:
            await self._await_result(self.client.get_workflow_handle(workflow_id, run_id=act.run_id), act.run_id)

    async def _start_by_sdk(self, name: str, workflow_id: str, order: Callable[[str], object]) -> Act:
        """The official client's own start: it retries by itself, so the number of attempts is unknown (taken as many)."""
        with self.requests.act(ActKind.START, workflow_id, name, attempts=1_000) as act:
            try:
                handle = await self.client.start_workflow(
                    "Transfer",
                    order(act.token),
                    id=workflow_id,
                    task_queue=TASK_QUEUE,
                    task_timeout=self.requests.ATTEMPT_TIMEOUT / 2,
                )
                act.outcome, act.started, act.run_id = Outcome.ACKED, True, handle.first_execution_run_id or ""
            except WorkflowAlreadyStartedError as error:
                act.outcome, act.error = Outcome.REFUSED, str(error)
            except RPCError as error:
                act.error = str(error)
        return act

    async def _await_result(self, handle: WorkflowHandle[Any, Any], run_id: str) -> None:
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at:
            try:
                result = await handle.result()
                self.told[run_id] = text_of(payloads(result).payloads)
                return
            except WorkflowFailureError as error:
                self.faults.append(f"{handle.id} {run_id} failed: {error.cause!r}; a transfer always ends with a result")
                return
            except RPCError:
                await asyncio.sleep(0.1)

    def _must_start(self, act: Act) -> None:
        """Nobody else uses this id: a refusal means that the server did not recognise its own client's repeated request."""
        if act.outcome == Outcome.REFUSED or (act.outcome == Outcome.ACKED and not act.started):
            self.faults.append(
                f"start of the unique id {act.workflow_id} was answered {act.outcome} started={act.started}: {act.error}"
            )
