"""Who calls, and what they may do. Only policies for a server without configured security exist yet: whoever can reach a
loopback address may do everything and nobody else anything, or, on the operator's word, whoever reaches the port."""

from __future__ import annotations

import ipaddress
from typing import Any, Protocol

from google.protobuf.message import Message

from cluster.failures import permission_denied
from cluster.frontend.call import Call, Handler, Interceptor
from cluster.frontend.methods import Method
from cluster.frontend.permissions import Permission


class Policy(Protocol):
    """identify gives the subject of a call; check raises CallerError PERMISSION_DENIED or UNAUTHENTICATED."""

    def identify(self, call: Call) -> str: ...

    def check(self, call: Call, namespace: str, permission: Permission) -> None: ...


class LoopbackOnly:
    """No security configured. The node binds loopback addresses only; this is the second lock on the same door."""

    def identify(self, call: Call) -> str:
        return ""

    def check(self, call: Call, namespace: str, permission: Permission) -> None:
        if not call.peer.startswith(("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:")):
            raise permission_denied("Request unauthorized.", "no security is configured: loopback only")


class Anyone:
    """No security configured, and the operator said that this is meant (`allow_insecure`): other means close the network."""

    def identify(self, call: Call) -> str:
        return ""

    def check(self, call: Call, namespace: str, permission: Permission) -> None:
        return None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def identity(policy: Policy) -> Interceptor:
    """First of the two interceptors: who calls."""

    def wrap(method: Method, following: Handler) -> Handler:
        async def identified(call: Call, request: Any) -> Message | bytes:
            call.subject = policy.identify(call)
            return await following(call, request)

        return identified

    return wrap


def authorisation(policy: Policy) -> Interceptor:
    """Second: may they do this here. The namespace is known by now."""

    def wrap(method: Method, following: Handler) -> Handler:
        permission = method.permission
        if permission is Permission.PUBLIC:
            return following
        check = policy.check

        async def authorised(call: Call, request: Any) -> Message | bytes:
            check(call, call.namespace, permission)
            return await following(call, request)

        return authorised

    return wrap
