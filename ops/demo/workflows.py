"""The money transfer as a user of the official SDK writes it: withdraw, deposit, and a refund when the deposit is impossible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from ops.demo.bank import AccountClosed, Bank, Transfer

TASK_QUEUE = "transfers"
BANK_LATENCY_S = 0.05  # a bank takes its time; it also means that a kill meets bookings in flight

# A booking that is lost with its worker is tried again after start_to_close; the bank's idempotence makes that safe.
BOOKING: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=3),
    "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=2)),
}


class Bookings:
    """The activities; they hold the worker's connection to the accounts file."""

    def __init__(self, accounts: Path) -> None:
        self._bank = Bank(accounts)

    @activity.defn
    async def withdraw(self, transfer: Transfer) -> None:
        await self._book(transfer, "debit", transfer.source)

    @activity.defn
    async def deposit(self, transfer: Transfer) -> None:
        try:
            await self._book(transfer, "credit", transfer.target)
        except AccountClosed as closed:
            raise ApplicationError(str(closed), type="AccountClosed", non_retryable=True) from closed

    @activity.defn
    async def refund(self, transfer: Transfer) -> None:
        await self._book(transfer, "refund", transfer.source)

    async def _book(self, transfer: Transfer, kind: str, account: str) -> None:
        await asyncio.sleep(BANK_LATENCY_S / 5)
        self._bank.book(transfer.transfer_id, kind, account, transfer.cents)
        await asyncio.sleep(BANK_LATENCY_S * 4 / 5)  # booked, but not yet said so: the moment in which a crash hurts most

    def all(self) -> Sequence[Callable[..., Any]]:
        return [self.withdraw, self.deposit, self.refund]


@workflow.defn
class TransferWorkflow:
    """Ends with "transferred" or "refunded"; the money is never in neither place for good."""

    @workflow.run
    async def run(self, transfer: Transfer) -> str:
        await workflow.execute_activity_method(Bookings.withdraw, transfer, **BOOKING)
        try:
            await workflow.execute_activity_method(Bookings.deposit, transfer, **BOOKING)
        except ActivityError as failure:
            workflow.logger.info("%s: deposit impossible (%s), refunding", transfer.transfer_id, failure.cause)
            await workflow.execute_activity_method(Bookings.refund, transfer, **BOOKING)
            return "refunded"
        return "transferred"
