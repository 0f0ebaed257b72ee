"""What a seed draws about the servers themselves, before anything happens."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cluster.config import Limits, ShardConfig

NAMESPACE = "default"
# How many nodes a region has. One is the most frequent, so that what a single node shows stays covered.
NODE_COUNTS = {1: 10, 2: 3, 3: 5, 4: 2}


@dataclass
class WorldConfig:
    """nodes: places for nodes; begin_with: how many of them live from the beginning, the others are added later. namespaces: made
    by the nodes themselves; cluster_name, initial_failover_version: of one region among several."""

    nodes: int = 1
    begin_with: int = 1
    shards: int = 2
    shard: ShardConfig = field(default_factory=ShardConfig)
    limits: Limits = field(default_factory=Limits)
    store_latency_s_max: float = 0.01
    wire_delay_s_max: float = 0.02  # between clients and nodes
    link_delay_s_max: float = 0.002  # between nodes
    watch_delay_s_max: float = 0.01
    holds_back_flapping: bool = False
    callers_switch: float = 0.02  # probability, per call, of going to another node without need
    namespaces: tuple[str, ...] = field(default=(NAMESPACE,), repr=False)
    cluster_name: str = field(default="", repr=False)
    initial_failover_version: int = field(default=0, repr=False)


def draw_config(stream: random.Random, nodes: int | None = None) -> WorldConfig:
    """Small bounds and long latencies show what large and short ones hide, and the other way round."""
    drawn = stream.choices(list(NODE_COUNTS), list(NODE_COUNTS.values()))[0]
    nodes = nodes or drawn
    shard = ShardConfig(
        group_entries_max=stream.choice([1, 2, 5, 2_000]),
        checkpoint_interval_ns=stream.choice([50_000_000, 500_000_000, 5_000_000_000]),
        checkpoint_entries_max=stream.choice([5, 50, 20_000]),
        idle_runs_in_memory_max=stream.choice([0, 3, 2_000]),
        timer_horizon_ns=stream.choice([2_000_000_000, 60_000_000_000]),
    )
    limits = Limits(history_page_events_max=stream.choice([10, 30, 1_000]))
    return WorldConfig(
        nodes=nodes,
        begin_with=stream.randint(max(1, nodes - 1), nodes),
        shards=stream.choice([1, 2, 4] if nodes == 1 else [2, 4, 7]),
        shard=shard,
        limits=limits,
        store_latency_s_max=stream.choice([0.0, 0.005, 0.05]),
        wire_delay_s_max=stream.choice([0.001, 0.02, 0.2]),
        link_delay_s_max=stream.choice([0.0005, 0.005, 0.1]),
        watch_delay_s_max=stream.choice([0.005, 0.2, 2.0]),
        holds_back_flapping=stream.random() < 0.2,
        callers_switch=stream.choice([0.02, 0.3]),
    )
