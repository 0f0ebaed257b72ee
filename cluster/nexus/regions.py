"""Nexus over regions: the same endpoints everywhere, and every call where its namespace is active.

    question                        | asked of                             | by
    --------------------------------+--------------------------------------+----------------------------------------
    NexusDispatch                   | the region of the handler's namespace | whoever calls a handler here
    NexusEnd                        | the region of the caller's namespace  | whoever learned here how it ended
    NexusEndpoints                  | every linked region                   | whoever changed one, and every LOOK_S

Who is asked does it itself or refuses (UNAVAILABLE), so nothing goes round in circles while a namespace moves: the asker tries
again, by its own backoff, wherever the namespace is then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog
from temporalio.api.failure.v1 import Failure
from temporalio.api.nexus.v1 import Request, Response

from cluster.core.errors import CallerError, unavailable
from cluster.history.between_runs import BetweenRuns, EndOperation
from cluster.history.service import HistoryService
from cluster.nexus.dispatch import HandlerError, NexusDispatch, refused_by
from cluster.nexus.endpoint_record import EndpointRecord, decode_record, encode_record
from cluster.nexus.endpoints import EndpointRegistry
from cluster.seams import Spawn

log = structlog.get_logger("nexus")

DISPATCH, END, ENDPOINTS = "NexusDispatch", "NexusEnd", "NexusEndpoints"
LOOK_S = 5.0
WAY_S = 1.0  # on top of the handler's time, for the way there and back

# The name of the other region where the namespace is active; "": it is active here, or of no other region.
ActiveRegion = Callable[[str], str]


class Port(Protocol):
    """replication/port.py."""

    def peers(self) -> list[str]: ...

    def answer(self, method: str, answerer: Callable[[str, bytes], Awaitable[bytes]]) -> None: ...

    async def ask(self, peer: str, method: str, data: bytes, timeout_s: float = 10.0) -> bytes: ...


class AskDispatch(msgspec.Struct, frozen=True, array_like=True):
    namespace_id: str
    task_queue: str
    request: bytes
    timeout_s: float


class Dispatched(msgspec.Struct, frozen=True, array_like=True):
    """response: encoded; else failure, that of a HandlerError."""

    response: bytes
    failure: bytes = b""
    is_ours: bool = False


class Endpoints(msgspec.Struct, frozen=True, array_like=True):
    """records: encoded. digest: of all the sender has; b"" = it only tells."""

    records: list[bytes]
    digest: bytes = b""


class NexusRegions:
    """`NexusDispatch`, and the way of an operation's end to its caller's run. Without `link` there is one region."""

    def __init__(self, endpoints: EndpointRegistry, local: NexusDispatch, history: HistoryService) -> None:
        self._endpoints, self._local, self._history = endpoints, local, history
        self._port: Port | None = None
        self._active_region: ActiveRegion = lambda namespace_id: ""
        self._changed = asyncio.Event()

    def link(self, port: Port, active_region: ActiveRegion, is_leader: Callable[[], bool], spawn: Spawn) -> None:
        self._port, self._active_region = port, active_region
        port.answer(DISPATCH, self._answer_dispatch)
        port.answer(END, self._answer_end)
        port.answer(ENDPOINTS, self._answer_endpoints)
        tell_nodes = self._endpoints.on_change

        async def changed() -> None:
            self._changed.set()
            if tell_nodes is not None:
                await tell_nodes()

        self._endpoints.on_change = changed
        spawn(self._look_around(is_leader), "nexus endpoints of other regions")

    # --- to a handler -------------------------------------------------------------------------------------------------------
    async def dispatch(
        self, namespace_id: str, task_queue: str, request: Request, timeout_s: float
    ) -> Response | HandlerError:
        region = self._active_region(namespace_id)
        if self._port is None or not region:
            return await self._local.dispatch(namespace_id, task_queue, request, timeout_s)
        asked = msgspec.msgpack.encode(AskDispatch(namespace_id, task_queue, request.SerializeToString(), timeout_s))
        try:
            data = await self._port.ask(region, DISPATCH, asked, timeout_s + WAY_S)
        except CallerError as error:
            return refused_by(error)
        answer = msgspec.msgpack.decode(data, type=Dispatched)
        if answer.failure:
            return HandlerError(Failure.FromString(answer.failure), answer.is_ours)
        return Response.FromString(answer.response)

    async def _answer_dispatch(self, peer: str, data: bytes) -> bytes:
        asked = msgspec.msgpack.decode(data, type=AskDispatch)
        self._require_active(asked.namespace_id)
        request = Request.FromString(asked.request)
        answer = await self._local.dispatch(asked.namespace_id, asked.task_queue, request, asked.timeout_s)
        if isinstance(answer, HandlerError):
            return msgspec.msgpack.encode(Dispatched(b"", answer.failure.SerializeToString(), answer.is_ours))
        return msgspec.msgpack.encode(Dispatched(answer.SerializeToString()))

    # --- to a caller's run --------------------------------------------------------------------------------------------------
    async def reach(self, message: BetweenRuns) -> str:
        """As HistoryService.reach."""
        region = self._active_region(message.namespace_id)
        if self._port is None or not region:
            return await self._history.reach(message)
        assert isinstance(message, EndOperation)
        return (await self._port.ask(region, END, msgspec.msgpack.encode(message))).decode()

    async def _answer_end(self, peer: str, data: bytes) -> bytes:
        message = msgspec.msgpack.decode(data, type=EndOperation)
        self._require_active(message.namespace_id)
        return (await self._history.reach(message)).encode()

    def _require_active(self, namespace_id: str) -> None:
        if region := self._active_region(namespace_id):
            raise unavailable(f"the namespace is active in region {region}, by what this one knows: retry")

    # --- endpoints ----------------------------------------------------------------------------------------------------------
    async def _look_around(self, is_leader: Callable[[], bool]) -> None:
        """All nodes tell of what they changed; one looks whether anything was lost on the way."""
        assert self._port is not None
        while True:
            is_change = await _set_within(self._changed, LOOK_S)
            self._changed.clear()
            if is_change or is_leader():
                await asyncio.gather(*map(self.exchange, self._port.peers()))

    async def exchange(self, peer: str) -> None:
        """Both regions have the same afterwards, if they can reach each other."""
        assert self._port is not None
        records = self._endpoints.records()
        try:
            asked = msgspec.msgpack.encode(Endpoints([], _digest(records)))
            answer = msgspec.msgpack.decode(await self._port.ask(peer, ENDPOINTS, asked), type=Endpoints)
            if answer.digest == _digest(records):
                return
            await self._endpoints.take(list(map(decode_record, answer.records)))
            told = msgspec.msgpack.encode(Endpoints(list(map(encode_record, self._endpoints.records()))))
            await self._port.ask(peer, ENDPOINTS, told)
        except (CallerError, msgspec.MsgspecError) as error:
            log.info("a region cannot be told of Nexus endpoints now; it will be again", peer=peer, error=str(error))

    async def _answer_endpoints(self, peer: str, data: bytes) -> bytes:
        asked = msgspec.msgpack.decode(data, type=Endpoints)
        if asked.records:
            await self._endpoints.take(list(map(decode_record, asked.records)))
        else:
            await self._endpoints.refresh()
        records = self._endpoints.records()
        digest = _digest(records)
        wanted = asked.digest and asked.digest != digest
        return msgspec.msgpack.encode(Endpoints(list(map(encode_record, records)) if wanted else [], digest))


def _digest(records: list[EndpointRecord]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for record in records:
        digest.update(f"{record.id} {'deleted' if record.is_deleted else record.order}\n".encode())
    return digest.digest()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
