"""The tables in Cassandra, and how they come into being: `status` and `upgrade`, called by `outlast schema`.

| table                | partition                     | rows in it                      | compaction   | tombstones are kept |
|----------------------|-------------------------------|---------------------------------|--------------|---------------------|
| outlast_journal      | shard                         | the head, then live records     | levelled (1) | 3 h (2)             |
| outlast_runs         | shard, slot (of 16, by workflow id) | runs, and pointers to current ones | levelled (3) | 1 day (4)     |
| outlast_history      | shard, run                    | branch, first event, part       | size-tiered (5) | 1 day (4)        |
| outlast_wakeups      | shard, bucket                 | (wake_at, run)                  | levelled (1) | 3 h (2)             |
| outlast_wake_buckets | shard                         | buckets that may have entries   | levelled (1) | 3 h (2)             |
| outlast_metadata     | kind                          | id                              | levelled (3) | 1 day (4)           |
| outlast_schema       | component                     | the version, who upgrades now   | default      | 1 day               |

1. Many short-lived rows in few partitions: levels keep a read at about one file each and drop what a tombstone covers soonest.
   Records mostly die in the memtable and never reach a data file.
2. The hint window. A replica that missed a deletion for longer brings rows back that nobody sees: a reader of the journal
   begins behind the truncation mark, and a wake-up counts only if its run's row says so; the next truncation removes such
   records again.
3. Rows are rewritten at each checkpoint, and read by name.
4. Longer than any request of a paused node can be on its way. A replica that was down for longer than a day must be repaired
   or replaced before it comes back, or deleted runs could.
5. Written once, read by run, deleted as a whole partition.

Keys are blobs in UTF-8: their order is then that of code points. To read them by hand: `blob_as_text(workflow_id)`.
Table ids are given, not drawn: two upgrades that create a table at the same moment create the same one. The steps of a
version run under a lock, which is a lightweight transaction on outlast_schema and expires by itself.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, Final

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from cluster.stores.base import StoreUnavailable
from cluster.stores.cassandra_connection import CassandraTarget, translate
from cluster.stores.sql_schema import COMPONENT, SCHEMA_VERSION, SchemaStatus, Steps, missing_steps

LOCK_TTL_S: Final = 120
LOCK_WAIT_S: Final = 150.0
DDL_TIMEOUT_S: Final = 60.0

_LEVELLED: Final = "compaction = {'class': 'LeveledCompactionStrategy', 'sstable_size_in_mb': 64}"
_TIERED: Final = "compaction = {'class': 'SizeTieredCompactionStrategy'}"
_HINT_WINDOW: Final = "gc_grace_seconds = 10800"
_DAY: Final = "gc_grace_seconds = 86400"

STEPS: Final[Steps] = {
    1: (
        f"""CREATE TABLE IF NOT EXISTS outlast_journal (shard int, position bigint, data blob, range_id bigint, owner blob,
            last_position bigint, truncated_to bigint, stamp bigint, PRIMARY KEY (shard, position))
            WITH {{id}} AND {_LEVELLED} AND {_HINT_WINDOW}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_runs (shard int, slot int, namespace_id blob, workflow_id blob, run_id blob,
            is_open boolean, wake_at bigint, changed_position bigint, data blob, wake_bucket bigint, stamp bigint,
            current_run_id blob, PRIMARY KEY ((shard, slot), namespace_id, workflow_id, run_id))
            WITH {{id}} AND {_LEVELLED} AND {_DAY}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_history (shard int, namespace_id blob, workflow_id blob, run_id blob, branch int,
            first_event_id bigint, part int, last_event_id bigint, parts_count int, data blob,
            PRIMARY KEY ((shard, namespace_id, workflow_id, run_id), branch, first_event_id, part))
            WITH {{id}} AND {_TIERED} AND {_DAY}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_wakeups (shard int, bucket bigint, wake_at bigint, namespace_id blob,
            workflow_id blob, run_id blob, changed_position bigint, stamp bigint,
            PRIMARY KEY ((shard, bucket), wake_at, namespace_id, workflow_id, run_id))
            WITH {{id}} AND {_LEVELLED} AND {_HINT_WINDOW}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_wake_buckets (shard int, bucket bigint, stamp bigint, PRIMARY KEY (shard, bucket))
            WITH {{id}} AND {_LEVELLED} AND {_HINT_WINDOW}""",
        f"""CREATE TABLE IF NOT EXISTS outlast_metadata (kind blob, id blob, version bigint, data blob, PRIMARY KEY (kind, id))
            WITH {{id}} AND {_LEVELLED} AND {_DAY}""",
    ),
}

_SCHEMA_TABLE: Final = """CREATE TABLE IF NOT EXISTS outlast_schema (component text PRIMARY KEY, version int, upgraded_by uuid)
    WITH {id} AND gc_grace_seconds = 86400"""


def with_id(statement: str, keyspace: str) -> str:
    """CREATE TABLE with the id that follows from keyspace and table."""
    table = statement.split("(")[0].split()[-1]
    return statement.replace("{id}", f"ID = {uuid.uuid5(uuid.NAMESPACE_URL, f'outlast:{keyspace}.{table}')}")


def found_version(session: Session, keyspace: str) -> int:
    tables = _run(session, "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (keyspace,))
    if "outlast_schema" not in {name for (name,) in tables}:
        return 0
    statement = f"SELECT version FROM {keyspace}.outlast_schema WHERE component = %s"
    rows = _run(session, statement, (COMPONENT,), ConsistencyLevel.LOCAL_QUORUM)
    return int(rows[0][0] or 0) if rows else 0


async def status(target: CassandraTarget) -> SchemaStatus:
    return await asyncio.to_thread(_in_session, target, lambda session: _status(session, target))


async def upgrade(target: CassandraTarget) -> SchemaStatus:
    """Makes the keyspace if it is not there, brings the tables to this program's version, and returns what was found before."""
    return await asyncio.to_thread(_in_session, target, lambda session: _upgrade(session, target))


