"""No id or name in a request's own fields is longer than `Limits.id_bytes_max`.

Validation says so in the public server's words where that server does; this catches the fields it forgets, so that no store
column and no cache key is ever longer than the limit.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cluster.config import Limits
from cluster.core.errors import invalid_argument
from cluster.frontend.call import Call, Handler, Interceptor
from cluster.frontend.methods import Method

_SUFFIXES = ("_id", "_name", "identity", "_key")
# Messages inside requests whose own fields are ids.
_INNER = frozenset({"temporal.api.common.v1.WorkflowExecution", "temporal.api.common.v1.ActivityType"})


def _id_fields(descriptor: Descriptor) -> list[str]:
    return [
        field.name
        for field in descriptor.fields
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and field.name.endswith(_SUFFIXES)
    ]


def id_lengths(limits: Limits) -> Interceptor:
    """The interceptor."""
    length_max = limits.id_bytes_max
    surely_short = length_max // 4  # no character takes more than four bytes

    def check(message: Any, names: list[str]) -> None:
        for name in names:
            text = getattr(message, name)
            if len(text) > surely_short and len(text.encode()) > length_max:
                raise invalid_argument(f"{_spoken(name)} length exceeds limit.")

    def wrap(method: Method, following: Handler) -> Handler:
        descriptor: Descriptor = method.request.DESCRIPTOR
        names = _id_fields(descriptor)
        inner = [
            (field.name, _id_fields(field.message_type))
            for field in descriptor.fields
            if field.message_type is not None and not field.is_repeated and field.message_type.full_name in _INNER
        ]
        if not names and not inner:
            return following

        async def checked(call: Call, request: Any) -> Message | bytes:
            check(request, names)
            for name, inner_names in inner:
                check(getattr(request, name), inner_names)
            return await following(call, request)

        return checked

    return wrap


def _spoken(name: str) -> str:
    """request_id -> RequestId, as the public server writes field names."""
    return "".join(part.capitalize() for part in name.split("_"))
