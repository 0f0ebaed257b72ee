"""Compiles, from a message's descriptor, a visit to chosen fields at every depth, and to nothing else.

Types from which no chosen field can be reached are left out when the plan is made, so a call whose request has none costs
nothing at all. Recursive types (a Failure with its cause) are fine: protobuf bounds the depth of what it parses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor

Context = TypeVar("Context")
# Looks at one field of one message; raises CallerError to refuse the request.
Leaf = Callable[[Any, Context], None]
# Says what to do with a field, if anything.
Choose = Callable[[FieldDescriptor], "Leaf[Context] | None"]


class Plan(Generic[Context]):
    """What to visit in one message type."""

    __slots__ = ("leaves", "lists", "maps", "oneofs", "singles")

    def __init__(self) -> None:
        self.leaves: list[Leaf[Context]] = []
        self.singles: list[tuple[str, Plan[Context]]] = []
        self.lists: list[tuple[str, Plan[Context]]] = []
        self.maps: list[tuple[str, Plan[Context]]] = []
        self.oneofs: list[tuple[str, dict[str, Plan[Context]]]] = []

    def visit(self, message: Any, context: Context) -> None:
        for leaf in self.leaves:
            leaf(message, context)
        for name, plan in self.singles:
            if message.HasField(name):
                plan.visit(getattr(message, name), context)
        for name, plan in self.lists:
            for item in getattr(message, name):
                plan.visit(item, context)
        for name, plan in self.maps:
            for item in getattr(message, name).values():
                plan.visit(item, context)
        for name, plans in self.oneofs:
            chosen = message.WhichOneof(name)
            if chosen is not None and (found := plans.get(chosen)) is not None:
                found.visit(getattr(message, chosen), context)

    def is_empty(self) -> bool:
        return not (self.leaves or self.singles or self.lists or self.maps or self.oneofs)


def holder_of(field: FieldDescriptor) -> Descriptor:
    """The message type that has the field. (Only extensions, of which these services have none, may lack one.)"""
    holder = field.containing_type
    assert holder is not None
    return holder


def fields_within(root: Descriptor) -> Iterator[FieldDescriptor]:
    """Every field of every message type that `root` can contain, each once."""
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in seen:
            continue
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            yield field
            if field.message_type is not None:
                waiting.append(field.message_type)


def compile_plan(root: Descriptor, choose: Choose[Context], *, with_root_leaves: bool = True) -> Plan[Context] | None:
    """None if nothing is to be visited. Without root leaves, fields of the outermost message itself are not chosen."""
    chosen: dict[str, list[Leaf[Context]]] = {}
    parents: dict[str, set[str]] = {}
    types: dict[str, Descriptor] = {root.full_name: root}
    for field in fields_within(root):
        holder = holder_of(field)
        types[holder.full_name] = holder
        if field.message_type is not None:
            parents.setdefault(field.message_type.full_name, set()).add(holder.full_name)
        leaf = choose(field)
        if leaf is not None:
            chosen.setdefault(holder.full_name, []).append(leaf)
    reaching = set(chosen)
    waiting = list(chosen)
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent not in reaching:
                reaching.add(parent)
                waiting.append(parent)
    plans: dict[str, Plan[Context]] = {name: Plan() for name in reaching}
    for name, plan in plans.items():
        plan.leaves = chosen.get(name, [])
        for field in types[name].fields:
            if field.message_type is not None and field.message_type.full_name in plans:
                _add_child(plan, field, plans)
    if root.full_name not in plans:
        return None
    if with_root_leaves:
        return plans[root.full_name]
    outer: Plan[Context] = Plan()
    found = plans[root.full_name]
    outer.singles, outer.lists, outer.maps, outer.oneofs = found.singles, found.lists, found.maps, found.oneofs
    return None if outer.is_empty() else outer


def _add_child(plan: Plan[Context], field: FieldDescriptor, plans: dict[str, Plan[Context]]) -> None:
    assert field.message_type is not None
    child = plans[field.message_type.full_name]
    if field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"].message_type
        assert value is not None, "a map of scalars holds no message to visit"
        plan.maps.append((field.name, plans[value.full_name]))
    elif field.is_repeated:
        plan.lists.append((field.name, child))
    elif field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
        for name, members in plan.oneofs:
            if name == field.containing_oneof.name:
                members[field.name] = child
                return
        plan.oneofs.append((field.containing_oneof.name, {field.name: child}))
    else:
        plan.singles.append((field.name, child))
