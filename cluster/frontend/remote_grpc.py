"""Other regions over gRPC: `RemoteRegions` of replication/link.py. Bytes in, bytes out: no message is decoded or made here.

One connection per region, opened by the first call, replaced when its address changes. gRPC itself tries again to connect, with a
growing wait; calls meanwhile fail at once with UNAVAILABLE, and the client decides when to come back. Pings find out about a
region that vanished without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cluster.core.errors import CallerError, Code, resource_exhausted, unavailable
from cluster.failures import STATUS_DETAILS_HEADER, PassedOn, passed_on
from cluster.frontend.front_tls import FrontTls, channel_options, client_credentials
from cluster.frontend.region_grpc import dialled
from replication.link import AddressOf, Link, UnknownRegion

ANSWER_BYTES_MAX = 128 * 1024 * 1024  # as large as this frontend's own answers may be
CALLS_IN_FLIGHT_MAX = 20_000  # per region; parked polls count
CLOSE_GRACE_S = 0.5

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.max_send_message_length", ANSWER_BYTES_MAX),  # what is too large is refused there, in the words of that server
    # A frontend allows one ping per 10 s (transport_grpc.py); a region that is gone is noticed within 20 s.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # the time one attempt to connect has
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),  # a call is retried by who knows if it may be: the client
)


class _Connection:
    __slots__ = ("address", "calls", "channel", "methods")

    def __init__(self, address: str, channel: Any) -> None:
        self.address = address
        self.channel = channel
        self.methods: dict[str, Any] = {}  # as many as there are public methods
        self.calls = 0


class GrpcRegions:
    """tls None: plain. close() ends what is under way. Raises OSError for files that cannot be read."""

    def __init__(self, address_of: AddressOf, tls: FrontTls | None = None) -> None:
        self._address_of = address_of
        self._credentials = client_credentials(tls) if tls is not None else None
        self._options = (*_OPTIONS, *channel_options(tls))
        self._connections: dict[str, _Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def forward(
        self, region: str, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float
    ) -> bytes:
        connection = self._connection(region)
        if connection.calls >= CALLS_IN_FLIGHT_MAX:
            raise resource_exhausted(f"too many calls are on their way to region {region}, please retry")
        method = connection.methods.get(path)
        if method is None:
            method = connection.methods[path] = connection.channel.unary_unary(path)
        connection.calls += 1
        try:
            answer: bytes = await method(data, timeout=timeout_s, metadata=tuple(metadata.items()))
            return answer
        except grpc.aio.AioRpcError as error:
            raise _refusal(region, error) from error
        except asyncio.CancelledError:
            if _is_cancelled_from_outside():
                raise
            raise _unreachable(region) from None  # our own close, or a replaced connection
        except grpc.aio.UsageError as closed:
            raise _unreachable(region) from closed
        finally:
            connection.calls -= 1

    def _connection(self, region: str) -> _Connection:
        address = self._address_of(region)
        known = self._connections.get(region)
        if known is not None and known.address == address:
            return known
        if known is not None:
            del self._connections[region]
            job = asyncio.get_running_loop().create_task(known.channel.close(CLOSE_GRACE_S), name=f"leave {region}")
            self._closing.add(job)
            job.add_done_callback(self._closing.discard)
        if not address:
            raise UnknownRegion(region)
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(address, options=self._options)
        else:
            channel = grpc.aio.secure_channel(address, self._credentials, options=self._options)
        made = self._connections[region] = _Connection(address, channel)
        return made

    async def dial(self, region: str) -> Link:
        return dialled(self._connection(region).channel, {})

    async def close(self) -> None:
        connections = [*self._connections.values()]
        self._connections.clear()
        await asyncio.gather(*(one.channel.close(CLOSE_GRACE_S) for one in connections), *self._closing)


def _is_cancelled_from_outside() -> bool:
    """grpc raises CancelledError as well when the channel under the call is closed; then nobody has cancelled this task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refusal(region: str, error: grpc.aio.AioRpcError) -> CallerError:
    """What the other region said, untouched; or what the connection to it did, in our words."""
    code, message = Code(error.code().value[0]), error.details() or ""
    status = next((value for key, value in error.trailing_metadata() or () if key == STATUS_DETAILS_HEADER), None)
    if isinstance(status, bytes):
        try:
            return passed_on(code, message, status)
        except DecodeError:
            return PassedOn(code, message)
    if code in (Code.UNAVAILABLE, Code.CANCELLED):
        return _unreachable(region, message)
    return PassedOn(code, message)


def _unreachable(region: str, reason: str = "") -> CallerError:
    said = f" ({reason[:200]})" if reason else ""
    return unavailable(f"region {region}, where the namespace is active, cannot be reached now, please retry{said}")
