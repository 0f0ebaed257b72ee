"""The credit of one connection: how many requests, and bytes of requests, may be in flight.

The server names it in its Welcome; both sides count alike. A request takes credit when it is sent, its one answer gives it back.
The server counts an answer earlier than the client does, so an honest client never looks like a cheat.

Long polls may not take all of it: the calls that end a poll (a task is offered) often go to the same node.
"""

from __future__ import annotations


class Credit:
    """Counts, no waiting. `take` refuses by False and changes nothing."""

    __slots__ = ("bytes_in_flight", "bytes_max", "long_polls", "long_polls_max", "requests", "requests_max")

    def __init__(self, requests_max: int, bytes_max: int, long_polls_max: int | None = None) -> None:
        self.requests_max, self.bytes_max = requests_max, bytes_max
        self.long_polls_max = requests_max if long_polls_max is None else min(long_polls_max, requests_max)
        self.requests = self.bytes_in_flight = self.long_polls = 0

    def take(self, size: int, is_long_poll: bool = False) -> bool:
        if self.requests >= self.requests_max or self.bytes_in_flight + size > self.bytes_max:
            return False
        if is_long_poll:
            if self.long_polls >= self.long_polls_max:
                return False
            self.long_polls += 1
        self.requests += 1
        self.bytes_in_flight += size
        return True

    def give_back(self, size: int, is_long_poll: bool = False) -> None:
        assert self.requests > 0 and self.bytes_in_flight >= size, "more credit comes back than was taken"
        self.requests -= 1
        self.bytes_in_flight -= size
        if is_long_poll:
            assert self.long_polls > 0, "more long polls end than were begun"
            self.long_polls -= 1
