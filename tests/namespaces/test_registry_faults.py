"""The registry over a store that fails: every step can be repeated, and nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest

from cluster.core.errors import CallerError, Code
from cluster.namespaces.record import DELETED, decode_record, encode_record
from cluster.namespaces.registry import KIND, SYSTEM_NAMESPACE, NamespaceRegistry
from cluster.stores.faulty import Fault, FaultKind, FaultyStore
from cluster.stores.memory import MemoryStore
from cluster.visibility.search_attributes import AttributeType
from tests.namespaces.registering import loaded, refusal, request, update


def _describing(text: str) -> UpdateNamespaceRequest:
    return update(lambda one: setattr(one.update_info, "description", text))


_STORY: list[Callable[[NamespaceRegistry], Coroutine[Any, Any, Any]]] = [
    lambda registry: registry.register(request()),
    lambda registry: registry.add_search_attributes("shop", {"Amount": AttributeType.INT}),
    lambda registry: registry.update(_describing("new")),
    lambda registry: registry.delete("shop"),
]
# What tells a client that repeats a step that the first try was done after all: registering and deleting by name.
_DONE_BEFORE = {0: "already exists", 3: "is not found"}


async def _told(faulty: FaultyStore) -> list[str]:
    """Plays the story. After a failure a new node loads, and the client repeats the step that failed."""
    registry, step, told = None, 0, list[str]()
    while step < len(_STORY):
        try:
            registry = registry or await loaded(faulty)
            await _STORY[step](registry)
        except CallerError as failure:
            told.append(failure.message)
            assert len(told) <= 2
            if failure.code is Code.UNAVAILABLE:
                registry = None
                continue
            assert len(told) == 2 and _DONE_BEFORE[step] in failure.message
        step += 1
    return told


@pytest.mark.parametrize("kind", [FaultKind.ERROR_BEFORE, FaultKind.ERROR_AFTER, FaultKind.UNKNOWN_NOT_EXECUTED])
async def test_a_store_fault_at_any_call_is_retryable_and_loses_nothing(kind: FaultKind) -> None:
    injected_count = 0
    for at in range(40):
        inner = MemoryStore()
        faulty = FaultyStore(inner, _fault_at(at, kind))
        told = await _told(faulty)
        assert len(faulty.injected) >= min(len(told), 1)
        injected_count += len(faulty.injected)
        registry = await loaded(inner)
        rows = [decode_record(row.data) for row in await inner.metadata_list(KIND) if row.id != SYSTEM_NAMESPACE]
        assert [(row.state, row.description, row.renamed_to) for row in rows] == [(DELETED, "new", "")], (at, told)
        assert (await registry.by_id(rows[0].id)).custom_search_attributes == {"Amount": AttributeType.INT}
    assert injected_count > 3


def _fault_at(at: int, kind: FaultKind) -> Callable[[int, str], Fault | None]:
    def plan(index: int, method: str) -> Fault | None:
        is_write = method in ("metadata_put", "metadata_delete")
        return Fault(kind) if index == at and (is_write or kind is FaultKind.ERROR_BEFORE) else None

    return plan


async def test_a_rename_cut_in_two_by_a_crash_is_finished_at_the_next_start() -> None:
    for step in ("marked", "copied"):
        store = MemoryStore()
        record = await (await loaded(store)).register(request())
        marked = msgspec.structs.replace(record, state=DELETED, renamed_to=f"shop-deleted-{record.id[:5]}")
        await store.metadata_put(KIND, "shop", encode_record(marked), 1)
        if step == "copied":
            copied = msgspec.structs.replace(marked, name=marked.renamed_to, renamed_to="")
            await store.metadata_put(KIND, copied.name, encode_record(copied), 0)
        registry = await loaded(store)
        assert (await registry.by_id(record.id)).name == marked.renamed_to
        assert (await refusal(registry.by_name("shop"))).code is Code.NOT_FOUND
        assert sorted(row.id for row in await store.metadata_list(KIND)) == [marked.renamed_to, SYSTEM_NAMESPACE]
