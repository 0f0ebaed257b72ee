"""Runs one seed from beginning to end, of one region or of several, whatever comes of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chaos.sim.logs import errors_collected
from chaos.sim.loop import running_loop, simulate
from chaos.sim.region_story import RegionStory
from chaos.sim.story import Result, Story
from chaos.sim.trace import Trace

__all__ = ["Result", "Wanted", "run_seed"]


@dataclass(frozen=True)
class Wanted:
    """What is decided instead of drawn; None = the seed draws it. regions: 1 = the story of one region; 0 = several, drawn.

    less: what a shrunken story leaves out (shrink.py)."""

    nodes: int | None = None
    regions: int = 1
    less: frozenset[str] = frozenset()

    @property
    def options(self) -> str:
        """For the command line."""
        nodes = "" if self.nodes is None else f" --nodes {self.nodes}"
        regions = "" if self.regions == 1 else f" --regions {self.regions}"
        less = "".join(f" --less {one}" for one in sorted(self.less))
        return nodes + regions + less


class OneStory(Protocol):
    async def run(self) -> None: ...

    def result(self, seed: int) -> Result: ...


def _maker(wanted: Wanted) -> Callable[[int], OneStory]:
    if wanted.regions == 1:
        return lambda seed: Story(seed, wanted.nodes)
    return lambda seed: RegionStory(seed, wanted.regions or None, wanted.nodes, wanted.less)


def run_seed(seed: int, keep_text: bool = False, nodes: int | None = None, wanted: Wanted | None = None) -> Result:
    """nodes: so many instead of what the seed draws."""
    make = _maker(wanted or Wanted(nodes))
    began = time.process_time()
    trace = Trace(keep_text)
    story: OneStory | None = None
    extra: list[str] = []

    async def main() -> float:
        nonlocal story
        story = make(seed)
        await story.run()
        extra.extend(f"escaped: {failure.get('message')}: {failure.get('exception')!r}" for failure in running_loop().failures)
        return running_loop().time()

    virtual_s = 0.0
    with errors_collected(extra):
        try:
            virtual_s = simulate(main(), trace, limit_s=86_400.0)
        except Exception as error:  # whatever ends the story is its verdict
            place = traceback.extract_tb(error.__traceback__)[-1]
            extra.append(f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})")
    result = story.result(seed) if story is not None else Result(seed)
    result.violations += extra
    result.took_ms = round((time.process_time() - began) * 1000)
    result.digest, result.virtual_s, result.trace = trace.digest(), virtual_s, trace.text()
    return result
