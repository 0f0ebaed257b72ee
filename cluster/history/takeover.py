"""Before this region goes on with a run that another one wrote last, or that it wrote itself before the namespace went away and
came back: core/machines/takeover.py, as a transition of its own.

Not when the other's news of the run come in (replicate.py): what it wrote under its version is taken first, if it comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.core.machines import takeover
from cluster.core.transition import Transition
from cluster.history.regions import acts_for, written_version
from cluster.history.run import Run

if TYPE_CHECKING:
    from cluster.history.shard import Shard


def take_over(shard: Shard, run: Run) -> None:
    """Of a run in memory; a run that is this region's already is left alone. Raises CallerError."""
    state, regions = run.state, shard.regions
    written = written_version(state)
    if shard.replicas is None or not written:
        return
    is_ours = regions.is_ours(written)
    if not (takeover.is_stuck_to_a_worker(state) if is_ours else takeover.is_needed(state)):
        return
    if written < regions.version(state.namespace_id) and acts_for(regions, state) and shard.is_open:
        t = Transition(state, shard.context(state.namespace_id))
        (takeover.come_back if is_ours else takeover.take_over)(t)
        shard.commit((run, t)).add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever goes on waits
