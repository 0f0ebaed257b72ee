"""Operation tokens as callers get them: the handler's own token, signed, and bound to where it was given out.

A handler's token names a workflow in plain text, so whoever could guess one could read results and cancel what was never
theirs. The sealed one is worth something only for the same namespace, endpoint (or queue), service and operation. Form and keys
are those of cluster/tokens.py; the namespace comes first, so that a region that has it too can open it after a failover.
"""

from __future__ import annotations

import base64
import binascii
from enum import Enum
from typing import Any, Protocol, TypeVar

import msgspec

from cluster.tokens import TokenRefused
from nexus.errors import ErrorType, Refused, not_found
from nexus.settings import GatewaySettings

T = TypeVar("T")


class GatewayPurpose(Enum):
    """Distinct from every Purpose of cluster/tokens.py; its value is part of what is signed."""

    OPERATION = b"nexus-operation"


class Seals(Protocol):
    """cluster.tokens.Tokens, which asks of a purpose only its value."""

    def seal(self, purpose: Any, token: msgspec.Struct) -> bytes: ...

    def open(self, purpose: Any, data: bytes, form: type[T]) -> T: ...


class OperationToken(msgspec.Struct, frozen=True, array_like=True):
    """place: the endpoint's id, or "queue:" and the task queue."""

    namespace_id: str
    place: str
    service: str
    operation: str
    token: str


class OperationTokens:
    def __init__(self, tokens: Seals, settings: GatewaySettings) -> None:
        self._tokens, self._settings = tokens, settings

    def seal(self, token: OperationToken) -> str:
        """Raises Refused: with its signature the token would be longer than any caller takes."""
        sealed = base64.urlsafe_b64encode(self._tokens.seal(GatewayPurpose.OPERATION, token)).rstrip(b"=").decode()
        if not token.token or len(sealed) > self._settings.token_bytes_max:
            raise Refused(ErrorType.INTERNAL, "the handler's operation token is empty or too long", is_retryable=False)
        return sealed

    def open(self, text: str, namespace_id: str, place: str, service: str, operation: str) -> str:
        """The handler's own token. Raises Refused NOT_FOUND, whatever is wrong with it: nobody learns what would be right."""
        try:
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            found = self._tokens.open(GatewayPurpose.OPERATION, data, OperationToken)
        except (TokenRefused, binascii.Error, UnicodeEncodeError, ValueError):
            raise not_found("operation not found: not a token of this endpoint and operation") from None
        if (found.namespace_id, found.place, found.service, found.operation) != (namespace_id, place, service, operation):
            raise not_found("operation not found: not a token of this endpoint and operation")
        return found.token
