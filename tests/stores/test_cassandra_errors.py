"""What an error of the Cassandra driver means in the contract's words: certain, unknown, or a fault of ours."""

from __future__ import annotations

import cassandra
import pytest
from cassandra import ConsistencyLevel, WriteType, protocol
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException, ConnectionShutdown
from cassandra.pool import NoConnectionsAvailable

from cluster.stores.base import SchemaMismatch, StoreUnavailable, StoreUnknown
from cluster.stores.cassandra_connection import CassandraTarget, OnceMoreElsewhere, Profile, translate

_QUORUM = {"consistency": ConsistencyLevel.LOCAL_QUORUM, "required_responses": 2, "received_responses": 1}


def _message(kind: type[protocol.ErrorMessage]) -> protocol.ErrorMessage:
    return kind(0, "said the server", None)


ERRORS: list[tuple[Exception, type[Exception], type[Exception]]] = [
    (cassandra.WriteTimeout("cas", write_type=WriteType.CAS, **_QUORUM), StoreUnknown, StoreUnavailable),
    (cassandra.WriteTimeout("simple", write_type=WriteType.SIMPLE, **_QUORUM), StoreUnknown, StoreUnavailable),
    (cassandra.WriteFailure("failed", write_type=WriteType.CAS), StoreUnknown, StoreUnavailable),
    (cassandra.ReadTimeout("read", data_retrieved=False, **_QUORUM), StoreUnknown, StoreUnavailable),
    (cassandra.ReadFailure("tombstones"), StoreUnknown, StoreUnavailable),
    (cassandra.OperationTimedOut(), StoreUnknown, StoreUnavailable),
    (ConnectionShutdown("closed"), StoreUnknown, StoreUnavailable),
    (ConnectionException("reset"), StoreUnknown, StoreUnavailable),
    (_message(protocol.ServerError), StoreUnknown, StoreUnavailable),
    (_message(protocol.ErrorMessage), StoreUnknown, StoreUnavailable),  # as CAS_WRITE_UNKNOWN, which the driver does not know
    (cassandra.Unavailable("too few", ConsistencyLevel.LOCAL_QUORUM, 2, 1), StoreUnavailable, StoreUnavailable),
    (_message(protocol.OverloadedErrorMessage), StoreUnavailable, StoreUnavailable),
    (_message(protocol.IsBootstrappingErrorMessage), StoreUnavailable, StoreUnavailable),
    (NoConnectionsAvailable("all busy"), StoreUnavailable, StoreUnavailable),
    (NoHostAvailable("none", {}), StoreUnavailable, StoreUnavailable),
    (NoHostAvailable("none", {"h": ConnectionBusy("busy")}), StoreUnavailable, StoreUnavailable),
    (NoHostAvailable("none", {"h": ConnectionException("Pool is shutdown")}), StoreUnavailable, StoreUnavailable),
    (NoHostAvailable("none", {"h": ConnectionException("reset")}), StoreUnknown, StoreUnavailable),
    (
        NoHostAvailable("none", {"g": ConnectionBusy("busy"), "h": cassandra.OperationTimedOut()}),
        StoreUnknown,
        StoreUnavailable,
    ),
    (cassandra.AuthenticationFailed("wrong password"), StoreUnknown, StoreUnavailable),
    (cassandra.InvalidRequest("unconfigured table outlast_runs"), SchemaMismatch, SchemaMismatch),
    (cassandra.InvalidRequest("Mutation of 20 bytes is too large"), ValueError, ValueError),
    (cassandra.InvalidRequest("ours"), cassandra.InvalidRequest, cassandra.InvalidRequest),
    (_message(protocol.SyntaxException), protocol.SyntaxException, protocol.SyntaxException),
]


@pytest.mark.parametrize("profile", ["read", "serial", "write", "decide"])
def test_an_error_of_cassandra_says_what_is_certain(profile: Profile) -> None:
    for error, of_write, of_read in ERRORS:
        expected = of_read if profile in ("read", "serial") else of_write
        if profile == "decide" and isinstance(error, cassandra.Unavailable | protocol.OverloadedErrorMessage):
            expected = StoreUnknown  # decided perhaps, when the replicas for the rest were missing
        assert type(translate(error, "db", profile)) is expected, error


def test_transactions_are_never_repeated_and_the_rest_once_on_another_host() -> None:
    profiles = CassandraTarget(("127.0.0.1",), "k").cluster(1.0, 1.0).profile_manager.profiles
    decide = profiles["decide"].retry_policy
    assert decide.on_write_timeout(None, 1, "CAS", 2, 1, 0) == (decide.RETHROW, None)
    assert decide.on_request_error(None, 1, error=None, retry_num=0) == (decide.RETHROW, None)
    assert profiles["decide"].consistency_level == ConsistencyLevel.LOCAL_QUORUM
    assert profiles["decide"].serial_consistency_level == ConsistencyLevel.LOCAL_SERIAL
    assert profiles["serial"].consistency_level == ConsistencyLevel.LOCAL_SERIAL
    for name in ("read", "serial", "write"):
        policy = profiles[name].retry_policy
        assert isinstance(policy, OnceMoreElsewhere)
        assert policy.on_request_error(None, 1, error=None, retry_num=0) == (policy.RETRY_NEXT_HOST, None)
        assert policy.on_write_timeout(None, retry_num=1) == (policy.RETHROW, None)
    everywhere = CassandraTarget(("127.0.0.1",), "k", consistency="global").cluster(1.0, 1.0).profile_manager.profiles
    assert everywhere["write"].consistency_level == ConsistencyLevel.QUORUM
    assert everywhere["decide"].serial_consistency_level == ConsistencyLevel.SERIAL
