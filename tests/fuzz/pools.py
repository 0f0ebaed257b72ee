"""What a generated request may refer to: names, runs and tokens that exist, existed, or belong to somebody else.

The stage (stage.py) keeps these lists true while a campaign goes on; the generator only draws from them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

FUZZ, OTHER, CANARY, DOOMED = "fuzz", "other", "canary", "doomed"
QUEUE = "fuzz-queue"


@dataclass
class Pools:
    """runs: (workflow id, run id) of the fuzzed namespace; foreign_runs: of the other one. tokens: by purpose, newest last.

    names: what of all this is written as `@name` in a regression file, so that it can be replayed where ids differ.
    """

    namespace: str = FUZZ
    queue: str = QUEUE
    namespace_ids: list[str] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)
    foreign_runs: list[tuple[str, str]] = field(default_factory=list)
    tokens: dict[str, list[bytes]] = field(default_factory=dict)
    activity_ids: tuple[str, ...] = ("a1", "a2", "a3")
    timer_ids: tuple[str, ...] = ("t1", "t2", "t3")
    update_ids: list[str] = field(default_factory=lambda: ["u1", "u2"])
    request_ids: tuple[str, ...] = ("r1", "r2", "r3", "")
    names: dict[str, str | bytes] = field(default_factory=dict)
    is_single: bool = False  # one run only: a stateful sequence keeps to itself

    def remember_token(self, purpose: str, token: bytes) -> None:
        if token:
            kept = self.tokens.setdefault(purpose, [])
            kept.append(token)
            del kept[:-20]

    def run(self, rng: random.Random) -> tuple[str, str]:
        if not self.runs:
            return f"w{rng.randrange(5)}", ""
        workflow_id, run_id = rng.choice(self.runs)
        return workflow_id, run_id if rng.random() < 0.4 else ""

    def token(self, rng: random.Random, purpose: str) -> bytes:
        """Mostly one of the newest for this purpose."""
        kept = self.tokens.get(purpose) or self.any_tokens()
        if not kept:
            return b"no token"
        return kept[-1] if rng.random() < 0.6 else rng.choice(kept)

    def any_tokens(self) -> list[bytes]:
        return [token for kept in self.tokens.values() for token in kept]
