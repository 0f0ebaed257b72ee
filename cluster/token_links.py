"""The keys that two linked regions share so that tokens of one open in the other: rows `token-keys/cluster/<name>`, one per link.

    offer     A makes a key for B (or takes what it has) and gives it to B over the link
    accept    B keeps it: tokens that A signs with it open in B
    confirm   A signs with it from now on, for B alone; before, B might not know it yet

Both do it, each with keys of its own, when they are linked and whenever one renews. A key of a link opens tokens of one region in
one other, so no region learns what another signs with for itself or for a third one (tokens.py says what that is worth).
After each change, every node reads the rows anew and calls `Tokens.use_links`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.seams import Ids
from cluster.stores.base import MetadataRow
from cluster.tokens import (
    LINKS_COUNT_MAX,
    NUMBERS_COUNT,
    REGIONS_MAX,
    REGISTRY_KIND,
    SECRET_BYTES,
    LinkKeys,
    LinksRefused,
    Registry,
    TokenKey,
)

# Not the bare name: this region's own keys are a row beside these, and a cluster may have any name.
_ID_PREFIX = "cluster/"
_KEYS_COUNT_MAX = 2


async def load_links(store: Registry) -> list[LinkKeys]:
    return [_decoded(row) for row in await store.metadata_list(REGISTRY_KIND) if row.id.startswith(_ID_PREFIX)]


async def offer_link_keys(store: Registry, ids: Ids, cluster: str, region: int, renews: bool = False) -> list[TokenKey]:
    """The keys to give to the other region; made the first time, and one more if renews. They sign only after `confirm`, but for
    the very first, which signs at once: until it is accepted there, tokens open at home only, as without it."""

    def offered(link: LinkKeys) -> LinkKeys:
        if link.sealing and not renews:
            return link
        number = (max(key.number for key in link.sealing) + 1) % NUMBERS_COUNT if link.sealing else 0
        return msgspec.structs.replace(link, sealing=[*link.sealing[:1], TokenKey(number, ids.token_bytes(SECRET_BYTES))])

    return (await _change(store, cluster, region, offered)).sealing


async def confirm_link_keys(store: Registry, cluster: str, region: int, number: int) -> None:
    """The other region has stored the key with that number. Raises LinksRefused if it was never offered."""

    def confirmed(link: LinkKeys) -> LinkKeys:
        newest = [key for key in link.sealing if key.number == number]
        if not newest:
            raise LinksRefused(f"no key with number {number} was offered to {cluster}")
        return msgspec.structs.replace(link, sealing=[*newest, *(key for key in link.sealing if key.number != number)])

    await _change(store, cluster, region, confirmed)


async def accept_link_keys(store: Registry, cluster: str, region: int, keys: list[TokenKey]) -> None:
    """What the other region offered, instead of what it offered before. Raises LinksRefused."""
    numbers = {key.number for key in keys}
    is_sound = all(0 <= key.number < NUMBERS_COUNT and len(key.secret) == SECRET_BYTES for key in keys)
    if not 1 <= len(keys) <= _KEYS_COUNT_MAX or len(numbers) < len(keys) or not is_sound:
        raise LinksRefused(f"{cluster} offered keys that are none")
    await _change(store, cluster, region, lambda link: msgspec.structs.replace(link, opening=keys))


async def drop_link(store: Registry, cluster: str) -> None:
    """Tokens of that region open here no more."""
    id = _ID_PREFIX + cluster
    while (row := await store.metadata_get(REGISTRY_KIND, id)) is not None:
        if await store.metadata_delete(REGISTRY_KIND, id, row.version):
            return


async def _change(store: Registry, cluster: str, region: int, change: Callable[[LinkKeys], LinkKeys]) -> LinkKeys:
    """Read, change, compare and swap; again when another node was first."""
    if not 0 < region <= REGIONS_MAX:
        raise LinksRefused(f"{region} is not a region's number")
    while True:
        links = {link.cluster: link for link in await load_links(store)}
        others = [link for name, link in links.items() if name != cluster]
        if any(link.region == region for link in others) or len(others) + 2 > LINKS_COUNT_MAX:
            raise LinksRefused(f"the number {region} of {cluster} is that of another region, or there are too many of them")
        row = await store.metadata_get(REGISTRY_KIND, _ID_PREFIX + cluster)
        before = LinkKeys(cluster, region) if row is None else _decoded(row)
        if before.region != region:
            before = LinkKeys(cluster, region)  # another cluster under an old name: nothing of the old one is good for it
        changed = change(before)
        data, version = msgspec.msgpack.encode(changed), 0 if row is None else row.version
        if (row is not None and row.data == data) or await store.metadata_put(REGISTRY_KIND, _ID_PREFIX + cluster, data, version):
            return changed


def _decoded(row: MetadataRow) -> LinkKeys:
    return msgspec.msgpack.decode(row.data, type=LinkKeys)
