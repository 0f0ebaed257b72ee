"""Tokens of linked regions open in each other, for the namespaces that both have, and for nothing else."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.history.polls import HistoryPageToken
from cluster.matching.queries import QueryToken
from cluster.nexus.callback_token import CallbackToken
from cluster.seams import SystemIds
from cluster.stores.base import MetadataRow
from cluster.stores.memory import MemoryStore
from cluster.token_links import (
    accept_link_keys,
    confirm_link_keys,
    drop_link,
    load_links,
    offer_link_keys,
)
from cluster.tokens import (
    REGISTRY_KIND,
    KeySet,
    LinkKeys,
    Links,
    LinksRefused,
    PageToken,
    Purpose,
    TaskToken,
    TokenKey,
    TokenRefused,
    Tokens,
    load_keys,
)

NUMBERS = {"c1": 1, "c2": 2, "c3": 3}
NAMESPACES: dict[str, Collection[str]] = {"of 1 and 2": ("c1", "c2"), "of 1 and 3": ("c1", "c3"), "of all": tuple(NUMBERS)}


def task(namespace_id: str) -> TaskToken:
    return TaskToken(namespace_id, "workflow", "run", kind=1, shard=3, scheduled_event_id=5)


def keys(*secrets: str, first: int = 0) -> list[TokenKey]:
    return [TokenKey(first + at, secret.encode().ljust(32, b".")) for at, secret in enumerate(secrets)]


def tokens_of(name: str, links: list[LinkKeys] | None = None) -> Tokens:
    """All regions' own keys have the number 0."""
    if links is None:
        others = [other for other in NUMBERS if other != name]
        links = [LinkKeys(other, NUMBERS[other], keys(f"{name} to {other}"), keys(f"{other} to {name}")) for other in others]
    return Tokens(KeySet(keys(name)), Links(NUMBERS[name], links, lambda id: NAMESPACES.get(id, ())))


ONE, TWO, THREE = tokens_of("c1"), tokens_of("c2"), tokens_of("c3")
FORMS: dict[Purpose, msgspec.Struct] = {
    Purpose.TASK: task("of 1 and 2"),
    Purpose.QUERY: QueryToken("of 1 and 2", "queue", "query"),
    Purpose.PAGE: PageToken("of 1 and 2", "List", b"place"),
    Purpose.HISTORY_PAGE: HistoryPageToken("of 1 and 2", "workflow", "run", 3, 9),
    Purpose.NEXUS_TASK: QueryToken("of 1 and 2", "queue", "task"),
    Purpose.NEXUS_CALLBACK: CallbackToken("of 1 and 2", "workflow", "run", 5, "request"),
}


@pytest.mark.parametrize("purpose", Purpose)
def test_a_token_of_every_purpose_opens_at_home_and_in_the_other_region(purpose: Purpose) -> None:
    form = FORMS[purpose]
    for sealed in (ONE.seal(purpose, form), ONE.seal_payload(purpose, msgspec.msgpack.encode(form))):
        assert ONE.open(purpose, sealed, type(form)) == TWO.open(purpose, sealed, type(form)) == form
        for other in Purpose:
            if other is not purpose:
                with pytest.raises(TokenRefused):
                    TWO.open(other, sealed, type(form))


def test_a_token_of_a_local_namespace_is_what_it_was_before_regions() -> None:
    sealed = ONE.seal(Purpose.TASK, task("local"))
    assert sealed == Tokens(KeySet(keys("c1"))).seal(Purpose.TASK, task("local"))
    assert ONE.open_task(sealed) == task("local")
    with pytest.raises(TokenRefused):
        TWO.open(Purpose.TASK, sealed, TaskToken)


def test_tokens_from_before_the_link_open_after_it_and_tokens_of_the_link_after_its_end() -> None:
    before = Tokens(KeySet(keys("c1")))
    assert ONE.open_task(before.seal(Purpose.TASK, task("of all"))) == task("of all")
    assert before.open_task(ONE.seal(Purpose.TASK, task("of all"))) == task("of all")


