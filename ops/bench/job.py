"""What the bench asks of a load process, and what it gets back. Both travel as JSON."""

from __future__ import annotations

import msgspec


class Job(msgspec.Struct, frozen=True):
    """One scenario on one server.

    load: workflows, signals, queries, updates, fill_pending or fill_timers (see `scenarios.py`).
    mode: "sdk" (the official worker and client) or "raw" (scripted calls, so that the load takes less of the machine).
    """

    scenario: str
    load: str
    mode: str
    address: str
    namespace: str
    server_pid: int
    duration_s: float
    concurrency: int
    count_max: int = 1_000_000  # end earlier than duration_s, for example before a limit of the server
    activities: int = 0  # per workflow
    runs: int = 1  # over how many open workflows signals, queries and updates are spread


class Sample(msgspec.Struct, kw_only=True):
    """What one job measured. Times of the server count until `settle_s` after the last answer."""

    scenario: str
    mode: str
    count: int
    seconds: float
    p50_ms: float
    p99_ms: float
    server_cpu_s: float
    load_cpu_s: float
    written_bytes: int  # handed to write(), page cache included
    disk_bytes: int  # sent towards the disk by the kernel
    rss_bytes: int

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Of the server, for each workflow, signal, query or update."""
        return 1000 * self.server_cpu_s / self.count
