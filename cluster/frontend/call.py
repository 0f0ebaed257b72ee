"""What a handler gets: never a grpc type, so that the transport under it can be replaced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

if TYPE_CHECKING:
    from cluster.frontend.methods import Method
    from cluster.matching.queries import QueryToken
    from cluster.namespaces.record import NamespaceRecord
    from cluster.tokens import TaskToken


class Call:
    """One call in flight.

    method: full name, "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution".
    name: its last part.
    metadata: lower-case header names; binary headers ("-bin") are left out.
    deadline: loop.time() seconds at which the client gives up, None if it set none.
    subject: who calls ("" without authentication).
    namespace: the name of the namespace the call acts in, "" if in none or not yet known.
    record: that namespace, once the interceptors have found it.
    token: the task token of the request, opened and checked, for calls that carry one.
    data: the request as it came, for whoever passes the call on as it is; empty for a call that came as a message.
    """

    __slots__ = ("data", "deadline", "metadata", "method", "name", "namespace", "peer", "record", "subject", "token")

    def __init__(self, method: str, metadata: dict[str, str], deadline: float | None, peer: str, data: bytes = b"") -> None:
        self.method = method
        self.name = method.rsplit("/", 1)[-1]
        self.metadata = metadata
        self.deadline = deadline
        self.peer = peer
        self.data = data
        self.subject = ""
        self.namespace = ""
        self.record: NamespaceRecord | None = None
        self.token: TaskToken | QueryToken | None = None


# A handler takes the decoded request and returns a message, or already encoded bytes where parsing would be waste.
Handler = Callable[[Call, Any], Awaitable[Message | bytes]]
# An interceptor wraps a method's next handler once, at start: it returns `next` itself for methods it has no part in, so
# that it costs nothing there. The frontend keeps ONE ordered list of them (interceptors.py).
Interceptor = Callable[["Method", Handler], Handler]
