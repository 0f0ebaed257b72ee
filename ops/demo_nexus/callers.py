"""Three ways to place an order from outside, each plain HTTP to the gateway: curl, this project's client, `outlast nexus call`.

Each repeats its start with the same request id until the server answers, so that an order is placed once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import msgspec
from nexusrpc import HandlerError, HandlerErrorType

from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_USAGE
from ops.demo_nexus.services import ORDERS, Order, Orders, Outcome
from ops.servers import ServerFailed
from sdk.nexus_http import NexusClient, RetryRules

OUTAGE_MAX_S = 40.0
AGAIN_S = 0.2
OPERATION_TIMEOUT = timedelta(seconds=120)
WAIT = "20s"  # of one long poll
CURL = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--write-out", "\n%{http_code}"]
CURL_AGAIN = {7, 28, 52, 55, 56}  # cannot connect, time is over, empty reply, cut off while sending or receiving
PATIENT = RetryRules(attempts_max=60, first_s=0.1, longest_s=1.0)


class Callers:
    """http_address: of the gateway. has_lag: "not found" may mean "not yet"; unknown_count: how often it did.

    Without it the first "not found" is the end: a server that forgets an order must not look like one that is slow.
    """

    def __init__(self, http_address: str, has_lag: bool = False) -> None:
        self._address, self._has_lag, self.unknown_count = http_address, has_lag, 0
        self._services = f"http://{http_address}/nexus/endpoints/{ORDERS}/services"

    async def by_curl(self, order: Order) -> Outcome:
        place = f"{self._services}/orders.v1/place"
        sent = ["--header", "Content-Type: application/json", "--header", f"Nexus-Request-Id: {order.order_id}"]
        status, body = await self._curl(*sent, "--data", json.dumps(msgspec.to_builtins(order)), place)
        if status != 201:
            raise ServerFailed(f"curl: the start of {order.order_id} is answered with {status}: {body}")
        token = json.loads(body)["token"]
        deadline = time.monotonic() + OUTAGE_MAX_S
        while status != 200:
            status, body = await self._curl(f"{place}/operations/{token}?wait={WAIT}")
            if status == 404 and await self._is_to_come(deadline):
                continue
            if status not in (200, 202):
                raise ServerFailed(f"curl: {order.order_id} is answered with {status}: {body}")
        return msgspec.convert(json.loads(body), Outcome)

    async def _is_to_come(self, deadline: float) -> bool:
        if not self._has_lag or time.monotonic() > deadline:
            return False
        self.unknown_count += 1
        await asyncio.sleep(AGAIN_S)
        return True

    async def _curl(self, *words: str) -> tuple[int, str]:
        """(status, body), once there is an answer that is worth something."""
        deadline = time.monotonic() + OUTAGE_MAX_S
        while True:
            code, out, told = await _run(*CURL, *words)
            body, _, status = out.rpartition("\n")
            if code == 0 and int(status) < 500:
                return int(status), body
            if (code not in CURL_AGAIN and code != 0) or time.monotonic() > deadline:
                raise ServerFailed(f"curl ended with {code}, status {status}: {told or body}")
            await asyncio.sleep(AGAIN_S)

    async def by_python(self, order: Order) -> Outcome:
        async with NexusClient(self._services, Orders, retry=PATIENT) as client:
            handle = await client.start(
                Orders.place, order, operation_timeout=OPERATION_TIMEOUT, request_id=order.order_id
            )
            deadline = time.monotonic() + OUTAGE_MAX_S
            while True:
                try:
                    return await handle.result(OPERATION_TIMEOUT)
                except HandlerError as error:
                    if error.type is not HandlerErrorType.NOT_FOUND or not await self._is_to_come(deadline):
                        raise

    async def by_command(self, order: Order) -> Outcome:
        outlast = str(Path(sys.executable).with_name("outlast"))
        words = ["--input", json.dumps(msgspec.to_builtins(order)), "--request-id", order.order_id, "--output", "json"]
        deadline = time.monotonic() + OUTAGE_MAX_S
        while True:
            code, out, told = await _run(
                outlast, "nexus", "call", ORDERS, "orders.v1/place", *words, "--address", self._address
            )
            if code == 0:
                return msgspec.convert(json.loads(out)["result"], Outcome)
            if code == EXIT_USAGE and "NOT_FOUND" in told and await self._is_to_come(deadline):
                continue
            if code != EXIT_CLUSTER or time.monotonic() > deadline:
                raise ServerFailed(f"outlast nexus call ended with {code}: {told}")


async def _run(*command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, told = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), told.decode(errors="replace").strip()
