"""Every limit and default of the stream between regions, with unit and reason."""

from __future__ import annotations

import msgspec

from cluster.config import MIB


class StreamLimits(msgspec.Struct, frozen=True):
    """One node's, for each of its peers."""

    queue_entries_max: int = 20_000  # of one shard for one peer; beyond that the peer is caught up by the runs' states
    queue_bytes_max: int = 32 * MIB
    credit_offers: int = 256  # what a receiver takes in at once, over all shards of one link
    credit_bytes: int = 32 * MIB
    catch_up_page_runs: int = 100  # rows that are read at once
    catch_up_share: int = 8  # every so-manieth offer may be one of a catch-up, however much live traffic there is
    resend_s: float = 3.0  # an offer without an answer is sent again after that, and then ever more rarely
    resend_s_max: float = 60.0
    cursor_save_s: float = 1.0  # how often a cursor is written; what a restart sends again is what came since
    backoff_s_first: float = 0.05
    backoff_s_max: float = 10.0
    refused_backoff_s: float = 5.0  # a link that cannot be is tried again that rarely: somebody must change something
    hello_timeout_s: float = 10.0
