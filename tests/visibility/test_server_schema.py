"""Visibility opens only on tables of its own version, and says what to run; its version stands beside the store's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.stores.base import SchemaMismatch
from cluster.stores.sql_schema import SchemaStatus
from tests.visibility.rows import ids, row
from tests.visibility.servers import VisibilityDatabase


@pytest_asyncio.fixture
async def fresh(database: VisibilityDatabase) -> AsyncIterator[VisibilityDatabase]:
    """A database without any table of ours, on the same server."""
    async with database.session() as session:
        await session.run("DROP DATABASE IF EXISTS fresh")
        await session.run("CREATE DATABASE fresh")
        yield VisibilityDatabase(database.server, "fresh")
        await session.run("DROP DATABASE fresh")


async def test_a_database_without_tables_is_refused_and_the_message_says_what_to_run(fresh: VisibilityDatabase) -> None:
    with pytest.raises(SchemaMismatch, match="fresh has no Outlast visibility tables: run `outlast schema upgrade`"):
        await fresh.visibility().open()
    assert await fresh.status() == SchemaStatus(0, 1)


async def test_an_upgrade_makes_the_tables_and_a_second_one_changes_nothing(fresh: VisibilityDatabase) -> None:
    assert await fresh.upgrade() == SchemaStatus(0, 1)
    async with fresh.opened() as store:
        await store.upsert([row("kept")])
    assert await fresh.upgrade() == SchemaStatus(1, 1)
    assert (await fresh.status()).is_current
    async with fresh.opened() as store:
        assert await ids(store, "") == ["kept"]


async def test_upgrades_of_store_and_visibility_at_once_end_with_one_set_of_tables_each(fresh: VisibilityDatabase) -> None:
    found = await asyncio.gather(fresh.upgrade(), fresh.stores.upgrade(), fresh.upgrade(), fresh.stores.upgrade())
    assert sorted(status.found for status in found[::2]) == sorted(status.found for status in found[1::2]) == [0, 1]
    async with fresh.opened() as store, fresh.stores.opened():
        await store.upsert([row("w")])


async def test_the_store_s_version_says_nothing_about_visibility(fresh: VisibilityDatabase) -> None:
    await fresh.stores.upgrade()
    assert await fresh.status() == SchemaStatus(0, 1)
    with pytest.raises(SchemaMismatch, match="no Outlast visibility tables"):
        await fresh.visibility().open()


async def test_an_upgrade_that_broke_off_can_be_repeated(fresh: VisibilityDatabase) -> None:
    """MySQL commits each CREATE TABLE by itself; on PostgreSQL an upgrade is one transaction, so there no table is left over."""
    await fresh.upgrade()
    async with fresh.session() as session:
        await session.run("DROP TABLE outlast_visibility_values")
        await session.run("DELETE FROM outlast_schema")
        if fresh.kind == "postgres":
            await session.run("DROP TABLE outlast_visibility_runs")
    assert await fresh.upgrade() == SchemaStatus(0, 1)
    async with fresh.opened() as store:
        await store.upsert([row("w")])


@pytest.mark.parametrize(("version", "says"), [(99, "newer than this program's 1"), (-1, "run `outlast schema upgrade`")])
async def test_another_version_is_refused_and_the_message_says_what_to_do(
    fresh: VisibilityDatabase, version: int, says: str
) -> None:
    await fresh.upgrade()
    async with fresh.session() as session:
        await session.run(f"UPDATE outlast_schema SET version = {version}")
    with pytest.raises(SchemaMismatch, match=f"visibility schema version {version}.*{says}"):
        await fresh.visibility().open()
    if version == 99:
        with pytest.raises(SchemaMismatch, match="newer"):
            await fresh.upgrade()
