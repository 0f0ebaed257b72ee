"""One look at everything a job watches: the server's processes, the database's, and what metered nodes have counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ops.bench.job import Job
from ops.bench.metered_node import read_meter
from ops.bench.usage import NOTHING, usage


@dataclass(frozen=True)
class Look:
    """Totals, except `rss_bytes`; `since` makes differences of them."""

    servers_cpu_s: tuple[float, ...]
    written_bytes: int
    disk_bytes: int
    rss_bytes: int
    database_cpu_s: float
    database_written_bytes: int
    database_disk_bytes: int
    counts: dict[str, int]

    def since(self, before: Look) -> Look:
        return Look(
            tuple(now - then for now, then in zip(self.servers_cpu_s, before.servers_cpu_s, strict=True)),
            self.written_bytes - before.written_bytes,
            self.disk_bytes - before.disk_bytes,
            self.rss_bytes,
            self.database_cpu_s - before.database_cpu_s,
            self.database_written_bytes - before.database_written_bytes,
            self.database_disk_bytes - before.database_disk_bytes,
            {name: count - before.counts.get(name, 0) for name, count in self.counts.items()},
        )


def look(job: Job) -> Look:
    """Raises FileNotFoundError or ProcessLookupError when a server is gone, OSError when a meter is."""
    servers = [usage(pid) for pid in job.server_pids]
    database = usage(job.database_pid) if job.database_pid else NOTHING
    counts: Counter[str] = Counter()
    for meter in job.meters:
        counts.update(read_meter(meter))
    return Look(
        tuple(server.cpu_s for server in servers),
        sum(server.written_bytes for server in servers),
        sum(server.disk_bytes for server in servers),
        sum(server.rss_bytes for server in servers),
        database.cpu_s,
        database.written_bytes,
        database.disk_bytes,
        dict(counts),
    )
