"""Update-with-start: the checks of a request that holds two, and the failure that holds one status for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.core.errors import CallerError, invalid_argument
from cluster.failures import aborted, multi_operation_failure


def validate_multi_operation(request: Any, check_start: Callable[[Any], None], check_update: Callable[[Any], None]) -> None:
    """Exactly [start, update] of one workflow id in the request's namespace."""
    operations = request.operations
    if [operation.WhichOneof("operation") for operation in operations] != ["start_workflow", "update_workflow"]:
        raise invalid_argument("Operations have to be exactly [Start, Update].")
    start, update = operations[0].start_workflow, operations[1].update_workflow
    errors = [
        _fault(start, request.namespace, check_start, _refuse_in_start),
        _fault(update, request.namespace, check_update, _refuse_in_update),
    ]
    if errors == [None, None] and start.workflow_id != update.workflow_execution.workflow_id:
        errors[1] = invalid_argument("WorkflowId is not consistent with previous operation(s).")
    if any(error is not None for error in errors):
        raise multi_operation_failure([error or aborted() for error in errors])


def _fault(operation: Any, namespace: str, check: Callable[[Any], None], refuse: Callable[[Any], None]) -> CallerError | None:
    try:
        if operation.namespace and operation.namespace != namespace:
            raise invalid_argument("Operation namespace did not match request's namespace.")
        operation.namespace = namespace
        check(operation)
        refuse(operation)
    except CallerError as error:
        return error
    return None


def _refuse_in_start(start: Any) -> None:
    if start.cron_schedule:
        raise invalid_argument("CronSchedule is not allowed.")
    if start.request_eager_execution:
        raise invalid_argument("RequestEagerExecution is not supported.")
    if start.workflow_start_delay.seconds or start.workflow_start_delay.nanos:
        raise invalid_argument("WorkflowStartDelay is not supported.")


def _refuse_in_update(update: Any) -> None:
    if update.first_execution_run_id:
        raise invalid_argument("FirstExecutionRunId is not allowed.")
    if update.workflow_execution.run_id:
        raise invalid_argument("RunId is not allowed.")
