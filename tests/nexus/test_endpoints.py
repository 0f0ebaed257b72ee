"""The registry of endpoints: what the real server says, word for word; races, renames, and restarts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.client import Client

from cluster.config import DAY_NS, Limits
from cluster.core.errors import CallerError, Code, not_found
from cluster.namespaces.record import NamespaceRecord
from cluster.nexus.endpoints import KIND, EndpointRegistry
from cluster.seams import SystemClock, SystemIds
from cluster.stores.base import StoreUnknown
from cluster.stores.memory import MemoryStore
from nexus.policy import EndpointPolicy
from tests.compare.golden import load
from tests.compare.normal import normal_outcome
from tests.e2e.environment import Env
from tests.e2e.scenarios.nexus import nexus_endpoints
from tests.nexus.stage import stage

RECORD = NamespaceRecord(id="ns-id", name="ns", retention_ns=DAY_NS, created_at=0)


class OneNamespace:
    async def by_name(self, name: str) -> NamespaceRecord:
        if name != RECORD.name:
            raise not_found(f"Namespace {name} is not found.")
        return RECORD

    async def by_id(self, namespace_id: str) -> NamespaceRecord:
        return RECORD


class LosesReplies(MemoryStore):
    """The next write happens, but nobody hears of it."""

    loses_next = False

    async def metadata_put(self, kind: str, id: str, data: bytes, expected_version: int) -> int | None:
        version = await super().metadata_put(kind, id, data, expected_version)
        if self.loses_next:
            self.loses_next = False
            raise StoreUnknown("the reply was lost")
        return version


def registry(store: MemoryStore) -> EndpointRegistry:
    return EndpointRegistry(store, SystemClock(), SystemIds(), OneNamespace(), Limits())


def spec(name: str, task_queue: str = "q") -> EndpointSpec:
    made = EndpointSpec(name=name)
    made.target.worker.namespace, made.target.worker.task_queue = RECORD.name, task_queue
    return made


async def opened(store: MemoryStore | None = None) -> MemoryStore:
    store = store or MemoryStore()
    await store.open()
    return store


async def test_every_refusal_has_the_words_of_the_real_server() -> None:
    """The scenario's golden holds its messages, which the comparison of servers leaves to the reader."""
    golden = load("nexus_endpoints")
    assert golden is not None
    async with stage() as s:
        env = Env(await Client.connect(f"127.0.0.1:{s.node.port}"))
        await nexus_endpoints(env)
        ours: Any = json.loads(json.dumps(normal_outcome(env.token, [], env.observed)))
    said = {name: value["message"] for name, value in ours["observed"].items() if isinstance(value, dict) and "error" in value}
    theirs = {name: golden["observed"][name]["message"] for name in said}
    assert said == theirs
    assert len(said) > 20


async def test_of_two_creations_of_one_name_one_wins() -> None:
    store = await opened()
    registries = [registry(store) for _ in range(5)]
    outcomes = await asyncio.gather(*(one.create(spec("name-1")) for one in registries), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, CallerError)]
    assert len(refused) == 4 and {one.code for one in refused} == {Code.ALREADY_EXISTS}


async def test_of_two_updates_of_one_version_one_wins() -> None:
    store = await opened()
    first = await registry(store).create(spec("name-1"))
    outcomes = await asyncio.gather(
        *(registry(store).update(first.id, 1, spec("name-1", f"q-{number}")) for number in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(one, BaseException) for one in outcomes) == 1
    fresh = registry(store)
    assert (await fresh.get(first.id)).version == 2


async def test_a_rename_frees_the_old_name_and_keeps_the_id() -> None:
    store = await opened()
    one = registry(store)
    made = await one.create(spec("before"))
    renamed = await one.update(made.id, 1, spec("after"))
    assert (renamed.id, renamed.spec.name, renamed.version) == (made.id, "after", 2)
    assert one.by_name("before") is None and one.find(made.id, "before") is not None
    again = await one.create(spec("before"))
    assert again.id != made.id
    with pytest.raises(CallerError) as caught:
        await one.update(again.id, 1, spec("after"))
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_a_crash_in_the_middle_of_a_rename_leaves_one_endpoint_and_a_free_name() -> None:
    store = await opened()
    one = registry(store)
    made = await one.create(spec("before"))
    row = await store.metadata_get(KIND, "before")
    assert row is not None
    await one.update(made.id, 1, spec("after"))
    assert await store.metadata_put(KIND, "before", row.data, 0) is not None  # as if it had never been removed
    fresh = registry(store)
    await fresh.refresh()
    found = fresh.by_id(made.id)
    assert found is not None and found.name == "after" and fresh.by_name("before") is None
    assert (await fresh.create(spec("before"))).version == 1


async def test_a_creation_whose_reply_is_lost_is_found() -> None:
    store = LosesReplies()
    await opened(store)
    one = registry(store)
    store.loses_next = True
    made = await one.create(spec("name-1"))
    assert (await registry(store).get(made.id)).spec.name == "name-1"


async def test_endpoints_are_listed_in_pages_by_id() -> None:
    store = await opened()
    one = registry(store)
    ids = sorted([(await one.create(spec(f"name-{number}"))).id for number in range(7)])
    seen, after = [], ""
    while True:
        page, after = await one.list(3, after, "")
        seen += [endpoint.id for endpoint in page]
        if not after:
            break
    assert seen == ids


async def test_a_policy_says_which_namespaces_may_call() -> None:
    """N10's allow list, on the path of a workflow's command."""
    store = await opened()
    one = registry(store)
    made = await one.create(spec("name-1"))
    changed = await one.set_policy(made.id, 1, EndpointPolicy(callers=("namespace:friends",)))
    assert changed.version == 2
    fresh = registry(store)
    await fresh.refresh()
    friend, stranger = fresh.lookup("friends", "name-1"), fresh.lookup("strangers", "name-1")
    assert friend is not None and friend.is_allowed and stranger is not None and not stranger.is_allowed
