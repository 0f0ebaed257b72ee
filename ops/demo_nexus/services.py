"""What the teams agreed upon, as Python has it. The same for all languages: contracts/*.nexusrpc.yaml (a test compares them)."""

from __future__ import annotations

from dataclasses import dataclass

import nexusrpc

ORDERS, PAYMENTS, SHIPPING, DEPOT = "orders", "payments", "shipping", "depot"  # endpoints
TASK_QUEUE = "desk"  # of each team's workers


@dataclass
class Order:
    """cents: what it costs. address: where the parcel goes."""

    order_id: str
    item: str
    cents: int
    address: str


@dataclass
class Outcome:
    """state: shipped or refunded. reason: why it was not shipped."""

    order_id: str
    state: str
    receipt: str
    parcel: str = ""
    reason: str = ""


@dataclass
class Charge:
    order_id: str
    cents: int


@dataclass
class Receipt:
    receipt: str


@dataclass
class Shipment:
    order_id: str
    item: str
    address: str


@dataclass
class Parcel:
    parcel: str


@nexusrpc.service(name="orders.v1")
class Orders:
    place: nexusrpc.Operation[Order, Outcome]


@nexusrpc.service(name="payments.v1")
class Payments:
    charge: nexusrpc.Operation[Charge, Receipt]
    refund: nexusrpc.Operation[Charge, Receipt]


@nexusrpc.service(name="shipping.v1")
class Shipping:
    ship: nexusrpc.Operation[Shipment, Parcel]


@nexusrpc.service(name="depot.v1")
class Depot:
    pack: nexusrpc.Operation[Shipment, Parcel]
