"""The namespace registry over the memory store, with and without its faults."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from temporalio.api.errordetails.v1 import (
    NamespaceAlreadyExistsFailure,
    NamespaceInvalidStateFailure,
    NamespaceNotFoundFailure,
)
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, UpdateNamespaceRequest

from cluster.config import DAY_NS, SECOND_NS
from cluster.core.errors import CallerError, Code
from cluster.namespaces.changes import CUSTOM_ATTRIBUTES_MAX
from cluster.namespaces.record import (
    DELETED,
    DEPRECATED,
    REGISTERED,
    Capabilities,
    NamespaceRecord,
    UnknownRecordVersion,
    decode_record,
    describe_response,
    encode_record,
    update_response,
)
from cluster.namespaces.registry import SYSTEM_NAMESPACE, SYSTEM_NAMESPACE_ID
from cluster.stores.memory import MemoryStore
from cluster.visibility.search_attributes import AttributeType
from tests.namespaces.registering import LIMITS, loaded, refusal, request, update


# --- register, describe, list ---------------------------------------------------------------------------------------------
async def test_a_registered_namespace_is_found_by_name_and_by_id_on_every_node() -> None:
    store = MemoryStore()
    here, there = await loaded(store), await loaded(store)
    record = await here.register(request(description="d", owner_email="o", data={"k": "v"}))
    for registry in (here, there):
        assert await registry.by_id(record.id) == record
        assert await registry.by_name("shop") == record
        assert await registry.describe("shop", "") == await registry.describe("", record.id) == record
        assert registry.cached("shop") == registry.cached_by_id(record.id) == record
    assert (record.state, record.retention_ns, record.active_cluster) == (REGISTERED, DAY_NS, "active")


async def test_a_name_is_registered_once_even_by_two_at_the_same_time() -> None:
    store = MemoryStore()
    one, other = await loaded(store), await loaded(store)
    results = await asyncio.gather(one.register(request()), other.register(request()), return_exceptions=True)
    refused = [result for result in results if isinstance(result, CallerError)]
    assert len(refused) == 1
    assert refused[0].code is Code.ALREADY_EXISTS
    assert refused[0].message == 'Namespace "shop" already exists'
    assert isinstance(refused[0].details[0], NamespaceAlreadyExistsFailure)
    assert await one.by_name("shop") == await other.by_name("shop")


async def test_an_unknown_namespace_is_not_found_with_its_typed_detail() -> None:
    registry = await loaded()
    for call in (registry.by_name("nope"), registry.by_id("nope"), registry.describe("nope", ""), registry.schema("nope")):
        refused = await refusal(call)
        assert refused.code is Code.NOT_FOUND and refused.message == "Namespace nope is not found."
        assert refused.details == (NamespaceNotFoundFailure(namespace="nope"),)
    assert (await refusal(registry.describe("", ""))).code is Code.INVALID_ARGUMENT
    assert (await refusal(registry.describe("a", "b"))).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (request(""), "Namespace not set on request."),
        (request("x" * (LIMITS.id_bytes_max + 1)), "Namespace length exceeds limit."),
        (request("a\nb"), "control characters"),
        (RegisterNamespaceRequest(namespace="x"), "A valid retention period is not set on request."),
        (request(retention_ns=LIMITS.retention_min_ns - 1), "A valid retention period is not set on request."),
        (request(retention_ns=LIMITS.retention_max_ns + 1), "A valid retention period is not set on request."),
        (request(retention_ns=-DAY_NS), "A valid retention period is not set on request."),
        (request(is_global_namespace=True), "Cannot register global namespace when not enabled"),
        (request(active_cluster_name="elsewhere"), "Invalid cluster name: elsewhere"),
        (request(history_archival_state=2), "not configured for archival"),
        (request(description="x" * 70_000), "exceed"),
    ],
)
async def test_a_bad_registration_is_refused_and_leaves_nothing(request_: RegisterNamespaceRequest, told: str) -> None:
    registry = await loaded()
    refused = await refusal(registry.register(request_))
    assert refused.code is Code.INVALID_ARGUMENT and told in refused.message
    assert [record.name for record in (await registry.list(10, b""))[0]] == [SYSTEM_NAMESPACE]


async def test_names_and_retentions_at_their_limits_are_taken() -> None:
    registry = await loaded()
    await registry.register(request("x" * LIMITS.id_bytes_max, LIMITS.retention_min_ns))
    await registry.register(request("x" * (LIMITS.id_bytes_max - 1), LIMITS.retention_max_ns))
    await registry.register(request("least", LIMITS.retention_min_ns + 1))


async def test_list_pages_by_name_and_hides_the_deleted() -> None:
    registry = await loaded()
    for name in ("b", "a", "c"):
        await registry.register(request(name))
    await registry.delete("b")
    names, token = [], b""
    while True:
        page, token = await registry.list(1, token)
        names += [record.name for record in page]
        if not token:
            break
    assert names == ["a", "c", SYSTEM_NAMESPACE]
    assert len((await registry.list(0, b"", include_deleted=True))[0]) == 4
    for bad in (b"x", msgspec.msgpack.encode(("other", "a"))):
        assert (await refusal(registry.list(1, bad))).message == "Invalid NextPageToken."


async def test_the_system_namespace_is_there_from_the_start_and_cannot_be_changed() -> None:
    registry = await loaded()
    assert (await registry.by_id(SYSTEM_NAMESPACE_ID)).name == SYSTEM_NAMESPACE
    for call in (
        registry.delete(SYSTEM_NAMESPACE),
        registry.delete("", SYSTEM_NAMESPACE_ID),
        registry.deprecate(SYSTEM_NAMESPACE),
        registry.update(UpdateNamespaceRequest(namespace=SYSTEM_NAMESPACE)),
    ):
        assert (await refusal(call)).code is Code.FAILED_PRECONDITION


# --- update -----------------------------------------------------------------------------------------------------------------
async def test_an_update_changes_what_it_names_and_merges_data() -> None:
    registry = await loaded()
    await registry.register(request(description="old", owner_email="o", data={"a": "1", "b": "2"}))
    wanted = UpdateNamespaceRequest(namespace="shop")
    wanted.update_info.description = "new"
    wanted.update_info.data["b"] = "3"
    wanted.config.workflow_execution_retention_ttl.seconds = 7_200
    record = await registry.update(wanted)
    assert (record.description, record.owner_email, record.data) == ("new", "o", {"a": "1", "b": "3"})
    assert record.retention_ns == 7_200 * SECOND_NS
    assert await registry.by_name("shop") == record


async def test_concurrent_updates_lose_none_of_them() -> None:
    store = MemoryStore()
    nodes = [await loaded(store) for _ in range(4)]
    await nodes[0].register(request())

    async def add(number: int) -> None:
        wanted = UpdateNamespaceRequest(namespace="shop")
        wanted.update_info.data[str(number)] = "x"
        await nodes[number % 4].update(wanted)

    await asyncio.gather(*(add(number) for number in range(20)))
    assert sorted((await nodes[0].describe("shop", "")).data) == sorted(map(str, range(20)))


async def test_states_follow_the_table() -> None:
    registry = await loaded()
    await registry.register(request())
    assert (await registry.deprecate("shop")).state == (await registry.deprecate("shop")).state == DEPRECATED
    back = UpdateNamespaceRequest(namespace="shop")
    back.update_info.state = REGISTERED
    assert (await refusal(registry.update(back))).message == "Invalid namespace state update."
    gone = UpdateNamespaceRequest(namespace="shop")
    gone.update_info.state = DELETED
    assert (await registry.update(gone)).state == DELETED
    refused = await refusal(registry.deprecate("shop"))
    assert refused.code is Code.FAILED_PRECONDITION and isinstance(refused.details[0], NamespaceInvalidStateFailure)


@pytest.mark.parametrize(
    "request_",
    [
        UpdateNamespaceRequest(namespace="shop", promote_namespace=True),
        UpdateNamespaceRequest(namespace="shop", delete_bad_binary="x"),
        update(lambda one: one.config.custom_search_attribute_aliases.update({"Keyword01": "a"})),
        update(lambda one: one.config.workflow_execution_retention_ttl.SetInParent()),
        update(lambda one: one.replication_config.clusters.add(cluster_name="elsewhere")),
        update(lambda one: setattr(one.replication_config, "state", 2)),
        update(lambda one: setattr(one.config, "visibility_archival_state", 2)),
        UpdateNamespaceRequest(),
    ],
)
async def test_an_update_that_cannot_be_done_is_refused_and_changes_nothing(request_: UpdateNamespaceRequest) -> None:
    registry = await loaded()
    record = await registry.register(request())
    assert (await refusal(registry.update(request_))).code is Code.INVALID_ARGUMENT
    assert await registry.describe("shop", "") == record


# --- search attributes --------------------------------------------------------------------------------------------------------
async def test_search_attributes_are_added_seen_and_removed() -> None:
    store = MemoryStore()
    registry, other = await loaded(store), await loaded(store)
    record = await registry.register(request())
    await registry.add_search_attributes("shop", {"CustomerId": AttributeType.KEYWORD, "Amount": AttributeType.INT})
    await registry.add_search_attributes("shop", {"Amount": AttributeType.INT})
    assert (await registry.schema(record.id)).custom == {"CustomerId": AttributeType.KEYWORD, "Amount": AttributeType.INT}
    assert (await other.schema(record.id)).type_of("Amount") is AttributeType.INT
    await registry.remove_search_attributes("shop", ["CustomerId", "Unknown"])
    schema = registry.cached_schema(record.id)
    assert schema is not None and schema.custom == {"Amount": AttributeType.INT}


@pytest.mark.parametrize(
    ("added", "code", "told"),
    [
        ({}, Code.INVALID_ARGUMENT, "SearchAttributes are not set on request."),
        ({"WorkflowId": 2}, Code.INVALID_ARGUMENT, "Search attribute WorkflowId is reserved by system."),
        ({"TemporalX": 2}, Code.INVALID_ARGUMENT, "Search attribute TemporalX is reserved by system."),
        ({"X": 0}, Code.INVALID_ARGUMENT, "Unknown search attribute type: Unspecified."),
        ({"X": 99}, Code.INVALID_ARGUMENT, "Unknown search attribute type: 99."),
        ({"a`b": 2}, Code.INVALID_ARGUMENT, "name"),
        ({"": 2}, Code.INVALID_ARGUMENT, "name"),
        ({"Amount": 2}, Code.ALREADY_EXISTS, "Search attribute Amount already exists with type Int."),
        ({f"X{n}": 2 for n in range(CUSTOM_ATTRIBUTES_MAX)}, Code.INVALID_ARGUMENT, "cannot have more than 100"),
    ],
)
async def test_a_search_attribute_that_cannot_be_added_is_refused(added: dict[str, int], code: Code, told: str) -> None:
    registry = await loaded()
    record = await registry.register(request())
    await registry.add_search_attributes("shop", {"Amount": AttributeType.INT})
    refused = await refusal(registry.add_search_attributes("shop", added))
    assert refused.code is code and told in refused.message
    assert list((await registry.schema(record.id)).custom) == ["Amount"]


async def test_a_hundred_search_attributes_fit() -> None:
    registry = await loaded()
    await registry.register(request())
    for count in (CUSTOM_ATTRIBUTES_MAX - 1, CUSTOM_ATTRIBUTES_MAX):
        record = await registry.add_search_attributes("shop", {f"X{n}": 2 for n in range(count)})
        assert len(record.custom_search_attributes) == count


async def test_a_system_attribute_cannot_be_removed() -> None:
    registry = await loaded()
    await registry.register(request())
    refused = await refusal(registry.remove_search_attributes("shop", ["BuildIds"]))
    assert refused.message == "Unable to remove non-custom search attributes: BuildIds."


# --- delete -------------------------------------------------------------------------------------------------------------------
async def test_a_deleted_namespace_is_renamed_and_its_name_is_free_again() -> None:
    told: list[NamespaceRecord] = []

    async def on_delete(record: NamespaceRecord) -> None:
        told.append(record)

    registry = await loaded(on_delete=on_delete)
    record = await registry.register(request())
    deleted = await registry.delete("shop")
    assert deleted.name == f"shop-deleted-{record.id[:5]}" and deleted.state == DELETED and told == [deleted]
    assert (await refusal(registry.by_name("shop"))).code is Code.NOT_FOUND
    assert (await registry.by_id(record.id)).name == deleted.name
    again = await registry.register(request())
    assert again.id != record.id
    assert await registry.delete("", record.id) == deleted
    await registry.forget(record.id)
    assert (await refusal(registry.by_id(record.id))).code is Code.NOT_FOUND
    assert (await refusal(registry.forget(again.id))).code is Code.FAILED_PRECONDITION


async def test_deleting_asks_for_exactly_one_of_name_and_id_and_for_one_that_exists() -> None:
    registry = await loaded()
    for call in (registry.delete(""), registry.delete("a", "b")):
        assert (await refusal(call)).code is Code.INVALID_ARGUMENT
    for call in (registry.delete("nope"), registry.delete("", "nope")):
        refused = await refusal(call)
        assert refused.code is Code.NOT_FOUND and isinstance(refused.details[0], NamespaceNotFoundFailure)


async def test_a_taken_new_name_gets_a_longer_suffix() -> None:
    registry = await loaded()
    record = await registry.register(request())
    await registry.register(request(f"shop-deleted-{record.id[:5]}"))
    assert (await registry.delete("shop")).name == f"shop-deleted-{record.id[:6]}"


async def test_another_node_sees_a_deletion() -> None:
    store = MemoryStore()
    registry, other = await loaded(store), await loaded(store)
    record = await registry.register(request())
    await other.by_name("shop")
    deleted = await registry.delete("shop")
    assert (await refusal(other.describe("shop", ""))).code is Code.NOT_FOUND
    assert await other.describe("", record.id) == deleted
    assert other.cached("shop") is None and other.cached_by_id(record.id) == deleted


# --- messages -----------------------------------------------------------------------------------------------------------------
async def test_a_description_announces_only_what_is_built() -> None:
    registry = await loaded()
    record = await registry.register(request(description="d", owner_email="o", data={"k": "v"}))
    described = describe_response(record, Capabilities(), LIMITS)
    info = described.namespace_info
    assert (info.name, info.id, info.description, info.owner_email, dict(info.data)) == ("shop", record.id, "d", "o", {"k": "v"})
    announced = {field.name for field, value in info.capabilities.ListFields() if value}
    assert announced == {"eager_workflow_start", "sync_update", "async_update"}
    assert not info.supports_schedules
    assert described.config.workflow_execution_retention_ttl.seconds == 86_400
    assert described.replication_config.active_cluster_name == "active"
    assert info.limits.blob_size_limit_error == LIMITS.payload_bytes_max
    assert update_response(record, Capabilities(workflow_pause=True), LIMITS).namespace_info.capabilities.workflow_pause


async def test_a_record_of_a_newer_server_is_refused_and_of_an_older_one_completed() -> None:
    record = NamespaceRecord(id="i", name="n", retention_ns=1, created_at=1)
    assert decode_record(encode_record(record)) == record
    with pytest.raises(UnknownRecordVersion):
        decode_record(encode_record(msgspec.structs.replace(record, record_version=99)))
    older = msgspec.msgpack.encode({"id": "i", "name": "n", "retention_ns": 1, "created_at": 1})
    assert decode_record(older) == record
