"""SIGKILL of Cassandra under load, and its restart: nothing acknowledged is lost, and the load goes on by itself."""

from __future__ import annotations

import asyncio

import pytest

from cluster.stores.base import LeaseLost, StoreUnavailable, StoreUnknown
from tests.stores.keyspace import Keyspace
from tests.stores.rows import key
from tests.stores.test_sql_crash import SHARDS, _Load

ACKS_BEFORE = 200


async def test_nothing_acknowledged_is_lost_when_cassandra_is_killed_under_load(keyspace: Keyspace) -> None:
    store = keyspace.store(request_timeout_s=3.0)
    await store.open()
    load = _Load(store)  # type: ignore[arg-type]
    owners = [asyncio.get_running_loop().create_task(load.own(shard)) for shard in SHARDS]
    try:
        await load.until(lambda: load.acks_count >= ACKS_BEFORE)
        await asyncio.to_thread(keyspace.server.kill)
        await _calls_are_refused_while_it_is_down(keyspace)
        await asyncio.to_thread(keyspace.server.start)
        before = dict(load.acked)
        # The same store object goes on, on every shard.
        await load.until(lambda: all(load.acked[shard] > before[shard] + 2 for shard in SHARDS))
    finally:
        for owner in owners:
            owner.cancel()
        ended = await asyncio.gather(*owners, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    async with keyspace.opened() as witness:
        await load.audit(witness)  # type: ignore[arg-type]
    await store.close()
    assert load.failures[StoreUnknown.__name__] > 0


async def _calls_are_refused_while_it_is_down(keyspace: Keyspace) -> None:
    with pytest.raises(StoreUnavailable):
        await keyspace.store().open()


async def test_a_write_that_no_server_could_have_seen_is_certainly_not_written(keyspace: Keyspace) -> None:
    """Unavailable, not unknown: the lease holds, and the position is free."""
    async with keyspace.opened() as store:
        lease = await store.acquire(SHARDS[0], "a")
        await store.append(lease, 1, b"1")
        (host,) = store._session._cluster.metadata.all_hosts()  # type: ignore[union-attr]
        pool = store._session._session._pools.pop(host)  # type: ignore[union-attr]
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.append(lease, 2, b"2")
            with pytest.raises(StoreUnavailable):
                await store.load(SHARDS[0], key())
        store._session._session._pools[host] = pool  # type: ignore[union-attr]
        await store.append(lease, 2, b"2")
        with pytest.raises(LeaseLost):
            await store.append(lease, 2, b"2")
