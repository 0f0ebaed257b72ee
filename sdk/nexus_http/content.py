"""Values as bodies, and back: JSON by the operation's declared types (dataclasses, pydantic models, builtins); bytes stay."""

from __future__ import annotations

from typing import Any

import pydantic_core
from nexusrpc import Content
from pydantic import TypeAdapter

JSON = "application/json"
OCTETS = "application/octet-stream"


class JsonSerializer:
    """nexusrpc.Serializer. None is an empty body without a type. Raises ValueError for what does not fit its type."""

    def serialize(self, value: Any) -> Content:
        if value is None:
            return Content(headers={}, data=b"")
        if isinstance(value, bytes):
            return Content(headers={"content-type": OCTETS}, data=value)
        return Content(headers={"content-type": JSON}, data=pydantic_core.to_json(value))

    async def deserialize(self, content: Content, as_type: type[Any] | None = None) -> Any:
        return self.read(content, as_type)

    def read(self, content: Content, as_type: type[Any] | None = None) -> Any:
        media = content.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media == JSON:
            return pydantic_core.from_json(content.data) if as_type is None else _adapter(as_type).validate_json(content.data)
        # Nothing, or of no type that is known here: then it is what it is, and must be what was asked for.
        value = content.data if media or content.data else None
        return value if as_type is None else _adapter(as_type).validate_python(value, strict=True)


_adapters: dict[Any, TypeAdapter[Any]] = {}  # one per type that an operation declares: making one is slow


def _adapter(as_type: Any) -> TypeAdapter[Any]:
    found = _adapters.get(as_type)
    if found is None:
        found = _adapters[as_type] = TypeAdapter(as_type)
    return found
