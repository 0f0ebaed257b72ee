"""Signed tokens: what a worker or client must hand back, so that the server finds the task or page again.

    format 1   1 byte format | 1 byte key number | 16 bytes HMAC-SHA-256 (truncated) | payload (msgpack)
    format 2   1 byte format | 2 bytes region | 2 bytes key number | 1 byte count | MAC | count x (2 bytes region | 2 bytes
               key number | MAC) | payload: of a namespace that other regions have, too

The MAC covers the purpose, so a token of one purpose is worth nothing for another, and the payload names its namespace, so the
frontend can refuse it elsewhere (CVE-2023-3485). Two keys live at a time: the newer signs, both are accepted, so that keys can
be exchanged while tasks are out. The keys are made once and kept in the store's metadata registry: tokens outlive a restart.

A token of format 2 has a MAC for every linked region that has the namespace, each with a key that only the two of them know
(token_links.py): after a failover it opens there, and nobody shares a key with which it signs for itself. What keeps a region
from forging for a namespace it is no part of:

| forger                                        | what stops it                                                               |
|-----------------------------------------------|-----------------------------------------------------------------------------|
| signs with its own link key                   | the opener's own record of the namespace does not list it: refused          |
| signs in the name of a third region           | it does not know the key between that region and the opener                 |
| signs in the name of the opener               | nobody else knows the opener's own keys; link keys do not open "own" tokens |
| shows a token that was made for a third one   | the MAC for the opener is not in it                                         |
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Collection
from enum import Enum
from typing import Protocol, TypeVar

import msgspec

from cluster.core.errors import CallerError, invalid_argument
from cluster.matching.queries import QueryToken
from cluster.seams import Ids
from cluster.stores.base import MetadataRow

_FORMAT = 1
_FORMAT_LINKED = 2
_MAC_BYTES = 16
SECRET_BYTES = 32
_HEAD_BYTES = 2 + _MAC_BYTES
_LINKED_HEAD = struct.Struct(">BHHB")  # format, region, key number, count
_LINK_HEAD = struct.Struct(">HH")  # region it is for, key number
_LINK_BYTES = _LINK_HEAD.size + _MAC_BYTES
_TOKEN_BYTES_MAX = 16 * 1024  # three ids of 1,000 bytes and room; anything longer was not made here
LINKS_COUNT_MAX = 32  # a failover version's increment leaves room for nine regions
NUMBERS_COUNT = 65_536  # of a key, two bytes; format 1 has room for the lower one
REGIONS_MAX = 65_535

REGISTRY_KIND = "token-keys"
REGISTRY_ID = "frontend"


class Purpose(Enum):
    """What a token is good for; its value is part of what is signed."""

    TASK = b"task"  # a workflow or an activity task: `TaskToken.kind` says which
    QUERY = b"query"
    NEXUS_TASK = b"nexus-task"
    NEXUS_CALLBACK = b"nexus-callback"
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
    """number is two bytes, so that a token names its key."""

    number: int
    secret: bytes


class KeySet(msgspec.Struct, frozen=True):
    """Newest first, at most two."""

    keys: list[TokenKey]


class LinkKeys(msgspec.Struct, frozen=True):
    """What this region and one other know, and nobody else. region: the other's initial failover version, its name in tokens.

    sealing: made here, the first one signs. opening: made there. At most two of each.
    """

    cluster: str
    region: int
    sealing: list[TokenKey] = []
    opening: list[TokenKey] = []


# The names of all regions that have the namespace with that id, as this region's own record says; none if it is not replicated.
RegionsOf = Callable[[str], Collection[str]]


class Links(msgspec.Struct, frozen=True):
    """The regions whose tokens open here and that can open ours. region: this one's own initial failover version."""

    region: int
    keys: list[LinkKeys]
    regions_of: RegionsOf


class _NamespaceOf(msgspec.Struct, frozen=True, array_like=True):
    """What every payload begins with, whatever its form."""

    namespace_id: str


T = TypeVar("T")