def test_a_region_that_does_not_have_the_namespace_cannot_open_its_tokens() -> None:
    with pytest.raises(TokenRefused, match="not for this one"):
        THREE.open(Purpose.TASK, ONE.seal(Purpose.TASK, task("of 1 and 2")), TaskToken)


def test_a_region_cannot_forge_for_a_namespace_it_is_no_part_of() -> None:
    """Region 3 says to itself that it is part of everything, and signs with its own keys to region 1."""
    everywhere: dict[str, Collection[str]] = {"of 1 and 2": tuple(NUMBERS)}
    links = [LinkKeys(name, NUMBERS[name], keys(f"c3 to {name}"), []) for name in ("c1", "c2")]
    liar = Tokens(KeySet(keys("c3")), Links(3, links, lambda id: everywhere[id]))
    forged = liar.seal(Purpose.TASK, task("of 1 and 2"))
    for victim in (ONE, TWO):
        with pytest.raises(TokenRefused, match="no part of the namespace"):
            victim.open(Purpose.TASK, forged, TaskToken)


@pytest.mark.parametrize("claimed", [1, 2])
def test_a_region_cannot_sign_in_the_name_of_another(claimed: int) -> None:
    """Region 3 knows what it shares with 1 and 2, and nothing of what they share, or sign with at home."""
    others = [number for number in (1, 2) if number != claimed]
    known = [*keys("c3"), *keys("c3 to c1"), *keys("c3 to c2"), *keys("c1 to c3"), *keys("c2 to c3")]
    for own in known:
        for shared in known:
            links = [LinkKeys(f"c{number}", number, [shared], []) for number in (*others, 3)]
            sealed = Tokens(KeySet([own]), Links(claimed, links, lambda _: ("c1", "c2", "c3"))).seal(
                Purpose.TASK, task("of 1 and 2")
            )
            for victim in (ONE, TWO):
                with pytest.raises(TokenRefused):
                    victim.open(Purpose.TASK, sealed, TaskToken)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_at_home_a_token_with_any_changed_byte_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(ONE.seal(Purpose.TASK, task("of all")))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TokenRefused):
        ONE.open(Purpose.TASK, bytes(sealed), TaskToken)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_elsewhere_a_changed_token_is_refused_or_says_the_same(data: st.DataObject) -> None:
    """The MACs for home and for a third region are nothing to this one; whatever it reads of a token is signed for it."""
    sealed = bytearray(ONE.seal(Purpose.TASK, task("of all")))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    try:
        assert TWO.open(Purpose.TASK, bytes(sealed), TaskToken) == task("of all")
    except TokenRefused:
        return
    assert 6 <= at < 6 + 16 + 2 * 20  # MACs only


@given(st.binary(max_size=300).map(lambda rest: b"\2" + rest))
@settings(max_examples=300, deadline=None)
def test_bytes_that_look_like_a_linked_token_are_refused(noise: bytes) -> None:
    for tokens in (ONE, Tokens(KeySet(keys("c1")))):
        with pytest.raises(TokenRefused):
            tokens.open(Purpose.TASK, noise, TaskToken)


def test_regions_with_one_number_are_not_linked() -> None:
    with pytest.raises(LinksRefused):
        tokens_of("c1", [LinkKeys("c2", 1, keys("x"), keys("y"))])


# --- the rows -----------------------------------------------------------------------------------------------------------
async def store_of() -> MemoryStore:
    store = MemoryStore()
    await store.open()
    return store


async def opened(store: MemoryStore, name: str) -> Tokens:
    own = await load_keys(store, SystemIds())
    return Tokens(own, Links(NUMBERS[name], await load_links(store), lambda id: NAMESPACES.get(id, ())))


async def link(one: MemoryStore, two: MemoryStore) -> None:
    await accept_link_keys(two, "c1", 1, await offer_link_keys(one, SystemIds(), "c2", 2))
    await accept_link_keys(one, "c2", 2, await offer_link_keys(two, SystemIds(), "c1", 1))


