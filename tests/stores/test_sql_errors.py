"""What an error of a driver means in the contract's words: certain, unknown, damaged, or a fault of ours."""

from __future__ import annotations

import asyncpg
import pytest
from asyncmy import errors

from cluster.stores import mysql_connection as mysql
from cluster.stores import postgres_connection as postgres
from cluster.stores.base import SchemaMismatch, StoreDamaged, StoreUnavailable, StoreUnknown

X = asyncpg.exceptions


def _fatal(error: asyncpg.PostgresError) -> asyncpg.PostgresError:
    error.severity = "FATAL"
    return error


POSTGRES = [
    (X.ConnectionDoesNotExistError("closed in the middle of operation"), StoreUnknown, StoreUnavailable),
    (_fatal(X.AdminShutdownError("terminating connection")), StoreUnknown, StoreUnavailable),
    (_fatal(X.InvalidPasswordError("wrong password")), StoreUnknown, StoreUnavailable),
    (TimeoutError(), StoreUnknown, StoreUnavailable),
    (ConnectionResetError("reset"), StoreUnknown, StoreUnavailable),
    (X.QueryCanceledError("statement timeout"), StoreUnavailable, StoreUnavailable),
    (X.DeadlockDetectedError("deadlock"), StoreUnavailable, StoreUnavailable),
    (X.DiskFullError("no space left"), StoreUnavailable, StoreUnavailable),
    (X.TooManyConnectionsError("too many"), StoreUnavailable, StoreUnavailable),
    (X.ReadOnlySQLTransactionError("read-only"), StoreUnavailable, StoreUnavailable),
    (X.InsufficientPrivilegeError("not yours"), StoreUnavailable, StoreUnavailable),
    (X.InterfaceError("connection is closed"), StoreUnavailable, StoreUnavailable),
    (X.DataCorruptedError("bad page"), StoreDamaged, StoreDamaged),
    (X.UndefinedTableError("no table"), SchemaMismatch, SchemaMismatch),
    (X.NumericValueOutOfRangeError("too large"), ValueError, ValueError),
    (X.PostgresSyntaxError("ours"), X.PostgresSyntaxError, X.PostgresSyntaxError),
    (X.InterfaceError("another operation is in progress"), X.InterfaceError, X.InterfaceError),
]
MYSQL = [
    (errors.OperationalError(2013, "lost connection during query"), StoreUnknown, StoreUnavailable),
    (errors.OperationalError(1053, "shutdown in progress"), StoreUnknown, StoreUnavailable),
    (errors.OperationalError(1927, "connection was killed"), StoreUnknown, StoreUnavailable),
    (errors.OperationalError(1180, "error during commit"), StoreUnknown, StoreUnavailable),
    (mysql.CommitFailed("disk"), StoreUnknown, StoreUnavailable),
    (TimeoutError(), StoreUnknown, StoreUnavailable),
    (ConnectionResetError("reset"), StoreUnknown, StoreUnavailable),
    (errors.OperationalError(2006, "gone away"), StoreUnavailable, StoreUnavailable),
    (errors.InterfaceError(0, "Not connected"), StoreUnavailable, StoreUnavailable),
    (errors.OperationalError(1205, "lock wait timeout"), StoreUnavailable, StoreUnavailable),
    (errors.OperationalError(1213, "deadlock"), StoreUnavailable, StoreUnavailable),
    (errors.OperationalError(1969, "max_statement_time"), StoreUnavailable, StoreUnavailable),
    (errors.OperationalError(1040, "too many connections"), StoreUnavailable, StoreUnavailable),
    (errors.OperationalError(1290, "read-only"), StoreUnavailable, StoreUnavailable),
    (errors.OperationalError(1712, "index is corrupted"), StoreDamaged, StoreDamaged),
    (errors.ProgrammingError(1146, "no table"), SchemaMismatch, SchemaMismatch),
    (errors.DataError(1406, "too long"), ValueError, ValueError),
    (errors.ProgrammingError(1064, "ours"), errors.ProgrammingError, errors.ProgrammingError),
]


@pytest.mark.parametrize("is_write", [True, False])
def test_an_error_of_postgresql_says_what_is_certain(is_write: bool) -> None:
    for error, of_write, of_read in POSTGRES:
        assert type(postgres.translate(error, "db", is_write)) is (of_write if is_write else of_read), error


@pytest.mark.parametrize("is_write", [True, False])
def test_an_error_of_mysql_says_what_is_certain(is_write: bool) -> None:
    for error, of_write, of_read in MYSQL:
        assert type(mysql.translate(error, "db", is_write)) is (of_write if is_write else of_read), error


def test_a_connection_is_used_again_only_after_errors_that_leave_it_whole() -> None:
    whole = X.DeadlockDetectedError("deadlock")
    whole.severity = "ERROR"
    assert postgres.is_usable_after(whole)
    assert mysql.is_usable_after(errors.OperationalError(1205, "lock wait timeout"))
    for error in (TimeoutError(), _fatal(X.AdminShutdownError("x")), X.ConnectionDoesNotExistError("x"), KeyboardInterrupt()):
        assert not postgres.is_usable_after(error)
    for other in (TimeoutError(), errors.OperationalError(2013, "x"), errors.OperationalError(1290, "x"), KeyboardInterrupt()):
        assert not mysql.is_usable_after(other)