class TokenRefused(Exception):
    """Not one of our tokens for this purpose: malformed, forged, of another purpose, or signed with a key long gone."""


class Tokens:
    """Seals and opens. Encoders and decoders are made once."""

    def __init__(self, keys: KeySet, links: Links | None = None) -> None:
        assert 1 <= len(keys.keys) <= 2
        self._newest = keys.keys[0]
        self._macs = {key.number: _Mac(key.secret) for key in keys.keys}
        self._macs_by_byte = {number % 256: mac for number, mac in self._macs.items()}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoders: dict[type, msgspec.msgpack.Decoder[object]] = {}
        self._read_namespace = msgspec.msgpack.Decoder(_NamespaceOf)
        self._linked: _Linked | None = None
        self.use_links(links)

    def use_links(self, links: Links | None) -> None:
        """From now on, for what is sealed and what is opened: call it when a region is linked, renews its keys, or goes."""
        self._linked = _Linked(links) if links is not None and links.keys else None

    def seal(self, purpose: Purpose, token: msgspec.Struct) -> bytes:
        return self.seal_payload(purpose, self._encoder.encode(token))

    def seal_payload(self, purpose: Purpose, payload: bytes) -> bytes:
        """For a payload that another part encoded (matching names a waiting query). Its first element is a namespace's id."""
        number = self._newest.number
        linked = self._linked
        if linked is not None and (others := linked.sealing_for(self._read_namespace.decode(payload).namespace_id)):
            head = _LINKED_HEAD.pack(_FORMAT_LINKED, linked.region, number, len(others))
            macs = b"".join([name + mac(purpose, head, payload) for name, mac in others])
            return head + self._macs[number](purpose, head + macs, payload) + macs + payload
        head = bytes((_FORMAT, number % 256))
        return head + self._macs[number](purpose, head, payload) + payload

    def open(self, purpose: Purpose, data: bytes, form: type[T]) -> T:
        """Raises TokenRefused."""
        if not _HEAD_BYTES < len(data) <= _TOKEN_BYTES_MAX:
            raise TokenRefused("not a token")
        if data[0] == _FORMAT:
            payload = self._verified(purpose, data)
        elif data[0] == _FORMAT_LINKED:
            payload = self._verified_linked(purpose, data)
        else:
            raise TokenRefused("not a token")
        decoder = self._decoders.get(form)
        if decoder is None:
            decoder = self._decoders[form] = msgspec.msgpack.Decoder(form)
        try:
            return decoder.decode(payload)  # type: ignore[return-value]
        except msgspec.DecodeError as error:
            raise TokenRefused("signed by us, but of another form") from error

    def _verified(self, purpose: Purpose, data: bytes) -> bytes:
        mac = self._macs_by_byte.get(data[1])
        if mac is None:
            raise TokenRefused("unknown key")
        payload = data[_HEAD_BYTES:]
        if not hmac.compare_digest(mac(purpose, data[:2], payload), data[2:_HEAD_BYTES]):
            raise TokenRefused("bad signature")
        return payload

    def _verified_linked(self, purpose: Purpose, data: bytes) -> bytes:
        """Ours, or one of a region that has the namespace and made it for us to open."""
        _, region, number, count = _LINKED_HEAD.unpack_from(data)
        macs_at = _LINKED_HEAD.size + _MAC_BYTES
        payload_at = macs_at + count * _LINK_BYTES
        if count > LINKS_COUNT_MAX or len(data) <= payload_at:
            raise TokenRefused("not a token")
        head, signed = data[: _LINKED_HEAD.size], data[_LINKED_HEAD.size : macs_at]
        macs, payload = data[macs_at:payload_at], data[payload_at:]
        own = self._macs.get(number)
        if own is not None and hmac.compare_digest(own(purpose, head + macs, payload), signed):
            return payload
        linked = self._linked
        if linked is None:
            raise TokenRefused("bad signature, and no region is linked")
        signer, mac, theirs = linked.opening_of(region, macs)
        if not hmac.compare_digest(mac(purpose, head, payload), theirs):
            raise TokenRefused("bad signature")
        try:
            namespace_id = self._read_namespace.decode(payload).namespace_id
        except msgspec.DecodeError as error:
            raise TokenRefused("signed by a linked region, but names no namespace") from error
        if signer not in linked.regions_of(namespace_id):
            raise TokenRefused("signed by a region that is no part of the namespace")
        return payload

    def open_task(self, data: bytes) -> TaskToken:
        """Raises what the public server says to a task token it cannot read."""
        try:
            return self.open(Purpose.TASK, data, TaskToken)
        except TokenRefused:
            raise unreadable_task_token() from None

    def open_query(self, data: bytes, purpose: Purpose = Purpose.QUERY) -> QueryToken:
        """purpose: QUERY, or NEXUS_TASK."""
        try:
            return self.open(purpose, data, QueryToken)
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


