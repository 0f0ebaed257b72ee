"""A simulated etcd, and the real membership on top of it: leases on virtual time, watches that lag, outages, lost data.

`SimEtcd` is the registry itself; it outlives all nodes. `SimEtcdClient` is one node's way to it and has the methods of
`cluster.membership.etcd_client.Etcd`, so `EtcdMembership` runs as it is: its two loops, its staleness, its taking over of an id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import StrEnum
from typing import TypeVar, cast

from chaos.sim.faults import FaultPlan
from chaos.sim.loop import running_loop
from chaos.sim.owners import far_away, owned_by
from cluster.membership.etcd import EtcdMembership
from cluster.membership.etcd_client import Compacted, Entry, Etcd, EtcdUnavailable, LeaseGone, Reading
from cluster.membership.etcd_entries import EtcdSettings
from cluster.seams import Clock, Ids, Spawn

T = TypeVar("T")
KEPT_REVISIONS = 200
CALL_DELAY_S_MAX = 0.01
NOTICED_S_MAX = 9.0  # after which a channel's liveness check ends a watch


class RegistryFault(StrEnum):
    CALL_LOST = "registry_call_lost"
    ANSWER_LOST = "registry_answer_lost"  # executed, and reported as failed


class SimEtcd:
    """Keys, revisions, leases, watches. All of it is the world's: it runs while any node is paused."""

    def __init__(self, plan: FaultPlan, watch_delay_s_max: float) -> None:
        self.plan = plan
        self.watch_delay_s_max = watch_delay_s_max
        self.is_up = True
        self.starts_count = 1
        self.cut_off: set[str] = set()  # nodes that cannot reach it
        self._id = 1
        self._revision = self._lease_number = 0
        self._keys: dict[str, tuple[Entry, int]] = {}  # with the lease, 0 = none
        self._leases: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        self._log: list[Entry] = []
        self._watches: list[asyncio.Future[None]] = []

    # --- trouble ----------------------------------------------------------------------------------------------------------
    def go_down(self) -> None:
        running_loop().trace("registry down")
        self.is_up = False
        for _, timer in self._leases.values():
            timer.cancel()
        self._tell()

    def come_up(self, has_lost_data: bool = False) -> None:
        """Each lease has its full time again, as etcd's new leader gives it."""
        running_loop().trace("registry up", lost_data=has_lost_data)
        self.is_up = True
        self.starts_count += 1
        if has_lost_data:
            self._id += 1
            self._revision = 0
            self._keys, self._leases, self._log = {}, {}, []
        for lease, (ttl_s, _) in list(self._leases.items()):
            self._arm(lease, ttl_s)
        self._tell()

    def reach(self, node: str, can_reach: bool) -> None:
        running_loop().trace("registry reach", node=node, can_reach=can_reach)
        if can_reach:
            self.cut_off.discard(node)
        else:
            self.cut_off.add(node)
        self._tell()

    def heal(self) -> None:
        self.cut_off.clear()
        if not self.is_up:
            self.come_up()

    # --- leases -----------------------------------------------------------------------------------------------------------
    def grant(self, ttl_s: int) -> int:
        self._lease_number += 1
        self._arm(self._lease_number, ttl_s)
        return self._lease_number

    def keep_alive(self, lease: int) -> None:
        self._arm(lease, self._held(lease))

    def revoke(self, lease: int) -> None:
        self._held(lease)
        self._leases.pop(lease)[1].cancel()
        self._drop_keys(lease)

    def _held(self, lease: int) -> int:
        if lease not in self._leases:
            raise LeaseGone
        return self._leases[lease][0]

    def _arm(self, lease: int, ttl_s: int) -> None:
        if lease in self._leases:
            self._leases[lease][1].cancel()
        with owned_by(""):
            self._leases[lease] = (ttl_s, running_loop().call_later(ttl_s, self._expire, lease))

    def _expire(self, lease: int) -> None:
        del self._leases[lease]
        keys = self._drop_keys(lease)
        running_loop().trace("registry lease expired", keys=" ".join(keys))

    def _drop_keys(self, lease: int) -> list[str]:
        keys = [key for key, (_, holder) in self._keys.items() if holder == lease]
        if keys:
            self._revision += 1
        for key in keys:
            del self._keys[key]
            self._note(Entry(key, b"", self._revision, True))
        return keys

    # --- keys -------------------------------------------------------------------------------------------------------------
    def read(self, prefix: str) -> Reading:
        entries = {key: entry for key, (entry, _) in self._keys.items() if key.startswith(prefix)}
        return Reading(entries, self._revision, self._id)

    def get(self, key: str) -> Entry | None:
        held = self._keys.get(key)
        return held[0] if held is not None else None

    def put_if(self, key: str, value: bytes, lease: int, seen_revision: int) -> int | None:
        held = self._keys.get(key)
        return self._put(key, value, lease) if (held[0].revision if held else 0) == seen_revision else None

    def put_if_mine(self, key: str, value: bytes, lease: int) -> int | None:
        held = self._keys.get(key)
        return self._put(key, value, lease) if held is not None and held[1] == lease else None

    def _put(self, key: str, value: bytes, lease: int) -> int:
        if lease:
            self._held(lease)
        self._revision += 1
        entry = Entry(key, value, self._revision)
        self._keys[key] = (entry, lease)
        self._note(entry)
        return self._revision

    def _note(self, entry: Entry) -> None:
        self._log.append(entry)
        del self._log[:-KEPT_REVISIONS]
        self._tell()

    # --- watches ----------------------------------------------------------------------------------------------------------
    def since(self, prefix: str, from_revision: int) -> list[Entry]:
        if self._log and self._log[0].revision > from_revision and self._log[0].revision > 1:
            raise Compacted
        return [entry for entry in self._log if entry.revision >= from_revision and entry.key.startswith(prefix)]

    def changed(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = running_loop().create_future()
        self._watches.append(future)
        return future

    def _tell(self) -> None:
        waiting, self._watches = self._watches, []
        for each in waiting:
            if not each.done():
                each.set_result(None)


class SimEtcdClient:
    """One life's channel. Calls have a time limit; each may be lost, or executed and reported as failed."""

    endpoint = "simulated"

    def __init__(self, etcd: SimEtcd, node: str, timeout_s: float, delays: random.Random) -> None:
        self._etcd, self._node, self._timeout_s, self._delays = etcd, node, timeout_s, delays

    async def rotate(self) -> None:
        """There is one endpoint."""

    async def close(self) -> None:
        """Nothing to close: the channel goes with the node."""

    async def read(self, prefix: str) -> Reading:
        return await self._call(lambda: self._etcd.read(prefix))

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self._etcd.get(key))

    async def put_if(self, key: str, value: bytes, lease: int, seen_revision: int) -> int | None:
        return await self._call(lambda: self._etcd.put_if(key, value, lease, seen_revision))

    async def put_if_mine(self, key: str, value: bytes, lease: int) -> int | None:
        return await self._call(lambda: self._etcd.put_if_mine(key, value, lease))

    async def grant(self, ttl_s: int) -> int:
        return await self._call(lambda: self._etcd.grant(ttl_s))

    async def keep_alive(self, lease: int) -> None:
        await self._call(lambda: self._etcd.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda: self._etcd.revoke(lease))

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[list[Entry], None]:
        """Changes, each a while later; a node that stood still hears of all of them together."""
        loop, begun = running_loop(), self._etcd.starts_count
        while True:
            if self._etcd.starts_count != begun:  # whoever stood still while etcd was restarted finds the connection reset
                raise EtcdUnavailable("the watch was reset")
            if not self._reaches():
                if self._etcd.is_up:  # cut off: nobody says so, signs of life stay away
                    await asyncio.sleep(self._delays.uniform(0, NOTICED_S_MAX))
                if not self._reaches():
                    raise EtcdUnavailable("the watch ended")
                continue
            changed = self._etcd.changed()
            if entries := self._etcd.since(prefix, from_revision):
                from_revision = entries[-1].revision + 1
                await asyncio.sleep(self._delays.uniform(0, self._etcd.watch_delay_s_max))
                loop.trace("registry told", node=self._node, revision=from_revision - 1)
                yield entries
            else:
                await changed

    def _reaches(self) -> bool:
        return self._etcd.is_up and self._node not in self._etcd.cut_off

    async def _call(self, run: Callable[[], T]) -> T:
        fault = self._etcd.plan.draw()
        there, back = (self._delays.uniform(0, CALL_DELAY_S_MAX) for _ in range(2))

        async def execute() -> T:
            await asyncio.sleep(there)
            if fault == RegistryFault.CALL_LOST or not self._reaches():
                await asyncio.sleep(self._timeout_s)
                raise EtcdUnavailable("no answer in time")
            answer = run()
            if fault == RegistryFault.ANSWER_LOST:
                await asyncio.sleep(self._timeout_s)
                raise EtcdUnavailable("no answer in time")
            return answer

        answer: Awaitable[T] = far_away(execute, "registry call", back)
        try:
            return await asyncio.wait_for(answer, self._timeout_s)
        except TimeoutError:
            raise EtcdUnavailable("no answer in time") from None


class SimMembership(EtcdMembership):
    """The real one, on a simulated channel: grpc's cannot live on a simulated loop."""

    def __init__(
        self, etcd: SimEtcd, node: str, settings: EtcdSettings, clock: Clock, ids: Ids, spawn: Spawn, delays: random.Random
    ) -> None:
        def connect(settings: EtcdSettings) -> Etcd:
            return cast(Etcd, SimEtcdClient(etcd, node, settings.call_timeout_s, delays))

        super().__init__(settings, clock, ids, spawn, connect)
