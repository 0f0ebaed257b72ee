"""Namespaces and their search attributes: the registry does the work; here are the calls and the public server's wording."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice import v1 as operator_api
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import failed_precondition, invalid_argument
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.namespaces.record import Capabilities, describe_response, update_response

# What is built in every namespace; SDKs change their ways by it.
CAPABILITIES = Capabilities(worker_heartbeats=True, worker_poll_complete_on_shutdown=True)


def namespace_handlers(services: Services) -> dict[str, Handler]:
    return {
        "RegisterNamespace": _register(services),
        "DescribeNamespace": _describe(services),
        "ListNamespaces": _list(services),
        "UpdateNamespace": _update(services),
        "DeprecateNamespace": _deprecate(services),
        "DeleteNamespace": _delete(services),
        "AddSearchAttributes": _add_search_attributes(services),
        "RemoveSearchAttributes": _remove_search_attributes(services),
        "ListSearchAttributes": _list_search_attributes(services),
    }


def _register(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        await services.namespaces.register(request)
        return api.RegisterNamespaceResponse()

    return handle


def _describe(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        record = await services.namespaces.describe(request.namespace, request.id)
        return describe_response(record, CAPABILITIES, services.limits)

    return handle


def _list(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        place = services.tokens.open_page("", "ListNamespaces", request.next_page_token)
        records, following = await services.namespaces.list(request.page_size, place, request.namespace_filter.include_deleted)
        return api.ListNamespacesResponse(
            namespaces=[describe_response(record, CAPABILITIES, services.limits) for record in records],
            next_page_token=services.tokens.seal_page("", "ListNamespaces", following),
        )

    return handle


def _update(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        return update_response(await services.namespaces.update(request), CAPABILITIES, services.limits)

    return handle


def _deprecate(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        await services.namespaces.deprecate(request.namespace)
        return api.DeprecateNamespaceResponse()

    return handle


def _delete(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        if call.record is not None and (endpoint := await services.endpoints.leading_to(call.record.id)):
            raise failed_precondition(f"cannot delete a namespace that is a target of a Nexus endpoint {endpoint}")
        renamed = await services.namespaces.delete(request.namespace, request.namespace_id)
        return operator_api.DeleteNamespaceResponse(deleted_namespace=renamed.name)

    return handle


# --- search attributes ------------------------------------------------------------------------------------------------------
def _namespace_needed(call: Call) -> None:
    if call.record is None:
        raise invalid_argument("Namespace is not set on request.")


def _add_search_attributes(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        wanted = dict(request.search_attributes)
        if not wanted:
            raise invalid_argument("SearchAttributes are not set on request.")
        _namespace_needed(call)
        assert call.record is not None
        await services.namespaces.add_search_attributes(call.namespace, wanted)
        return operator_api.AddSearchAttributesResponse()

    return handle


def _remove_search_attributes(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        names = list(request.search_attributes)
        if not names:
            raise invalid_argument("SearchAttributes are not set on request.")
        _namespace_needed(call)
        assert call.record is not None
        await services.namespaces.remove_search_attributes(call.namespace, names)
        return operator_api.RemoveSearchAttributesResponse()

    return handle


def _list_search_attributes(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        _namespace_needed(call)
        assert call.record is not None
        schema = services.schema_of(call.record)
        kinds = IndexedValueType.ValueType
        return operator_api.ListSearchAttributesResponse(
            custom_attributes={name: kinds(int(kind)) for name, kind in schema.custom.items()},
            system_attributes={name: kinds(int(kind)) for name, kind in schema.system_attributes().items()},
        )

    return handle
