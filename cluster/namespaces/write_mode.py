"""A namespace's write mode, as its data says: what an acknowledged write is worth (cluster/history/write_modes.py)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cluster.core.errors import invalid_argument

KEY = "outlast.write-mode"


class WriteMode(msgspec.Struct, frozen=True):
    """events_max, seconds_max: of a bounded one; 0 = no bound."""

    is_sync: bool = False
    events_max: int = 0
    seconds_max: float = 0.0

    @property
    def is_bounded(self) -> bool:
        return bool(self.events_max or self.seconds_max)


ASYNC = WriteMode()


def write_mode_of(data: Mapping[str, str]) -> WriteMode:
    """Raises CallerError INVALID_ARGUMENT."""
    text = data.get(KEY, "")
    kind, *bounds = text.split() or ["async"]
    if kind == "async" and not bounds:
        return ASYNC
    if kind == "sync" and not bounds:
        return WriteMode(is_sync=True)
    try:
        found = dict(bound.split("=", 1) for bound in bounds)
        mode = WriteMode(False, int(found.pop("events", "0")), float(found.pop("seconds", "0")))
    except ValueError:
        found, mode = {"": ""}, ASYNC
    if kind != "bounded" or found or not mode.is_bounded or mode.events_max < 0 or mode.seconds_max < 0:
        raise invalid_argument(f"{KEY} is async, sync or \"bounded events=N seconds=S\", not {text!r}")
    return mode
