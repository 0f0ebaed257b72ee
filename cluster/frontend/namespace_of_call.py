"""Finds the namespace a call acts in, from its task token or its request, and checks that it may be used.

| request                           | namespace                                                                |
|-----------------------------------|--------------------------------------------------------------------------|
| has a task token                  | the token's; a name in the request must agree with it (CVE-2023-3485)    |
| DescribeNamespace, DeleteNamespace| by name or by id                                                         |
| RegisterNamespace                 | none yet: the name is only checked                                       |
| search attribute calls            | optional, the handler complains itself                                   |
| any other with `namespace`        | by name                                                                  |
| no field `namespace`              | none                                                                     |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import NamespaceState
from temporalio.api.errordetails.v1 import NamespaceInvalidStateFailure

from cluster.config import Limits
from cluster.core.errors import failed_precondition, invalid_argument
from cluster.frontend.call import Call, Handler, Interceptor
from cluster.frontend.methods import Method
from cluster.frontend.ports import NamespacesPort
from cluster.matching.tasks import TaskKind
from cluster.tokens import Purpose, TaskToken, Tokens, stale_task_token

if TYPE_CHECKING:
    from cluster.namespaces.record import NamespaceRecord

REGISTERED = NamespaceState.NAMESPACE_STATE_REGISTERED
DEPRECATED = NamespaceState.NAMESPACE_STATE_DEPRECATED
DELETED = NamespaceState.NAMESPACE_STATE_DELETED

# A deprecated namespace takes no new runs; a deleted one can only be described, and deleted again.
_STATES: dict[str, tuple[NamespaceState.ValueType, ...]] = {
    "StartWorkflowExecution": (REGISTERED,),
    "SignalWithStartWorkflowExecution": (REGISTERED,),
    "DeleteNamespace": (REGISTERED, DEPRECATED, DELETED),
    "DescribeNamespace": (REGISTERED, DEPRECATED, DELETED),
}
_STATES_DEFAULT = (REGISTERED, DEPRECATED)
_STATE_NAMES = {REGISTERED: "Registered", DEPRECATED: "Deprecated", DELETED: "Deleted"}

# Which kind of task each answer by token answers.
_TOKEN_KINDS: dict[str, TaskKind] = {
    "RespondWorkflowTaskCompleted": TaskKind.WORKFLOW,
    "RespondWorkflowTaskFailed": TaskKind.WORKFLOW,
    "RecordActivityTaskHeartbeat": TaskKind.ACTIVITY,
    "RespondActivityTaskCompleted": TaskKind.ACTIVITY,
    "RespondActivityTaskFailed": TaskKind.ACTIVITY,
    "RespondActivityTaskCanceled": TaskKind.ACTIVITY,
}
_BY_NAME_OR_ID = {"DescribeNamespace": "id", "DeleteNamespace": "namespace_id"}
_OPTIONAL = frozenset({"AddSearchAttributes", "RemoveSearchAttributes", "ListSearchAttributes"})
_ABOUT_NAMESPACES = frozenset({"UpdateNamespace", "DeprecateNamespace"})

# (name, id) of the namespace a request means, one of them empty; None if it means none.
Named = tuple[str, str]
Which = Callable[[Call, Any], Named | None]


def namespace_of_call(namespaces: NamespacesPort, tokens: Tokens, limits: Limits) -> Interceptor:
    """The interceptor: sets call.record, call.namespace and call.token."""

    def wrap(method: Method, following: Handler) -> Handler:
        which = _which_for(method, tokens, limits)
        if which is None:
            return following
        states = _STATES.get(method.name, _STATES_DEFAULT)
        cached, cached_by_id = namespaces.cached, namespaces.cached_by_id

        async def found(call: Call, request: Any) -> Message | bytes:
            named = which(call, request)
            if named is None:
                return await following(call, request)
            name, id = named
            record = cached_by_id(id) if id else cached(name)
            if record is None:  # another node may just have made it
                record = await (namespaces.by_id(id) if id else namespaces.by_name(name))
            if call.token is not None:
                _check_token_namespace(request, record)
            call.record = record
            call.namespace = record.name
            if record.state not in states:
                raise _invalid_state(record, states)
            return await following(call, request)

        return found

    return wrap


def _which_for(method: Method, tokens: Tokens, limits: Limits) -> Which | None:
    fields = method.request.DESCRIPTOR.fields_by_name
    if "task_token" in fields and "namespace" in fields:
        return _by_token(method, tokens)
    if method.name == "RegisterNamespace":
        return _unregistered(limits)
    if (id_field := _BY_NAME_OR_ID.get(method.name)) is not None:
        return _by_name_or_id(method.name, id_field, limits)
    if "namespace" in fields:
        return _by_name(method.name, limits)
    return None


def _check_length(name: str, limits: Limits) -> None:
    if len(name.encode()) > limits.id_bytes_max:
        raise invalid_argument("Namespace length exceeds limit.")


def _by_name(method: str, limits: Limits) -> Which:
    is_optional = method in _OPTIONAL
    empty = "Namespace not set on request." if method in _ABOUT_NAMESPACES else "Namespace is empty."
    surely_short = limits.id_bytes_max // 4

    def which(call: Call, request: Any) -> Named | None:
        name = request.namespace
        if not name:
            if is_optional:
                return None
            raise invalid_argument(empty)
        if len(name) > surely_short:
            _check_length(name, limits)
        return name, ""

    return which


def _by_token(method: Method, tokens: Tokens) -> Which:
    kind = _TOKEN_KINDS.get(method.name)
    purpose = Purpose.NEXUS_TASK if method.name.startswith("RespondNexusTask") else Purpose.QUERY

    def which(call: Call, request: Any) -> Named:
        data = request.task_token
        if not data:
            raise invalid_argument("Task token not set on request.")
        token = tokens.open_task(data) if kind is not None else tokens.open_query(data, purpose)
        if isinstance(token, TaskToken) and token.kind != kind:
            raise stale_task_token()
        call.token = token
        return "", token.namespace_id

    return which


def _check_token_namespace(request: Any, record: NamespaceRecord) -> None:
    if not request.namespace:
        request.namespace = record.name
    elif request.namespace != record.name:
        raise invalid_argument("Operation requested with a token from a different namespace.")


def _by_name_or_id(method: str, id_field: str, limits: Limits) -> Which:
    is_exclusive = method == "DeleteNamespace"

    def which(call: Call, request: Any) -> Named:
        name, id = request.namespace, getattr(request, id_field)
        if not name and not id:
            raise invalid_argument("Namespace not set on request.")
        if name and id and is_exclusive:
            raise invalid_argument("Only one of namespace name or Id should be set on request.")
        _check_length(name, limits)
        _check_length(id, limits)
        return ("", id) if id else (name, "")

    return which


def _unregistered(limits: Limits) -> Which:
    def which(call: Call, request: Any) -> None:
        if not request.namespace:
            raise invalid_argument("Namespace not set on request.")
        _check_length(request.namespace, limits)

    return which


def _invalid_state(record: NamespaceRecord, states: tuple[NamespaceState.ValueType, ...]) -> Exception:
    allowed = " or ".join(_STATE_NAMES[state] for state in states)
    return failed_precondition(
        f"Namespace has invalid state: {_STATE_NAMES[NamespaceState.ValueType(record.state)]}. Must be {allowed}.",
        NamespaceInvalidStateFailure(namespace=record.name, state=NamespaceState.ValueType(record.state), allowed_states=states),
    )
