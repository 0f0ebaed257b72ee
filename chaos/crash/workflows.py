"""The load's workflows on the official SDK. Tokens of the ledger travel in inputs, signals, update ids and results."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

TASK_QUEUE = "crash"
# Short, so that a task that a kill took along is tried again soon; every time-out of the load bounds the quiet phase too.
ATTEMPT_TIMEOUT = timedelta(seconds=2)
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=100), backoff_coefficient=1.5, maximum_interval=timedelta(seconds=1))


@dataclass
class ContestInput:
    token: str
    linger_ms: int
    fails: bool


@workflow.defn(name="Contest")
class Contest:
    """Short-lived, under an id that many clients want: it lingers on a timer, takes signals, then ends well or badly."""

    def __init__(self) -> None:
        self._signals: list[str] = []

    @workflow.signal
    def note(self, token: str) -> None:
        self._signals.append(token)

    @workflow.run
    async def run(self, order: ContestInput) -> int:
        await asyncio.sleep(order.linger_ms / 1000)
        if order.fails:
            raise ApplicationError("asked to fail", non_retryable=True)
        return len(self._signals)


@dataclass
class EntityState:
    token: str = ""  # of the start; only the first run of a chain carries it
    total: int = 0
    runs_left: int = 1_000


@workflow.defn(name="Entity")
class Entity:
    """Long-lived: signals and updates add up; it continues as new every few messages and ends when told to."""

    MESSAGES_PER_RUN = 25

    def __init__(self) -> None:
        self._total = 0
        self._messages = 0
        self._closing = False

    @workflow.signal
    def note(self, token: str) -> None:
        self._total += 1
        self._messages += 1

    @workflow.signal
    def finish(self) -> None:
        self._closing = True

    @workflow.update
    async def add(self, amount: int) -> str:
        self._total += amount
        self._messages += 1
        total = self._total
        if amount % 2:
            # Odd amounts are answered by a later workflow task, so that kills also fall between acceptance and completion.
            await asyncio.sleep(0.05)
        return f"total {total}"

    @workflow.run
    async def run(self, state: EntityState) -> int:
        self._total += state.total
        await workflow.wait_condition(lambda: self._closing or self._messages >= self.MESSAGES_PER_RUN)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._closing:
            return self._total
        workflow.continue_as_new(EntityState(total=self._total, runs_left=state.runs_left - 1))


@dataclass
class TransferInput:
    token: str
    source: str
    target: str
    cents: int


@workflow.defn(name="Transfer")
class Transfer:
    """Withdraw, deposit; give it back if the target takes no deposits."""

    @workflow.run
    async def run(self, order: TransferInput) -> str:
        key = workflow.info().workflow_id
        await self._move(key + "/withdraw", order.source, -order.cents)
        try:
            await self._move(key + "/deposit", order.target, order.cents)
        except ActivityError:
            await self._move(key + "/refund", order.source, order.cents)
            return f"refunded {order.cents}"
        return f"moved {order.cents}"

    async def _move(self, key: str, account: str, cents: int) -> None:
        await workflow.execute_activity(
            "move_money", args=[key, account, cents], start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=RETRY
        )


@workflow.defn(name="Outside")
class Outside:
    """Waits for an activity that somebody outside completes with a token of the ledger."""

    @workflow.run
    async def run(self, token: str) -> str:
        result: str = await workflow.execute_activity(
            "complete_elsewhere",
            args=[token],
            activity_id="outside",
            start_to_close_timeout=timedelta(seconds=8),
            retry_policy=RETRY,
        )
        return result


class Activities:
    """Activities with the harness's side of the world: the bank, and the queue of tasks that clients complete."""

    HANGS_RATE = 0.05

    def __init__(
        self,
        move: Callable[[str, str, int], None],
        hand_out: Callable[[bytes, str, str], None],
        stream: random.Random,
        note_retried: Callable[[], None],
    ) -> None:
        self._move = move
        self._stream = stream
        self._hand_out = hand_out
        self._note_retried = note_retried

    @activity.defn(name="move_money")
    async def move_money(self, key: str, account: str, cents: int) -> None:
        if activity.info().attempt > 1:
            self._note_retried()
        try:
            self._move(key, account, cents)
        except Exception as error:
            raise ApplicationError(repr(error), non_retryable=True) from error
        # A worker that did its work and then hangs: the attempt times out, and the next one moves the same money again.
        hangs = activity.info().attempt == 1 and self._stream.random() < self.HANGS_RATE
        bank_answers_after_s = self._stream.uniform(0, 0.05)
        await asyncio.sleep(2 * ATTEMPT_TIMEOUT.total_seconds() if hangs else bank_answers_after_s)

    @activity.defn(name="complete_elsewhere")
    async def complete_elsewhere(self, token: str) -> str:
        info = activity.info()
        self._hand_out(info.task_token, info.workflow_id or "", info.workflow_run_id or "")
        activity.raise_complete_async()

    def all(self) -> list[Callable[..., Any]]:
        return [self.move_money, self.complete_elsewhere]


WORKFLOWS: list[type] = [Contest, Entity, Transfer, Outside]
