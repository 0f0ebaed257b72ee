"""The table of all methods of the public services, read from their descriptors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from cluster.frontend.permissions import PERMISSIONS, Permission

WORKFLOW_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
OPERATOR_SERVICE = "temporal.api.operatorservice.v1.OperatorService"


class Method(msgspec.Struct, frozen=True):
    """One call.

    path: "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution". name: its last part.
    verb: the name in snake case, which history and matching use.
    """

    path: str
    service: str
    name: str
    verb: str
    permission: Permission
    request: type[Any]
    response: type[Any]


def verb_of(name: str) -> str:
    """RespondActivityTaskCompletedById -> respond_activity_task_completed_by_id."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _read(service: ServiceDescriptor) -> dict[str, Method]:
    methods = {}
    for descriptor in service.methods:
        assert not descriptor.client_streaming and not descriptor.server_streaming, f"{descriptor.full_name} streams"
        name = descriptor.name
        methods[name] = Method(
            path=f"/{service.full_name}/{name}",
            service=service.full_name,
            name=name,
            verb=verb_of(name),
            permission=PERMISSIONS[name],
            request=GetMessageClass(descriptor.input_type),
            response=GetMessageClass(descriptor.output_type),
        )
    return methods


def _all() -> dict[str, Method]:
    workflow = _read(workflow_service.DESCRIPTOR.services_by_name["WorkflowService"])
    operator = _read(operator_service.DESCRIPTOR.services_by_name["OperatorService"])
    assert not workflow.keys() & operator.keys(), "method names are the key everywhere: they must differ between services"
    return {**workflow, **operator}


METHODS: Mapping[str, Method] = _all()

