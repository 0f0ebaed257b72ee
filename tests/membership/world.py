"""Nodes and their memberships for the tests, over a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

import msgspec

from cluster.membership.etcd import EtcdMembership
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.members import Membership, NodeInfo, NodeState, View
from cluster.seams import JobSet, SystemClock, SystemIds
from tests.services.etcd import EtcdServer


def node(node_id: str, **changes: Any) -> NodeInfo:
    info = NodeInfo(
        node_id=node_id,
        address=f"{node_id}:7000",
        roles=("frontend", "history", "matching"),
        zone="z1",
        version="0.1.0",
        shard_count=64,
        cluster_id="cluster-1",
        started_at=1,
        incarnation=os.urandom(8).hex(),
        state=NodeState.READY,
    )
    return msgspec.structs.replace(info, **changes)


class Member:
    """One node's membership; `crash` ends it without a word."""

    def __init__(self, settings: EtcdSettings, info: NodeInfo) -> None:
        self.failures: list[BaseException] = []
        self.jobs = JobSet(lambda _, failure: self.failures.append(failure))
        self.membership = EtcdMembership(settings, SystemClock(), SystemIds(), self.jobs)
        self.info = info
        self.views: list[View] = []
        interface: Membership = self.membership  # mypy looks whether it is one
        interface.on_change(self.views.append)

    async def join(self) -> Member:
        await self.membership.join(self.info)
        return self

    async def crash(self) -> None:
        """No last words: the lease stays until it runs out."""
        await self.jobs.close()
        self.membership._lease = None
        self.membership._jobs = []

    @property
    def view(self) -> View:
        return self.membership.members()

    @property
    def ids(self) -> list[str]:
        return [each.node_id for each in self.view.nodes]

    def states(self) -> dict[str, NodeState]:
        return {each.node_id: each.state for each in self.view.nodes}


class Cluster:
    """Members of one prefix of one etcd; all that are left leave at the end."""

    def __init__(self, etcd: EtcdServer, **changes: Any) -> None:
        self.etcd = etcd
        prefix = f"/test/{os.urandom(6).hex()}/"
        self.settings = msgspec.structs.replace(
            EtcdSettings((etcd.endpoint,), prefix, lease_ttl_s=2, call_timeout_s=0.6), **changes
        )
        self.members: list[Member] = []

    def member(self, node_id: str, **changes: Any) -> Member:
        member = Member(self.settings, node(node_id, **changes))
        self.members.append(member)
        return member

    async def join(self, *node_ids: str) -> list[Member]:
        return [await self.member(node_id).join() for node_id in node_ids]

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            await member.membership.leave()
            await member.jobs.close()
        assert not [failure for member in self.members for failure in member.failures]


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> float:
    """How long it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not condition():
        assert loop.time() - begun < limit_s, f"did not come true within {limit_s} s"
        await asyncio.sleep(0.01)
    return loop.time() - begun


@contextlib.asynccontextmanager
async def stays(condition: Callable[[], bool]) -> Any:
    """The condition holds all through the block, looked at every 10 ms."""

    async def look() -> None:
        while True:
            assert condition(), "it did not stay true"
            await asyncio.sleep(0.01)

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
