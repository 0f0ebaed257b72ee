"""The token by which whoever handles an operation finds its caller: signed, and bound to one operation of one run."""

from __future__ import annotations

import base64
import binascii

import msgspec

from cluster.core.errors import invalid_argument
from cluster.tokens import Purpose, TokenRefused, Tokens

HEADER = "temporal-callback-token"  # by this name SDKs of handlers pass it on


class CallbackToken(msgspec.Struct, frozen=True, array_like=True):
    namespace_id: str  # the caller's; first, as in every token
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    request_id: str


def seal(tokens: Tokens, token: CallbackToken) -> str:
    return base64.urlsafe_b64encode(tokens.seal(Purpose.NEXUS_CALLBACK, token)).decode().rstrip("=")


def open_token(tokens: Tokens, text: str) -> CallbackToken:
    """Raises INVALID_ARGUMENT in the public server's words."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return tokens.open(Purpose.NEXUS_CALLBACK, data, CallbackToken)
    except (TokenRefused, binascii.Error, ValueError):
        raise invalid_argument("invalid callback token") from None
