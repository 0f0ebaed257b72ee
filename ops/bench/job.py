"""What the bench asks of a load process, and what it gets back. Both travel as JSON."""

from __future__ import annotations

import msgspec

# Servers put work off (checkpoints, visibility rows): what they do in this time after the last answer still counts.
# What they use when nothing is asked of them is measured first and subtracted.
SETTLE_S = 6.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario on one server, or on several that are one cluster.

    load: workflows, signals, queries, updates, fill_pending or fill_timers (see `scenarios.py`).
    mode: "sdk" (the official worker and client) or "raw" (scripted calls, so that the load takes less of the machine).
    addresses: one connection each; the same address several times is several connections.
    """

    scenario: str
    load: str
    mode: str
    addresses: tuple[str, ...]
    namespace: str
    server_pids: tuple[int, ...]
    duration_s: float
    concurrency: int
    count_max: int = 1_000_000  # end earlier than duration_s, for example before a limit of the server
    activities: int = 0  # per workflow
    runs: int = 1  # over how many open workflows signals, queries and updates are spread
    settle_s: float = SETTLE_S
    database_pid: int = 0  # 0: there is no database server, or it is not looked at
    meters: tuple[str, ...] = ()  # where the nodes tell their counts (metered_node.py)


class Sample(msgspec.Struct, kw_only=True):
    """What one job measured. Times of servers count until `settle_s` after the last answer."""

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
    each_server_cpu_s: tuple[float, ...] = ()
    database_cpu_s: float = 0.0
    database_written_bytes: int = 0
    database_disk_bytes: int = 0
    machine_busy_s: float = 0.0  # of all cores together, by whomever, while the load ran
    counts: dict[str, int] = {}  # of all metered nodes together, while the load ran

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Of the server, for each workflow, signal, query or update."""
        return 1000 * self.server_cpu_s / self.count

    @property
    def database_cpu_ms(self) -> float:
        return 1000 * self.database_cpu_s / self.count

    @property
    def cores_busy(self) -> float:
        return self.machine_busy_s / self.seconds

    def count_each(self, name: str) -> float:
        """How often a node did something, for each workflow."""
        return self.counts.get(name, 0) / self.count

    @property
    def entries_per_append(self) -> float | None:
        """None where the nodes told no counts."""
        appends = self.counts.get("journal_appends", 0)
        return self.counts["journal_entries"] / appends if appends else None
