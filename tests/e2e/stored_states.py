"""Reads a stopped server's database: is every stored state the fold of its stored history?"""

from __future__ import annotations

from chaos.cluster.stored import disagreements as disagreements_in
from cluster.engines import make_store
from cluster.node_config import StoreConfig


async def disagreements(config: StoreConfig, shards: int) -> tuple[int, list[str]]:
    """(runs looked at, one line for each run whose stored state differs from the fold of its events)."""
    store = make_store(config)
    await store.open()
    try:
        return await disagreements_in(store, shards)
    finally:
        await store.close()
