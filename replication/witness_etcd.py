"""A witness in etcd: one key per register, without etcd's own leases (nothing may vanish by itself), its revision as version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from cluster.membership.etcd_client import Etcd, EtcdTls, EtcdUnavailable
from replication.witness import Register, WitnessUnavailable, WitnessUnknown

_NO_LEASE = 0


class WitnessEtcdSettings(msgspec.Struct, frozen=True):
    """prefix: the same in all regions that know each other."""

    endpoints: tuple[str, ...]
    prefix: str = "/outlast-witness/"
    tls: EtcdTls | None = None
    call_timeout_s: float = 1.5

    def __post_init__(self) -> None:
        if not self.prefix.endswith("/"):
            raise ValueError(f"etcd prefix {self.prefix!r} must end in /")


class EtcdWitness:
    """Implements `replication.witness.Witness`. Opens its channel at once; the first call finds out whether anybody answers."""

    kind = "etcd"

    def __init__(self, settings: WitnessEtcdSettings) -> None:
        self._prefix = settings.prefix
        self._etcd = Etcd(settings.endpoints, settings.call_timeout_s, settings.tls)
        self._calls_count = 0
        self._should_rotate = False

    async def read(self, key: str) -> Register | None:
        async with self._call():
            try:
                entry = await self._etcd.get(self._prefix + key)
            except EtcdUnavailable as failure:
                self._should_rotate = True
                raise WitnessUnavailable(str(failure)) from failure
        return None if entry is None else Register(entry.value, entry.revision)

    async def swap(self, key: str, data: bytes, expected_version: int) -> int | None:
        async with self._call():
            try:
                return await self._etcd.put_if(self._prefix + key, data, _NO_LEASE, expected_version)
            except EtcdUnavailable as failure:
                self._should_rotate = True
                raise WitnessUnknown(str(failure)) from failure

    async def list(self, prefix: str) -> Mapping[str, Register]:
        async with self._call():
            try:
                reading = await self._etcd.read(self._prefix + prefix)
            except EtcdUnavailable as failure:
                self._should_rotate = True
                raise WitnessUnavailable(str(failure)) from failure
        start = len(self._prefix)
        return {key[start:]: Register(entry.value, entry.revision) for key, entry in reading.entries.items()}

    async def close(self) -> None:
        await self._etcd.close()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """Another endpoint is taken when no other call is under way: changing the channel ends them all."""
        if self._should_rotate and not self._calls_count:
            self._should_rotate = False
            await self._etcd.rotate()
        self._calls_count += 1
        try:
            yield
        finally:
            self._calls_count -= 1
