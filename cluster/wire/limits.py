"""Every limit and default of the node-to-node protocol, with unit and reason. None of them can be lifted, only set."""

from __future__ import annotations

import msgspec

from cluster.config import KIB, MIB


class WireLimits(msgspec.Struct, frozen=True):
    """Both sides take these from their own configuration; what a server will accept it tells in its Welcome."""

    payload_bytes_max: int = 32 * MIB  # an answer to a poll: a page of history and ten updates of 2 MiB each
    envelope_bytes_max: int = 4 * KIB  # ids, method and numbers around a payload; also the whole of a Hello
    method_chars_max: int = 200
    message_chars_max: int = 1_200  # as a gRPC trailer can carry (cluster/failures.py)
    requests_in_flight_max: int = 8_192  # of one connection; a parked long poll is one of them
    long_polls_in_flight_max: int = 6_144  # the rest stays free for the calls that end those polls
    request_bytes_in_flight_max: int = 32 * MIB
    requests_waiting_max: int = 2_048  # calls that wait for credit; more are refused at once
    total_request_bytes_in_flight_max: int = 512 * MIB  # of all connections of a server
    connections_max: int = 512  # of a server: nodes of one region, twice during a rolling restart
    peers_max: int = 512  # of a client
    connect_waiters_max: int = 2_048  # calls that wait for one connection to come up
    answer_bytes_hold: int = 4 * MIB  # unsent answers above which no further request is started
    answer_bytes_max: int = 64 * MIB  # unsent answers above which the rest is refused
    handshake_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0  # TCP, TLS and handshake together
    close_timeout_s: float = 5.0  # for the last bytes of a connection that is being closed
    keepalive_s: float = 10.0  # silence after which a peer is asked for a sign of life
    keepalive_timeout_s: float = 5.0  # how long it has for it
    idle_s: float = 300.0  # a connection without calls is closed
    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0  # well below a membership lease: a peer that came back is found before others give it up
    call_timeout_s: float = 90.0  # of a call without a deadline; longer than the longest long poll (60 s)
    call_timeout_max_s: float = 600.0  # a longer deadline is cut to this: nothing waits for ever
