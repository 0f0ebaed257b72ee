"""Every limit and default of the verification, with unit and reason."""

from __future__ import annotations

import msgspec

from cluster.config import KIB, MIB


class VerifyLimits(msgspec.Struct, frozen=True):
    every_s: float = 300.0  # between two verifications of a namespace with a peer
    deep_every: int = 12  # each so-manieth of them reads the histories as well
    page_runs: int = 200  # rows that are read at once
    runs_at_once: int = 8  # histories that are read at the same time
    slice_bytes: int = 64 * KIB  # of states that are looked at without a pause: about 3 ms
    events_at_once: int = 2_000  # of a history
    prefixes_at_once: int = 256  # in one question
    answer_bytes_max: int = MIB  # what is more is asked for again
    build_wait_s: float = 3.0  # an answer says "not ready yet" after that, so that no question times out
    ready_s_max: float = 900.0  # for both trees
    settle_s_max: float = 15.0  # for what is told, or changes, while it is compared
    heal_s_max: float = 15.0  # for what was told again
    pause_s: float = 0.25  # before the second look, then ever longer
    examined_max: int = 2_000  # workflow ids that differ; of more only the number is told
    fading_margin_s: float = 600.0  # clocks of regions may differ by that when a retention ends
    tombstone_margin_s: float = 3_600.0
