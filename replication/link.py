"""The seam between two regions: messages in both directions, over whatever carries bytes.

A gRPC bidirectional stream fits (one message of bytes per stream message, either side may have dialled), and so does a pair of
queues in memory. Nothing above trusts a link: what is lost, doubled or late is told again, and known again.
"""

from __future__ import annotations

from typing import Protocol


class LinkDown(Exception):
    """The link has ended: what was sent and not acknowledged may or may not have arrived."""


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
