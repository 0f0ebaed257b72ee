"""Requests that a server must refuse, by name. What the public server answers to each is in `bad_requests_expected.json`
(recorded by `record_bad_requests.py`); our own answers must agree in status code, message and typed details.

A case that expects a well-formed token of the server under test names it in `needs`; the rest stand alone.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.batch.v1 import BatchOperationTermination
from temporalio.api.enums.v1 import IndexedValueType, WorkflowExecutionStatus
from temporalio.api.filter.v1 import StartTimeFilter, StatusFilter, WorkflowExecutionFilter
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    DeleteNamespaceRequest,
    ListSearchAttributesRequest,
    RemoveSearchAttributesRequest,
)
from temporalio.api.workflowservice import v1 as w

from tests.frontend import bad_runs, bad_starts, bad_workers
from tests.frontend.bad_request_parts import LONG, NAMESPACE, RUN


class BadRequest(NamedTuple):
    name: str
    rpc: str
    request: Message


def _visibility_cases() -> list[tuple[str, str, Message]]:
    ns = NAMESPACE
    early, late = Timestamp(seconds=10), Timestamp(seconds=20)
    status = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
    return [
        ("ListWorkflowExecutions", "unknown namespace", w.ListWorkflowExecutionsRequest(namespace="no-such-namespace")),
        ("CountWorkflowExecutions", "no namespace", w.CountWorkflowExecutionsRequest()),
        (
            "ListOpenWorkflowExecutions",
            "earliest after latest",
            w.ListOpenWorkflowExecutionsRequest(
                namespace=ns, start_time_filter=StartTimeFilter(earliest_time=late, latest_time=early)
            ),
        ),
        (
            "ListClosedWorkflowExecutions",
            "earliest after latest",
            w.ListClosedWorkflowExecutionsRequest(
                namespace=ns,
                start_time_filter=StartTimeFilter(earliest_time=late, latest_time=early),
                execution_filter=WorkflowExecutionFilter(workflow_id="w"),
            ),
        ),
        (
            "ListClosedWorkflowExecutions",
            "status running",
            w.ListClosedWorkflowExecutionsRequest(namespace=ns, status_filter=StatusFilter(status=status)),
        ),
        ("ListArchivedWorkflowExecutions", "not configured", w.ListArchivedWorkflowExecutionsRequest(namespace=ns)),
    ]


def _namespace_cases() -> list[tuple[str, str, Message]]:
    text = IndexedValueType.INDEXED_VALUE_TYPE_TEXT
    return [
        ("DescribeNamespace", "nothing named", w.DescribeNamespaceRequest()),
        ("DescribeNamespace", "unknown name", w.DescribeNamespaceRequest(namespace="no-such-namespace")),
        ("DescribeNamespace", "unknown id", w.DescribeNamespaceRequest(id=RUN)),
        ("RegisterNamespace", "no name", w.RegisterNamespaceRequest()),
        ("RegisterNamespace", "no retention", w.RegisterNamespaceRequest(namespace="fresh")),
        (
            "RegisterNamespace",
            "already there",
            w.RegisterNamespaceRequest(namespace=NAMESPACE, workflow_execution_retention_period=Duration(seconds=86400)),
        ),
        (
            "RegisterNamespace",
            "name too long",
            w.RegisterNamespaceRequest(namespace=LONG, workflow_execution_retention_period=Duration(seconds=86400)),
        ),
        ("UpdateNamespace", "unknown", w.UpdateNamespaceRequest(namespace="no-such-namespace")),
        ("UpdateNamespace", "no name", w.UpdateNamespaceRequest()),
        ("DeprecateNamespace", "unknown", w.DeprecateNamespaceRequest(namespace="no-such-namespace")),
        ("AddSearchAttributes", "none", AddSearchAttributesRequest(namespace=NAMESPACE)),
        (
            "AddSearchAttributes",
            "reserved",
            AddSearchAttributesRequest(namespace=NAMESPACE, search_attributes={"WorkflowId": text}),
        ),
        ("AddSearchAttributes", "no namespace", AddSearchAttributesRequest(search_attributes={"Fresh": text})),
        (
            "AddSearchAttributes",
            "unknown namespace",
            AddSearchAttributesRequest(namespace="no-such-namespace", search_attributes={"F": text}),
        ),
        ("RemoveSearchAttributes", "none", RemoveSearchAttributesRequest(namespace=NAMESPACE)),
        ("RemoveSearchAttributes", "system", RemoveSearchAttributesRequest(namespace=NAMESPACE, search_attributes=["RunId"])),
        ("ListSearchAttributes", "no namespace", ListSearchAttributesRequest()),
        ("DeleteNamespace", "nothing named", DeleteNamespaceRequest()),
        ("DeleteNamespace", "both named", DeleteNamespaceRequest(namespace=NAMESPACE, namespace_id=RUN)),
        ("DeleteNamespace", "unknown", DeleteNamespaceRequest(namespace="no-such-namespace")),
    ]


def _batch_cases() -> list[tuple[str, str, Message]]:
    return [
        (
            "StartBatchOperation",
            "unknown namespace",
            w.StartBatchOperationRequest(
                namespace="no-such-namespace",
                job_id="j",
                reason="r",
                visibility_query="x",
                termination_operation=BatchOperationTermination(),
            ),
        ),
    ]


def _all() -> list[BadRequest]:
    cases = [
        BadRequest(f"StartWorkflowExecution: {name}", "StartWorkflowExecution", request)
        for name, request in bad_starts.start_cases()
    ]
    cases += [
        BadRequest(f"SignalWithStartWorkflowExecution: {name}", "SignalWithStartWorkflowExecution", request)
        for name, request in bad_starts.signal_with_start_cases()
    ]
    for group in (
        bad_runs.execution_cases(),
        bad_runs.update_and_activity_cases(),
        bad_starts.multi_cases(),
        bad_workers.poll_cases(),
        bad_workers.answer_cases(),
        _visibility_cases(),
        _namespace_cases(),
        bad_runs.missing_run_cases(),
        _batch_cases(),
    ):
        cases += [BadRequest(f"{rpc}: {name}", rpc, request) for rpc, name, request in group]
    assert len({case.name for case in cases}) == len(cases)
    return cases


CASES: list[BadRequest] = _all()
OPERATOR_RPCS = frozenset({"AddSearchAttributes", "RemoveSearchAttributes", "ListSearchAttributes", "DeleteNamespace"})
