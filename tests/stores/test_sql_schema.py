"""A store opens only on a server that is what it needs: our tables, our version, durable, the primary, with right credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.stores.base import SchemaMismatch, StoreUnavailable
from cluster.stores.mysql import MysqlStore
from cluster.stores.mysql_connection import MysqlTarget
from cluster.stores.postgres import PostgresStore
from cluster.stores.postgres_connection import PostgresTarget
from cluster.stores.sql_schema import SchemaStatus, missing_steps
from cluster.stores.sql_store import SqlStore
from tests.stores.rows import SHARD
from tests.stores.servers import Database


@pytest_asyncio.fixture
async def fresh(database: Database) -> AsyncIterator[Database]:
    """A database without any table of ours, on the same server."""
    async with database.session() as session:
        await session.run("DROP DATABASE IF EXISTS fresh")
        await session.run("CREATE DATABASE fresh")
        yield type(database)(database.server, "fresh")
        await session.run("DROP DATABASE fresh")


async def test_a_database_without_tables_is_refused_and_the_message_says_what_to_run(fresh: Database) -> None:
    with pytest.raises(SchemaMismatch, match="fresh has no Outlast tables: run `outlast schema upgrade`"):
        await fresh.store().open()
    assert await fresh.status() == SchemaStatus(0, 1)


async def test_an_upgrade_makes_the_tables_and_a_second_one_changes_nothing(fresh: Database) -> None:
    assert await fresh.upgrade() == SchemaStatus(0, 1)
    async with fresh.opened() as store:
        await store.append(await store.acquire(SHARD, "a"), 1, b"kept")
    assert await fresh.upgrade() == SchemaStatus(1, 1)
    assert (await fresh.status()).is_current
    async with fresh.opened() as store:
        assert await store.journal_bounds(SHARD) == (0, 1)


async def test_two_upgrades_at_once_end_with_one_set_of_tables(fresh: Database) -> None:
    found = await asyncio.gather(fresh.upgrade(), fresh.upgrade())
    assert sorted(status.found for status in found) == [0, 1]
    async with fresh.opened() as store:
        assert (await store.acquire(SHARD, "a")).range_id == 1


async def test_an_upgrade_that_broke_off_can_be_repeated(fresh: Database) -> None:
    """MySQL commits each CREATE TABLE by itself; on PostgreSQL an upgrade is one transaction, so there no table is left over."""
    await fresh.upgrade()
    async with fresh.session() as session:
        await session.run("DROP TABLE outlast_metadata")
        await session.run("DELETE FROM outlast_schema")
        if fresh.kind == "postgres":
            for name in ("shards", "journal", "runs", "history", "current"):
                await session.run(f"DROP TABLE outlast_{name}")
    assert await fresh.upgrade() == SchemaStatus(0, 1)
    async with fresh.opened() as store:
        assert await store.metadata_put("kind", "id", b"x", 0) == 1


@pytest.mark.parametrize(("version", "says"), [(99, "newer than this program's 1"), (-1, "run `outlast schema upgrade`")])
async def test_another_version_is_refused_and_the_message_says_what_to_do(fresh: Database, version: int, says: str) -> None:
    await fresh.upgrade()
    async with fresh.session() as session:
        await session.run(f"UPDATE outlast_schema SET version = {version}")
    with pytest.raises(SchemaMismatch, match=f"version {version}.*{says}"):
        await fresh.store().open()
    if version == 99:
        with pytest.raises(SchemaMismatch, match="newer"):
            await fresh.upgrade()


async def test_a_table_dropped_under_a_running_store_is_a_schema_mismatch(fresh: Database) -> None:
    await fresh.upgrade()
    async with fresh.opened() as store:
        lease = await store.acquire(SHARD, "a")
        async with fresh.session() as session:
            await session.run("DROP TABLE outlast_journal")
        with pytest.raises(SchemaMismatch, match="outlast schema upgrade"):
            await store.append(lease, 1, b"x")


def test_steps_are_run_in_order_from_the_version_found() -> None:
    steps = {1: ("a",), 2: ("b", "c"), 3: ("d",)}
    assert missing_steps(steps, SchemaStatus(1, 3), "db") == [(2, ("b", "c")), (3, ("d",))]
    assert missing_steps(steps, SchemaStatus(3, 3), "db") == []


async def test_wrong_credentials_and_a_wrong_database_are_named_and_the_password_is_not(database: Database) -> None:
    port = database.server.port
    if database.kind == "postgres":  # the test server trusts everybody, so a role that may not log in stands for a wrong password
        async with database.session() as session:
            await session.run("DROP ROLE IF EXISTS barred")
            await session.run("CREATE ROLE barred NOLOGIN")
        wrong: list[SqlStore] = [
            PostgresStore(f"postgresql://barred:s3cret@127.0.0.1:{port}/postgres"),
            PostgresStore(f"postgresql://test:s3cret@127.0.0.1:{port}/nowhere"),
            PostgresStore("postgresql://test:s3cret@127.0.0.1:1/postgres"),
        ]
    else:
        wrong = [
            MysqlStore(f"mysql://barred:s3cret@127.0.0.1:{port}/test"),
            MysqlStore(f"mysql://test@127.0.0.1:{port}/nowhere"),
            MysqlStore("mysql://test:s3cret@127.0.0.1:1/test"),
        ]
    for store, says in zip(wrong, ("barred", "nowhere", "127.0.0.1:1"), strict=True):
        with pytest.raises(StoreUnavailable, match=says) as refused:
            await store.open()
        assert "s3cret" not in str(refused.value)
    assert "s3cret" not in PostgresTarget("postgresql://u:s3cret@h/d").name + MysqlTarget("mysql://u:s3cret@h/d").name


async def test_a_server_that_acknowledges_before_its_disk_does_is_refused_unless_told_otherwise(database: Database) -> None:
    async with database.session() as session:
        if database.kind == "mariadb":
            await session.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
            try:
                with pytest.raises(StoreUnavailable, match="innodb_flush_log_at_trx_commit"):
                    await database.store().open()
                async with database.opened(sync="server") as store:
                    await store.acquire(SHARD, "a")
            finally:
                await session.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        else:
            # fsync off is for the whole server; a role that commits without waiting is overruled instead of refused.
            await session.run("ALTER ROLE test SET synchronous_commit = off")
            try:
                for sync, expected in (("full", "on"), ("server", "off")):
                    target = PostgresTarget(database.server.dsn("postgres"), is_flush_required=sync == "full")  # type: ignore[union-attr]
                    connection = await target.connect()
                    assert await connection.fetchval("SHOW synchronous_commit") == expected
                    connection.terminate()
            finally:
                await session.run("ALTER ROLE test RESET synchronous_commit")


async def test_a_server_that_became_read_only_is_unavailable_until_it_is_writable_again(database: Database) -> None:
    """As after a failover that left the node connected to the former primary."""
    postgres = database.kind == "postgres"
    on = "ALTER ROLE test SET default_transaction_read_only = on" if postgres else "SET GLOBAL read_only = ON"
    off = "ALTER ROLE test RESET default_transaction_read_only" if postgres else "SET GLOBAL read_only = OFF"
    async with database.session() as session, database.session() as undo:
        await session.run(on)
        try:
            store = database.store()
            if postgres:
                await store.open()
                with pytest.raises(StoreUnavailable, match="read-only"):
                    await store.acquire(SHARD, "a")
            else:
                with pytest.raises(StoreUnavailable, match="read-only"):
                    await store.open()
        finally:
            await undo.run("SET default_transaction_read_only = off" if postgres else "SELECT 1")
            await undo.run(off)
        if not postgres:
            await store.open()
        assert (await store.acquire(SHARD, "a")).range_id == 1
        await store.close()
