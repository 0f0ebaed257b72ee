"""What a process has used, from /proc: CPU of all its threads, bytes written, resident memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Totals since the process began, except `rss_bytes`, which is of now."""

    cpu_s: float
    written_bytes: int
    disk_bytes: int
    rss_bytes: int


def usage(pid: int) -> Usage:
    """Of the process and its descendants: a server may use several. Raises FileNotFoundError when it is gone."""
    parts = [_one(each) for each in _family(pid)]
    return Usage(
        sum(part.cpu_s for part in parts), sum(part.written_bytes for part in parts),
        sum(part.disk_bytes for part in parts), sum(part.rss_bytes for part in parts),
    )  # fmt: skip


def _family(pid: int) -> list[int]:
    family = [pid]
    for member in family:  # grows while it is walked
        for task in Path(f"/proc/{member}/task").iterdir():
            family += [int(child) for child in (task / "children").read_text().split()]
    return family


def _one(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user_and_system = int(fields[11]) + int(fields[12])  # fields 14 and 15 of proc(5), which counts from 1 and with pid and name
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(user_and_system * TICK_S, int(io["wchar"]), int(io["write_bytes"]), resident * PAGE_BYTES)
