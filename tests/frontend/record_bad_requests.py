"""Asks a server every bad request and writes its answers as JSON: how `bad_requests_expected.json` was made.

python -m tests.frontend.record_bad_requests 127.0.0.1:7765 "temporal server 1.32.1" > bad_requests_expected.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import temporalio.api.errordetails.v1  # noqa: F401 - registers the messages that details are unpacked into
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from temporalio.api.operatorservice.v1 import OperatorServiceStub
from temporalio.api.workflowservice.v1 import WorkflowServiceStub

from tests.frontend.bad_requests import CASES, OPERATOR_RPCS, BadRequest


def ask(channel: grpc.Channel, case: BadRequest) -> dict[str, Any]:
    """{code, message, details}: details are the packed messages, each as JSON with its type."""
    stub: Any = OperatorServiceStub(channel) if case.rpc in OPERATOR_RPCS else WorkflowServiceStub(channel)
    try:
        answer = getattr(stub, case.rpc)(case.request, timeout=5)
    except grpc.RpcError as error:
        return describe_error(error)
    return {"code": "OK", "message": type(answer).__name__, "details": []}


def describe_error(error: Any) -> dict[str, Any]:
    details: list[dict[str, Any]] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = Status.FromString(value)
            details = [MessageToDict(packed) for packed in status.details]
    return {"code": error.code().name, "message": error.details(), "details": details}


def main(address: str, source: str) -> None:
    with grpc.insecure_channel(address) as channel:
        answers = {case.name: ask(channel, case) for case in CASES}
    json.dump({"source": source, "answers": answers}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
