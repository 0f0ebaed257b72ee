"""A failing seed with as little as it needs to fail: parts of its story are left out one after the other while it still fails.

What is left out changes what comes after, so a part may have to stay only because the story without it is another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chaos.sim.region_story import PARTS
from chaos.sim.seeds import Wanted, run_seed


def kind_of(violation: str) -> str:
    """What names the broken promise, whichever run it is about."""
    return violation.split(":")[0][:60]


def shrink(seed: int, wanted: Wanted, say: Callable[[str], None]) -> Wanted | None:
    """None: it does not fail. What is left out for good fails with the same kind of violation as the whole."""
    whole = run_seed(seed, wanted=wanted)
    if not whole.violations:
        return None
    kind = kind_of(whole.violations[0])
    say(f"whole: {whole.violations[0]}")
    small = wanted
    for part in PARTS if wanted.regions != 1 else ():
        tried = replace(small, less=small.less | {part})
        result = run_seed(seed, wanted=tried)
        fails = any(kind_of(text) == kind for text in result.violations)
        say(f"without {part}: {'fails still' if fails else 'does not fail so'}")
        if fails:
            small = tried
    return small
