"""The public services over grpcio's asyncio server: with remote_grpc.py and region_grpc.py the only
files of the frontend that know gRPC.

A call is decoded here, handed to its wrapped handler (interceptors.py) and encoded again; handlers that already have bytes
return them and nothing is encoded twice. A refused call becomes a status with `grpc-status-details-bin`, on which official
SDKs branch. A malformed request is the caller's fault: INVALID_ARGUMENT, never INTERNAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster.config import Limits
from cluster.core.errors import CallerError, invalid_argument
from cluster.failures import STATUS_DETAILS_HEADER, as_caller_error, shown_message, status_bytes
from cluster.frontend.call import Call, Handler
from cluster.frontend.methods import METHODS, OPERATOR_SERVICE, WORKFLOW_SERVICE, Method
from cluster.seams import Ids

log = structlog.get_logger("outlast.transport")

ANSWER_BYTES_MAX = 128 * 1024 * 1024  # what official SDKs accept; a page of history has its own, lower limit
STOP_GRACE_S = 0.5  # the node has drained before: what is left is parked or stuck
CALLS_IN_FLIGHT_MAX = 50_000  # parked polls count: about 23 KB each
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

# SDKs ping every 30 s, also without a call under way; the public server allows one ping per 10 s.
_OPTIONS_FIXED: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_concurrent_streams", 10_000),
)


class PortInUse(Exception):
    """The address is taken or cannot be bound."""


class GrpcTransport:
    """One listening server. start() binds, close() ends what is still under way."""

    def __init__(
        self, handlers: Mapping[str, Handler], limits: Limits, ids: Ids, others: Sequence[grpc.GenericRpcHandler] = ()
    ) -> None:
        """others: what else is served on the same port, as region_grpc.py."""
        self._handlers = handlers
        self._limits = limits
        self._ids = ids
        self._others = others
        self._server: Any = None
        self._health: Any = None

    async def start(self, host: str, port: int, is_shared: bool = False) -> int:
        """Binds and serves; returns the port (chosen by the system when 0). Raises PortInUse.

        is_shared: other processes of this node's machine listen on the port, too; else a second server on it must fail."""
        options = [*_OPTIONS_FIXED, ("grpc.so_reuseport", int(is_shared))]
        options.append(("grpc.max_receive_message_length", self._limits.grpc_message_bytes_max))
        options.append(("grpc.max_send_message_length", ANSWER_BYTES_MAX))
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_IN_FLIGHT_MAX)
        server.add_generic_rpc_handlers((_Table(self._handlers, self._ids), *self._others))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (WORKFLOW_SERVICE, OPERATOR_SERVICE, health.SERVICE_NAME)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        try:
            bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise PortInUse(f"{host}:{port} cannot be bound: is another server running there?") from error
        if bound == 0:
            raise PortInUse(f"{host}:{port} cannot be bound: is another server running there?")
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
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None


class _Table(grpc.GenericRpcHandler):
    """Path -> grpc method handler. Raw bytes in and out: decoding belongs to `_serve`, whose errors we word."""

    def __init__(self, handlers: Mapping[str, Handler], ids: Ids) -> None:
        self._by_path: dict[str, Any] = {
            METHODS[name].path: grpc.unary_unary_rpc_method_handler(_serve(METHODS[name], handler, ids))
            for name, handler in handlers.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._by_path.get(handler_call_details.method)


def _serve(method: Method, handler: Handler, ids: Ids) -> Callable[[bytes, Any], Awaitable[bytes]]:
    path, decode = method.path, method.request.FromString

    async def serve(data: bytes, context: Any) -> bytes:
        remaining_s = context.time_remaining()
        loop = asyncio.get_running_loop()
        call = Call(
            path,
            {key: value for key, value in context.invocation_metadata() if isinstance(value, str)},
            None if remaining_s is None else loop.time() + remaining_s,
            context.peer(),
            data,
        )
        try:
            answer = await handler(call, decode(data))
            return answer if isinstance(answer, bytes) else answer.SerializeToString()
        except DecodeError as error:
            refusal = invalid_argument(f"malformed request: {error}")
        except Exception as failure:
            refusal = as_caller_error(failure, path, ids)
        return await _refuse(context, refusal)

    return serve


async def _refuse(context: Any, error: CallerError) -> bytes:
    """Raises: grpc ends the call by an exception of its own."""
    trailer = ((STATUS_DETAILS_HEADER, status_bytes(error)),)
    await context.abort(_STATUS[int(error.code)], shown_message(error), trailer)
    raise AssertionError("abort raises")
