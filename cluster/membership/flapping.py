"""A node that comes and goes must not move shards each time: after a few joins in a short time it waits before it is ready.

The node holds itself back, and its state says so. Were the others to judge it, each by what it happened to see, their rings
would differ.
Pure: times are arguments, all by the clock of the one node that joins.
"""

from __future__ import annotations

import msgspec

SECOND_NS = 1_000_000_000


class FlapLimits(msgspec.Struct, frozen=True):
    window_s: int = 300
    free_joins: int = 3  # a start, and a rolling restart that had to be repeated
    hold_min_s: float = 5.0  # about what moving a share of the shards costs
    hold_max_s: float = 60.0


def next_joins(joins_at: tuple[int, ...], now_ns: int, limits: FlapLimits) -> tuple[int, ...]:
    """The joins to remember, this one included. Bounded; a clock that was set back makes no join of the future count."""
    begin = now_ns - limits.window_s * SECOND_NS
    recent = sorted(at for at in joins_at if begin < at <= now_ns)
    return (*recent[-63:], now_ns)


def hold_s(joins_at: tuple[int, ...], limits: FlapLimits) -> float:
    """How long the node of these recent joins stays `joining`: doubles with each join beyond the free ones."""
    extra = len(joins_at) - limits.free_joins
    return 0.0 if extra <= 0 else min(limits.hold_max_s, limits.hold_min_s * 2 ** min(extra - 1, 30))
