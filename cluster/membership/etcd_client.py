"""The few calls of etcd that membership needs, over aetcd's generated stubs and a channel of our own.

Not aetcd's `Client`: its channel has neither TLS nor liveness checks nor quick reconnects, its watch drops the revision a
reading was made at, and its queue of events has no bound. Every call here has a time limit; every failure is one of three
exceptions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec
from aetcd import rpc  # type: ignore[import-untyped]  # it has no annotations


class EtcdUnavailable(Exception):
    """No answer, or none that helps. Whether a write was executed is unknown."""


class LeaseGone(Exception):
    """The lease has expired or was revoked, and its keys with it."""


class Compacted(Exception):
    """The history from the wished revision on is gone: read everything again."""


class EtcdTls(msgspec.Struct, frozen=True):
    """PEM files; etcd should demand client certificates (`--client-cert-auth`)."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None


class Entry(NamedTuple):
    key: str
    value: bytes  # empty when deleted
    revision: int
    is_deleted: bool = False


class Reading(NamedTuple):
    """All entries under a prefix, at one revision, and which etcd it was."""

    entries: dict[str, Entry]
    revision: int
    etcd_id: int


# The defaults (seconds to minutes between attempts, no liveness check) are for services, not for who must be back before a
# lease runs out. 6 s: etcd drops clients that ping more often than every 5.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
# A member that is cut off from the others ends a watch instead of staying silent.
_NEEDS_LEADER = (("hasleader", "true"),)


class Etcd:
    """One channel at a time, for one job: closing a channel (as `rotate` does) cancels every call on it, whoever waits for it."""

    def __init__(self, endpoints: tuple[str, ...], call_timeout_s: float, tls: EtcdTls | None = None) -> None:
        if not endpoints:
            raise ValueError("no etcd endpoints")
        self._endpoints, self._timeout_s, self._tls = endpoints, call_timeout_s, tls
        self._at = 0
        self._open()

    def _open(self) -> None:
        if self._tls is None:
            self._channel = rpc.insecure_channel(self.endpoint, options=_CHANNEL_OPTIONS)
        else:
            parts = (self._tls.authority, self._tls.key, self._tls.certificate)
            credentials = grpc.ssl_channel_credentials(*(part.read_bytes() if part else None for part in parts))
            self._channel = rpc.secure_channel(self.endpoint, credentials, options=_CHANNEL_OPTIONS)
        self._kv, self._leases = rpc.KVStub(self._channel), rpc.LeaseStub(self._channel)
        self._watches = rpc.WatchStub(self._channel)

    @property
    def endpoint(self) -> str:
        return self._endpoints[self._at % len(self._endpoints)]

    async def rotate(self) -> None:
        """With one endpoint the channel reconnects by itself; with more, the next one may be better off."""
        if len(self._endpoints) > 1:
            old = self._channel
            self._at += 1
            self._open()
            await old.close()

    async def close(self) -> None:
        await self._channel.close()

    async def read(self, prefix: str) -> Reading:
        answer = await self._call(self._kv.Range, rpc.RangeRequest(key=prefix.encode(), range_end=_after(prefix)))
        entries = [_entry(kv) for kv in answer.kvs]
        return Reading({entry.key: entry for entry in entries}, answer.header.revision, answer.header.cluster_id)

    async def get(self, key: str) -> Entry | None:
        answer = await self._call(self._kv.Range, rpc.RangeRequest(key=key.encode()))
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def put_if(self, key: str, value: bytes, lease: int, seen_revision: int) -> int | None:
        """Writes if the key is still as it was read (0 = absent). The new revision; None = it has changed. LeaseGone."""
        compare = rpc.Compare(
            key=key.encode(), target=rpc.Compare.CompareTarget.Value("MOD"), result=_EQUAL, mod_revision=seen_revision
        )
        return await self._put(compare, key, value, lease)

    async def put_if_mine(self, key: str, value: bytes, lease: int) -> int | None:
        """Writes if the key is held by this lease. The new revision; None = it is not. LeaseGone."""
        compare = rpc.Compare(key=key.encode(), target=rpc.Compare.CompareTarget.Value("LEASE"), result=_EQUAL, lease=lease)
        return await self._put(compare, key, value, lease)

    async def _put(self, compare: Any, key: str, value: bytes, lease: int) -> int | None:
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value, lease=lease))
        answer = await self._call(self._kv.Txn, rpc.TxnRequest(compare=[compare], success=[put]))
        return answer.header.revision if answer.succeeded else None

    async def grant(self, ttl_s: int) -> int:
        lease: int = (await self._call(self._leases.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl_s))).ID
        return lease

    async def keep_alive(self, lease: int) -> None:
        """Raises LeaseGone."""
        try:
            call = self._leases.LeaseKeepAlive([rpc.LeaseKeepAliveRequest(ID=lease)], timeout=self._timeout_s)
            async for answer in call:
                if answer.TTL <= 0:
                    raise LeaseGone
                return
        except rpc.AioRpcError as failure:
            raise _translated(failure) from None
        raise EtcdUnavailable("the lease's stream ended without an answer")

    async def revoke(self, lease: int) -> None:
        """Raises LeaseGone, if there was nothing to revoke."""
        await self._call(self._leases.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[list[Entry], None]:
        """Changes as they come, those of one message together. Ends by Compacted or EtcdUnavailable only."""
        call = self._watches.Watch(metadata=_NEEDS_LEADER)
        create = rpc.WatchCreateRequest(key=prefix.encode(), range_end=_after(prefix), start_revision=from_revision)
        try:
            await call.write(rpc.WatchRequest(create_request=create))
            async for message in call:
                if message.compact_revision:
                    raise Compacted
                if message.canceled:
                    raise EtcdUnavailable(f"the watch was cancelled: {message.cancel_reason}")
                if message.events:
                    yield [_entry(event.kv, event.type == _DELETE) for event in message.events]
        except rpc.AioRpcError as failure:
            raise _translated(failure) from None
        finally:
            call.cancel()
        raise EtcdUnavailable("the watch ended")

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except rpc.AioRpcError as failure:
            raise _translated(failure) from None


_EQUAL = rpc.Compare.CompareResult.Value("EQUAL")
_DELETE = rpc.Event.EventType.Value("DELETE")


def _entry(kv: Any, is_deleted: bool = False) -> Entry:
    return Entry(kv.key.decode("utf-8", "replace"), kv.value, kv.mod_revision, is_deleted)


def _after(prefix: str) -> bytes:
    """The end of the range of all keys with this prefix; prefixes end in "/", so the last byte has a successor."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def _translated(failure: Any) -> Exception:
    code, details = failure.code(), failure.details() or ""
    if code is grpc.StatusCode.NOT_FOUND and "lease not found" in details:
        return LeaseGone()
    return EtcdUnavailable(f"{code.name}: {details}")
