"""A link in memory whose messages are dropped, doubled, delayed and reordered by a seeded plan, and which is cut."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from replication.link import LinkDown


@dataclass
class Faults:
    """Shares of messages, and a delay's bound: different delays are what reorders."""

    seed: int = 0
    drop: float = 0.0
    double: float = 0.0
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.dropped = self.doubled = 0


class End:
    """One side's Link."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.other: End
        self.sent: list[bytes] = []
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_closed = False

    async def send(self, data: bytes) -> None:
        if self.is_closed:
            raise LinkDown("closed")
        self.sent.append(data)
        faults = self.faults
        if len(self.sent) > 1:  # a stream's beginning comes whole or not at all
            if faults.random.random() < faults.drop:
                faults.dropped += 1
                return
            if faults.random.random() < faults.double:
                faults.doubled += 1
                self._deliver(data)
        self._deliver(data)
        await asyncio.sleep(0)

    def _deliver(self, data: bytes) -> None:
        delay_s = self.faults.random.random() * self.faults.delay_s if len(self.sent) > 1 else 0.0
        asyncio.get_running_loop().call_later(delay_s, self.other.arrived, data)

    def arrived(self, data: bytes) -> None:
        if not self.is_closed:
            self._inbox.put_nowait(data)

    async def receive(self) -> bytes:
        data = None if self.is_closed else await self._inbox.get()
        if data is None:
            raise LinkDown("closed")
        return data

    def close(self) -> None:
        for end in (self, self.other):
            if not end.is_closed:
                end.is_closed = True
                end._inbox.put_nowait(None)


def link_pair(faults: Faults) -> tuple[End, End]:
    one, other = End(faults), End(faults)
    one.other, other.other = other, one
    return one, other
