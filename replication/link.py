"""The seams between two regions: messages in both directions over whatever carries bytes, and calls with one answer.

A gRPC bidirectional stream fits a `Link` (one message of bytes per stream message, either side may have dialled), and so does a
pair of queues in memory. Nothing above trusts a link: what is lost, doubled or late is told again, and known again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class LinkDown(Exception):
    """The link has ended: what was sent and not acknowledged may or may not have arrived."""


class UnknownRegion(Exception):
    """No connection to a region of that name is configured."""


class Link(Protocol):
    async def send(self, data: bytes) -> None:
        """Returns when there is room for more. Raises LinkDown."""
        ...

    async def receive(self) -> bytes:
        """The next message. Raises LinkDown."""
        ...

    def close(self) -> None:
        """Ends it for both sides. May be called again."""
        ...


class Forwards(Protocol):
    """How a call reaches another region, by that one's name."""

    async def forward(
        self, region: str, path: str, data: bytes, metadata: Mapping[str, str], timeout_s: float
    ) -> bytes:
        """The other region's answer. Raises UnknownRegion, CallerError (its refusals as `failures.PassedOn`; UNAVAILABLE when it
        cannot be reached). Cancelled, it cancels the call there."""
        ...


class RemoteRegions(Forwards, Protocol):
    """All ways from this node to other regions."""

    async def dial(self, region: str) -> Link:
        """Raises UnknownRegion, LinkDown."""
        ...

    async def close(self) -> None: ...


# The region's frontend address, host:port; None for one that is not known, or whose connection is disabled.
AddressOf = Callable[[str], str | None]
MakeRegions = Callable[[AddressOf], RemoteRegions]
