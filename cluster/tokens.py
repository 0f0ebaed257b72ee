"""Signed tokens: what a worker or client must hand back, so that the server finds the task or page again.

    1 byte format | 1 byte key number | 16 bytes HMAC-SHA-256 (truncated) | payload (msgpack)

The MAC covers the purpose, so a token of one purpose is worth nothing for another, and the payload names its namespace, so the
frontend can refuse it elsewhere (CVE-2023-3485). Two keys live at a time: the newer signs, both are accepted, so that keys can
be exchanged while tasks are out. The keys are made once and kept in the store's metadata registry: tokens outlive a restart.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import Protocol, TypeVar

import msgspec

from cluster.core.errors import CallerError, invalid_argument
from cluster.matching.queries import QueryToken
from cluster.seams import Ids
from cluster.stores.base import MetadataRow

_FORMAT = 1
_MAC_BYTES = 16
_SECRET_BYTES = 32
_HEAD_BYTES = 2 + _MAC_BYTES
_TOKEN_BYTES_MAX = 16 * 1024  # three ids of 1,000 bytes and room; anything longer was not made here

REGISTRY_KIND = "token-keys"
REGISTRY_ID = "frontend"


class Purpose(Enum):
    """What a token is good for; its value is part of what is signed."""

    TASK = b"task"  # a workflow or an activity task: `TaskToken.kind` says which
    QUERY = b"query"
    PAGE = b"page"
    HISTORY_PAGE = b"history-page"


class TaskToken(msgspec.Struct, frozen=True, array_like=True):
    """Names one attempt of one task of one run. kind is a TaskKind; stamp tells two tasks under one event id apart (reset)."""

    namespace_id: str
    workflow_id: str
    run_id: str
    kind: int
    shard: int
    scheduled_event_id: int
    started_event_id: int = 0
    attempt: int = 1
    stamp: int = 0
    activity_id: str = ""
    activity_type: str = ""
    started_at: int = 0  # ns since the epoch


class PageToken(msgspec.Struct, frozen=True, array_like=True):
    """Where a list goes on. `position` belongs to the engine; method and namespace keep it from being used elsewhere."""

    namespace_id: str
    method: str
    position: bytes


class TokenKey(msgspec.Struct, frozen=True):
    """number is one byte, so that a token names its key."""

    number: int
    secret: bytes


class KeySet(msgspec.Struct, frozen=True):
    """Newest first, at most two."""

    keys: list[TokenKey]


T = TypeVar("T")


class TokenRefused(Exception):
    """Not one of our tokens for this purpose: malformed, forged, of another purpose, or signed with a key long gone."""


class Tokens:
    """Seals and opens. Encoders and decoders are made once."""

    def __init__(self, keys: KeySet) -> None:
        assert 1 <= len(keys.keys) <= 2
        self._newest = keys.keys[0]
        self._macs = {key.number: _Mac(key.secret) for key in keys.keys}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoders: dict[type, msgspec.msgpack.Decoder[object]] = {}

    def seal(self, purpose: Purpose, token: msgspec.Struct) -> bytes:
        return self.seal_payload(purpose, self._encoder.encode(token))

    def seal_payload(self, purpose: Purpose, payload: bytes) -> bytes:
        """For a payload that another part encoded (matching names a waiting query)."""
        number = self._newest.number
        head = bytes((_FORMAT, number))
        return head + self._macs[number](purpose, head, payload) + payload

    def open(self, purpose: Purpose, data: bytes, form: type[T]) -> T:
        """Raises TokenRefused."""
        if not _HEAD_BYTES < len(data) <= _TOKEN_BYTES_MAX or data[0] != _FORMAT:
            raise TokenRefused("not a token")
        mac = self._macs.get(data[1])
        if mac is None:
            raise TokenRefused("unknown key")
        payload = data[_HEAD_BYTES:]
        if not hmac.compare_digest(mac(purpose, data[:2], payload), data[2:_HEAD_BYTES]):
            raise TokenRefused("bad signature")
        decoder = self._decoders.get(form)
        if decoder is None:
            decoder = self._decoders[form] = msgspec.msgpack.Decoder(form)
        try:
            return decoder.decode(payload)  # type: ignore[return-value]
        except msgspec.DecodeError as error:
            raise TokenRefused("signed by us, but of another form") from error

    def open_task(self, data: bytes) -> TaskToken:
        """Raises what the public server says to a task token it cannot read."""
        try:
            return self.open(Purpose.TASK, data, TaskToken)
        except TokenRefused:
            raise unreadable_task_token() from None

    def open_query(self, data: bytes) -> QueryToken:
        try:
            return self.open(Purpose.QUERY, data, QueryToken)
        except TokenRefused:
            raise unreadable_task_token() from None

    def seal_page(self, namespace_id: str, method: str, position: bytes) -> bytes:
        """Empty in, empty out: no more pages."""
        return self.seal(Purpose.PAGE, PageToken(namespace_id, method, position)) if position else b""

    def open_page(self, namespace_id: str, method: str, data: bytes) -> bytes:
        if not data:
            return b""
        try:
            token = self.open(Purpose.PAGE, data, PageToken)
        except TokenRefused:
            raise invalid_argument("Invalid NextPageToken.") from None
        if token.namespace_id != namespace_id or token.method != method:
            raise invalid_argument("Invalid NextPageToken.")
        return token.position


class _Mac:
    """HMAC-SHA-256 (RFC 2104) with the key's two blocks hashed once. `hmac.digest` lets go of the interpreter lock, which
    costs 20-60 us to get back while store and gRPC threads run; small updates of a hash object do not."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        assert len(secret) <= 64, "a longer key would have to be hashed first"
        block = secret.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __call__(self, purpose: Purpose, head: bytes, payload: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(purpose.value + b"\0" + head + payload)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:_MAC_BYTES]


def unreadable_task_token() -> CallerError:
    return invalid_argument("Error deserializing task token.")


def stale_task_token() -> CallerError:
    """For history: the token is ours, but names what the run no longer has in this form."""
    return invalid_argument("Invalid TaskToken.")


class _Registry(Protocol):
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None: ...

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None: ...


async def load_keys(store: _Registry, ids: Ids) -> KeySet:
    """The cluster's keys; the first node to ask makes them."""
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is not None:
            return msgspec.msgpack.decode(row.data, type=KeySet)
        fresh = KeySet([TokenKey(0, ids.token_bytes(_SECRET_BYTES))])
        if await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(fresh), 0) is not None:
            return fresh


async def rotate_keys(store: _Registry, ids: Ids) -> KeySet:
    """Makes a new signing key; the former one stays good for what is out, the one before that is dropped.

    Call it no more often than the longest task lives. Every node must read the keys anew before the next rotation.
    """
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is None:
            return await load_keys(store, ids)
        former = msgspec.msgpack.decode(row.data, type=KeySet).keys[0]
        rotated = KeySet([TokenKey((former.number + 1) % 256, ids.token_bytes(_SECRET_BYTES)), former])
        if await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(rotated), row.version) is not None:
            return rotated
