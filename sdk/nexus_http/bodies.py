"""A request's body, up to a limit of our own: the application that this one is mounted in has another."""

from __future__ import annotations

from aiohttp import web
from nexusrpc import HandlerError, HandlerErrorType


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """Raises nexusrpc.HandlerError BAD_REQUEST."""
    chunks, size = [], request.content_length or 0
    if size <= bytes_max:
        size = 0
        while chunk := await request.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                break
    if size > bytes_max:
        raise HandlerError(f"request body too large: at most {bytes_max} bytes", type=HandlerErrorType.BAD_REQUEST)
    return b"".join(chunks)
