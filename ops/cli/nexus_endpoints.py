"""Endpoints as OperatorService has them, asked by gRPC, and what would make them as a file wishes. For `outlast nexus`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
import msgspec
from temporalio.api.nexus.v1 import Endpoint, EndpointSpec
from temporalio.api.operatorservice.v1 import (
    CreateNexusEndpointRequest,
    ListNexusEndpointsRequest,
    OperatorServiceStub,
    UpdateNexusEndpointRequest,
)

from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, EXIT_USAGE
from ops.cli.region_calls import CannotAsk

ASK_TIMEOUT_S = 15.0
PAGE_ENDPOINTS = 500
USAGE = ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION")
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED")


class EndpointWish(msgspec.Struct, frozen=True):
    """namespace and task_queue, or url. description: as it is kept, with the contract in it."""

    name: str
    namespace: str = ""
    task_queue: str = ""
    url: str = ""
    description: str = ""

    @property
    def target(self) -> str:
        return self.url or f"{self.namespace}/{self.task_queue}"


class KnownEndpoint(msgspec.Struct, frozen=True):
    id: str
    version: int
    has: EndpointWish


class Step(msgspec.Struct, frozen=True):
    """What one endpoint needs. kind: create, update, none (it is as wished) or unknown (not in the file: left alone)."""

    kind: str
    wish: EndpointWish
    known: KnownEndpoint | None = None
    differences: tuple[str, ...] = ()


class Operator:
    """Of any node, by its gRPC port. Raises CannotAsk."""

    def __init__(self, address: str) -> None:
        self._address = address
        # A proxy of the environment does not know these nodes.
        self._channel = grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))
        self._service = OperatorServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def all(self) -> list[KnownEndpoint]:
        """By name."""
        found: list[Endpoint] = []
        page = b""
        while True:
            request = ListNexusEndpointsRequest(page_size=PAGE_ENDPOINTS, next_page_token=page)
            answer = self._asked(partial(self._service.ListNexusEndpoints, request, timeout=ASK_TIMEOUT_S))
            found += answer.endpoints
            page = answer.next_page_token
            if not page:
                return sorted(map(known_endpoint, found), key=lambda one: one.has.name)

    def perform(self, step: Step) -> KnownEndpoint:
        spec = spec_of(step.wish)
        if step.known is None:
            created = CreateNexusEndpointRequest(spec=spec)
            answer = self._asked(partial(self._service.CreateNexusEndpoint, created, timeout=ASK_TIMEOUT_S))
        else:
            changed = UpdateNexusEndpointRequest(id=step.known.id, version=step.known.version, spec=spec)
            answer = self._asked(partial(self._service.UpdateNexusEndpoint, changed, timeout=ASK_TIMEOUT_S))
        return known_endpoint(answer.endpoint)

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except grpc.RpcError as error:
            code, told = error.code().name, error.details()
            if code in AWAY:
                wanted = "--grpc-address names the gRPC port of a running node"
                raise CannotAsk(f"{self._address} does not answer ({code}: {told}): {wanted}", EXIT_CLUSTER) from None
            raise CannotAsk(f"{code}: {told}", EXIT_USAGE if code in USAGE else EXIT_FAILED) from None


def spec_of(wish: EndpointWish) -> EndpointSpec:
    spec = EndpointSpec(name=wish.name)
    if wish.description:
        spec.description.metadata["encoding"] = b"json/plain"
        spec.description.data = json.dumps(wish.description, ensure_ascii=False).encode()
    if wish.url:
        spec.target.external.url = wish.url
    else:
        spec.target.worker.namespace, spec.target.worker.task_queue = wish.namespace, wish.task_queue
    return spec


def known_endpoint(endpoint: Endpoint) -> KnownEndpoint:
    spec = endpoint.spec
    worker = spec.target.worker
    kept = EndpointWish(spec.name, worker.namespace, worker.task_queue, spec.target.external.url, _description(spec))
    return KnownEndpoint(endpoint.id, endpoint.version, kept)


def _description(spec: EndpointSpec) -> str:
    """"" for one that is no text: another tool's, which this one does not change by showing it."""
    if spec.description.metadata.get("encoding") != b"json/plain":
        return ""
    try:
        text = json.loads(spec.description.data)
    except ValueError:
        return ""
    return text if isinstance(text, str) else ""


def plan(wishes: Sequence[EndpointWish], known: Sequence[KnownEndpoint]) -> list[Step]:
    """In the file's order, then what the file does not name."""
    by_name = {one.has.name: one for one in known}
    steps = []
    for wish in wishes:
        there = by_name.pop(wish.name, None)
        if there is None:
            steps.append(Step("create", wish))
            continue
        differences = tuple(_differences(there.has, wish))
        steps.append(Step("update" if differences else "none", wish, there, differences))
    return [*steps, *(Step("unknown", one.has, one) for one in by_name.values())]


def _differences(before: EndpointWish, after: EndpointWish) -> list[str]:
    found = []
    if before.target != after.target:
        found.append(f"target: {before.target} -> {after.target}")
    if before.description.strip() != after.description.strip():
        found += _changed_lines(before.description, after.description)
    return found


def _changed_lines(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.strip().splitlines(), after.strip().splitlines(), lineterm="", n=0)
    return [f"description: {line}" for line in lines if not line.startswith(("---", "+++", "@@"))]
