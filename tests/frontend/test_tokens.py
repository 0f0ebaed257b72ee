"""A token is worth something only where, for what, and by whom it was made."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import CallerError, Code
from cluster.matching.queries import QueryToken
from cluster.seams import SystemIds
from cluster.stores.memory import MemoryStore
from cluster.tokens import (
    KeySet,
    Purpose,
    TaskToken,
    TokenKey,
    TokenRefused,
    Tokens,
    load_keys,
    rotate_keys,
)

KEYS = KeySet([TokenKey(0, b"a" * 32)])
TOKEN = TaskToken("namespace", "workflow", "run", kind=1, shard=3, scheduled_event_id=5, attempt=2)


def test_a_sealed_token_opens_unchanged() -> None:
    tokens = Tokens(KEYS)
    assert tokens.open_task(tokens.seal(Purpose.TASK, TOKEN)) == TOKEN


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_token_with_any_changed_byte_is_refused(data: st.DataObject) -> None:
    tokens = Tokens(KEYS)
    sealed = bytearray(tokens.seal(Purpose.TASK, TOKEN))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CallerError) as refusal:
        tokens.open_task(bytes(sealed))
    assert (refusal.value.code, refusal.value.message) == (Code.INVALID_ARGUMENT, "Error deserializing task token.")


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_bytes_that_nobody_signed_are_refused(noise: bytes) -> None:
    with pytest.raises(CallerError):
        Tokens(KEYS).open_task(noise)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.TASK])
def test_a_token_of_another_purpose_is_refused(purpose: Purpose) -> None:
    tokens = Tokens(KEYS)
    with pytest.raises(TokenRefused):
        tokens.open(Purpose.TASK, tokens.seal(purpose, TOKEN), TaskToken)


def test_a_token_signed_with_an_unknown_key_is_refused() -> None:
    foreign = Tokens(KeySet([TokenKey(0, b"b" * 32)])).seal(Purpose.TASK, TOKEN)
    with pytest.raises(CallerError):
        Tokens(KEYS).open_task(foreign)


def test_a_query_token_is_what_matching_named() -> None:
    tokens, query = Tokens(KEYS), QueryToken("namespace", "queue", "query")
    assert tokens.open_query(tokens.seal_payload(Purpose.QUERY, query.encode())) == query


def test_a_page_token_works_only_for_its_namespace_and_its_call() -> None:
    tokens = Tokens(KEYS)
    sealed = tokens.seal_page("namespace", "List", b"place")
    assert tokens.open_page("namespace", "List", sealed) == b"place"
    for namespace, method in (("other", "List"), ("namespace", "Scan")):
        with pytest.raises(CallerError, match="NextPageToken"):
            tokens.open_page(namespace, method, sealed)


def test_the_last_page_has_an_empty_token() -> None:
    assert Tokens(KEYS).seal_page("namespace", "List", b"") == b""
    assert Tokens(KEYS).open_page("namespace", "List", b"") == b""


async def test_all_nodes_get_the_keys_of_the_first() -> None:
    store = MemoryStore()
    await store.open()
    first, second = await load_keys(store, SystemIds()), await load_keys(store, SystemIds())
    assert first == second


async def test_after_a_rotation_old_tokens_still_open_and_after_two_they_do_not() -> None:
    store, ids = MemoryStore(), SystemIds()
    await store.open()
    before = Tokens(await load_keys(store, ids)).seal(Purpose.TASK, TOKEN)
    once = Tokens(await rotate_keys(store, ids))
    assert once.open_task(before) == TOKEN
    assert once.seal(Purpose.TASK, TOKEN) != before
    twice = Tokens(await rotate_keys(store, ids))
    with pytest.raises(CallerError):
        twice.open_task(before)


def test_a_signed_payload_of_another_form_is_refused() -> None:
    tokens = Tokens(KEYS)
    with pytest.raises(CallerError):
        tokens.open_task(tokens.seal_payload(Purpose.TASK, msgspec.msgpack.encode({"namespace_id": "n"})))
