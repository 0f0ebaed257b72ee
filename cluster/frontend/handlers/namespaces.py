"""Namespaces and their search attributes: the registry does the work; here are the calls and the public server's wording."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice import v1 as operator_api
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import invalid_argument
from cluster.frontend.call import Call, Handler
from cluster.frontend.handlers.services import Services
from cluster.visibility.search_attributes import is_reserved


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
        assert call.record is not None
        return services.namespaces.describe(call.record)

    return handle


def _list(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        return services.namespaces.page(request)

    return handle


def _update(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        return await services.namespaces.update(call.record, request)

    return handle


def _deprecate(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        await services.namespaces.deprecate(call.record)
        return api.DeprecateNamespaceResponse()

    return handle


def _delete(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        assert call.record is not None
        return operator_api.DeleteNamespaceResponse(deleted_namespace=await services.namespaces.delete(call.record))

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
        for name, kind in wanted.items():
            if is_reserved(name):
                raise invalid_argument(f"Search attribute {name} is reserved by system.")
            if not kind or kind not in IndexedValueType.values():
                raise invalid_argument(f"Unknown search attribute type: {kind}.")
        _namespace_needed(call)
        assert call.record is not None
        await services.namespaces.add_search_attributes(call.record, wanted)
        return operator_api.AddSearchAttributesResponse()

    return handle


def _remove_search_attributes(services: Services) -> Handler:
    async def handle(call: Call, request: Any) -> Message | bytes:
        names = list(request.search_attributes)
        if not names:
            raise invalid_argument("SearchAttributes are not set on request.")
        _namespace_needed(call)
        assert call.record is not None
        system = services.schema_of(call.record).system_attributes()
        for name in names:
            if name in system:
                raise invalid_argument(f"Unable to remove non-custom search attributes: {name}.")
        await services.namespaces.remove_search_attributes(call.record, names)
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
