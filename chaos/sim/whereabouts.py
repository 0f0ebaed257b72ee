"""Where a job of the simulation waits, for the reports of deadlocks and of programs that never rest."""

from __future__ import annotations

import asyncio
import traceback
from asyncio import events
from typing import Any


def where(task: asyncio.Task[Any]) -> str:
    """file:line function of the innermost frame that the job waits in."""
    place = "?"
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _attribute(awaited, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None:
            place = f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        awaited = _attribute(awaited, "cr_await", "ag_await", "gi_yieldfrom")
    return place


def described(handle: events.Handle) -> str:
    """The job that a callback belongs to, and where it waits."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return f"{task.get_name()} at {where(task)}"
    return str(getattr(callback, "__qualname__", "?"))


def told_of(failure: dict[str, Any]) -> str:
    """Whose failure it was, and where it was raised."""
    task, error = failure.get("task") or failure.get("future"), failure.get("exception")
    name = task.get_name() if isinstance(task, asyncio.Task) else "?"
    frames = traceback.extract_tb(error.__traceback__) if isinstance(error, BaseException) else []
    return " < ".join([name, *(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-4:]))])


def _attribute(holder: object, *names: str) -> Any:
    """The first of these attributes that is there: coroutines, generators and asynchronous generators name them differently."""
    return next((value for name in names if (value := getattr(holder, name, None)) is not None), None)
