"""No request reaches another namespace by any of its fields."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from temporalio.api.command.v1 import (
    Command,
    RequestCancelExternalWorkflowExecutionCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes,
)
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.api.workflowservice import v1 as w

from cluster.core.errors import CallerError, Code
from cluster.failures import permission_denied
from cluster.frontend.call import Call
from cluster.frontend.message_walk import fields_within
from cluster.frontend.methods import METHODS
from cluster.frontend.namespace_walk import (
    RULES,
    NamespaceFieldWithoutRule,
    can_name_a_namespace,
    namespace_walk,
    rule_of,
)
from cluster.frontend.permissions import Permission


class Asked:
    """Authorises all but what is forbidden, and remembers what it was asked."""

    def __init__(self, forbidden: str = "") -> None:
        self.asked: list[tuple[str, Permission]] = []
        self.forbidden = forbidden

    def __call__(self, call: Call, namespace: str, permission: Permission) -> None:
        self.asked.append((namespace, permission))
        if namespace == self.forbidden:
            raise permission_denied("Request unauthorized.")


async def walk(name: str, request: Message, asked: Asked) -> bool:
    """Whether the handler was reached."""
    reached = False

    async def handler(call: Call, request: Message) -> Message:
        nonlocal reached
        reached = True
        return request

    call = Call(METHODS[name].path, {}, None, "")
    call.namespace = "mine"
    await namespace_walk(asked)(METHODS[name], handler)(call, request)
    return reached


def test_every_field_that_can_name_a_namespace_has_a_rule() -> None:
    for method in METHODS.values():
        for field in fields_within(method.request.DESCRIPTOR):
            if can_name_a_namespace(field):
                rule_of(field)


def test_every_rule_is_about_a_field_that_exists() -> None:
    known = {
        (field.containing_type.full_name, field.name)
        for method in METHODS.values()
        for field in fields_within(method.request.DESCRIPTOR)
        if field.containing_type is not None
    }
    without_field = {key for key in RULES if key not in known}
    requests = {method.request.DESCRIPTOR.full_name for method in METHODS.values()}
    assert all(holder in requests and field == "namespace" for holder, field in without_field)


def test_a_new_field_that_names_a_namespace_is_refused_until_it_has_a_rule() -> None:
    proto = descriptor_pb2.FileDescriptorProto(name="fresh.proto", package="fresh", syntax="proto3")
    message = proto.message_type.add(name="Attributes")
    message.field.add(name="target_namespace", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    field = pool.FindMessageTypeByName("fresh.Attributes").fields_by_name["target_namespace"]
    assert can_name_a_namespace(field)
    with pytest.raises(NamespaceFieldWithoutRule, match=r"fresh\.Attributes\.target_namespace"):
        rule_of(field)


def _completion(*commands: Command) -> w.RespondWorkflowTaskCompletedRequest:
    return w.RespondWorkflowTaskCompletedRequest(namespace="mine", commands=commands)


COMMANDS = [
    Command(start_child_workflow_execution_command_attributes=StartChildWorkflowExecutionCommandAttributes(namespace="theirs")),
    Command(
        signal_external_workflow_execution_command_attributes=SignalExternalWorkflowExecutionCommandAttributes(namespace="theirs")
    ),
    Command(
        request_cancel_external_workflow_execution_command_attributes=RequestCancelExternalWorkflowExecutionCommandAttributes(
            namespace="theirs"
        )
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.WhichOneof("attributes"))
async def test_a_command_aimed_at_another_namespace_is_authorised_there(command: Command) -> None:
    """CVE-2025-14987."""
    asked = Asked()
    assert await walk("RespondWorkflowTaskCompleted", _completion(Command(), command), asked)
    assert asked.asked == [("theirs", Permission.WRITE)]
    with pytest.raises(CallerError) as refusal:
        await walk("RespondWorkflowTaskCompleted", _completion(command), Asked(forbidden="theirs"))
    assert refusal.value.code is Code.PERMISSION_DENIED


async def test_a_multi_operation_cannot_smuggle_an_inner_namespace() -> None:
    """CVE-2025-14986."""
    inner = w.ExecuteMultiOperationRequest.Operation(start_workflow=w.StartWorkflowExecutionRequest(namespace="theirs"))
    with pytest.raises(CallerError, match="did not match"):
        await walk("ExecuteMultiOperation", w.ExecuteMultiOperationRequest(namespace="mine", operations=[inner]), Asked())


async def test_an_endpoint_that_leads_to_another_namespace_needs_its_administrator() -> None:
    spec = EndpointSpec(target=EndpointTarget(worker=EndpointTarget.Worker(namespace="theirs")))
    asked = Asked()
    assert await walk("CreateNexusEndpoint", CreateNexusEndpointRequest(spec=spec), asked)
    assert asked.asked == [("theirs", Permission.ADMIN)]


async def test_ones_own_namespace_is_not_asked_for_again() -> None:
    asked = Asked()
    attributes = StartChildWorkflowExecutionCommandAttributes(namespace="mine")
    assert await walk(
        "RespondWorkflowTaskCompleted",
        _completion(Command(start_child_workflow_execution_command_attributes=attributes)),
        asked,
    )
    assert asked.asked == []


def test_a_request_that_cannot_name_another_namespace_costs_nothing() -> None:
    async def handler(call: Call, request: Message) -> Message:
        return request

    assert namespace_walk(Asked())(METHODS["StartWorkflowExecution"], handler) is handler
