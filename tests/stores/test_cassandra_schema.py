"""A Cassandra store opens only on a keyspace with our tables in our version, on durable nodes, with right credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.stores.base import CorruptRecord, SchemaMismatch, StoreUnavailable
from cluster.stores.cassandra import CassandraStore
from cluster.stores.cassandra_connection import CassandraTarget
from cluster.stores.sql_schema import SchemaStatus
from tests.stores.keyspace import Keyspace
from tests.stores.rows import SHARD, blob, key, row


@pytest_asyncio.fixture
async def fresh(cassandra: Keyspace) -> AsyncIterator[Keyspace]:
    """A keyspace that is not there, on the same server."""
    made = Keyspace(cassandra.server, "fresh")
    async with made.session(is_in_keyspace=False) as session:
        await session.run("DROP KEYSPACE IF EXISTS fresh")
        yield made
        await session.run("DROP KEYSPACE IF EXISTS fresh")


async def test_an_upgrade_makes_keyspace_and_tables_once_also_if_two_run_at_the_same_time(fresh: Keyspace) -> None:
    with pytest.raises(SchemaMismatch, match="fresh has no Outlast tables: run `outlast schema upgrade`"):
        await fresh.store().open()
    assert await fresh.status() == SchemaStatus(0, 1)
    other = Keyspace(fresh.server, "fresh")
    found = await asyncio.gather(fresh.upgrade(), other.upgrade())
    assert sorted(status.found for status in found) == [0, 1]
    async with fresh.opened() as store:
        await store.append(await store.acquire(SHARD, "a"), 1, b"kept")
    assert await Keyspace(fresh.server, "fresh").upgrade() == SchemaStatus(1, 1)
    assert (await fresh.status()).is_current
    async with fresh.opened() as store, fresh.session() as session:
        assert await store.journal_bounds(SHARD) == (0, 1)
        await _other_versions_are_refused(fresh, session_run=session.run)
        # As after an upgrade that broke off: no version, and a table is missing. It can be repeated.
        await session.run("DELETE FROM outlast_schema WHERE component = 'store'")
        await session.run("DROP TABLE outlast_metadata")
        assert await Keyspace(fresh.server, "fresh").upgrade() == SchemaStatus(0, 1)
        await session.run("DROP TABLE outlast_journal")
        with pytest.raises(SchemaMismatch, match="outlast schema upgrade"):
            await store.acquire(SHARD, "a")


async def _other_versions_are_refused(fresh: Keyspace, session_run: object) -> None:
    assert callable(session_run)
    for version, says in ((99, "newer than this program's 1"), (-1, "run `outlast schema upgrade`")):
        await session_run(f"UPDATE outlast_schema SET version = {version} WHERE component = 'store'")
        with pytest.raises(SchemaMismatch, match=f"version {version}.*{says}"):
            await fresh.store().open()
        if version == 99:
            with pytest.raises(SchemaMismatch, match="newer"):
                await Keyspace(fresh.server, "fresh").upgrade()


async def test_damage_is_named_and_hurts_itself_alone(keyspace: Keyspace) -> None:
    keys = [key(f"run-{n}", workflow=f"order-{n}") for n in range(5)]
    hurt = keys[2]
    where = f"namespace_id = 0x{b'ns-a'.hex()} AND workflow_id = 0x{b'order-2'.hex()} AND run_id = 0x{b'run-2'.hex()}"
    async with keyspace.opened() as store, keyspace.session() as session:
        lease = await store.acquire(SHARD, "a")
        for position in range(1, 6):
            await store.append(lease, position, b"record-%d" % position)
        rows = [row(of, wake_at=n, changed=n + 1) for n, of in enumerate(keys)]
        await store.checkpoint(lease, rows, [blob(of, 1, 3) for of in keys], [], 1)
        (slot,) = (await session.run(f"SELECT slot FROM outlast_runs WHERE {where} ALLOW FILTERING"))[0]
        for damage in ("data = 0x00", "wake_at = 3"):
            await store.checkpoint(lease, [row(hurt, wake_at=2, changed=3)], [], [], 0)
            await session.run(f"UPDATE outlast_runs SET {damage} WHERE shard = {SHARD} AND slot = {slot} AND {where}")
            with pytest.raises(CorruptRecord) as refused:
                await store.load(SHARD, hurt)
            assert refused.value.key == hurt
            with pytest.raises(CorruptRecord):
                await store.current_run(SHARD, "ns-a", "order-2")
            for page in (await store.due(SHARD, 99, 4), await store.changed(SHARD, 0, 4), await store.runs(SHARD, None, 4)):
                assert {found.key for found in page} == set(keys) - {hurt}, "a page is full of good rows"
                assert page.corrupt == [hurt]
        in_branch = f"shard = {SHARD} AND {where} AND branch = 0 AND first_event_id = 1 AND part = 0"
        await session.run(f"UPDATE outlast_history SET last_event_id = 4 WHERE {in_branch}")
        with pytest.raises(CorruptRecord):
            await store.history(SHARD, hurt, 0, 1, 9)
        assert await store.history(SHARD, keys[1], 0, 1, 9) == [blob(keys[1], 1, 3)]
        await store.checkpoint(lease, [], [], [hurt], 0)
        assert (await store.runs(SHARD, None, 9)).corrupt == []
        await session.run(f"UPDATE outlast_journal SET data = 0x00 WHERE shard = {SHARD} AND position = 4")
        await session.run(f"DELETE FROM outlast_journal WHERE shard = {SHARD} AND position = 5")
        for limit, position in ((3, 4), (9, 4)):
            with pytest.raises(CorruptRecord) as refused:
                await store.read_journal(SHARD, 0, limit)
            assert refused.value.position == position
        assert [record.position for record in await store.read_journal(SHARD, 0, limit=2)] == [2, 3]
        with pytest.raises(CorruptRecord, match="record 5 is missing"):
            await store.read_journal(SHARD, 4)
        await store.metadata_put("namespace", "a", b"metadata", 0)
        await session.run(f"UPDATE outlast_metadata SET version = 2 WHERE kind = 0x{b'namespace'.hex()} AND id = 0x61")
        with pytest.raises(CorruptRecord, match="namespace a"):
            await store.metadata_list("namespace")


async def test_values_that_no_column_takes_are_refused_before_anything_is_written(keyspace: Keyspace) -> None:
    async with keyspace.opened() as store:
        lease = await store.acquire(SHARD, "a")
        wrong = [key("r" * 256), key("r", workflow="w" * 1_025), key("r", namespace="n" * 256), key("r", workflow="\ud800")]
        for of in wrong:
            with pytest.raises(ValueError):
                await store.checkpoint(lease, [row(key()), row(of)], [], [], 0)
        for number in (1 << 63, -(1 << 63) - 1):
            with pytest.raises(ValueError):
                await store.checkpoint(lease, [row(key()), row(key("b"), wake_at=number)], [], [], 0)
        for shard in (-1, 1 << 31):
            with pytest.raises(ValueError, match="out of range"):
                await store.acquire(type(SHARD)(shard), "a")
        with pytest.raises(ValueError):
            await store.metadata_put("k" * 256, "id", b"", 0)
        assert await store.runs(SHARD, None, 10) == []
        longest = key("r" * 255, workflow="w" * 1_024, namespace="n" * 255)
        written = row(longest, wake_at=(1 << 63) - 1)
        await store.checkpoint(lease, [written], [blob(longest, 1, 2)], [], 0)
        assert await store.current_run(SHARD, "n" * 255, "w" * 1_024) == written
        assert await store.due(SHARD, (1 << 63) - 1, 10) == [written]
        assert await store.next_wake_at(SHARD, 0) == (1 << 63) - 1


async def test_a_node_that_acknowledges_before_its_disk_does_is_refused_unless_told_otherwise(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test's node is durable; so the store is made to look at a setting of it that says periodic's opposite."""
    monkeypatch.setattr("cluster.stores.cassandra.LOSES_WRITES", "batch")
    with pytest.raises(StoreUnavailable, match="commitlog_sync batch"):
        await keyspace.store().open()
    async with keyspace.opened(sync="server") as store:
        await store.acquire(SHARD, "a")


async def test_nobody_there_is_named_and_the_password_is_not() -> None:
    store = CassandraStore("cassandra://barred:s3cret@127.0.0.1:1/outlast", connect_timeout_s=1.0)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/outlast") as refused:
        await store.open()
    assert "s3cret" not in str(refused.value)
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load(SHARD, key())


def test_a_url_says_where_and_how() -> None:
    whole = "cassandra://a%40b:p%2Fw@one:9043,two,three:9044/outlast?dc=east&replication_factor=5&consistency=global"
    assert CassandraTarget.from_url(whole) == CassandraTarget(
        contact_points=("one:9043", "two", "three:9044"),
        keyspace="outlast",
        username="a@b",
        password="p/w",
        local_dc="east",
        replication_factor=5,
        consistency="global",
    )
    assert CassandraTarget.from_url("cassandra://one/k").replication_factor == 3
    for wrong in (
        "postgres://one/k", "cassandra:///k", "cassandra://one/", "cassandra://one/Upper", "cassandra://one/k?rf=1",
        "cassandra://one/k?replication_factor=0", "cassandra://one/k?consistency=one",
    ):  # fmt: skip
        with pytest.raises(ValueError):
            CassandraTarget.from_url(wrong)
