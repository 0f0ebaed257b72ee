"""A request's body, read to its end: at most so many bytes, in at most so many seconds, or refused."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from nexus.errors import ErrorType, Refused, bad_request
from nexus.settings import GatewaySettings


async def read_body(request: web.Request, settings: GatewaySettings) -> bytes:
    """Raises Refused; what is left of the body is then never read, so the connection must be closed."""
    declared = request.content_length
    if declared is not None and declared > settings.body_bytes_max:
        raise _too_large(settings)
    if not request.body_exists:
        return b""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while chunk := await request.content.readany():
                size += len(chunk)
                if size > settings.body_bytes_max:
                    raise _too_large(settings)
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(ErrorType.REQUEST_TIMEOUT, f"the body did not come within {settings.body_timeout_s:g} s") from None
    except (HttpProcessingError, web.PayloadAccessError, web.RequestPayloadError, ConnectionError, ValueError):
        raise bad_request("the body could not be read") from None
    return b"".join(chunks)


def _too_large(settings: GatewaySettings) -> Refused:
    return bad_request(f"request body too large: at most {settings.body_bytes_max} bytes")
