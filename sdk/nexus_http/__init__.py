"""Nexus over plain HTTP: typed calls and mountable handlers, without any workflow server. See README.md.

    client = NexusClient("http://host/nexus/endpoints/payments/services", Payments)
    receipt = await client.execute(Payments.charge, ChargeInput(7))

    app.add_subapp("/services", handler_app([PaymentsHandler()]))
"""

from __future__ import annotations

from sdk.nexus_http.callbacks import Callback, CallbackReceiver, CallbackSender
from sdk.nexus_http.client import NexusClient, OperationHandle, OperationTimedOut, RetryRules
from sdk.nexus_http.content import JsonSerializer
from sdk.nexus_http.server import handler_app
from sdk.nexus_http.table import OperationTable

__all__ = [
    "Callback",
    "CallbackReceiver",
    "CallbackSender",
    "JsonSerializer",
    "NexusClient",
    "OperationHandle",
    "OperationTable",
    "OperationTimedOut",
    "RetryRules",
    "handler_app",
]
