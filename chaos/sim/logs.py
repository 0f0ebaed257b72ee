"""The server's own log during a simulation: warnings belong to the faults and are dropped, errors are violations.

The server logs an error where it met what should not be: a run that cannot be replayed, a delivery that no repetition will mend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn

import structlog

ERROR_LEVEL = 40
# What a server rightly calls an error, and what is here a fault that was injected.
EXPECTED = frozenset(
    {
        "etcd has lost its data; members are kept until they have registered again",
        "a region refuses the link, or is refused",  # until both have been told of each other
        "a handover cannot be ended now; it is given up when its time is over",  # the store fails, as it was told to
    }
)


@contextmanager
def errors_collected(into: list[str]) -> Iterator[None]:
    """Every error that is logged inside becomes a text in `into`; nothing is printed."""
    before = structlog.get_config()

    def collect(logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        has_ended = asyncio._get_running_loop() is None  # the world's jobs are being cleared away
        if has_ended or event["event"] in EXPECTED:
            raise structlog.DropEvent
        details = " ".join(f"{name}={value!r}" for name, value in sorted(event.items()) if name not in ("event", "exc_info"))
        into.append(f"logged as {method}: {event['event']} {details}")
        raise structlog.DropEvent

    structlog.configure(processors=[collect], wrapper_class=structlog.make_filtering_bound_logger(ERROR_LEVEL))
    try:
        yield
    finally:
        structlog.configure(**before)
