"""Randomness and clocks of a simulated world: one stream per named source, all derived from one seed.

One stream per source, so that a change in how often one part draws does not move every other part's draws: a failing seed
stays comparable while the code under it changes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

# 2026-01-01T00:00:00Z: a plausible date, far from zero, so that a forgotten offset shows.
EPOCH_NS = 1_767_225_600_000_000_000


class Streams:
    """`streams("store.latency")` is the same sequence for the same seed, whoever else draws what."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def __call__(self, name: str) -> random.Random:
        stream = self._streams.get(name)
        if stream is None:
            digest = hashlib.blake2b(name.encode(), key=self.seed.to_bytes(16, "big", signed=True), digest_size=16).digest()
            stream = self._streams[name] = random.Random(int.from_bytes(digest, "big"))
        return stream


class SimClock:
    """One node's wall clock: virtual time plus this node's skew. It may jump, also backwards, as real clocks do."""

    def __init__(self, virtual_ns: Callable[[], int], epoch_ns: int = EPOCH_NS, skew_ns: int = 0) -> None:
        self._virtual_ns = virtual_ns
        self._epoch_ns = epoch_ns
        self.skew_ns = skew_ns

    def now_ns(self) -> int:
        return self._epoch_ns + self._virtual_ns() + self.skew_ns

    def jump(self, by_ns: int) -> None:
        self.skew_ns += by_ns


class SimIds:
    """`cluster.seams.Ids` drawn from a stream."""

    def __init__(self, stream: random.Random) -> None:
        self._stream = stream

    def token_bytes(self, count: int) -> bytes:
        return self._stream.getrandbits(8 * count).to_bytes(count, "big") if count else b""

    def uuid(self) -> str:
        raw = bytearray(self.token_bytes(16))
        raw[6] = (raw[6] & 0x0F) | 0x40
        raw[8] = (raw[8] & 0x3F) | 0x80
        text = raw.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def jitter(self) -> float:
        return self._stream.getrandbits(53) / (1 << 53)