def _in_session(target: CassandraTarget, work: Any) -> SchemaStatus:
    cluster = target.cluster(DDL_TIMEOUT_S, 10.0)
    try:
        found: SchemaStatus = work(cluster.connect())
        return found
    except Exception as error:
        raise translate(error, target.name, "read") from error
    finally:
        cluster.shutdown()


def _status(session: Session, target: CassandraTarget) -> SchemaStatus:
    return SchemaStatus(found_version(session, target.keyspace), SCHEMA_VERSION)


def _upgrade(session: Session, target: CassandraTarget) -> SchemaStatus:
    data_centre = target.local_dc or str(_run(session, "SELECT data_center FROM system.local", ())[0][0])
    replication = f"{{'class': 'NetworkTopologyStrategy', '{data_centre}': {target.replication_factor}}}"
    _run(session, f"CREATE KEYSPACE IF NOT EXISTS {target.keyspace} WITH replication = {replication}", ())
    session.set_keyspace(target.keyspace)
    _run(session, with_id(_SCHEMA_TABLE, target.keyspace), ())
    me: uuid.UUID = _run(session, "SELECT uuid() FROM system.local", ())[0][0]
    _lock(session, me, target.name)
    try:
        before = _status(session, target)
        for version, statements in missing_steps(STEPS, before, target.name):
            for statement in statements:
                _run(session, with_id(statement, target.keyspace), ())
            _record_version(session, version, me, target.name)
    finally:
        _run(session, "UPDATE outlast_schema SET upgraded_by = null WHERE component = %s IF upgraded_by = %s", (COMPONENT, me))
    return before


def _lock(session: Session, me: uuid.UUID, name: str) -> None:
    """Waits for another upgrade's end. The lock of one that died is gone after LOCK_TTL_S."""
    give_up_at = time.monotonic() + LOCK_WAIT_S
    take = f"UPDATE outlast_schema USING TTL {LOCK_TTL_S} SET upgraded_by = %s WHERE component = %s IF upgraded_by = null"
    while True:
        is_taken, *holder = _run(session, take, (me, COMPONENT))[0]
        if is_taken or holder == [me]:  # ours after all: the driver may have asked twice
            return
        if time.monotonic() > give_up_at:
            raise StoreUnavailable(f"{name}: another upgrade is under way for {LOCK_WAIT_S:g} s already")
        time.sleep(0.05)


def _record_version(session: Session, version: int, me: uuid.UUID, name: str) -> None:
    statement = "UPDATE outlast_schema SET version = %s WHERE component = %s IF upgraded_by = %s"
    if not _run(session, statement, (version, COMPONENT, me))[0][0]:
        raise StoreUnavailable(f"{name}: the upgrade took longer than its lock of {LOCK_TTL_S} s: run it again")


def _run(session: Session, text: str, values: tuple[Any, ...], consistency: int | None = None) -> list[tuple[Any, ...]]:
    statement = SimpleStatement(text, consistency_level=consistency) if consistency is not None else SimpleStatement(text)
    profile = session.get_execution_profile("read")
    result = session.execute(statement, values or None, timeout=DDL_TIMEOUT_S, execution_profile=profile)
    if result.response_future.is_schema_agreed is False:
        raise StoreUnavailable("the Cassandra nodes do not agree on the schema: is one of them down?")
    return list(result)
