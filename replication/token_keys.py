"""Two linked regions give each other the keys by which tokens of one open in the other (cluster/token_links.py).

    one node (the leader) asks each peer:   Keys(ours)  ->  theirs, ours are stored there
    it stores theirs, signs with its own from now on, and says so:   HaveKeys(number of theirs)  ->  they sign with theirs, too
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from cluster.core.errors import CallerError, failed_precondition
from cluster.seams import Ids, Spawn
from cluster.stores.base import Store, StoreError
from cluster.token_links import accept_link_keys, confirm_link_keys, load_links, offer_link_keys
from cluster.tokens import Links, LinksRefused, RegionsOf, TokenKey, Tokens
from replication.port import RegionPort

log = structlog.get_logger("replication")

KEYS, HAVE_KEYS = "Keys", "HaveKeys"
LOOK_S = 5.0
RETRY_S = 0.3

_keys = msgspec.msgpack.Decoder(list[TokenKey])


class KeyExchange:
    """One node's. on_change: tells this region's nodes to read the keys anew (`reload`)."""

    def __init__(
        self,
        port: RegionPort,
        store: Store,
        ids: Ids,
        tokens: Tokens,
        regions_of: RegionsOf,
        is_leader: Callable[[], bool],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._port, self._store, self._ids, self._tokens = port, store, ids, tokens
        self._regions_of, self._is_leader, self._on_change = regions_of, is_leader, on_change
        self._exchanged: set[str] = set()
        self._changed = asyncio.Event()
        port.answer(KEYS, self._give)
        port.answer(HAVE_KEYS, self._confirmed)

    def start(self, spawn: Spawn) -> None:
        spawn(self._look_around(), "keys of linked regions")

    def look(self) -> None:
        """The linked regions may have changed."""
        self._changed.set()

    async def reload(self) -> None:
        """Raises StoreError."""
        links = await load_links(self._store)
        self._tokens.use_links(Links(self._port.clusters.own.initial_failover_version, links, self._regions_of))

    async def _look_around(self) -> None:
        while True:
            if self._is_leader():
                self._exchanged &= set(self._port.peers())
                for peer in self._port.peers():
                    if peer not in self._exchanged:
                        await self._exchange(peer)
            is_done = self._exchanged >= set(self._port.peers())
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_S if is_done else RETRY_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _exchange(self, peer: str) -> None:
        try:
            region = self._number_of(peer)
            ours = await offer_link_keys(self._store, self._ids, peer, region)
            theirs = _keys.decode(await self._port.ask(peer, KEYS, msgspec.msgpack.encode(ours)))
            await accept_link_keys(self._store, peer, region, theirs)
            await confirm_link_keys(self._store, peer, region, ours[-1].number)
            await self._on_change()
            await self._port.ask(peer, HAVE_KEYS, msgspec.msgpack.encode(theirs[-1].number))
            self._exchanged.add(peer)
            log.info("tokens of the two regions open in both", peer=peer)
        except (CallerError, StoreError, LinksRefused, msgspec.MsgspecError) as error:
            log.debug("keys cannot be exchanged now; it is tried again", peer=peer, error=str(error))

    def _number_of(self, peer: str) -> int:
        cluster = self._port.clusters.named(peer)
        if cluster is None:
            raise failed_precondition(f"region {peer} is not linked")
        return cluster.initial_failover_version

    async def _give(self, peer: str, data: bytes) -> bytes:
        region = self._number_of(peer)
        try:
            await accept_link_keys(self._store, peer, region, _keys.decode(data))
            ours = await offer_link_keys(self._store, self._ids, peer, region)
        except LinksRefused as error:
            raise failed_precondition(str(error)) from error
        await self._on_change()
        return msgspec.msgpack.encode(ours)

    async def _confirmed(self, peer: str, data: bytes) -> bytes:
        try:
            await confirm_link_keys(self._store, peer, self._number_of(peer), msgspec.msgpack.decode(data, type=int))
        except LinksRefused as error:
            raise failed_precondition(str(error)) from error
        await self._on_change()
        return b""
