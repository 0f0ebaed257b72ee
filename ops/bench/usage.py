"""What a process has used, from /proc: CPU of all its threads, bytes written, resident memory; and how busy the machine was."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Usage:
    """Totals since the process began, except `rss_bytes`, which is of now."""

    cpu_s: float
    written_bytes: int
    disk_bytes: int
    rss_bytes: int


NOTHING = Usage(0.0, 0, 0, 0)


def usage(pid: int) -> Usage:
    """Of the process and its descendants, those that have ended included: a server may use several, and a database server starts
    and ends them as it likes. Raises FileNotFoundError or ProcessLookupError when the process itself is gone."""
    parts = [_one(pid)]
    for child in _children(pid):
        parts += _of_descendants(child)
    return Usage(
        sum(part.cpu_s for part in parts), sum(part.written_bytes for part in parts),
        sum(part.disk_bytes for part in parts), sum(part.rss_bytes for part in parts),
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Raises FileNotFoundError or ProcessLookupError when it is gone."""
    return _children(pid)


def _of_descendants(pid: int) -> list[Usage]:
    """Empty when it ends meanwhile: then its parent has what it used."""
    try:
        parts = [_one(pid)]
        for child in _children(pid):
            parts += _of_descendants(child)
    except GONE:
        return []
    return parts


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except GONE:
            continue  # a thread that has ended
    return found


def _one(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # Fields 14 to 17 of proc(5), which counts from 1 and with pid and name: user, system, and both of children that have ended
    # (the bytes of /proc/PID/io include theirs as well).
    ticks = sum(int(field) for field in fields[11:15])
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(ticks * TICK_S, int(io["wchar"]), int(io["write_bytes"]), resident * PAGE_BYTES)


def machine_busy_s() -> float:
    """CPU time of the whole machine since it began, all cores together, idle time and waits for disks left out."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) * TICK_S