class _Linked:
    """`Links`, ready for use. Raises LinksRefused."""

    __slots__ = ("_opening", "_sealing", "_to_us", "region", "regions_of")

    def __init__(self, links: Links) -> None:
        regions = [links.region, *(link.region for link in links.keys)]
        if len(set(regions)) < len(regions) or len(regions) > LINKS_COUNT_MAX:
            raise LinksRefused(f"regions with one number, or too many of them: {sorted(regions)}")
        self.region = links.region
        self.regions_of = links.regions_of
        self._to_us = links.region.to_bytes(2, "big")
        self._opening = {
            (link.region, key.number): (link.cluster, _Mac(key.secret)) for link in links.keys for key in link.opening
        }
        self._sealing = {
            link.cluster: (_LINK_HEAD.pack(link.region, link.sealing[0].number), _Mac(link.sealing[0].secret))
            for link in links.keys
            if link.sealing
        }

    def sealing_for(self, namespace_id: str) -> list[tuple[bytes, _Mac]]:
        """What to sign with for each of the other regions that have the namespace."""
        return [sealing for name in self.regions_of(namespace_id) if (sealing := self._sealing.get(name)) is not None]

    def opening_of(self, region: int, macs: bytes) -> tuple[str, _Mac, bytes]:
        """(name of the signer, what checks, what it must give) of a token that the region signed. Raises TokenRefused."""
        for at in range(0, len(macs), _LINK_BYTES):
            if macs[at : at + 2] == self._to_us:
                _, number = _LINK_HEAD.unpack_from(macs, at)
                found = self._opening.get((region, number))
                if found is None:
                    raise TokenRefused("unknown key of a region")
                return *found, macs[at + _LINK_HEAD.size : at + _LINK_BYTES]
        raise TokenRefused("made by another region, and not for this one")


class LinksRefused(Exception):
    """These regions cannot be linked: the numbers that name them in tokens are not distinct."""


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


class Registry(Protocol):
    async def metadata_get(self, kind: str, id: str) -> MetadataRow | None: ...

    async def metadata_list(self, kind: str) -> list[MetadataRow]: ...

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None: ...

    async def metadata_delete(self, kind: str, id: str, expected_version: int) -> bool: ...


async def load_keys(store: Registry, ids: Ids) -> KeySet:
    """The cluster's keys; the first node to ask makes them."""
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is not None:
            return msgspec.msgpack.decode(row.data, type=KeySet)
        fresh = KeySet([TokenKey(0, ids.token_bytes(SECRET_BYTES))])
        if await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(fresh), 0) is not None:
            return fresh


async def rotate_keys(store: Registry, ids: Ids) -> KeySet:
    """Makes a new signing key; the former one stays good for what is out, the one before that is dropped.

    Call it no more often than the longest task lives. Every node must read the keys anew before the next rotation.
    """
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is None:
            return await load_keys(store, ids)
        former = msgspec.msgpack.decode(row.data, type=KeySet).keys[0]
        rotated = KeySet([TokenKey((former.number + 1) % NUMBERS_COUNT, ids.token_bytes(SECRET_BYTES)), former])
        if await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(rotated), row.version) is not None:
            return rotated
