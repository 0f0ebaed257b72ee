"""What a seed of several regions draws about them: how many nodes and shards each has, and its small bounds."""

from __future__ import annotations

import random
from dataclasses import replace

from chaos.sim.config import WorldConfig, draw_config

NODE_COUNTS = {1: 6, 2: 2, 3: 2}
SHARD_COUNTS = [1, 2, 3, 5, 7]
REGION_COUNTS = {2: 4, 3: 1}


def draw_regions(stream: random.Random, regions: int | None, nodes: int | None) -> list[WorldConfig]:
    """regions, nodes: so many, instead of what the seed draws."""
    drawn = stream.choices(list(REGION_COUNTS), list(REGION_COUNTS.values()))[0]
    count = regions or drawn
    shard_counts = stream.sample(SHARD_COUNTS, count)
    configs: list[WorldConfig] = []
    for number in range(1, count + 1):
        drawn_nodes = stream.choices(list(NODE_COUNTS), list(NODE_COUNTS.values()))[0]
        config = draw_config(stream, nodes or drawn_nodes)
        configs.append(
            replace(
                config,
                shards=shard_counts[number - 1],
                holds_back_flapping=False,
                namespaces=(),
                cluster_name=f"r{number}",
                initial_failover_version=number,
            )
        )
    return configs
