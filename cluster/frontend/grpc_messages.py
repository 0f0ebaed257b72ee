"""gRPC over HTTP/2 as bytes and headers: what a request's headers mean, where a message ends, how a status is written.

By the protocol's own text (PROTOCOL-HTTP2.md): a message is a byte that says whether it is compressed, its length in four bytes,
and its bytes; a status is trailers.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final
from urllib.parse import quote

from cluster.core.errors import CallerError, Code, invalid_argument, resource_exhausted
from cluster.failures import STATUS_DETAILS_HEADER, shown_message, status_bytes
from cluster.frontend.http2_headers import Field

PREFIX_BYTES: Final = 5
_UNIT_S: Final = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT_DIGITS_MAX: Final = 8
# Of the transport and not of the call: no handler sees them.
_OWN: Final = frozenset({"te", "content-type", "content-length", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "host"})
_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}
_SPOKEN: Final = " !\"#$&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~"

RESPONSE: Final[list[Field]] = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class RequestHead:
    """One for all requests with equal headers: nobody changes it.

    metadata: texts by name. binaries: the "-bin" ones, decoded. fault: why this is no call, "" if it is one.
    """

    __slots__ = ("binaries", "encoding", "fault", "http_status", "metadata", "path", "timeout_s")

    def __init__(self, fields: list[Field]) -> None:
        self.path = ""
        self.metadata: dict[str, str] = {}
        self.binaries: dict[str, bytes] = {}
        self.timeout_s: float | None = None
        self.encoding, self.fault, self.http_status = "", "", b"200"
        method = content_type = timeout = ""
        for raw_name, raw_value in fields:
            name, value = raw_name.decode("latin-1"), raw_value.decode("utf-8", "replace")
            if name == ":path":
                self.path = value
            elif name == ":method":
                method = value
            elif name[:1] == ":":
                continue
            elif name in _OWN:
                content_type = value if name == "content-type" else content_type
                timeout = value if name == "grpc-timeout" else timeout
                self.encoding = value if name == "grpc-encoding" else self.encoding
            elif name.endswith("-bin"):
                self._binary(name, raw_value)
            else:
                self.metadata[name] = value
        if method != "POST":
            self._is_no_call(b"405", "a call is a POST")
        elif not content_type.startswith("application/grpc") or content_type.startswith("application/grpc-web"):
            self._is_no_call(b"415", "a call has the content type application/grpc")
        elif timeout:
            self._timeout(timeout)

    def _is_no_call(self, http_status: bytes, fault: str) -> None:
        self.http_status, self.fault = http_status, fault

    def _binary(self, name: str, value: bytes) -> None:
        try:
            self.binaries[name] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error:
            self._is_no_call(b"200", f"the header {name} is no base64")

    def _timeout(self, text: str) -> None:
        digits, unit = text[:-1], _UNIT_S.get(text[-1])
        if unit is None or not (digits.isascii() and digits.isdigit()) or len(digits) > _TIMEOUT_DIGITS_MAX:
            self._is_no_call(b"200", f"grpc-timeout is {text[:20]!r}")
        else:
            self.timeout_s = int(digits) * unit


def too_large(length: int, bytes_max: int) -> CallerError:
    return resource_exhausted(f"SERVER: Received message larger than max ({length} vs. {bytes_max})")


def check_length(beginning: bytes, bytes_max: int) -> None:
    """Before the rest has come. Raises CallerError."""
    length = int.from_bytes(beginning[1:PREFIX_BYTES], "big")
    if length > bytes_max:
        raise too_large(length, bytes_max)


def message_of(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """The one message of a unary request. Raises CallerError."""
    length = int.from_bytes(body[1:PREFIX_BYTES], "big")
    if len(body) < PREFIX_BYTES or len(body) - PREFIX_BYTES < length:
        raise invalid_argument("malformed request: the message is not complete")
    if length > bytes_max:
        raise too_large(length, bytes_max)
    if len(body) - PREFIX_BYTES > length:
        raise CallerError(Code.UNIMPLEMENTED, "more than one message in a call that takes one")
    return unpacked(body[0], body[PREFIX_BYTES:], encoding, bytes_max)


def unpacked(flag: int, message: bytes, encoding: str, bytes_max: int) -> bytes:
    """Raises CallerError."""
    if flag == 0:
        return message
    window_bits = _WINDOW_BITS.get(encoding)
    if flag != 1 or window_bits is None:
        raise CallerError(Code.UNIMPLEMENTED, f"compression {encoding[:50]!r} is not known here; gzip and deflate are")
    unzip = zlib.decompressobj(window_bits)
    try:
        plain = unzip.decompress(message, bytes_max + 1)
    except zlib.error as error:
        raise invalid_argument(f"malformed request: {error}") from error
    if len(plain) > bytes_max:
        raise too_large(len(plain), bytes_max)
    if not unzip.eof:
        raise invalid_argument("malformed request: the compressed message is not complete")
    return plain


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def status_fields(code: int, message: str, details: bytes = b"") -> list[Field]:
    """Trailers. The message is percent-encoded but for printable ASCII."""
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", quote(message, safe=_SPOKEN).encode()))
    if details:
        fields.append((STATUS_DETAILS_HEADER.encode(), base64.b64encode(details).rstrip(b"=")))
    return fields


def refusal_fields(error: CallerError) -> list[Field]:
    return status_fields(int(error.code), shown_message(error), status_bytes(error))
