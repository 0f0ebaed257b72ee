"""What must hold when all orders are done, whatever was killed in between. Pure: sentences about what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ops.demo_nexus.services import Order, Outcome

NOWHERE = "nowhere"  # where no carrier goes: such an order must be paid back


@dataclass
class Report:
    """What the demo found. `problems` empty means that everything is right."""

    orders: int = 0
    shipped: int = 0
    refunded: int = 0
    by_caller: dict[str, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)  # by namespace
    operations: int = 0  # between namespaces and to the depot, by the callers' histories
    unknown_results: int = 0  # polls that were told "not found" by a region that had not heard of the order yet
    turned_away: int = 0  # starts that the depot answered by 503
    links: int = 0  # operations whose two histories name each other
    trouble: str = ""  # what was done to the servers amid the orders
    done_before: int = 0  # orders, when it came
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """Of histories. runs: by namespace, the workflow id of each. callers: (namespace, workflow id) -> that of its caller.

    operations: (namespace, workflow id, service, operation, the handler's workflow id or ""). foreign_events: what is no Nexus.
    """

    runs: dict[str, list[str]] = field(default_factory=dict)
    operations: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    callers: dict[tuple[str, str], str] = field(default_factory=dict)
    foreign_events: list[str] = field(default_factory=list)


def audit_orders(
    orders: Sequence[Order],
    outcomes: Mapping[str, Outcome],
    bookings: Iterable[tuple[str, str, int]],
    parcels: Mapping[str, int],
    refused: Iterable[str],
) -> list[str]:
    """By the ledger and the depot. bookings: (order id, kind, cents). parcels: how often each order was packed."""
    problems = []
    booked: dict[str, list[tuple[str, int]]] = {}
    for order_id, kind, cents in bookings:
        booked.setdefault(order_id, []).append((kind, cents))
    for order in orders:
        is_shipped = order.address != NOWHERE
        kinds = ["charge"] if is_shipped else ["charge", "refund"]
        found = sorted(booked.pop(order.order_id, []))
        if found != [(kind, order.cents) for kind in kinds]:
            problems.append(f"{order.order_id} is booked as {found} instead of {kinds} of {order.cents}")
        packed = parcels.get(order.order_id, 0)
        if packed != int(is_shipped):
            problems.append(f"{order.order_id} was packed {packed} times instead of {int(is_shipped)}")
        if (order.order_id in set(refused)) == is_shipped:
            problems.append(f"{order.order_id} goes to {order.address}, and the depot says otherwise")
        problems += _outcome_problems(order, outcomes.get(order.order_id), is_shipped)
    problems += [f"{order_id} was booked, but nobody ordered it" for order_id in booked]
    return problems


def _outcome_problems(order: Order, outcome: Outcome | None, is_shipped: bool) -> list[str]:
    if outcome is None:
        return [f"{order.order_id} has no outcome"]
    kind, parcel = ("charge", f"parcel-{order.order_id}") if is_shipped else ("refund", "")
    wanted = ("shipped" if is_shipped else "refunded", f"{kind}-{order.order_id}", parcel, not is_shipped)
    found = (outcome.state, outcome.receipt, outcome.parcel, bool(outcome.reason))
    return [] if found == wanted else [f"{order.order_id} was reported as {outcome}"]


def audit_histories(orders: Sequence[Order], seen: Seen) -> list[str]:
    """Each run once, no run without its caller, both histories naming each other, and nothing but Nexus between namespaces."""
    refunds = [order for order in orders if order.address == NOWHERE]
    ids = [order.order_id for order in orders]
    wanted = {
        "order": Counter(f"order-{one}" for one in ids),
        "payment": Counter([*(f"charge-{one}" for one in ids), *(f"refund-{one.order_id}" for one in refunds)]),
        "shipping": Counter(f"shipment-{one}" for one in ids),
    }
    problems = []
    for namespace, names in wanted.items():
        found = Counter(seen.runs.get(namespace, []))
        problems += [f"namespace {namespace}: {name} has no run" for name in sorted((names - found).keys())]
        problems += [f"namespace {namespace}: {name} ran though nobody needs it" for name in sorted((found - names).keys())]
    for namespace, workflow_id, service, operation, handler in seen.operations:
        place = f"{service}/{operation} of {workflow_id}"
        if service == "depot.v1":
            continue  # the depot has no histories
        team = "payment" if service == "payments.v1" else "shipping"
        if not handler:
            problems.append(f"{place}: the caller's history names no run of the handler")
        elif seen.callers.get((team, handler)) != workflow_id:
            problems.append(f"{place}: the history of {handler} does not name {namespace}/{workflow_id}")
    return problems + [f"not by Nexus: {event}" for event in seen.foreign_events]
