"""No field of any request, at any depth, names a namespace that the caller may not touch.

Every field that can name a namespace has a rule here; a field without one stops the server from starting and fails a test
(`tests/frontend/test_namespace_walk.py`), so a new version of the API cannot open a hole. Known holes of this kind elsewhere:
CVE-2025-14986 (multi-operation with an inner namespace), CVE-2025-14987 (commands aimed at other namespaces), CVE-2026-5199
(batch with the caller's namespace name).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cluster.core.errors import invalid_argument
from cluster.frontend.call import Call, Handler
from cluster.frontend.message_walk import Leaf, Plan, compile_plan, fields_within, holder_of
from cluster.frontend.methods import METHODS, Method
from cluster.frontend.permissions import Permission


class Rule(Enum):
    SAME = "empty or equal to the namespace the call is authorised for"
    OTHER = "may name another namespace, for which the caller is then authorised separately"
    REFERENCE = "said, not acted upon: a link or a failure tells where something happened"
    OPAQUE = "carries a message that the frontend does not read"


class OtherRule(msgspec.Struct, frozen=True):
    rule: Rule
    permission: Permission = Permission.WRITE


_COMMAND = "temporal.api.command.v1"
_LINK = "temporal.api.common.v1.Link"
_W = "temporal.api.workflowservice.v1"

RULES: dict[tuple[str, str], OtherRule] = {
    (f"{_COMMAND}.RequestCancelExternalWorkflowExecutionCommandAttributes", "namespace"): OtherRule(Rule.OTHER),
    (f"{_COMMAND}.SignalExternalWorkflowExecutionCommandAttributes", "namespace"): OtherRule(Rule.OTHER),
    (f"{_COMMAND}.StartChildWorkflowExecutionCommandAttributes", "namespace"): OtherRule(Rule.OTHER),
    ("temporal.api.nexus.v1.EndpointTarget.Worker", "namespace"): OtherRule(Rule.OTHER, Permission.ADMIN),
    (f"{_LINK}.WorkflowEvent", "namespace"): OtherRule(Rule.REFERENCE),
    (f"{_LINK}.Activity", "namespace"): OtherRule(Rule.REFERENCE),
    (f"{_LINK}.NexusOperation", "namespace"): OtherRule(Rule.REFERENCE),
    (f"{_LINK}.Workflow", "namespace"): OtherRule(Rule.REFERENCE),
    (f"{_LINK}.Callback", "namespace"): OtherRule(Rule.REFERENCE),
    ("temporal.api.failure.v1.ChildWorkflowExecutionFailureInfo", "namespace"): OtherRule(Rule.REFERENCE),
    # Update acceptances, responses and rejections: they name an update of the run whose task is answered.
    ("temporal.api.protocol.v1.Message", "body"): OtherRule(Rule.OPAQUE),
    # By id: resolved to the namespace the call is authorised for before anything else (interceptors.py).
    ("temporal.api.operatorservice.v1.DeleteNamespaceRequest", "namespace_id"): OtherRule(Rule.SAME),
    (f"{_W}.DescribeNamespaceRequest", "id"): OtherRule(Rule.SAME),
    **{(method.request.DESCRIPTOR.full_name, "namespace"): OtherRule(Rule.SAME) for method in METHODS.values()},
}


class NamespaceFieldWithoutRule(Exception):
    """The API has a field that this table does not know."""


def can_name_a_namespace(field: FieldDescriptor) -> bool:
    holder = holder_of(field)
    if field.message_type is not None:
        return field.message_type.full_name == "google.protobuf.Any"
    is_text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    is_text = is_text and not (holder.GetOptions().map_entry and field.name == "value")
    return is_text and ("namespace" in field.name or (holder.full_name, field.name) in RULES)


def rule_of(field: FieldDescriptor) -> OtherRule:
    holder = holder_of(field).full_name
    rule = RULES.get((holder, field.name))
    if rule is None:
        raise NamespaceFieldWithoutRule(f"{holder}.{field.name} can name a namespace and has no rule")
    return rule


# Raises CallerError if the caller may not do this in that namespace.
Authorise = Callable[[Call, str, Permission], None]


def check_all_rules() -> None:
    """Raises NamespaceFieldWithoutRule. Run at start: deny by default."""
    for method in METHODS.values():
        for field in fields_within(method.request.DESCRIPTOR):
            if can_name_a_namespace(field):
                rule_of(field)


def namespace_walk(authorise: Authorise) -> Callable[[Method, Handler], Handler]:
    """The interceptor."""

    def choose(field: FieldDescriptor) -> Leaf[Call] | None:
        if not can_name_a_namespace(field):
            return None
        rule = rule_of(field)
        if rule.rule is Rule.SAME:
            return _same(field.name)
        if rule.rule is Rule.OTHER:
            return _other(field.name, rule.permission, authorise)
        return None

    def wrap(method: Method, following: Handler) -> Handler:
        plan: Plan[Call] | None = compile_plan(method.request.DESCRIPTOR, choose, with_root_leaves=False)
        if plan is None:
            return following
        visit = plan.visit

        async def walked(call: Call, request: Any) -> Message | bytes:
            visit(request, call)
            return await following(call, request)

        return walked

    return wrap


def _same(name: str) -> Leaf[Call]:
    def leaf(message: Any, call: Call) -> None:
        named = getattr(message, name)
        if named and named != call.namespace:
            raise invalid_argument("Operation namespace did not match request's namespace.")

    return leaf


def _other(name: str, permission: Permission, authorise: Authorise) -> Leaf[Call]:
    def leaf(message: Any, call: Call) -> None:
        named = getattr(message, name)
        if named and named != call.namespace:
            authorise(call, named, permission)

    return leaf
