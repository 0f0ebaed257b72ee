"""A window that runs low asks the shards that have more. A shard that does not answer is asked again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster.core.errors import CallerError
from cluster.matching.partition import Partition
from cluster.seams import Spawn

if TYPE_CHECKING:
    from cluster.matching.matcher import Matcher


class Refill:
    """One per node."""

    def __init__(self, matcher: Matcher, spawn: Spawn) -> None:
        self._matcher, self._spawn = matcher, spawn

    def if_low(self, partition: Partition) -> None:
        window = partition.window
        if window.more and not partition.refilling and not self._matcher.is_draining and window.is_low():
            partition.refilling = True
            self._spawn(self._run(partition), f"matching refill {partition.key.name}")

    async def _run(self, partition: Partition) -> None:
        """Asks until the window is no longer low."""
        matcher, window = self._matcher, partition.window
        history = matcher.history
        assert history is not None
        has_failed = False
        try:
            has_progress = True
            while has_progress and window.is_low() and not matcher.is_draining:
                has_progress = False
                for ask in window.plan_asks():
                    try:
                        hints = await history.backlog(partition.key, ask.shard, 0, ask.limit)
                    except CallerError:
                        has_failed = True
                        matcher.count("backlog_failed", partition.key.kind)
                        continue
                    has_progress |= window.answer(ask, hints)
                    matcher.changed(partition, "backlog_match")
        except Exception:
            has_failed = True
            raise  # Spawn reports it; the retry below goes on
        finally:
            if not matcher.is_draining and (has_failed or window.is_low()):
                loop = asyncio.get_running_loop()
                loop.call_later(matcher.limits.backlog_retry_s, self._again, partition)
            else:
                partition.refilling = False

    def _again(self, partition: Partition) -> None:
        partition.refilling = False
        self.if_low(partition)
