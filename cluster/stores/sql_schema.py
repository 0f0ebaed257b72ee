"""Versions of the tables in a database server: which one this program needs, and what it says when it finds another.

`open()` never creates or changes a table: on a database that several nodes share, that is a decision of its operator. The
steps are lists of statements, one list per version, and not alembic revisions: alembic wants SQLAlchemy and a synchronous
driver per engine beside the asynchronous one, for what is one list here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.stores.base import SchemaMismatch

COMPONENT: Final = "store"  # another component may keep tables and a version of its own in the same database
SCHEMA_VERSION: Final = 1

Steps = Mapping[int, Sequence[str]]  # version -> the statements that lead to it from the one before


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """found: the stored version, 0 for a database without our tables; needed: this program's."""

    found: int
    needed: int

    @property
    def is_current(self) -> bool:
        return self.found == self.needed


def refuse_other_version(status: SchemaStatus, database: str) -> None:
    """Raises SchemaMismatch with the command to run, unless the version is ours."""
    if status.found == 0:
        raise SchemaMismatch(f"{database} has no Outlast tables: run `outlast schema upgrade`")
    if status.found < status.needed:
        raise SchemaMismatch(
            f"{database} has store schema version {status.found}, this program needs {status.needed}: stop every node that uses"
            " the database, make a backup of it, and run `outlast schema upgrade`"
        )
    if status.found > status.needed:
        raise SchemaMismatch(
            f"{database} has store schema version {status.found}, newer than this program's {status.needed}: run the program"
            " that upgraded it (`outlast schema status` shows both versions)"
        )


def missing_steps(steps: Steps, status: SchemaStatus, database: str) -> list[tuple[int, Sequence[str]]]:
    """(version, statements) still to be run, in order. A newer version than ours is not touched."""
    if status.found > status.needed:
        refuse_other_version(status, database)
    return [(version, steps[version]) for version in range(status.found + 1, status.needed + 1)]
