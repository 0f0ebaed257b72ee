"""The three teams' code, as a user writes it with the official SDK. Each worker runs one team; none has another one's code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from nexusrpc.handler import service_handler
from temporalio import activity, nexus, workflow
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import NexusOperationError

with workflow.unsafe.imports_passed_through():
    from ops.demo_nexus.ledger import Ledger
    from ops.demo_nexus.services import (
        DEPOT,
        PAYMENTS,
        SHIPPING,
        Charge,
        Depot,
        Order,
        Orders,
        Outcome,
        Parcel,
        Payments,
        Receipt,
        Shipment,
        Shipping,
    )

OPERATION_TIMEOUT = timedelta(minutes=2)  # schedule to close, retries included: longer than any outage of the demo
BOOKING_TIMEOUT = timedelta(seconds=10)
ATTACH = WorkflowIDConflictPolicy.USE_EXISTING  # a start that comes twice waits for the same run


# --- orders: the saga -----------------------------------------------------------------------------------------------------
@workflow.defn
class OrderWorkflow:
    """Pays, then ships. What cannot be shipped is paid back."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        payments = workflow.create_nexus_client(service=Payments, endpoint=PAYMENTS)
        shipping = workflow.create_nexus_client(service=Shipping, endpoint=SHIPPING)
        charge = Charge(order.order_id, order.cents)
        paid = await payments.execute_operation(Payments.charge, charge, schedule_to_close_timeout=OPERATION_TIMEOUT)
        shipment = Shipment(order.order_id, order.item, order.address)
        try:
            sent = await shipping.execute_operation(Shipping.ship, shipment, schedule_to_close_timeout=OPERATION_TIMEOUT)
        except NexusOperationError as error:
            back = await payments.execute_operation(Payments.refund, charge, schedule_to_close_timeout=OPERATION_TIMEOUT)
            return Outcome(order.order_id, "refunded", back.receipt, reason=root_cause(error))
        return Outcome(order.order_id, "shipped", paid.receipt, sent.parcel)


def root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


@service_handler(service=Orders)
class OrdersHandler:
    @nexus.workflow_run_operation
    async def place(self, ctx: nexus.WorkflowRunOperationContext, input: Order) -> nexus.WorkflowHandle[Outcome]:
        return await ctx.start_workflow(OrderWorkflow.run, input, id=f"order-{input.order_id}", id_conflict_policy=ATTACH)


# --- payments -------------------------------------------------------------------------------------------------------------
@workflow.defn
class BookingWorkflow:
    @workflow.run
    async def run(self, kind: str, charge: Charge) -> Receipt:
        booked: str = await workflow.execute_activity(
            "book", args=[kind, charge], result_type=str, start_to_close_timeout=BOOKING_TIMEOUT
        )
        return Receipt(booked)


class Bookings:
    """Activities that know the books."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @activity.defn
    async def book(self, kind: str, charge: Charge) -> str:
        return self._ledger.book(charge.order_id, kind, charge.cents)


@service_handler(service=Payments)
class PaymentsHandler:
    @nexus.workflow_run_operation
    async def charge(self, ctx: nexus.WorkflowRunOperationContext, input: Charge) -> nexus.WorkflowHandle[Receipt]:
        return await _book(ctx, "charge", input)

    @nexus.workflow_run_operation
    async def refund(self, ctx: nexus.WorkflowRunOperationContext, input: Charge) -> nexus.WorkflowHandle[Receipt]:
        return await _book(ctx, "refund", input)


async def _book(ctx: nexus.WorkflowRunOperationContext, kind: str, charge: Charge) -> nexus.WorkflowHandle[Receipt]:
    return await ctx.start_workflow(
        BookingWorkflow.run, args=[kind, charge], id=f"{kind}-{charge.order_id}", id_conflict_policy=ATTACH
    )


# --- shipping -------------------------------------------------------------------------------------------------------------
@workflow.defn
class ShipmentWorkflow:
    """Has it packed by the depot, which is plain HTTP; to a workflow it looks like any other endpoint."""

    @workflow.run
    async def run(self, shipment: Shipment) -> Parcel:
        depot = workflow.create_nexus_client(service=Depot, endpoint=DEPOT)
        return await depot.execute_operation(Depot.pack, shipment, schedule_to_close_timeout=OPERATION_TIMEOUT)


@service_handler(service=Shipping)
class ShippingHandler:
    @nexus.workflow_run_operation
    async def ship(self, ctx: nexus.WorkflowRunOperationContext, input: Shipment) -> nexus.WorkflowHandle[Parcel]:
        return await ctx.start_workflow(
            ShipmentWorkflow.run, input, id=f"shipment-{input.order_id}", id_conflict_policy=ATTACH
        )


def worker_parts(team: str, ledger: Ledger) -> dict[str, Any]:
    """Of that team's worker: what temporalio.worker.Worker takes. team: also its namespace."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "order": lambda: {"workflows": [OrderWorkflow], "nexus_service_handlers": [OrdersHandler()]},
        "payment": lambda: {
            "workflows": [BookingWorkflow],
            "activities": [Bookings(ledger).book],
            "nexus_service_handlers": [PaymentsHandler()],
        },
        "shipping": lambda: {"workflows": [ShipmentWorkflow], "nexus_service_handlers": [ShippingHandler()]},
    }
    return parts[team]()


TEAMS = ("order", "payment", "shipping")
