"""The public services on their port: gRPC by our own front (grpc_front.py), and grpcio's asyncio server behind it for what is
neither frequent nor ours: health, reflection, other regions. With remote_grpc.py, region_grpc.py and passing_on.py the only files
of the frontend that know grpcio.

    front "own"     the port is grpc_front.py's; grpcio listens on a socket of this machine
    front "grpcio"  the port is grpcio's, which serves everything: the same calls for eight times the CPU (ops/bench)

A call is decoded here, handed to its wrapped handler (interceptors.py) and encoded again; handlers that already have bytes
return them and nothing is encoded twice. A refused call becomes a status with `grpc-status-details-bin`, on which official
SDKs branch. A malformed request is the caller's fault: INVALID_ARGUMENT, never INTERNAL.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster.config import Limits
from cluster.core.errors import CallerError, invalid_argument, resource_exhausted
from cluster.failures import STATUS_DETAILS_HEADER, as_caller_error, shown_message, status_bytes
from cluster.frontend.call import Call, Handler
from cluster.frontend.grpc_front import GrpcFront, Serve
from cluster.frontend.methods import METHODS, OPERATOR_SERVICE, WORKFLOW_SERVICE, Method
from cluster.frontend.passing_on import PassingOn
from cluster.seams import Ids

log = structlog.get_logger("outlast.transport")

Front = Literal["own", "grpcio"]

ANSWER_BYTES_MAX = 128 * 1024 * 1024  # what official SDKs accept; a page of history has its own, lower limit
STOP_GRACE_S = 0.5  # the node has drained before: what is left is parked or stuck
CALLS_IN_FLIGHT_MAX = 50_000  # parked polls count
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

# SDKs ping every 30 s, also without a call under way; the public server allows one ping per 10 s.
_OPTIONS_FIXED: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
)


class PortInUse(Exception):
    """The address is taken or cannot be bound."""


class GrpcTransport:
    """One listening server. start() binds, close() ends what is still under way."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        limits: Limits,
        ids: Ids,
        others: Sequence[grpc.GenericRpcHandler] = (),
        front: Front = "own",
    ) -> None:
        """others: what else is served on the same port, as region_grpc.py."""
        self._serves = {METHODS[name].path: _serve(METHODS[name], handler, ids) for name, handler in handlers.items()}
        self._limits = limits
        self._ids = ids
        self._others = others
        self._is_own = front == "own"
        self._front: GrpcFront | None = None
        self._passing_on: PassingOn | None = None
        self._server: Any = None
        self._health: Any = None

    async def start(self, host: str, port: int, is_shared: bool = False, tls: ssl.SSLContext | None = None) -> int:
        """Binds and serves; returns the port (chosen by the system when 0). tls: None = plain. Raises PortInUse.

        is_shared: other processes of this node's machine listen on the port, too; else a second server on it must fail."""
        if not self._is_own:
            assert tls is None, "only the own front serves TLS"
            return await self._start_grpcio(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", is_shared)
        # Linux has sockets with a name and no file, so that a killed process leaves nothing behind.
        has_names = sys.platform == "linux"
        behind = f"unix-abstract:outlast-{os.getpid()}-{self._ids.token_bytes(8).hex()}" if has_names else "127.0.0.1:0"
        bound = await self._start_grpcio(behind, is_shared=False)
        bytes_max = self._limits.grpc_message_bytes_max
        self._passing_on = PassingOn(behind if has_names else f"127.0.0.1:{bound}", bytes_max)
        self._front = GrpcFront(self._serves, self._passing_on.open, bytes_max, CALLS_IN_FLIGHT_MAX)
        try:
            return await self._front.start(host, port, is_shared, tls)
        except OSError as error:
            await self.close()
            raise PortInUse(f"{host}:{port} cannot be bound: is another server running there?") from error

    async def _start_grpcio(self, address: str, is_shared: bool) -> int:
        """Raises PortInUse."""
        options = [*_OPTIONS_FIXED, ("grpc.so_reuseport", int(is_shared))]
        options.append(("grpc.max_receive_message_length", self._limits.grpc_message_bytes_max))
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_IN_FLIGHT_MAX)
        server.add_generic_rpc_handlers((_Table(self._serves), *self._others))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (WORKFLOW_SERVICE, OPERATOR_SERVICE, health.SERVICE_NAME)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortInUse(f"{address} cannot be bound: is another server running there?") from error
        if bound == 0:
            raise PortInUse(f"{address} cannot be bound: is another server running there?")
        await server.start()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        return int(bound)

    async def say_not_serving(self) -> None:
        """Health checks answer NOT_SERVING from now on."""
        await self._health.enter_graceful_shutdown()

    async def close(self) -> None:
        """No new connections; calls under way have STOP_GRACE_S to end."""
        front, passing_on, server = self._front, self._passing_on, self._server
        self._front = self._passing_on = self._server = None
        if front is not None:
            await front.close(STOP_GRACE_S)
        if passing_on is not None:
            await passing_on.close()
        if server is not None:
            await server.stop(0.0 if front is not None else STOP_GRACE_S)


def _serve(method: Method, handler: Handler, ids: Ids) -> Serve:
    path, decode = method.path, method.request.FromString

    async def serve(metadata: Mapping[str, str], deadline: float | None, peer: str, data: bytes) -> bytes:
        call = Call(path, dict(metadata), deadline, peer, data)
        try:
            answer = await handler(call, decode(data))
            encoded: bytes = answer if isinstance(answer, bytes) else answer.SerializeToString()
        except DecodeError as error:
            raise invalid_argument(f"malformed request: {error}") from error
        except Exception as failure:
            raise as_caller_error(failure, path, ids) from failure
        if len(encoded) > ANSWER_BYTES_MAX:
            raise resource_exhausted(f"Sent message larger than max ({len(encoded)} vs. {ANSWER_BYTES_MAX})")
        return encoded

    return serve


class _Table(grpc.GenericRpcHandler):
    """Path -> grpcio's method handler. Raw bytes in and out: decoding belongs to `_serve`, whose errors we word."""

    def __init__(self, serves: Mapping[str, Serve]) -> None:
        self._by_path: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(_by_grpcio(serve)) for path, serve in serves.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._by_path.get(handler_call_details.method)


def _by_grpcio(serve: Serve) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def served(data: bytes, context: Any) -> bytes:
        remaining_s = context.time_remaining()
        deadline = None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        try:
            return await serve(metadata, deadline, context.peer(), data)
        except CallerError as error:
            trailer = ((STATUS_DETAILS_HEADER, status_bytes(error)),)
            await context.abort(_STATUS[int(error.code)], shown_message(error), trailer)
        raise AssertionError("abort raises")

    return served
