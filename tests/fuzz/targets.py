"""Two ways to the server under test: through the frontend's handlers in this process (fast), or over real gRPC to another one.

Both take encoded requests and give back the status, so every campaign and every regression file runs on either.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from cluster.core.errors import CallerError
from cluster.failures import as_caller_error, shown_message, status_bytes
from cluster.frontend.call import Call
from cluster.frontend.methods import METHODS
from cluster.node import Node, NodeConfig
from ops.servers import OutlastServer

# Calls that may wait for something to happen: only these may end by the client's deadline.
WAITING = frozenset(
    [
        "PollWorkflowTaskQueue",
        "PollActivityTaskQueue",
        "PollNexusTaskQueue",
        "GetWorkflowExecutionHistory",
        "QueryWorkflow",
        "UpdateWorkflowExecution",
        "PollWorkflowExecutionUpdate",
        "ExecuteMultiOperation",
    ]
)
PEER = "ipv4:127.0.0.1:1"
ANSWERS_WITHIN_S = 20.0  # a call that has nothing to wait for; generous, since the machine is shared

# grpcio complains of its own when a client goes away at the moment its answer is sent: all frames of the trace are its own.
_CLIENT_GONE_BEGINS = "ERROR grpc._cython.cygrpc ExecuteBatchError raised"
_CLIENT_GONE = re.compile(
    rf"^.*{re.escape(_CLIENT_GONE_BEGINS)}.*\nTraceback.*\n(?:  File \"src/python/grpcio/.*\n)+"
    r"grpc\._cython\.cygrpc\.ExecuteBatchError: .*\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Answer:
    """data: the encoded response where code is OK. inside: where an unexpected failure came from, if it can be seen."""

    code: str
    message: str = ""
    data: bytes = b""
    inside: str = ""

    def parsed(self, name: str) -> Any:
        assert self.code == "OK", f"{name}: {self.code} {self.message} {self.inside}"
        return METHODS[name].response.FromString(self.data)


class Target(Protocol):
    async def send(self, name: str, data: bytes, timeout_s: float = 0.0, patience_s: float = 0.0) -> Answer:
        """timeout_s: the deadline that the server is told; 0 for a call that answers by itself. patience_s: a client that goes
        away before that."""
        ...

    def troubles(self) -> list[str]:
        """What went wrong inside without any call's seeing it. Each is told once."""
        ...


class InProcess:
    """The handlers of a whole node (real store, real history, real matching), as its transport would call them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._troubles: list[str] = []
        asyncio.get_running_loop().set_exception_handler(self._loop_failed)
        structlog.configure(processors=[self._take_log])

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failure = context.get("exception")
        trace = "".join(traceback.format_exception(failure)) if failure is not None else ""
        self._troubles.append(f"event loop: {context.get('message')}\n{trace}")

    def _take_log(self, logger: Any, level: str, entry: Any) -> Any:
        is_answer = entry.get("event") == "unexpected failure"  # the call's own status tells it already
        if (level in ("error", "critical") and not is_answer) or entry.get("event", "").startswith("shard "):
            failure = entry.pop("exc_info", None)
            trace = "".join(traceback.format_exception(failure)) if isinstance(failure, BaseException) else ""
            self._troubles.append(f"log {level}: {entry}\n{trace}")
        raise structlog.DropEvent

    async def send(self, name: str, data: bytes, timeout_s: float = 0.0, patience_s: float = 0.0) -> Answer:
        method, loop = METHODS[name], asyncio.get_running_loop()
        try:
            request = method.request.FromString(data)
        except DecodeError as error:
            return Answer("INVALID_ARGUMENT", f"malformed request: {error}")
        call = Call(method.path, {}, loop.time() + timeout_s if timeout_s else None, PEER)
        try:
            async with asyncio.timeout(patience_s or timeout_s or ANSWERS_WITHIN_S):
                answer = await self.node.frontend.handlers[name](call, request)
            return Answer("OK", data=answer if isinstance(answer, bytes) else answer.SerializeToString())
        except TimeoutError:
            return Answer("DEADLINE_EXCEEDED")
        except Exception as failure:
            refusal = as_caller_error(failure, method.path, self.node.ids)
            status_bytes(refusal)  # it must be possible to tell the client
            inside = "" if isinstance(failure, CallerError) else "".join(traceback.format_exception(failure))
            return Answer(refusal.code.name, shown_message(refusal), inside=inside)

    def troubles(self) -> list[str]:
        found, self._troubles = self._troubles, []
        return found


class OverGrpc:
    """A server process; its log is read for what it says beside its answers."""

    def __init__(self, server: OutlastServer) -> None:
        self.server = server
        self._channel = grpc.aio.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)])
        self._calls: dict[str, Any] = {name: self._channel.unary_unary(method.path) for name, method in METHODS.items()}
        self._log_read = 0

    async def send(self, name: str, data: bytes, timeout_s: float = 0.0, patience_s: float = 0.0) -> Answer:
        try:
            async with asyncio.timeout(patience_s or None):
                return Answer("OK", data=await self._calls[name](data, timeout=timeout_s or ANSWERS_WITHIN_S))
        except TimeoutError:
            return Answer("DEADLINE_EXCEEDED")
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name, error.details() or "")

    async def send_path(self, path: str, data: bytes, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> Answer:
        try:
            call: Any = self._channel.unary_unary(path)
            return Answer("OK", data=await call(data, timeout=ANSWERS_WITHIN_S, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name, error.details() or "")

    def troubles(self) -> list[str]:
        if not self.server.alive():
            return ["the server process has ended"]
        text = self.server.log.read_text(errors="replace")
        new = text[self._log_read :]
        if _CLIENT_GONE_BEGINS in new and not new.endswith("\n"):
            return []  # half a record: look again later
        self._log_read = len(text)
        new = _CLIENT_GONE.sub("", new)
        bad = ("[error", "[critical", "ERROR", "Traceback", "shard dropped")
        return [new[-6_000:]] if any(mark in new for mark in bad) else []

    async def close(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def in_process(folder: Path) -> AsyncIterator[InProcess]:
    former = structlog.get_config()
    node = Node(NodeConfig(port=0, http_port=0, db=str(folder / "fuzz.db"), sync="normal", shards=2))
    await node.start()
    target = InProcess(node)
    try:
        yield target
        assert not node.failed.is_set(), "a background job of the node failed"
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
        structlog.configure(**former)
        await node.drain()
        await node.close()


def encoded(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
