"""The demo of three teams, small; and its audit sees what it is there to see."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest

from ops.demo_nexus.audit import NOWHERE, Seen, audit_histories, audit_orders
from ops.demo_nexus.services import Order, Outcome
from ops.servers import ROOT


@pytest.mark.skipif(shutil.which("node") is None or shutil.which("curl") is None, reason="needs Node and curl")
def test_orders_through_three_teams_and_a_kill_end_once() -> None:
    command = [sys.executable, "-m", "ops.demo_nexus", "--orders", "8", "--output", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == [] and (report["shipped"], report["refunded"]) == (6, 2)
    assert set(report["by_caller"]) == {"curl", "Python", "outlast nexus call"}
    assert report["runs"] == {"order": 8, "payment": 10, "shipping": 8}
    assert (report["operations"], report["links"]) == (26, 18) and report["trouble"].startswith("SIGKILL")


SENT, BACK = Order("1", "book", 10, "Main Street"), Order("2", "book", 20, NOWHERE)
OUTCOMES = {
    "1": Outcome("1", "shipped", "charge-1", "parcel-1"),
    "2": Outcome("2", "refunded", "refund-2", reason="no carrier"),
}
BOOKINGS = [("1", "charge", 10), ("2", "charge", 20), ("2", "refund", 20)]


def problems(**changed: object) -> list[str]:
    told = {"orders": [SENT, BACK], "outcomes": OUTCOMES, "bookings": BOOKINGS, "parcels": {"1": 1}, "refused": ["2"], **changed}
    return audit_orders(**told)  # type: ignore[arg-type]


def test_orders_that_are_right_have_no_problems() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"bookings": BOOKINGS[:2]}, "2 is booked as"),
        ({"bookings": [*BOOKINGS, ("1", "refund", 10)]}, "1 is booked as"),
        ({"bookings": [*BOOKINGS, ("9", "charge", 10)]}, "9 was booked, but nobody ordered it"),
        ({"parcels": {"1": 2}}, "1 was packed 2 times"),
        ({"parcels": {"1": 1, "2": 1}}, "2 was packed 1 times"),
        ({"refused": []}, "the depot says otherwise"),
        ({"outcomes": {"1": OUTCOMES["1"]}}, "2 has no outcome"),
        ({"outcomes": OUTCOMES | {"2": dataclasses.replace(OUTCOMES["2"], reason="")}}, "2 was reported as"),
    ],
)
def test_each_kind_of_wrong_order_is_found(changed: dict[str, object], told: str) -> None:
    assert any(told in problem for problem in problems(**changed))


def seen() -> Seen:
    return Seen(
        runs={"order": ["order-1"], "payment": ["charge-1"], "shipping": ["shipment-1"]},
        operations=[
            ("order", "order-1", "payments.v1", "charge", "charge-1"),
            ("order", "order-1", "shipping.v1", "ship", "shipment-1"),
            ("shipping", "shipment-1", "depot.v1", "pack", ""),
        ],
        callers={("payment", "charge-1"): "order-1", ("shipping", "shipment-1"): "order-1"},
    )


def test_runs_that_are_missing_doubled_foreign_or_not_linked_are_found() -> None:
    assert audit_histories([SENT], seen()) == []
    doubled, orphan, unlinked, unnamed, foreign = (seen() for _ in range(5))
    doubled.runs["payment"].append("charge-1")
    orphan.runs["shipping"] = ["shipment-9"]
    unlinked.callers[("payment", "charge-1")] = "order-7"
    unnamed.operations[1] = ("order", "order-1", "shipping.v1", "ship", "")
    foreign.foreign_events.append("ACTIVITY in order/order-1")
    assert "charge-1 ran though nobody needs it" in audit_histories([SENT], doubled)[0]
    assert len(audit_histories([SENT], orphan)) == 2
    assert "does not name order/order-1" in audit_histories([SENT], unlinked)[0]
    assert "names no run of the handler" in audit_histories([SENT], unnamed)[0]
    assert "not by Nexus" in audit_histories([SENT], foreign)[0]
