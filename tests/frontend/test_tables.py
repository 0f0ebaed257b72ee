"""The tables of the frontend agree with the descriptors of the public services."""

from __future__ import annotations

from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from cluster.frontend.methods import METHODS, verb_of
from cluster.frontend.not_built import NOT_BUILT
from cluster.frontend.permissions import _PER_PERMISSION, PERMISSIONS
from cluster.frontend.validation import RULES
from tests.frontend.world import handlers_by_part


def _descriptor_names() -> set[str]:
    services = (
        workflow_service.DESCRIPTOR.services_by_name["WorkflowService"],
        operator_service.DESCRIPTOR.services_by_name["OperatorService"],
    )
    return {method.name for service in services for method in service.methods}


def test_every_method_has_a_declared_permission() -> None:
    assert PERMISSIONS.keys() == _descriptor_names()


def test_no_method_has_two_permissions() -> None:
    assert sum(len(names.split()) for names in _PER_PERMISSION.values()) == len(PERMISSIONS)


def test_every_method_is_either_served_or_listed_as_not_built() -> None:
    served = handlers_by_part()
    assert not served & NOT_BUILT.keys()
    assert served | NOT_BUILT.keys() == _descriptor_names()


def test_validation_rules_name_methods_that_are_served() -> None:
    assert RULES.keys() <= METHODS.keys() - NOT_BUILT.keys()


def test_a_verb_is_the_method_name_in_snake_case() -> None:
    assert verb_of("RespondActivityTaskCompletedById") == "respond_activity_task_completed_by_id"
    assert verb_of("StartWorkflowExecution") == "start_workflow_execution"
