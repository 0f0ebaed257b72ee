"""Bodies and their Content-* headers as payloads, and back. What is not known is kept as it came, and leaves as it came.

    Content-Type                                              | payload's metadata
    ----------------------------------------------------------+------------------------------------------------------------
    none, empty body                                          | encoding binary/null
    application/octet-stream; none with a body                | encoding binary/plain
    application/json                                          | encoding json/plain
    application/json; format=protobuf; message-type="T"       | encoding json/protobuf, messageType T
    application/x-protobuf; message-type="T"                  | encoding binary/protobuf, messageType T
    application/x-temporal-payload                            | any: the body is the payload itself
    anything else, also with a charset or a Content-Encoding  | encoding unknown/nexus-content, type, and each other Content-*
"""

from __future__ import annotations

import re

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload

from nexus.errors import bad_request
from nexus.headers import CONTENT_PREFIX, Pairs, is_text, single

UNKNOWN = b"unknown/nexus-content"
WHOLE_PAYLOAD = "application/x-temporal-payload"
_PLAIN = {"application/json": b"json/plain", "application/octet-stream": b"binary/plain"}
_NOT_CONTENT = frozenset({"content-length", "content-type"})
_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s;"]+))\s*')
_MEDIA = re.compile(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*((?:;\s*[\w-]+\s*=\s*(?:\"[^\"]*\"|[^\s;\"]+)\s*)*)")
_MESSAGE_TYPE = re.compile(r"[A-Za-z_][\w.]*")


def payload_of(pairs: Pairs, body: bytes) -> Payload:
    """pairs: the message's headers. Raises Refused."""
    type = single(pairs, "content-type")
    others: dict[str, bytes] = {}
    for name, value in pairs:
        if name.startswith(CONTENT_PREFIX) and name not in _NOT_CONTENT:
            if not is_text(value):
                raise bad_request(f"header {name} is not valid text")
            others[name] = value.encode()
    if not others and (known := _known(type, body)) is not None:
        return known
    return Payload(metadata={**others, "encoding": UNKNOWN, "type": type.encode()}, data=body)


def _known(type: str, body: bytes) -> Payload | None:
    if not type:
        return Payload(metadata={"encoding": b"binary/plain" if body else b"binary/null"}, data=body)
    match = _MEDIA.fullmatch(type)
    if match is None:
        return None
    media = match.group(1).lower()
    parameters = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(match.group(2))}
    if not parameters and media in _PLAIN:
        return Payload(metadata={"encoding": _PLAIN[media]}, data=body)
    if not parameters and media == WHOLE_PAYLOAD:
        try:
            return Payload.FromString(body)
        except DecodeError:
            raise bad_request("invalid content: not an encoded payload") from None
    message_type = parameters.get("message-type", "").encode("utf-8", "replace")
    if message_type and media == "application/x-protobuf" and set(parameters) == {"message-type"}:
        return Payload(metadata={"encoding": b"binary/protobuf", "messageType": message_type}, data=body)
    is_json = media == "application/json" and parameters.get("format") == "protobuf"
    if message_type and is_json and set(parameters) == {"format", "message-type"}:
        return Payload(metadata={"encoding": b"json/protobuf", "messageType": message_type}, data=body)
    return None


def content_of(payload: Payload | None) -> tuple[dict[str, str], bytes]:
    """(Content-* headers, body) of a payload; none and null are an empty body without a type."""
    if payload is None:
        return {}, b""
    metadata = {key: value.decode("utf-8", "replace") for key, value in payload.metadata.items()}
    encoding = metadata.pop("encoding", "")
    if encoding == UNKNOWN.decode():
        type = metadata.pop("type", "")
        headers = {"Content-Type": type} if type else {}
        headers |= {_title(key): value for key, value in metadata.items() if key.startswith(CONTENT_PREFIX)}
        if all(is_text(value) and key.isascii() for key, value in headers.items()):
            return headers, payload.data
    elif not metadata and encoding == "binary/null":
        return {}, b""
    elif not metadata and encoding in ("json/plain", "binary/plain"):
        return {"Content-Type": "application/json" if encoding == "json/plain" else "application/octet-stream"}, payload.data
    elif set(metadata) == {"messageType"} and _MESSAGE_TYPE.fullmatch(metadata["messageType"]):
        type = f'message-type="{metadata["messageType"]}"'
        if encoding == "json/protobuf":
            return {"Content-Type": f"application/json; format=protobuf; {type}"}, payload.data
        if encoding == "binary/protobuf":
            return {"Content-Type": f"application/x-protobuf; {type}"}, payload.data
    return {"Content-Type": WHOLE_PAYLOAD}, payload.SerializeToString(deterministic=True)


def _title(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))