async def test_linked_regions_open_each_others_tokens_also_while_keys_are_renewed() -> None:
    one, two, ids = await store_of(), await store_of(), SystemIds()
    await link(one, two)
    sealed = [(await opened(one, "c1")).seal(Purpose.TASK, task("of all"))]
    for round_ in (1, 2):
        offered = await offer_link_keys(one, ids, "c2", 2, renews=True)
        sealed.append((await opened(one, "c1")).seal(Purpose.TASK, task("of all")))  # not yet with the new key
        await accept_link_keys(two, "c1", 1, offered)
        assert (await opened(two, "c2")).open_task(sealed[-1]) == task("of all")
        await confirm_link_keys(one, "c2", 2, offered[-1].number)
        sealed.append((await opened(one, "c1")).seal(Purpose.TASK, task("of all")))
        assert (await opened(two, "c2")).open_task(sealed[-1]) == task("of all")
        assert (await opened(two, "c2")).open_task(sealed[2 * round_ - 1]) == task("of all")
    with pytest.raises(TokenRefused):  # two renewals later
        (await opened(two, "c2")).open(Purpose.TASK, sealed[0], TaskToken)
    back = (await opened(two, "c2")).seal(Purpose.TASK, task("of all"))
    assert (await opened(one, "c1")).open_task(back) == task("of all")


async def test_offering_again_gives_the_same_keys() -> None:
    store = await store_of()
    first = await offer_link_keys(store, SystemIds(), "c2", 2)
    assert await offer_link_keys(store, SystemIds(), "c2", 2) == first


async def test_a_region_named_like_our_own_row_does_not_write_over_our_keys() -> None:
    store = await store_of()
    own = await load_keys(store, SystemIds())
    await accept_link_keys(store, "frontend", 2, keys("theirs"))
    assert await load_keys(store, SystemIds()) == own


async def test_a_dropped_link_opens_nothing_more() -> None:
    one, two = await store_of(), await store_of()
    await link(one, two)
    sealed = (await opened(one, "c1")).seal(Purpose.TASK, task("of all"))
    await drop_link(two, "c1")
    assert await load_links(two) == []
    with pytest.raises(TokenRefused):
        (await opened(two, "c2")).open(Purpose.TASK, sealed, TaskToken)


@pytest.mark.parametrize(
    "offered", [[], keys("a", "b", "c"), [TokenKey(0, b"short")], [*keys("a"), *keys("b")], keys("a", first=70_000)]
)
async def test_keys_that_are_none_are_not_accepted(offered: list[TokenKey]) -> None:
    store = await store_of()
    with pytest.raises(LinksRefused):
        await accept_link_keys(store, "c2", 2, offered)
    assert await load_links(store) == []


async def test_two_regions_with_one_number_are_not_both_accepted() -> None:
    store = await store_of()
    await accept_link_keys(store, "c2", 2, keys("a"))
    with pytest.raises(LinksRefused):
        await accept_link_keys(store, "c3", 2, keys("b"))


async def test_a_key_nobody_offered_is_not_confirmed() -> None:
    store = await store_of()
    await offer_link_keys(store, SystemIds(), "c2", 2)
    with pytest.raises(LinksRefused):
        await confirm_link_keys(store, "c2", 2, 7)


async def test_two_nodes_that_offer_at_once_offer_the_same_keys() -> None:
    class Overtaken(MemoryStore):
        """Another node's write comes before the first one of this."""

        is_overtaken = False

        async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
            if not self.is_overtaken:
                self.is_overtaken = True
                theirs.extend(await offer_link_keys(self, SystemIds(), "c2", 2))
            return await super().metadata_put(kind, id, data, expected_version)

    theirs: list[TokenKey] = []
    store = Overtaken()
    await store.open()
    assert await offer_link_keys(store, SystemIds(), "c2", 2) == theirs
    rows: list[MetadataRow] = await store.metadata_list(REGISTRY_KIND)
    assert len(rows) == 1
